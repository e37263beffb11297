"""Live streams over a real WebSocket from a real worker process, decoded again."""

from __future__ import annotations

import asyncio
import io
from typing import TYPE_CHECKING, Any

import av
import numpy as np
import pytest
from numpy.typing import NDArray
from pattern_engine import PatternEngine, colour, read_number

from ultraflash.models.cores import cores
from ultraflash.server.media.h264 import ENOUGH_CORES
from ultraflash.server.protocol import MediaFlags

if TYPE_CHECKING:
    from live_server import LiveServer, StreamClient

FRAME_US = 1e6 / 16
AHEAD_US = 1_500_000


def decode(data: bytes, kind: str = "h264") -> list[NDArray[np.uint8]]:
    """Decoded frames, uint8 (H, W, 3)."""
    with av.open(io.BytesIO(data), format=kind) as container:
        return [
            frame.reformat(format="rgb24", src_colorspace="ITU709", src_color_range="MPEG").to_ndarray()
            for frame in container.decode(video=0)
        ]


def shown(client: StreamClient) -> list[NDArray[np.uint8]]:
    """What a viewer sees of the Annex-B frames received."""
    return decode(b"".join(data for _, data in client.frames()))


def psnr(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float:
    error = max(np.mean((a.astype(np.float64) - b) ** 2), 1e-9)
    return float(10 * np.log10(255**2 / error))


def background(frame: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Mean colour of the lower half."""
    return np.asarray(frame[len(frame) // 2 :].mean(axis=(0, 1)))


def seqs(client: StreamClient) -> list[int]:
    return [header.seq for header, _ in client.frames()]


async def test_a_stream_is_announced_then_shows_what_the_engine_made_then_ends(server: LiveServer) -> None:
    async with server.client() as client:
        started = await client.start("a red hill", seed=7, max_frames=33)
        done = await client.until("session.done")
        assert await client.until_closed() == (1000, "max_frames")
    assert started["session_id"].startswith("session_")
    assert {key: started[key] for key in ("container", "width", "height", "fps", "seed", "model")} == {
        "container": "annexb",
        "width": 224,
        "height": 128,
        "fps": 16,
        "seed": 7,
        "model": "pattern",
    }
    assert started["codec"].startswith("avc1.64" if cores() >= ENOUGH_CORES else "avc1.42c0")
    assert [kind for kind in client.order if kind != "stats"][:3] == [
        "session.started",
        "stream.config",
        "frame",
    ]
    assert (done["reason"], done["frames"]) == ("max_frames", 33)
    assert done["replay"]["events"] == [
        {"first_pts_us": 0.0, "group": 0, "prompt": "a red hill", "size": "0.5K"}
    ]
    assert seqs(client) == list(range(33))
    assert [header.pts_us for header, _ in client.frames()] == [seq * FRAME_US for seq in range(33)]
    assert [header.seq for header, _ in client.frames() if MediaFlags.KEY in header.flags] == [0]
    engine = PatternEngine()
    state = engine.open("a red hill", size="0.5K", seed=7)
    made = np.concatenate([engine.next_group(state) for _ in range(3)])
    assert min(psnr(a, b) for a, b in zip(shown(client), made, strict=True)) > 35


async def test_the_same_seed_and_prompt_give_the_same_pictures_alone_or_together(server: LiveServer) -> None:
    async def stream() -> list[NDArray[np.uint8]]:
        async with server.client() as client:
            await client.start("a green hill", seed=3, max_frames=40)
            await client.until("session.done")
            return shown(client)

    alone = await stream()
    # Not the same bytes: the slice threads of x264 share the bits of a frame by who is first.
    for together in await asyncio.gather(stream(), stream()):
        assert min(psnr(a, b) for a, b in zip(together, alone, strict=True)) > 35


async def test_nothing_is_made_further_ahead_than_the_limit_until_the_owner_acknowledges(
    server: LiveServer,
) -> None:
    async with server.client() as client:
        client.acknowledge = False
        await client.start()
        await client.until_frame(20)
        await client.listen(0.7)
        end_us = client.frames()[-1][0].pts_us + FRAME_US
        assert end_us == 21 * FRAME_US <= AHEAD_US
        await client.ack(client.frames()[11][0])
        await client.until_frame(32)
        await client.listen(0.7)
        assert client.frames()[-1][0].seq == 32
        assert 33 * FRAME_US - 12 * FRAME_US <= AHEAD_US


async def test_a_new_prompt_is_shown_from_the_announced_frame_on_and_never_before(server: LiveServer) -> None:
    async with server.client() as client:
        await client.start("a red hill", seed=1)
        await client.until_frame(25)
        await client.send("prompt.update", prompt="a blue hill", event_id="turn")
        applied = await client.until("prompt.applied", event_id="turn")
        first = round(applied["first_pts_us"] / FRAME_US)
        await client.until_frame(first + 15)
    before, after = np.array(colour("a red hill", 1)), np.array(colour("a blue hill", 1))
    for seq, frame in enumerate(shown(client)):
        expected = before if seq < first else after
        assert np.abs(background(frame) - expected).max() < 6, seq
    assert first <= 26 + AHEAD_US / FRAME_US + 12
    assert (
        client.order.index("prompt.applied") < [i for i, k in enumerate(client.order) if k == "frame"][first]
    )


@pytest.mark.parametrize("transition", ["blend", "fade"])
async def test_a_change_over_groups_goes_there_step_by_step_and_is_logged(
    server: LiveServer, transition: str
) -> None:
    async with server.client() as client:
        await client.start("a red hill", seed=1)
        await client.until_frame(20)
        update = {"prompt": "a blue hill", "transition": transition, "groups": 3}
        await client.send("prompt.update", event_id="turn", **update)
        applied = await client.until("prompt.applied", event_id="turn")
        first = round(applied["first_pts_us"] / FRAME_US)
        await client.until_frame(first + 47)
        await client.send("session.stop")
        done = await client.until("session.done")
    before, after = np.array(colour("a red hill", 1)), np.array(colour("a blue hill", 1))
    frames = shown(client)
    for group, part in enumerate((0, 1 / 3, 2 / 3, 1, 1)):
        middle = background(frames[first + 12 * (group - 1) + 6])
        assert np.abs(middle - (before + (after - before) * part)).max() < 6, group
    # The first group of a stream has 9 frames, the others 12.
    shown_in = {"first_pts_us": applied["first_pts_us"], "group": (first + 3) // 12}
    assert done["replay"]["events"][-1] == {**shown_in, **update}


async def test_two_updates_before_one_group_name_the_same_frame_and_the_later_is_shown(
    server: LiveServer,
) -> None:
    async with server.client() as client:
        client.acknowledge = False
        await client.start("a red hill", seed=1)
        await client.until_frame(20)
        for event_id, prompt in (("one", "a blue hill"), ("two", "a grey hill")):
            await client.send("prompt.update", prompt=prompt, event_id=event_id)
        client.acknowledge = True
        await client.ack(client.frames()[-1][0])
        one = await client.until("prompt.applied", event_id="one")
        two = await client.until("prompt.applied", event_id="two")
        assert one["first_pts_us"] == two["first_pts_us"]
        first = round(one["first_pts_us"] / FRAME_US)
        await client.until_frame(first + 2)
    assert np.abs(background(shown(client)[first]) - colour("a grey hill", 1)).max() < 6


async def test_a_change_of_size_begins_a_generation_with_a_keyframe(server: LiveServer) -> None:
    async with server.client() as client:
        await client.start()
        await client.until_frame(10)
        await client.send("session.control", event_id="larger", size="1K")
        changed = await client.until("quality.changed", reason="requested")
        config = await client.until("stream.config")
        header = await client.step()
        await client.until_frame(client.frames()[-1][0].seq + 5)
    assert changed["size"] == "1K"
    assert (config["generation"], config["width"], config["height"], config["size"]) == (2, 416, 240, "1K")
    assert not isinstance(header, dict)
    assert (header.generation, MediaFlags.KEY in header.flags) == (2, True)
    assert seqs(client) == list(range(len(seqs(client))))
    large = decode(b"".join(data for header, data in client.frames() if header.generation == 2))
    assert {frame.shape for frame in large} == {(240, 416, 3)}
    assert read_number(large[0]) == header.seq


async def test_of_two_sizes_before_one_group_only_the_last_is_made(server: LiveServer) -> None:
    async with server.client() as client:
        client.acknowledge = False
        await client.start()
        await client.until_frame(20)
        await client.send("session.control", event_id="smaller", size="0.5K")
        await client.send("session.control", event_id="larger", size="416x240")
        client.acknowledge = True
        await client.ack(client.frames()[-1][0])
        config = await client.until("stream.config", generation=2)
        await client.until_frame(60)
    assert config["size"] == "1K"
    assert [event["size"] for event in client.events if event.get("reason") == "requested"] == ["1K"]


async def test_fragments_of_the_fmp4_transport_play_as_one_mp4(server: LiveServer) -> None:
    async with server.client() as client:
        started = await client.start(transport="fmp4", max_frames=33)
        await client.until("session.done")
    assert started["container"] == "fmp4"
    assert [kind for kind in client.order if kind != "stats"][1:4] == ["stream.config", "init", "frame"]
    assert [header.seq for header, _ in client.media if MediaFlags.INIT in header.flags] == [0]
    with av.open(io.BytesIO(b"".join(data for _, data in client.media)), format="mp4") as container:
        frames = list(container.decode(video=0))
    assert [float(frame.pts * frame.time_base) for frame in frames] == [seq / 16 for seq in range(33)]
    assert [read_number(frame.to_ndarray(format="rgb24")) for frame in frames] == list(range(33))


async def test_a_requested_keyframe_comes_soon_and_decodes_alone(server: LiveServer) -> None:
    async with server.client() as client:
        await client.start()
        await client.until_frame(20)
        await client.send("keyframe.request")
        await client.until_frame(60)
    keys = [i for i, (header, _) in enumerate(client.frames()) if MediaFlags.KEY in header.flags]
    assert len(keys) == 2
    alone = decode(b"".join(data for _, data in client.frames()[keys[1] :]))
    assert read_number(alone[0]) == keys[1]


async def test_a_paused_stream_rests_and_goes_on_where_it_was(server: LiveServer) -> None:
    async with server.client() as client:
        await client.start()
        await client.until_frame(10)
        await client.send("session.control", event_id="rest", paused=True)
        await client.listen(2)
        last = client.frames()[-1][0].seq
        await client.listen(0.7)
        assert client.frames()[-1][0].seq == last
        await client.send("session.control", event_id="go", paused=False)
        await client.until_frame(last + 10)
    assert seqs(client) == list(range(len(seqs(client))))


async def test_another_rate_and_a_lower_bitrate_are_honoured(server: LiveServer) -> None:
    async with server.client() as client:
        started = await client.start(fps=30)
        await client.send("session.control", event_id="thin", bitrate=100_000)
        await client.until_frame(40)
    assert started["fps"] == 30
    assert client.frames()[30][0].pts_us == pytest.approx(1e6)


async def test_stats_come_each_second_with_the_time_of_every_stage(server: LiveServer) -> None:
    async with server.client() as client:
        await client.start()
        first = await client.until("stats")
        begin = asyncio.get_running_loop().time()
        for _ in range(3):
            stats: dict[str, Any] = await client.until("stats")
        took = asyncio.get_running_loop().time() - begin
    assert set(stats["stages"]) == {"base", "sr", "keep", "encode"}
    assert stats["generated_fps"] > 0
    assert stats["encoded_kbps"] > 0
    assert 0 < stats["bitrate_share"] <= 1
    assert 0 <= stats["ahead_ms"] <= 1500
    assert first.keys() == stats.keys()
    assert stats["steps_saved"] > first["steps_saved"] >= 0
    assert stats["refreshes_skipped"] == stats["steps_saved"] // 4
    assert stats["cache_occupancy"] == {"base": 1.0, "sr": 0.5}
    _, metrics = server.get("/metrics")
    counted = {
        name: float(line.split()[1])
        for name in ("ultraflash_steps_saved_total", "ultraflash_cache_refreshes_skipped_total")
        for line in metrics.splitlines()
        if line.startswith(name)
    }
    assert counted["ultraflash_steps_saved_total"] >= stats["steps_saved"]
    assert counted["ultraflash_cache_refreshes_skipped_total"] >= stats["refreshes_skipped"]
    assert 'ultraflash_cache_occupancy{cache="sr"} 0.5' in metrics
    # Three seconds; a busy machine shows some of them late.
    assert 1.5 < took < 60


async def test_stop_ends_at_once_with_a_replay_of_what_was_asked(server: LiveServer) -> None:
    async with server.client() as client:
        await client.start("a red hill", seed=5)
        await client.until_frame(5)
        await client.send("prompt.update", prompt="a blue hill", event_id="turn")
        applied = await client.until("prompt.applied")
        await client.send("session.stop")
        done = await client.until("session.done")
        assert await client.until_closed() == (1000, "stopped")
    assert done["reason"] == "stopped"
    # A first group of 9 frames, then groups of 12.
    group = 1 + (round(applied["first_pts_us"] / FRAME_US) - 9) // 12
    assert done["replay"] == {
        "model": "pattern",
        "seed": 5,
        "fps": 16,
        "frames": done["frames"],
        "events": [
            {"first_pts_us": 0.0, "group": 0, "prompt": "a red hill", "size": "0.5K"},
            {"first_pts_us": applied["first_pts_us"], "group": group, "prompt": "a blue hill"},
        ],
    }


async def test_a_client_that_vanished_gives_its_place_to_the_next(start_server: Any) -> None:
    server = start_server("--max-streams", "1", stream__max_queued=0)
    server.wait_until_ready()
    for number in (1, 2, 3):
        async with server.client() as client:
            await client.start()
            client.socket.transport.abort()
        await asyncio.to_thread(server.wait_for, lambda: server.sessions()[0]["state"] == "away", "absence")
        assert f'ended_total{{reason="disconnected"}} {number:.1f}' not in server.get("/metrics")[1]
    async with server.client() as client, server.client() as second:
        await client.start()
        assert 'ended_total{reason="disconnected"} 3.0' in server.get("/metrics")[1]
        await second.send("session.start", prompt="no room")
        error = await second.until("error")
        assert (error["code"], error["retryable"]) == ("busy", True)
        assert await second.until_closed() == (1013, "Retry-After: 5")
        await client.until_frame(30)
    status, text = server.get("/metrics")
    assert status == 200
    assert "ultraflash_frames_total" in text


async def test_a_client_that_says_good_bye_ends_its_session_at_once(server: LiveServer) -> None:
    async with server.client() as client:
        started = await client.start()
    gone = started["session_id"]
    await asyncio.to_thread(
        server.wait_for, lambda: gone not in [session["id"] for session in server.sessions()], "end"
    )
