"""Whatever is sent to the stream: typed errors, no leak, the server alive."""

from __future__ import annotations

import asyncio
import json
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import websockets
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

PROTOCOL = Path(__file__).resolve().parents[2] / "server" / "PROTOCOL.md"
EXAMPLES = 60
PATIENCE_S = 120.0
MIB = 2**20
GROWTH_BYTES = 64 * MIB
CLOSES = {1000, 1008, 1009, 1013}
EVENTS = (
    "session.start",
    "prompt.update",
    "session.control",
    "playback.ack",
    "keyframe.request",
    "session.ping",
    "session.resume",
    "session.stop",
    "session.started",
    "input.frame",
)
FIELDS = (
    *("prompt", "event_id", "size", "seed", "fps", "transport", "record", "max_frames", "codecs", "image"),
    *("transition", "groups", "paused", "bitrate", "seq", "pts_us", "buffered_ms", "dropped", "t"),
    *("session_id", "resume_token", "last_pts_us", "negative", "preset"),
)
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
likely = st.sampled_from(
    ["a hill", "", "e", "0.5K", "1K", "auto", "blend", "cut", "fmp4", "webcodecs", True, False, 0, 1, 16, 1e6]
)
events = st.fixed_dictionaries({"type": st.sampled_from(EVENTS)}).flatmap(
    lambda event: st.dictionaries(st.sampled_from(FIELDS), likely | anything, max_size=5).map(
        lambda fields: {**event, **fields}
    )
)
starts = st.just({"type": "session.start", "prompt": "a hill"})
as_text = st.one_of(starts, events, anything).map(json.dumps)
torn = st.tuples(as_text, st.integers(1, 8)).map(lambda cut: cut[0][: -cut[1]])
messages = st.lists(st.one_of(as_text, torn, st.text(max_size=40), st.binary(max_size=60)), max_size=8)


def documented_codes() -> set[str]:
    """Codes of errors, as PROTOCOL.md lists them."""
    section = PROTOCOL.read_text().partition("## Errors and the connection")[2]
    return set(re.findall(r"`([a-z_]+)`", section))


async def converse(address: str, sent: list[str | bytes], codes: Counter[str], closes: Counter[int]) -> None:
    """Sends everything, then waits until all of it has been answered or the server has closed."""
    async with websockets.connect(f"ws://{address}/v1/stream", max_size=None) as socket:
        try:
            for message in sent:
                await socket.send(message)
            await socket.send(json.dumps({"type": "session.ping", "t": 4711.0}))
            while True:
                got = await asyncio.wait_for(socket.recv(), PATIENCE_S)
                event = json.loads(got) if isinstance(got, str) else {"type": "media"}
                if event["type"] == "error":
                    codes[event["code"]] += 1
                    assert event["message"]
                if (event["type"], event.get("t")) == ("session.pong", 4711.0):
                    return
        except websockets.ConnectionClosed:
            assert socket.close_code is not None
            closes[socket.close_code] += 1


def open_files(process_id: int) -> int:
    return len(list(Path(f"/proc/{process_id}/fd").iterdir()))


def resident(process_id: int) -> int:
    return int(Path(f"/proc/{process_id}/statm").read_text().split()[1]) * 4096


def test_no_message_breaks_the_server_or_stays_in_it(
    start_server: Any, record_property: Callable[[str, object], None]
) -> None:
    server = start_server(stream__max_streams=2)
    server.wait_until_ready()
    processes = [server.process.pid, *server.worker_ids()]
    codes: Counter[str] = Counter()
    closes: Counter[int] = Counter()

    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(sent=messages)
    def fuzz(sent: list[str | bytes]) -> None:
        asyncio.run(converse(server.address, sent, codes, closes))

    # What a first session and connection bring with them is no leak.
    start: list[str | bytes] = [json.dumps({"type": "session.start", "prompt": "a hill"})]
    asyncio.run(converse(server.address, start, codes, closes))
    server.wait_for(lambda: not server.sessions(), "end of the sessions")
    before = [(open_files(pid), resident(pid)) for pid in processes]
    fuzz()
    server.wait_for(lambda: not server.sessions(), "end of the sessions")
    assert set(codes) <= documented_codes()
    assert {"bad_json", "bad_media", "unknown_event", "invalid_field", "unexpected_event"} <= set(codes)
    assert set(closes) <= CLOSES
    assert [server.process.pid, *server.worker_ids()] == processes
    grown = {}
    for name, pid, (files, held) in zip(("web", "worker"), processes, before, strict=True):
        server.wait_for(lambda pid=pid, files=files: open_files(pid) <= files + 2, "closing of connections")
        grown[name] = {"open_files": open_files(pid) - files, "bytes": resident(pid) - held}
        assert grown[name]["bytes"] < GROWTH_BYTES
    report = {"conversations": EXAMPLES, "errors": codes, "closes": closes, "grown": grown}
    record_property("websocket_fuzz", json.dumps(report))
    assert server.get("/healthz")[0] == 200
    assert "Traceback" not in server.output()
