"""``/v1/videos`` as the ``openai`` client uses it, and as others do, against a server on the pattern engine."""

from __future__ import annotations

import json
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from live_server import PATIENCE_S, LiveServer
from videos_client import ask, download, make, numbers, pictures, shows, wait_for

pytestmark = pytest.mark.filterwarnings("ignore:The Sora API:DeprecationWarning")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    folder = tmp_path_factory.mktemp("videos")
    with LiveServer(folder, jobs__max_upload_bytes=100_000, stream__max_streams=4) as running:
        running.wait_until_ready()
        yield running


@pytest.fixture
def client(server: LiveServer) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(
        base_url=f"http://{server.address}/v1", api_key="none", max_retries=0, timeout=PATIENCE_S
    ) as client:
        yield client


def test_the_openai_client_makes_a_video_and_downloads_it(client: openai.OpenAI, tmp_path: Path) -> None:
    wishes: dict[str, Any] = {"seconds": "2", "size": "416x240", "model": "pattern"}
    video = client.videos.create_and_poll(
        prompt="a hill", extra_body={"seed": 7, "fps": 24}, poll_interval_ms=100, **wishes
    )
    assert (video.status, video.progress, video.error) == ("completed", 100, None)
    assert (video.object, video.model, video.size, video.seconds) == ("video", "pattern", "416x240", "2")
    assert video.completed_at is not None and video.expires_at is not None
    assert video.created_at <= video.completed_at < video.expires_at
    out = tmp_path / "out.mp4"
    client.videos.download_content(video.id).write_to_file(out)
    frames = pictures(out.read_bytes())
    assert frames[0].shape == (240, 416, 3)
    assert numbers(frames) == list(range(48))
    assert all(shows(frame, "a hill") for frame in frames)


def test_the_openai_client_lists_remixes_extends_and_deletes(
    client: openai.OpenAI, server: LiveServer
) -> None:
    source = client.videos.create(prompt="a hill", extra_body={"seed": 7, "num_frames": 20})
    assert source.status in ("queued", "in_progress", "completed")
    wait_for(server, source.id)
    remix = client.videos.remix(source.id, prompt="a lake")
    file = client.videos.download_content(source.id).read()
    # The client takes a file where its types also name an id; the id goes beside it.
    named: dict[str, Any] = {"seconds": "1", "video": openai.omit, "extra_body": {"video": {"id": source.id}}}
    sent: dict[str, Any] = {"seconds": "1", "video": ("out.mp4", file, "video/mp4")}
    extension = client.videos.extend(prompt="a town", **sent)
    again = client.videos.extend(prompt="a town", **named)
    ask(server, "DELETE", f"/v1/videos/{again.id}")
    with pytest.raises(openai.BadRequestError, match="made here"):
        client.videos.extend(prompt="a town", **{**sent, "video": b"another video"})
    assert (remix.remixed_from_video_id, remix.seconds, extension.seconds) == (source.id, "1.25", "2.25")
    wait_for(server, extension.id)
    assert client.videos.retrieve(remix.id).status == "completed"

    listed = [video.id for video in client.videos.list(limit=2)]
    assert listed[:3] == [extension.id, remix.id, source.id]
    assert listed[::-1] == [video.id for video in client.videos.list(limit=2, order="asc")]

    first = pictures(client.videos.download_content(source.id).read())
    other = pictures(client.videos.download_content(remix.id).read())
    longer = pictures(client.videos.download_content(extension.id).read())
    assert numbers(first) == numbers(other) == list(range(20))
    assert all(shows(frame, "a lake") for frame in other)
    assert numbers(longer) == list(range(36))
    # Groups have 9 and then 12 frames: the new prompt begins with the first one behind the source.
    assert all(shows(frame, "a hill") for frame in longer[:21])
    assert all(shows(frame, "a town") for frame in longer[21:])

    assert f"going on at frame 9 job={extension.id}" in server.output()

    for video in (source, remix, extension):
        deleted = client.videos.delete(video.id)
        assert (deleted.id, deleted.object, deleted.deleted) == (video.id, "video.deleted", True)
    with pytest.raises(openai.NotFoundError) as gone:
        client.videos.retrieve(source.id)
    assert gone.value.code == "video_not_found"
    assert not list(server.data.glob(f"**/*{source.id}*"))


def test_an_edit_is_refused_in_words(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="remix"):
        client.videos.edit(prompt="a hill", video=b"a video")


@pytest.mark.parametrize(
    ("fields", "code", "told"),
    [
        ({"prompt": " "}, "empty_prompt", "describe"),
        ({"prompt": "x" * 1001}, "prompt_too_long", "1000"),
        ({"prompt": "refuse me"}, "prompt_too_long", "refused by the engine"),
        ({"prompt": 5}, "invalid_field", "prompt"),
        ({"prompt": "\ud800"}, "invalid_field", "prompt"),
        ({"size": "8K"}, "unknown_size", "224x128"),
        ({"size": "720x1280"}, "unknown_size", "1K (416x240)"),
        ({"model": "sora-2"}, "unknown_preset", "'pattern'"),
        ({"seconds": "0"}, "invalid_field", "at most 120"),
        ({"seconds": "121"}, "invalid_field", "at most 120"),
        ({"seconds": "nan"}, "invalid_field", "above 0"),
        ({"seconds": "long"}, "invalid_field", "'long'"),
        ({"seconds": "2", "num_frames": 5}, "invalid_field", "give one of"),
        ({"num_frames": 100_000}, "invalid_field", "at most 120"),
        ({"fps": 0}, "invalid_field", "fps"),
        ({"fps": 61}, "invalid_field", "60"),
        ({"seed": -1}, "invalid_field", "seed"),
        ({"seed": 2**63}, "invalid_field", "seed"),
        ({"negative_prompt": "blurry"}, "unsupported", "leave negative_prompt out"),
        ({"input_reference": {"image_url": "http://x/"}}, "invalid_field", "not fetched"),
        ({"steps": 4}, "unknown_field", "the fields are prompt, model"),
        ({"\ud800": 4}, "invalid_field", "cannot be used"),
    ],
)
def test_what_cannot_be_made_is_refused_with_what_can(
    server: LiveServer, fields: dict[str, Any], code: str, told: str
) -> None:
    answer = ask(server, "POST", "/v1/videos", {"prompt": "a hill", **fields})
    assert (answer.status, answer.code) == (400, code)
    assert told in answer.json["error"]["message"]


@pytest.mark.parametrize(
    ("body", "kind", "status", "code"),
    [
        (b"{", "application/json", 400, "invalid_request"),
        (b"[1]", "application/json", 400, "invalid_request"),
        (b"\xff", "application/json", 400, "invalid_request"),
        (b"{}", "application/json", 400, "missing_field"),
        (b"[" * 50_000, "application/json", 400, "invalid_request"),
        (b"prompt=a", "text/plain", 400, "invalid_request"),
        (b"nonsense", "multipart/form-data; boundary=x", 400, "invalid_request"),
        (b"nonsense", "multipart/form-data", 400, "invalid_request"),
        (b"prompt=a&prompt=b", "application/x-www-form-urlencoded", 400, "invalid_request"),
        (b"prompt[x]=a&prompt=b", "application/x-www-form-urlencoded", 400, "invalid_request"),
        (b'{"prompt": "' + b"x" * 100_000 + b'"}', "application/json", 413, "body_too_large"),
    ],
)
def test_a_body_that_cannot_be_read_is_an_error_of_the_one_shape(
    server: LiveServer, body: bytes, kind: str, status: int, code: str
) -> None:
    answer = ask(server, "POST", "/v1/videos", body, {"Content-Type": kind})
    assert (answer.status, answer.code) == (status, code)


def test_an_idempotency_key_makes_one_video(server: LiveServer) -> None:
    key = {"Idempotency-Key": "once"}
    first, again = (
        ask(server, "POST", "/v1/videos", {"prompt": "a hill", "num_frames": 5}, key).json for _ in range(2)
    )
    assert (first["id"], first["seed"]) == (again["id"], again["seed"])
    other = ask(server, "POST", "/v1/videos", {"prompt": "a lake", "num_frames": 5}, key)
    assert (other.status, other.code) == (409, "idempotency_key_reused")


def test_a_foreign_page_cannot_send_a_form(server: LiveServer) -> None:
    kind = "application/x-www-form-urlencoded"
    page = {"Content-Type": kind, "Origin": "https://elsewhere.example"}
    answer = ask(server, "POST", "/v1/videos", b"prompt=a+hill&num_frames=5", page)
    assert (answer.status, answer.code) == (403, "origin_not_allowed")
    own = {"Content-Type": kind, "Origin": f"http://{server.address}"}
    assert ask(server, "POST", "/v1/videos", b"prompt=a+hill&num_frames=5", own).status == 200


def test_parts_of_a_file_are_served(server: LiveServer) -> None:
    video = make(server, num_frames=20)
    content = f"/v1/videos/{video['id']}/content"
    wait_for(server, video["id"])
    whole = download(server, video["id"])
    part = ask(server, "GET", content, headers={"Range": "bytes=4-11"})
    assert (part.status, part.body) == (206, whole[4:12])
    assert part.headers["Content-Range"] == f"bytes 4-11/{len(whole)}"
    assert ask(server, "GET", content, headers={"Range": "bytes=-5"}).body == whole[-5:]
    outside = ask(server, "GET", content, headers={"Range": f"bytes={len(whole)}-"})
    assert (outside.status, outside.code) == (416, "range_not_satisfiable")
    assert outside.headers["Content-Range"] == f"bytes */{len(whole)}"
    assert ask(server, "GET", f"{content}?variant=thumbnail").code == "unsupported"
    assert ask(server, "GET", "/v1/videos/video_1/content").status == 404
    probe = f"ffprobe -v error -of csv=p=0 -count_frames -show_entries stream=codec_name,nb_read_frames http://{server.address}{content}"
    try:
        probed = subprocess.run(probe.split(), capture_output=True, text=True, check=True)
    except FileNotFoundError:
        return
    assert probed.stdout.strip() == "h264,20"


def test_events_tell_of_a_video_until_it_is_over(server: LiveServer) -> None:
    video = make(server, num_frames=60)
    with urllib.request.urlopen(
        f"http://{server.address}/v1/videos/{video['id']}/events", timeout=PATIENCE_S
    ) as response:
        assert response.headers["Content-Type"].startswith("text/event-stream")
        text = response.read().decode()
    events = [
        dict(line.split(": ", 1) for line in event.splitlines()) for event in text.split("\n\n") if event
    ]
    events = [event for event in events if "event" in event]
    kinds = [event["event"] for event in events]
    assert (kinds[:2], kinds[-1]) == (["queued", "in_progress"], "completed")
    assert set(kinds[2:-1]) == {"progress"}
    progress = [json.loads(event["data"])["progress"] for event in events]
    assert progress == sorted(progress)
    rest = ask(server, "GET", f"/v1/videos/{video['id']}/events", headers={"Last-Event-ID": events[-2]["id"]})
    assert rest.body.decode().count("event: ") == 1
    assert ask(server, "GET", "/v1/videos/video_1/events").status == 404


def test_a_cancelled_video_stops_and_the_next_one_is_made(server: LiveServer) -> None:
    long = make(server, seconds=120)
    following = make(server, num_frames=5)
    assert following["status"] == "queued"
    wait_for(server, long["id"], lambda video: video["progress"] >= 1)
    answer = ask(server, "GET", f"/v1/videos/{long['id']}/content")
    assert (answer.status, answer.code) == (409, "video_not_ready")
    for _ in range(2):
        answer = ask(server, "POST", f"/v1/videos/{long['id']}/cancel")
        assert (answer.status, answer.json["status"]) == (200, "cancelled")
    assert wait_for(server, following["id"])["status"] == "completed"
    assert ask(server, "GET", f"/v1/videos/{long['id']}").json["status"] == "cancelled"
    assert f"job stopped job={long['id']}" in server.output()
    answer = ask(server, "POST", f"/v1/videos/{following['id']}/cancel")
    assert (answer.status, answer.code) == (409, "not_cancellable")
    for what in ("remix", "content"):
        body = {"prompt": "a lake"} if what == "remix" else None
        answer = ask(server, "POST" if body else "GET", f"/v1/videos/{long['id']}/{what}", body)
        assert (answer.status, answer.code) == (409, "video_not_ready")


def test_a_video_that_is_deleted_in_the_making_leaves_nothing(server: LiveServer) -> None:
    long, following = make(server, seconds=120), make(server, num_frames=5)
    wait_for(server, long["id"], lambda video: video["progress"] >= 1)
    assert ask(server, "DELETE", f"/v1/videos/{long['id']}").json["deleted"]
    wait_for(server, following["id"])
    assert ask(server, "GET", f"/v1/videos/{long['id']}").status == 404
    assert not list(server.data.glob(f"**/*{long['id']}*"))


def test_a_fault_fails_one_video_and_says_so(server: LiveServer) -> None:
    faulty, healthy = make(server, "fault"), make(server, num_frames=5)
    failed = wait_for(server, faulty["id"])
    assert (failed["status"], failed["error"]["code"]) == ("failed", "engine_fault")
    assert wait_for(server, healthy["id"])["status"] == "completed"


async def test_live_streams_go_on_beside_a_video(server: LiveServer) -> None:
    video = make(server, seconds=60)
    async with server.client() as client:
        await client.start(max_frames=60)
        assert await client.until_closed() == (1000, "max_frames")
    assert [header.seq for header, _ in client.frames()] == list(range(60))
    ask(server, "DELETE", f"/v1/videos/{video['id']}")


def test_a_full_queue_says_when_to_come_back_and_expired_files_are_gone(start_server: Any) -> None:
    server = start_server(jobs__max_queued=1, jobs__expire_after_s=0.2, PATTERN_SECONDS=0.2)
    assert ask(server, "POST", "/v1/videos", {"prompt": "too early"}).status in (200, 503)
    server.wait_until_ready()
    running = make(server, seconds=120)
    wait_for(server, running["id"], lambda video: video["status"] == "in_progress")
    waiting = make(server, num_frames=5)
    assert waiting["queue_position"] == 1
    answer = ask(server, "POST", "/v1/videos", {"prompt": "one too many"})
    assert (answer.status, answer.code) == (429, "queue_full")
    assert int(answer.headers["Retry-After"]) >= 1
    ask(server, "POST", f"/v1/videos/{running['id']}/cancel")
    done = wait_for(server, waiting["id"])
    wait_for(server, waiting["id"], lambda video: video["expires_at"] is not None)
    content = f"/v1/videos/{done['id']}/content"
    server.wait_for(lambda: ask(server, "GET", content).status != 200, "expiry")
    answer = ask(server, "GET", content)
    assert (answer.status, answer.code) == (410, "video_expired")
    assert ask(server, "POST", f"/v1/videos/{done['id']}/remix", {"prompt": "again"}).status == 200


def test_the_oldest_video_makes_room_for_the_newest(start_server: Any) -> None:
    server = start_server(data__quota_bytes=60_000)
    server.wait_until_ready()
    answer = ask(server, "POST", "/v1/videos", {"prompt": "too large", "seconds": "60"})
    assert (answer.status, answer.code) == (413, "video_too_large")
    made: list[str] = []
    while not made or ask(server, "GET", f"/v1/videos/{made[0]}/content").status == 200:
        assert len(made) < 40
        made.append(make(server, num_frames=20)["id"])
        assert wait_for(server, made[-1])["status"] == "completed"
    gone = ask(server, "GET", f"/v1/videos/{made[0]}/content")
    assert (gone.status, gone.code) == (410, "video_expired")
    assert len(pictures(download(server, made[-1]))) == 20
    files = [file for file in server.data.rglob("*") if file.is_file() and "ultraflash.db" not in file.name]
    assert sum(file.stat().st_size for file in files) <= 60_000
    assert not [file for file in files if made[0] in str(file)]


def test_the_description_tells_of_bodies_and_answers(server: LiveServer) -> None:
    status, description = server.get("/v1/openapi.json")
    assert status == 200
    create = description["paths"]["/v1/videos"]["post"]
    assert set(create["requestBody"]["content"]) == {"application/json", "multipart/form-data"}
    fields = create["requestBody"]["content"]["application/json"]["schema"]["properties"]
    assert {"prompt", "seconds", "size", "seed", "fps", "num_frames", "input_reference"} <= set(fields)
    assert create["responses"]["200"]["content"]["application/json"]["schema"]["$ref"].endswith("/Video")
    assert create["responses"]["4XX"]["content"]["application/json"]["schema"]["$ref"].endswith("/FaultBody")
