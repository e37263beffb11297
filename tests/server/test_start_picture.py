"""A session that starts from a picture shows it first, after a new worker too; what is no picture is refused."""

from __future__ import annotations

import asyncio
import base64
import io
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import av
import numpy as np
import pytest
from live_server import PATIENCE_S, LiveServer
from pattern_engine import colour
from PIL import Image
from uploads import BLUE, RED, clip, picture, png_that_claims
from videos_client import ask, download, pictures, wait_for

from ultraflash.server.client import connect
from ultraflash.server.engine import CASCADE

if TYPE_CHECKING:
    from live_server import StreamClient

MAX_BYTES = 200_000


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("pictures")
    settings = {"jobs__max_reference_pixels": 1_000_000, "stream__max_image_bytes": MAX_BYTES}
    with LiveServer(folder, stream__max_streams=8, **settings) as running:
        running.wait_until_ready()
        yield running


def uploads(server: LiveServer) -> list[Path]:
    return list((server.data / "uploads").glob("*"))


def text_of(upload: bytes) -> str:
    return base64.b64encode(upload).decode()


def data_url(upload: bytes) -> str:
    return f"data:image/png;base64,{text_of(upload)}"


def shown(client: StreamClient) -> list[np.ndarray]:
    with av.open(io.BytesIO(b"".join(data for _, data in client.frames())), format="h264") as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def begins_with(frames: list[np.ndarray], wanted: tuple[int, int, int], then: tuple[int, int, int]) -> bool:
    """Whether nine frames have a colour and the others another one, below the squares that number them."""
    expected = [wanted] * 9 + [then] * (len(frames) - 9)
    return all(
        np.abs(frame[100, 100].astype(float) - one).max() < 14
        for frame, one in zip(frames, expected, strict=True)
    )


@pytest.mark.parametrize(
    "image",
    [
        data_url(picture(RED)),
        text_of(picture(RED, kind="JPEG", quality=95)),
        f"data:image/webp;base64,{text_of(picture(RED, kind='WEBP', lossless=True))}",
    ],
    ids=["data URL of a PNG", "base64 of a JPEG", "data URL of a WebP"],
)
async def test_a_session_shows_the_picture_and_goes_on_from_it(server: LiveServer, image: str) -> None:
    async with server.client() as client:
        await client.start("a hill", seed=7, image=image, max_frames=30)
        done = await client.until("session.done")
    assert begins_with(shown(client), RED, colour("a hill", 7))
    assert done["replay"]["image"]
    # Neither the log nor what is stored has the picture in it, only its name.
    assert len(done["replay"]["image"]) == 64
    await asyncio.to_thread(server.wait_for, lambda: not uploads(server), "tidying")


async def test_a_picture_larger_than_other_messages_comes_with_the_client_of_the_package(
    server: LiveServer, tmp_path: Path
) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (180, 320, 3), np.uint8)
    out = io.BytesIO()
    Image.fromarray(noise).save(out, "PNG")
    assert MAX_BYTES > len(out.getvalue()) > 100_000
    file = tmp_path / "noise.png"
    file.write_bytes(out.getvalue())
    for image in (file, out.getvalue()):
        async with connect(server.address, prompt="a hill", seed=7, image=image, max_frames=12) as stream:
            packets = [packet async for packet in stream]
        assert len(packets) == 12


@pytest.mark.parametrize(
    ("image", "code", "told"),
    [
        ("data:image/png,plain", "invalid_field", "base64"),
        ("####", "invalid_field", "base64"),
        ("https://elsewhere.example/a.png", "invalid_field", "base64"),
        (text_of(b"just text"), "bad_reference", "PNG, JPEG or WebP"),
        (data_url(clip((RED, 9))), "bad_reference", "PNG, JPEG or WebP"),
        (data_url(picture()[:60]), "bad_reference", "cannot be read"),
        (data_url(png_that_claims(15_000, 15_000)), "reference_too_large", "15000x15000"),
        (text_of(bytes(MAX_BYTES + 1)), "reference_too_large", f"{MAX_BYTES} are accepted"),
    ],
    ids=["no base64", "not even text", "address", "text", "clip", "torn", "bomb", "too many bytes"],
)
async def test_what_is_no_picture_is_refused_and_the_connection_is_as_before(
    server: LiveServer, image: str, code: str, told: str
) -> None:
    async with server.client() as client:
        await client.send("session.start", prompt="a hill", image=image)
        error = await client.until("error")
        assert (error["code"], error["retryable"]) == (code, False)
        assert told in error["message"]
        await client.start("a hill", seed=7, max_frames=9)
        await client.until("session.done")
    await asyncio.to_thread(server.wait_for, lambda: not uploads(server), "tidying")


async def test_while_the_picture_is_read_the_session_waits_and_can_be_given_up(server: LiveServer) -> None:
    (worker,) = server.worker_ids()
    os.kill(worker, signal.SIGSTOP)
    try:
        async with server.client() as client:
            await client.send("session.start", prompt="a hill", image=data_url(picture(RED)))
            await client.send("session.start", prompt="a hill")
            assert (await client.until("error"))["code"] == "unexpected_event"
            await client.send("session.ping")
            await client.until("session.pong")
            await client.send("session.stop")
            assert (await client.until("session.done"))["reason"] == "stopped"
            assert await client.until_closed() == (1000, "stopped")
    finally:
        os.kill(worker, signal.SIGCONT)
    assert not server.sessions()


async def test_a_session_that_is_refused_behind_its_picture_may_be_asked_for_again(
    server: LiveServer,
) -> None:
    async with server.client() as client:
        for _ in range(2):
            await client.send("session.start", prompt="refuse me", image=data_url(picture(RED)))
            assert (await client.until("error"))["code"] == "prompt_too_long"
        await client.start("a hill", seed=7, image=data_url(picture(BLUE)), max_frames=12)
        await client.until("session.done")
    assert begins_with(shown(client), BLUE, colour("a hill", 7))
    await asyncio.to_thread(server.wait_for, lambda: not uploads(server), "tidying")


async def test_a_long_message_is_taken_only_where_a_session_may_start_from_it(server: LiveServer) -> None:
    async with server.client() as client:
        await client.start("a hill")
        await client.send("session.start", prompt="a hill", image="A" * 70_000)
        assert (await client.until_closed())[0] == 1009


async def test_a_stream_that_has_to_begin_anew_begins_from_the_picture_and_so_does_its_replay(
    start_server: Any,
) -> None:
    server = start_server(stream__snapshot_share=0)
    server.wait_until_ready()
    async with server.client() as client:
        started = await client.start("a hill", seed=7, image=data_url(picture(BLUE)))
        await client.until_frame(20)
        os.kill(server.worker_ids()[0], signal.SIGKILL)
        await client.until("error", code="engine_restarting")
        resumed = await client.until("session.resumed", state="restarted")
        first = round(resumed["first_pts_us"] * 16 / 1e6)
        await client.until_frame(first + 20)
        await client.send("session.stop")
        done = await client.until("session.done")
    frames = shown(client)
    assert begins_with(frames[:first], BLUE, colour("a hill", 7))
    assert begins_with(frames[first:], BLUE, colour("a hill", 7))
    answer = ask(
        server,
        "POST",
        f"/v1/sessions/{started['session_id']}/replay",
        {"token": started["resume_token"], "seconds": f"{(first + 15) / 16}"},
    )
    assert answer.status == 200, answer.json
    assert wait_for(server, answer.json["id"])["status"] == "completed"
    made = pictures(download(server, answer.json["id"]))
    assert begins_with(made[:first], BLUE, colour("a hill", 7))
    assert begins_with(made[first:], BLUE, colour("a hill", 7))
    log = {**done["replay"], "image": "0" * 64}
    gone = ask(server, "POST", f"/v1/sessions/{started['session_id']}/replay", {"replay": log})
    assert (gone.status, gone.code) == (410, "video_expired")


async def test_the_picture_outlives_the_server(start_server: Any) -> None:
    server = start_server("--port", "0", stream__snapshot_share=0)
    server.wait_until_ready()
    async with server.client() as client:
        started = await client.start("a hill", seed=7, image=data_url(picture(RED)))
        await client.until_frame(20)
        await asyncio.to_thread(
            server.wait_for,
            lambda: server.get(f"/v1/sessions/{started['session_id']}")[0] == 200,
            "the session in the database",
        )
        await asyncio.to_thread(server.stop, signal.SIGKILL)
    await asyncio.to_thread(server.start)
    server.wait_until_ready()
    async with server.client() as client:
        token = started["resume_token"]
        await client.send("session.resume", session_id=started["session_id"], resume_token=token)
        await client.until("session.resumed", state="restarted")
        await client.until_frame(20)
        frames = shown(client)
    assert begins_with(frames, RED, colour("a hill", 7))


async def test_mini_goes_on_from_a_picture(start_server: Any) -> None:
    server = start_server(engine=CASCADE)
    server.wait_until_ready()
    async with server.client() as client:
        started = await client.start("snowy mountains at dawn", seed=7, size="0.5K", max_frames=9)
        await client.until("session.done")
    last = shown(client)[-1]
    out = io.BytesIO()
    Image.fromarray(last).save(out, "PNG")
    async with server.client() as client:
        await asyncio.wait_for(
            client.start(
                "snowy mountains at dawn", seed=8, size="0.5K", max_frames=9, image=data_url(out.getvalue())
            ),
            PATIENCE_S,
        )
        await client.until("session.done")
    first = shown(client)[0]
    assert first.shape == (started["height"], started["width"], 3)
    # As near as the latents of the base, at half the resolution, come to a picture.
    assert np.abs(first.astype(float) - last).mean() < 0.5 * last.std()
