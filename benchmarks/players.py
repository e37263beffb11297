"""Players of streams over real connections: what owners and viewers do, and what they measure. They decode nothing."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass, field
from typing import Any

from playout import Player, spread
from websockets.asyncio.client import ClientConnection

from ultraflash.server.protocol import HEADER_BYTES, MediaFlags, MediaHeader

PROMPTS = (
    "a red hot air balloon over snowy mountains at dusk, camera drifting left",
    "a calm sea at noon, waves, camera panning right",
    "a city at night, lit windows, light rain",
)
TICK_S = 0.05


class WrongStream(Exception):
    """The server does not send what it should, so its speed means nothing."""


@dataclass(slots=True, kw_only=True)
class Seen:
    """What the players of one kind have measured; times in milliseconds.

    Attributes:
        left_out: frames that owners did not get.
    """

    players: list[Player] = field(default_factory=list)
    left_out: int = 0
    glass_ms: list[float] = field(default_factory=list)
    prompt_to_frame_ms: list[float] = field(default_factory=list)
    prompt_to_glass_ms: list[float] = field(default_factory=list)

    def begin(self) -> None:
        """Forgets what was measured so far; the players go on."""
        self.left_out = 0
        for player in self.players:
            player.frames = player.misses = 0
            player.stalled_s = 0.0
        for values in (self.glass_ms, self.prompt_to_frame_ms, self.prompt_to_glass_ms):
            values.clear()

    def summary(self) -> dict[str, Any]:
        """Ready for JSON."""
        frames = sum(player.frames for player in self.players)
        misses = sum(player.misses for player in self.players)
        return {
            "frames": frames,
            "frames_left_out": self.left_out,
            "deadline_misses": misses,
            "deadline_miss_share": round(misses / frames, 5) if frames else None,
            "stalled_s": round(sum(player.stalled_s for player in self.players), 3),
            "glass_ms": spread(self.glass_ms),
            "prompt_to_frame_ms": spread(self.prompt_to_frame_ms),
            "prompt_to_glass_ms": spread(self.prompt_to_glass_ms),
        }


class Watcher:
    """One connection that plays: what owners and viewers have in common."""

    def __init__(self, socket: ClientConnection, seen: Seen, *, lead_s: float) -> None:
        self.socket = socket
        self.player = Player(lead_s=lead_s)
        self.started: dict[str, Any] = {}
        self._seen = seen
        self._fps = 0.0
        seen.players.append(self.player)

    async def receive(self) -> dict[str, Any] | tuple[MediaHeader, float, float]:
        """The next event, or a frame's header with when it came and when it is seen."""
        message = await self.socket.recv()
        now = time.time()
        if isinstance(message, str):
            event: dict[str, Any] = json.loads(message)
            if event["type"] == "error":
                raise WrongStream(f"the server says {event['code']}: {event['message']}")
            if event["type"] == "session.started":
                self.started, self._fps = event, event["fps"]
            return event
        header = MediaHeader.unpack(message[:HEADER_BYTES])
        if MediaFlags.INIT in header.flags or abs(header.pts_us - header.seq * 1e6 / self._fps) > 1:
            raise WrongStream(f"frame {header.seq} is at {header.pts_us} us")
        seen_at = self.player.take(header.seq, header.pts_us / 1e6, now)
        self._seen.glass_ms.append((seen_at - header.capture_ms / 1000) * 1000)
        return header, now, seen_at


class Owner(Watcher):
    """Starts a session, acknowledges what it has seen, and changes the prompt now and then."""

    def __init__(self, socket: ClientConnection, seen: Seen, *, lead_s: float) -> None:
        super().__init__(socket, seen, lead_s=lead_s)
        self._next_seq = 0
        self._asked_at: dict[str, float] = {}
        self._shown_from: dict[str, float] = {}

    async def start(self, *, size: str, seed: int) -> None:
        """Returns when the session has its first frame."""
        await self._send("session.start", prompt=PROMPTS[0], size=size, seed=seed)
        while self.player.frames == 0:
            await self._step()

    async def listen(self) -> None:
        """Takes what comes, until cancelled."""
        while True:
            await self._step()

    async def _step(self) -> None:
        got = await self.receive()
        if isinstance(got, dict):
            if got["type"] == "prompt.applied":
                self._shown_from[got["event_id"]] = got["first_pts_us"]
            return
        header, now, seen_at = got
        missing = header.seq - self._next_seq
        # What a connection could not carry is left out and flagged.
        if missing < 0 or (missing > 0 and MediaFlags.DISCONTINUITY not in header.flags):
            raise WrongStream(f"frame {header.seq} came to an owner after frame {self._next_seq - 1}")
        self._seen.left_out += missing
        self._next_seq = header.seq + 1
        for event_id, first_us in list(self._shown_from.items()):
            if header.pts_us >= first_us:
                del self._shown_from[event_id]
                asked_at = self._asked_at.pop(event_id)
                self._seen.prompt_to_frame_ms.append((now - asked_at) * 1000)
                self._seen.prompt_to_glass_ms.append((seen_at - asked_at) * 1000)

    async def acknowledge(self) -> None:
        """Says what has been seen, until cancelled."""
        while True:
            await asyncio.sleep(TICK_S)
            now = time.time()
            newest = self.player.newest_shown(now)
            if newest is not None:
                await self._send(
                    "playback.ack",
                    seq=newest[0],
                    pts_us=newest[1] * 1e6,
                    buffered_ms=self.player.buffered_s(now) * 1000,
                )

    async def steer(self, every_s: float) -> None:
        """Changes the prompt now and then, until cancelled."""
        for number in range(1, 1 << 30):
            await asyncio.sleep(every_s)
            event_id = f"prompt-{number}"
            self._asked_at[event_id] = time.time()
            await self._send("prompt.update", prompt=PROMPTS[number % len(PROMPTS)], event_id=event_id)

    async def _send(self, kind: str, **fields: Any) -> None:
        await self.socket.send(json.dumps({"type": kind, **fields}))
