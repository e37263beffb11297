"""Recordings hold exactly what was sent, survive what happens to the server, and are for those with a token."""

from __future__ import annotations

import asyncio
import io
import json
import os
import signal
import subprocess
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import av
from pattern_engine import read_number

from ultraflash.server.media.annexb import NAL_PPS, NAL_SPS, nal_type, nal_units
from ultraflash.server.media.fragmented_file import frames_in

if TYPE_CHECKING:
    from live_server import LiveServer, StreamClient


def sent_units(client: StreamClient, generation: int | None = None) -> list[list[bytes]]:
    """NAL units of each frame received, parameter sets left out."""
    return [
        [unit for unit in nal_units(data) if nal_type(unit) not in (NAL_SPS, NAL_PPS)]
        for header, data in client.frames()
        if generation in (None, header.generation)
    ]


def recorded_units(file: bytes | Path) -> list[list[bytes]]:
    """NAL units of each sample of an MP4."""
    found = []
    with av.open(io.BytesIO(file) if isinstance(file, bytes) else str(file)) as container:
        for packet in container.demux(video=0):
            data, units = bytes(packet), []
            while data:
                size = int.from_bytes(data[:4], "big")
                units.append(data[4 : 4 + size])
                data = data[4 + size :]
            if units:
                found.append(units)
    return found


def fetch(server: LiveServer, path: str, **headers: str) -> tuple[int, bytes, Any]:
    request = urllib.request.Request(f"http://{server.address}{path}", headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=120) as response:
            return response.status, response.read(), response.headers
    except urllib.error.HTTPError as error:
        return error.code, error.read(), error.headers


async def test_a_recording_holds_what_was_sent_in_a_part_for_each_size(server: LiveServer) -> None:
    async with server.client() as client:
        started = await client.start("a red hill", seed=9, record=True)
        await client.until_frame(20)
        await client.send("prompt.update", prompt="a blue hill", event_id="turn")
        await client.until("prompt.applied")
        await client.send("keyframe.request")
        await client.send("session.control", size="1K", event_id="larger")
        await client.until("stream.config", generation=2)
        await client.until_frame(client.frames()[-1][0].seq + 30)
        pending = server.get(f"/v1/sessions/{started['session_id']}/recording")
        # Everything has to have been received, since stopping drops what waits.
        await client.listen(1)
        await client.send("session.stop")
        done = await client.until("session.done")
    assert pending[0] == 403
    assert len(done["recording"]) == 2
    for number, address in enumerate(done["recording"]):
        status, body, headers = fetch(server, address)
        assert (status, headers["Content-Type"]) == (200, "video/mp4")
        sent = sent_units(client, number + 1)
        assert recorded_units(body)[: len(sent)] == sent
        with av.open(io.BytesIO(body)) as container:
            video = container.streams.video[0]
            assert (video.width, video.height) == ((224, 128), (416, 240))[number]
            numbers = [read_number(frame.to_ndarray(format="rgb24")) for frame in container.decode(video)]
        assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    folder = server.data / "sessions" / started["session_id"]
    log = json.loads((folder / "session.json").read_text())
    assert {key: log[key] for key in ("version", "id", "state", "model", "seed", "fps")} == {
        "version": 1,
        "id": started["session_id"],
        "state": "stopped",
        "model": "pattern",
        "seed": 9,
        "fps": 16,
    }
    assert log["events"] == done["replay"]["events"]
    assert [event["group"] for event in log["events"]] == sorted(event["group"] for event in log["events"])
    assert sum(part["frames"] for part in log["parts"]) == done["frames"]
    assert log["parts"][1]["first_seq"] == log["parts"][0]["frames"]
    assert sorted(entry.name for entry in folder.iterdir()) == [
        "part-000.mp4",
        "part-001.mp4",
        "session.json",
    ]


async def test_a_recording_is_served_in_ranges_and_only_with_its_token(server: LiveServer) -> None:
    async with server.client() as client:
        started = await client.start(record=True, max_frames=33, transport="fmp4")
        done = await client.until("session.done")
    (address,) = done["recording"]
    status, whole, _ = fetch(server, address)
    assert status == 200
    status, part, headers = fetch(server, address, Range="bytes=10-29")
    assert (status, part) == (206, whole[10:30])
    assert headers["Content-Range"] == f"bytes 10-29/{len(whole)}"
    base = f"/v1/sessions/{started['session_id']}/recording"
    for path, expected in (
        (base, (403, "bad_token")),
        (f"{base}?token={started['viewer_token']}", (403, "bad_token")),
        (f"/v1/sessions/session_0/recording?token={started['viewer_token']}", (404, "unknown_session")),
        ("/v1/sessions/..%2f..%2fx/recording?token=x", (404, "not_found")),
        (address.replace("part=0", "part=1"), (404, "unknown_session")),
    ):
        status, body = server.get(path)
        assert (status, body["error"]["code"]) == expected


async def test_a_recording_goes_on_through_a_new_worker_and_a_lost_connection(start_server: Any) -> None:
    server = start_server()
    server.wait_until_ready()
    async with server.client() as first:
        started = await first.start(record=True)
        await first.until_frame(20)
        os.kill(server.worker_ids()[0], signal.SIGKILL)
        await first.until("error", code="engine_restarting")
        await first.until("session.resumed")
        await first.until_frame(first.frames()[-1][0].seq + 20)
        first.socket.transport.abort()
    await asyncio.to_thread(server.wait_for, lambda: server.sessions()[0]["state"] == "away", "absence")
    async with server.client() as second:
        await second.send(
            "session.resume",
            session_id=started["session_id"],
            resume_token=started["resume_token"],
            last_pts_us=first.frames()[-1][0].pts_us,
        )
        await second.until("session.resumed", state="continued")
        await second.until_frame(first.frames()[-1][0].seq + 30)
        await second.listen(1)
        await second.send("session.stop")
        done = await second.until("session.done")
    (address,) = done["recording"]
    sent = sent_units(first) + sent_units(second)
    assert recorded_units(fetch(server, address)[1])[: len(sent)] == sent


async def test_a_killed_server_leaves_a_recording_that_plays(start_server: Any) -> None:
    server = start_server()
    server.wait_until_ready()
    async with server.client() as client:
        started = await client.start("noise", record=True, size="1K")
        await client.until_frame(60)
        await asyncio.to_thread(server.stop, signal.SIGKILL)
    file = server.data / "sessions" / started["session_id"] / "part-000.mp4"
    recorded = recorded_units(file)
    sent = sent_units(client)
    assert len(recorded) > 30
    assert recorded == sent[: len(recorded)] or sent == recorded[: len(sent)]
    log = json.loads(file.with_name("session.json").read_text())
    assert log["state"] == "recording"
    assert log["events"][0]["prompt"] == "noise"


async def test_a_recording_goes_on_through_a_killed_server(
    start_server: Any, record_property: Callable[[str, object], None]
) -> None:
    """Twice, and what was not yet shown when it died is in the file once, as it was made anew."""
    server = start_server(stream__snapshot_share=1)
    server.wait_until_ready()
    clients: list[StreamClient] = []
    async with server.client() as client:
        started = await client.start("a red hill", seed=7, record=True)
        await client.until_frame(20)
        clients.append(client)
        await wait_until_recorded(server, started, client)
        await kill_and_start(server, client)
    for _ in range(2):
        before = clients[-1].frames()[-1][0]
        async with server.client() as client:
            await client.send(
                "session.resume",
                session_id=started["session_id"],
                resume_token=started["resume_token"],
                last_pts_us=before.pts_us,
            )
            await client.until("session.resumed", state="restored")
            await client.until_frame(before.seq + 20)
            clients.append(client)
            if len(clients) == 2:
                await wait_until_recorded(server, started, client)
                await kill_and_start(server, client)
            else:
                await client.listen(1)
                await client.send("session.stop")
                done = await client.until("session.done")
    sent = [unit for client in clients for unit in sent_units(client)]
    assert [header.seq for client in clients for header, _ in client.frames()] == list(range(len(sent)))
    (address,) = done["recording"]
    status, body, _ = fetch(server, address)
    assert status == 200
    assert recorded_units(body)[: len(sent)] == sent
    with av.open(io.BytesIO(body)) as container:
        video = container.streams.video[0]
        assert video.frames == done["frames"]
        numbers = [read_number(frame.to_ndarray(format="rgb24")) for frame in container.decode(video)]
    assert numbers == list(range(done["frames"]))
    folder = server.data / "sessions" / started["session_id"]
    log = json.loads((folder / "session.json").read_text())
    assert (log["state"], [part["frames"] for part in log["parts"]]) == ("stopped", [done["frames"]])
    probe = probed(folder / "part-000.mp4")
    assert (probe["codec_name"], int(probe["nb_read_frames"])) == ("h264", done["frames"])
    record_property("ffprobe", json.dumps({"recording, server killed on the way": probe}))
    assert sorted(entry.name for entry in folder.iterdir()) == ["part-000.mp4", "session.json"]


def probed(file: Path) -> dict[str, Any]:
    """What FFmpeg's own program says of the video, all of which it decodes, having nothing to say against it."""
    fields = "codec_name,profile,width,height,pix_fmt,r_frame_rate,color_space,nb_read_frames"
    words = ["-v", "error", "-count_frames", "-show_entries", f"stream={fields}", "-of", "json"]
    probe = subprocess.run(["ffprobe", *words, file], capture_output=True, text=True, check=True)
    assert probe.stderr == ""
    (stream,) = json.loads(probe.stdout)["streams"]
    return dict(stream)


async def wait_until_recorded(server: LiveServer, started: dict[str, Any], client: StreamClient) -> None:
    """Waits until the stream rests, as far ahead of its owner as it may be, and the file has all of it: a kill before
    that may leave frames out of a recording, which then goes on in another part.
    """
    file = server.data / "sessions" / started["session_id"] / "part-000.mp4"
    resting_from = client.frames()[-1][0].seq + 1 + 24 - 12

    def recorded() -> bool:
        (made,) = [one["seconds"] * 16 for one in server.sessions() if one["id"] == started["session_id"]]
        return made > resting_from and frames_in(file) == round(made)

    await asyncio.to_thread(server.wait_for, recorded, "recording of all frames")


async def kill_and_start(server: LiveServer, client: StreamClient) -> None:
    """What had been received and what had been sent before are the same afterwards."""
    await asyncio.to_thread(server.stop, signal.SIGKILL)
    await client.until_closed()
    await asyncio.to_thread(server.start)
    await asyncio.to_thread(server.wait_until_ready)


async def test_a_recording_that_nobody_comes_back_to_is_completed(start_server: Any) -> None:
    server = start_server(stream__resume_s=1)
    server.wait_until_ready()
    async with server.client() as client:
        started = await client.start(record=True)
        await client.until_frame(30)
        await kill_and_start(server, client)
    file = server.data / "sessions" / started["session_id"] / "part-000.mp4"
    log = file.with_name("session.json")
    await asyncio.to_thread(
        server.wait_for, lambda: json.loads(log.read_text())["state"] == "disconnected", "the end"
    )
    (part,) = json.loads(log.read_text())["parts"]
    assert part["frames"] == len(recorded_units(file)) > 20


async def test_a_server_that_stops_completes_its_recordings(start_server: Any) -> None:
    server = start_server()
    server.wait_until_ready()
    async with server.client() as client:
        started = await client.start(record=True)
        await client.until_frame(30)
        await asyncio.to_thread(server.stop)
    folder = server.data / "sessions" / started["session_id"]
    assert json.loads((folder / "session.json").read_text())["state"] == "disconnected"
    assert b"moof" not in (folder / "part-000.mp4").read_bytes()


async def test_where_nothing_can_be_written_a_recording_is_refused_and_a_stream_is_not(
    start_server: Any, tmp_path: Path
) -> None:
    (tmp_path / "sessions").touch()
    server = start_server(data__folder=tmp_path)
    server.wait_until_ready()
    async with server.client() as client:
        await client.send("session.start", prompt="a hill", record=True)
        assert (await client.until("error"))["code"] == "recording_failed"
        await client.start(max_frames=1)
        assert "recording" not in await client.until("session.done")


async def test_a_refused_session_leaves_no_folder(server: LiveServer) -> None:
    before = set((server.data / "sessions").glob("*"))
    async with server.client() as client:
        await client.send("session.start", prompt="refuse me", record=True)
        await client.until("error")
    assert set((server.data / "sessions").glob("*")) == before
