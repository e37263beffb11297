"""Sizes that follow what the machine holds, over a real WebSocket from a worker whose speed the test sets."""

from __future__ import annotations

import io
import json
import os
import re
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import av
import pytest
from pattern_engine import read_number

from ultraflash.server.protocol import MediaFlags

if TYPE_CHECKING:
    from live_server import LiveServer, StreamClient

GROUP = 12


class Machine:
    """Seconds that a group of 0.75 s takes, which the worker reads again for each."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def takes(self, small: float, large: float, sparser: float | None = None) -> None:
        """``sparser`` is the larger size with half of its attention, if it has that step."""
        hidden = self.path.with_suffix(".part")
        step = {} if sparser is None else {"1K/0.5": sparser}
        hidden.write_text(json.dumps({"0.5K": small, "1K": large, **step}))
        hidden.replace(self.path)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path / "costs.json")


def size_changes(client: StreamClient) -> list[dict[str, Any]]:
    """Announcements that are not about what the client's connection carries."""
    told = [event for event in client.events if event["type"] == "quality.changed"]
    return [event for event in told if event["reason"] != "connection"]


def changes(client: StreamClient) -> list[tuple[str, str]]:
    return [(event["size"], event["reason"]) for event in size_changes(client)]


def check_seamless(client: StreamClient) -> None:
    """Every frame comes once and in order, each generation is described and begins with a key, all can be decoded."""
    frames = client.frames()
    assert [header.seq for header, _ in frames] == list(range(len(frames)))
    assert all(MediaFlags.DISCONTINUITY not in header.flags for header, _ in frames)
    configs = {event["generation"]: event for event in client.events if event["type"] == "stream.config"}
    for generation, config in configs.items():
        part = [(header, data) for header, data in frames if header.generation == generation]
        assert MediaFlags.KEY in part[0][0].flags
        with av.open(io.BytesIO(b"".join(data for _, data in part)), format="h264") as container:
            shown = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        assert shown[0].shape[:2] == (config["height"], config["width"])
        assert [read_number(frame) for frame in shown] == [header.seq for header, _ in part]


async def test_a_stream_that_slows_down_gets_a_smaller_size_and_the_larger_one_again_when_that_is_over(
    start_server: Any, machine: Machine
) -> None:
    machine.takes(0.05, 0.15)
    server: LiveServer = start_server(
        size="1K", stream__raise_after_s=1, PATTERN_COSTS=machine.path, stream__capacity=1
    )
    server.wait_until_ready()
    async with server.client() as client:
        started = await client.start()
        await client.until_frame(2 * GROUP)
        assert changes(client) == []
        # Both take eight times as long: 1.2 s of work for 0.75 s of the larger size, 0.4 s for the smaller one.
        machine.takes(0.4, 1.2)
        lower = await client.until("quality.changed", reason="overload")
        config = await client.until("stream.config")
        stats = await client.until("stats")
        begun = client.frames()[-1][0].seq
        await client.until_frame(begun + 8 * GROUP)
        machine.takes(0.05, 0.15)
        higher = await client.until("quality.changed", reason="recovered")
        await client.until("stream.config")
        await client.until_frame(client.frames()[-1][0].seq + GROUP)
        await client.send("session.stop")
        done = await client.until("session.done")
    assert (started["width"], started["height"]) == (416, 240)
    assert (lower["size"], lower["reason"]) == ("0.5K", "overload")
    assert (config["size"], config["width"], config["height"]) == ("0.5K", 224, 128)
    assert (higher["size"], higher["reason"]) == ("1K", "recovered")
    check_seamless(client)
    assert [event["size"] for event in done["replay"]["events"]] == ["1K", "0.5K", "1K"]
    assert stats["deadline_misses"] >= 1
    counted = re.search(r"^ultraflash_deadline_misses_total (\S+)", server.get("/metrics")[1], re.MULTILINE)
    assert counted is not None and float(counted[1]) >= stats["deadline_misses"]


async def test_before_a_size_is_given_up_it_is_made_with_less_attention(
    start_server: Any, machine: Machine
) -> None:
    """At four frames a second, where a group lasts 3 s: what else a busy machine does matters little beside that."""
    machine.takes(0.2, 1.2, 0.3)
    server: LiveServer = start_server(
        size="1K", stream__raise_after_s=1, PATTERN_COSTS=machine.path, stream__capacity=1
    )
    server.wait_until_ready()
    async with server.client() as client:
        await client.start(fps=4)
        await client.until_frame(2 * GROUP)
        # Three times as long: 3.6 s for 3 s with all of the attention, and 0.9 s with half of it.
        machine.takes(0.6, 3.6, 0.9)
        lower = await client.until("quality.changed", reason="overload")
        await client.until_frame(client.frames()[-1][0].seq + 2 * GROUP)
        os.kill(server.worker_ids()[0], signal.SIGKILL)
        await client.until("error", code="engine_restarting")
        await client.until("session.resumed", state="restored")
        await client.until_frame(client.frames()[-1][0].seq + GROUP)
        assert len(size_changes(client)) == 1
        machine.takes(0.1, 0.3, 0.1)
        higher = await client.until("quality.changed", reason="recovered")
        await client.until_frame(client.frames()[-1][0].seq + GROUP)
        await client.send("session.stop")
        done = await client.until("session.done")
    assert (lower["size"], lower["reason"], lower["sr_share"]) == ("1K", "overload", 0.5)
    assert (higher["size"], higher["reason"], higher.get("sr_share")) == ("1K", "recovered", None)
    check_seamless(client)
    # The first, and that of the new worker: detail alone begins none.
    assert [event["size"] for event in client.events if event["type"] == "stream.config"] == ["1K", "1K"]
    shares = [event.get("sr_share", 1.0) for event in done["replay"]["events"]]
    assert shares == [1.0, 0.5, 1.0]


async def test_a_size_asked_for_by_name_stays_whatever_it_costs_unless_the_setting_says_otherwise(
    start_server: Any, machine: Machine
) -> None:
    machine.takes(0.05, 1.0)
    strict, loose = (
        start_server(PATTERN_COSTS=machine.path, stream__adapt_named_sizes=adapt)
        for adapt in ("false", "true")
    )
    strict.wait_until_ready()
    async with strict.client() as client:
        await client.start(size="1K")
        await client.until_frame(5 * GROUP)
        misses = await client.until("stats")
        assert changes(client) == []
        # What the owner leaves to the server is settled at once.
        await client.send("session.control", event_id="any", size="auto")
        await client.until("quality.changed", reason="requested")
        await client.until_frame(client.frames()[-1][0].seq + GROUP)
    assert changes(client) == [("0.5K", "requested")]
    assert misses["deadline_misses"] >= 2
    check_seamless(client)
    loose.wait_until_ready()
    async with loose.client() as client:
        await client.start(size="1K")
        await client.until("quality.changed", reason="overload")
    assert changes(client) == [("0.5K", "overload")]


async def test_auto_begins_at_the_largest_size_that_was_measured_to_fit_beside_the_others(
    start_server: Any, machine: Machine
) -> None:
    machine.takes(0.05, 0.36)
    server: LiveServer = start_server(size="1K", PATTERN_COSTS=machine.path)
    server.wait_until_ready()
    async with server.client() as first, server.client() as second:
        large = await first.start()
        await first.until_frame(GROUP)
        small = await second.start()
    assert (large["width"], small["width"]) == (416, 224)


async def test_auto_goes_no_further_than_the_largest_size_of_the_settings(
    start_server: Any, machine: Machine
) -> None:
    machine.takes(0.01, 0.02)
    server: LiveServer = start_server(size="0.5K", stream__raise_after_s=0.2, PATTERN_COSTS=machine.path)
    server.wait_until_ready()
    async with server.client() as client:
        started = await client.start()
        await client.until("stats")
        await client.until("stats")
        assert client.frames()
    assert started["width"] == 224
    assert changes(client) == []


async def test_a_stream_whose_worker_died_goes_on_following_what_the_machine_holds(
    start_server: Any, machine: Machine
) -> None:
    machine.takes(0.05, 0.15)
    server: LiveServer = start_server(size="1K", PATTERN_COSTS=machine.path)
    server.wait_until_ready()
    async with server.client() as client:
        await client.start()
        await client.until_frame(5)
        os.kill(server.worker_ids()[0], signal.SIGKILL)
        await client.until("error", code="engine_restarting")
        await client.until("session.resumed")
        await client.until_frame(client.frames()[-1][0].seq + GROUP)
        machine.takes(0.4, 1.2)
        changed = await client.until("quality.changed", reason="overload")
    assert changed["size"] == "0.5K"
