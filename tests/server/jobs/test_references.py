"""Videos that start from an upload: by the ``openai`` client and by hand, and uploads that nothing can be made of."""

from __future__ import annotations

import base64
import itertools
import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest
from live_server import PATIENCE_S, LiveServer
from uploads import BLUE, GREEN, RED, clip, picture, png_that_claims
from videos_client import ask, download, pictures, shows, wait_for

from ultraflash.server.errors import InvalidField, VideoGone
from ultraflash.server.jobs.artifacts import ArtifactStore
from ultraflash.server.jobs.records import Reference
from ultraflash.server.jobs.references import MAX_WAITING, References, uploaded
from ultraflash.server.settings import Settings
from ultraflash.server.worker.supervisor import WorkerSupervisor

pytestmark = pytest.mark.filterwarnings("ignore:The Sora API:DeprecationWarning")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    folder = tmp_path_factory.mktemp("references")
    with LiveServer(folder, jobs__max_reference_pixels=1_000_000, jobs__max_reference_frames=100) as running:
        running.wait_until_ready()
        yield running


@pytest.fixture
def client(server: LiveServer) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(
        base_url=f"http://{server.address}/v1", api_key="none", max_retries=0, timeout=PATIENCE_S
    ) as client:
        yield client


def data_url(upload: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(upload).decode()}"


def kept(server: LiveServer) -> list[Path]:
    """Frames that videos start from, on the disk."""
    return list((server.data / "videos").glob("*.reference"))


def make_old(file: Path) -> None:
    os.utime(file, (time.time() - 7200,) * 2)


def begins_with(frames: list[np.ndarray], colour: tuple[int, int, int], count: int) -> bool:
    """Whether just so many frames have a colour, below the squares that number them."""
    found = [bool(np.abs(frame[100, 100].astype(float) - colour).max() < 12) for frame in frames]
    return found == [True] * count + [False] * (len(found) - count)


def finished(server: LiveServer, video: Any) -> list[np.ndarray]:
    video_id = video["id"] if isinstance(video, dict) else video.id
    assert wait_for(server, video_id)["status"] == "completed"
    return pictures(download(server, video_id))


@pytest.mark.parametrize(
    "reference",
    [
        ("a.png", picture(RED), "image/png"),
        ("a.jpg", picture(RED, kind="JPEG", quality=95), "image/jpeg"),
        ("a.webp", picture(RED, kind="WEBP", lossless=True), "image/webp"),
    ],
    ids=["png", "jpeg", "webp"],
)
def test_the_openai_client_starts_a_video_from_a_picture(
    client: openai.OpenAI, server: LiveServer, reference: Any
) -> None:
    wishes: dict[str, Any] = {"input_reference": reference, "extra_body": {"seed": 7, "num_frames": 30}}
    frames = finished(server, client.videos.create(prompt="a hill", **wishes))
    assert begins_with(frames, RED, 9)
    assert all(shows(frame, "a hill") for frame in frames[9:])


@pytest.mark.parametrize("sent", ["by the client", "as JSON", "as JSON alone"])
def test_a_picture_may_come_as_a_data_url(client: openai.OpenAI, server: LiveServer, sent: str) -> None:
    url = data_url(picture(RED))
    fields: dict[str, Any] = {"seed": 7, "num_frames": 12, "input_reference": {"image_url": url}}
    video: Any
    if sent == "by the client":
        # It sends a form, and does not take the object that its types name for this.
        video = client.videos.create(prompt="a hill", extra_body=fields)
    else:
        fields["input_reference"] = fields["input_reference"] if sent == "as JSON" else url
        video = ask(server, "POST", "/v1/videos", {"prompt": "a hill", **fields}).json
    assert begins_with(finished(server, video), RED, 9)


def test_a_video_goes_on_from_the_end_of_a_clip(client: openai.OpenAI, server: LiveServer) -> None:
    wishes: dict[str, Any] = {"extra_body": {"seed": 7, "num_frames": 40}}
    sent = ("a.mp4", clip((RED, 30), (GREEN, 15), (BLUE, 6)), "video/mp4")
    frames = finished(server, client.videos.create(prompt="a hill", input_reference=sent, **wishes))
    assert begins_with(frames[:15], GREEN, 15)
    assert begins_with(frames[15:], BLUE, 6)
    assert all(shows(frame, "a hill") for frame in frames[21:])


def test_a_remix_and_an_extension_start_from_the_same_picture_which_goes_with_the_last_of_them(
    client: openai.OpenAI, server: LiveServer
) -> None:
    before = set(kept(server))
    body = {"prompt": "a hill", "seed": 7, "num_frames": 20, "input_reference": data_url(picture(BLUE))}
    first = ask(server, "POST", "/v1/videos", body).json
    finished(server, first)
    (reference,) = set(kept(server)) - before
    remix = client.videos.remix(first["id"], prompt="a lake")
    frames = finished(server, remix)
    assert begins_with(frames, BLUE, 9)
    assert shows(frames[-1], "a lake")
    longer = ask(
        server,
        "POST",
        "/v1/videos/extensions",
        {"prompt": "a town", "seconds": "1", "video": {"id": first["id"]}},
    ).json
    assert begins_with(finished(server, longer), BLUE, 9)
    client.videos.delete(first["id"])
    client.videos.delete(remix.id)
    assert reference.exists()
    client.videos.delete(longer["id"])
    assert not reference.exists()
    assert not list((server.data / "uploads").glob("*"))


def test_the_same_request_with_a_picture_makes_one_video(server: LiveServer) -> None:
    key = {"Idempotency-Key": "pictured"}
    body = {"prompt": "a hill", "num_frames": 5, "input_reference": data_url(picture(RED))}
    first, again = (ask(server, "POST", "/v1/videos", body, key).json["id"] for _ in range(2))
    assert first == again
    other = ask(server, "POST", "/v1/videos", {**body, "input_reference": data_url(picture(GREEN))}, key)
    assert (other.status, other.code) == (409, "idempotency_key_reused")


@pytest.mark.parametrize(
    ("upload", "status", "code", "told"),
    [
        (b"just text", 400, "bad_reference", "PNG, JPEG or WebP"),
        (b"GIF89a" + bytes(50), 400, "bad_reference", "PNG, JPEG or WebP"),
        (picture()[:60], 400, "bad_reference", "cannot be read"),
        (clip((RED, 9))[:700], 400, "bad_reference", "cannot be read"),
        (png_that_claims(15_000, 15_000), 413, "reference_too_large", "15000x15000"),
        (clip((RED, 120)), 413, "reference_too_large", "100 frames"),
    ],
    ids=["text", "gif", "torn picture", "torn clip", "bomb", "long clip"],
)
def test_an_upload_that_nothing_can_be_made_of_is_refused_and_the_worker_lives_on(
    client: openai.OpenAI, server: LiveServer, upload: bytes, status: int, code: str, told: str
) -> None:
    workers = server.worker_ids()
    with pytest.raises(openai.APIStatusError, match=told) as refused:
        client.videos.create(prompt="a hill", input_reference=("a.png", upload, "image/png"))
    assert (refused.value.status_code, refused.value.code) == (status, code)
    assert refused.value.param == "input_reference"
    assert server.worker_ids() == workers
    assert not list((server.data / "uploads").glob("*"))


@pytest.mark.parametrize(
    "value",
    [
        "https://elsewhere.example/a.png",
        {"image_url": "file:///etc/passwd"},
        {"file_id": "file_1"},
        "data:image/png,plain",
        "data:image/png;base64,####",
        5,
        [],
    ],
)
def test_only_files_and_data_urls_are_taken(value: Any) -> None:
    with pytest.raises(InvalidField):
        uploaded(value)


def test_a_wish_that_cannot_be_fulfilled_leaves_no_upload(server: LiveServer) -> None:
    before = kept(server)
    body = {"prompt": "refuse me", "input_reference": data_url(picture((1, 2, 3)))}
    assert ask(server, "POST", "/v1/videos", body).code == "prompt_too_long"
    assert kept(server) == before


def test_a_video_from_a_picture_survives_the_worker(start_server: Any) -> None:
    server = start_server(PATTERN_SECONDS=0.3, jobs__checkpoint_s=0)
    server.wait_until_ready()
    body = {"prompt": "a hill", "seed": 7, "num_frames": 60, "input_reference": data_url(picture(RED))}
    video = ask(server, "POST", "/v1/videos", body).json
    wait_for(server, video["id"], lambda video: video["progress"] >= 10)
    (worker,) = server.worker_ids()
    os.kill(worker, signal.SIGKILL)
    assert begins_with(finished(server, video), RED, 9)


async def test_frames_stay_while_a_request_in_flight_needs_them_and_go_with_the_last(tmp_path: Path) -> None:
    artifacts, stored = ArtifactStore(str(tmp_path / "videos")), set[str]()
    settings = Settings()
    references = References(
        WorkerSupervisor(settings.configure(tmp_path)), artifacts, lambda: stored, tmp_path, settings.jobs
    )
    one = Reference(id="a" * 64, bytes=1)

    def lies_there() -> bool:
        return [name for name, _ in artifacts.references()] == [one.id]

    frames = tmp_path / "frames"
    frames.write_bytes(b"x")
    async with references.held(one.id), references.held(one.id):
        artifacts.put_reference(frames, one.id)
        # The last video that was stored with the same picture is deleted.
        references.release(one)
        assert lies_there()
        stored.add(one.id)
    assert lies_there()
    stored.clear()
    references.release(one)
    # They were put by somebody else, who may need them.
    assert lies_there()
    make_old(tmp_path / "videos" / f"{one.id}.reference")
    references.release(one)
    assert not lies_there()
    with pytest.raises(VideoGone):
        await references.find(one.id)


def servers_of_one_place(folder: Path, stored: set[str]) -> list[References]:
    settings = Settings()
    return [
        References(
            WorkerSupervisor(settings.configure(folder)),
            ArtifactStore(str(folder / "videos")),
            lambda: stored,
            folder / "uploads",
            settings.jobs,
        )
        for _ in range(2)
    ]


@pytest.mark.parametrize("first", [0, 1], ids=["that came before", "that came after"])
async def test_frames_stay_for_a_request_at_another_server(tmp_path: Path, first: int) -> None:
    servers, one = servers_of_one_place(tmp_path, set()), Reference(id="a" * 64, bytes=1)
    waiting, refused = servers[0], servers[1]
    frames = tmp_path / "frames"
    async with waiting.held(one.id):
        async with refused.held(one.id):
            for references in (servers[first], servers[1 - first]):
                frames.write_bytes(b"x")
                references.put(frames, one.id)
        assert await waiting.find(one.id) == one


async def test_frames_of_nobody_else_go_with_the_request_that_brought_them(tmp_path: Path) -> None:
    references, _ = servers_of_one_place(tmp_path, set())
    frames = tmp_path / "frames"
    async with references.held("a" * 64):
        for _ in range(2):
            frames.write_bytes(b"x")
            references.put(frames, "a" * 64)
    assert list((tmp_path / "videos").iterdir()) == []


async def test_a_copy_whose_session_waits_is_not_taken_for_left_behind(tmp_path: Path) -> None:
    waiting, other = servers_of_one_place(tmp_path, {"a" * 64})
    frames, uploads = tmp_path / "frames", tmp_path / "uploads"
    frames.write_bytes(b"x")
    uploads.mkdir()
    waiting.put(frames, "a" * 64)
    copy = await waiting.fetch(Reference(id="a" * 64, bytes=1))
    left = uploads / "left.npy"
    left.write_bytes(b"x")
    for file in (copy, left):
        make_old(file)
    waiting.tidy()
    other.tidy()
    assert list(uploads.iterdir()) == [copy]
    copy.unlink()
    waiting.tidy()


def test_only_so_many_uploads_are_read_at_a_time(server: LiveServer) -> None:
    (worker,) = server.worker_ids()

    def order(shade: int) -> Any:
        upload = data_url(picture((9, 9, shade)))
        body = {"prompt": "a hill", "num_frames": 5, "input_reference": upload}
        return ask(server, "POST", "/v1/videos", body)

    clients = MAX_WAITING + 5
    with ThreadPoolExecutor(clients) as pool:
        os.kill(worker, signal.SIGSTOP)
        try:
            sent = [pool.submit(order, shade) for shade in range(clients)]
            # Nobody gets an answer from the worker, so these are the refused ones.
            refused = [answer.result() for answer in itertools.islice(as_completed(sent), 5)]
        finally:
            os.kill(worker, signal.SIGCONT)
        answers = [answer.result() for answer in sent]
    assert {answer.code for answer in refused} == {"queue_full"}
    assert sum(answer.status == 200 for answer in answers) == MAX_WAITING


def test_what_was_left_behind_is_removed_in_time(start_server: Any) -> None:
    server = start_server()
    server.wait_until_ready()
    server.stop()
    old, new = (
        server.data / "videos" / f"{'0' * 64}.reference",
        server.data / "videos" / f"{'1' * 64}.reference",
    )
    upload = server.data / "uploads" / "left"
    upload.parent.mkdir(exist_ok=True)
    for file in (old, new, upload):
        file.write_bytes(b"x")
    for file in (old, upload):
        make_old(file)
    server.start()
    server.wait_for(lambda: not old.exists() and not upload.exists(), "tidying")
    assert new.exists()
