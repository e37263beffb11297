"""The packets of one session on their way to everybody who takes them, made once and handed to all.

The newest packets are held for a while: for those who join just behind a keyframe, and for an owner who comes back.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from dataclasses import dataclass
from typing import Protocol

from ultraflash.server.media.annexb import ParameterSets
from ultraflash.server.media.boxes import VideoTrack
from ultraflash.server.media.fmp4 import fragment, init_segment
from ultraflash.server.protocol import MediaFlags, MediaHeader, Transport
from ultraflash.server.worker.messages import GenerationStarted, MediaPacket, RequestKeyframe
from ultraflash.server.worker.supervisor import WorkerSupervisor

MAX_HELD_BYTES = 8 * 1024 * 1024
HELD_US = 10e6
# Who joins this close behind a keyframe gets what is held since; further behind a new one is made.
JOIN_BEHIND_US = 2e6
KEY_EVERY_S = 1.0
SAME_TIME_US = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """What is the same for all packets of a generation.

    Attributes:
        report: how the worker announced it.
        track: the same for MP4, with the parameter sets.
    """

    report: GenerationStarted
    track: VideoTrack


class FeedPacket:
    """One access unit, with the messages in which it goes out, each made once and only where it is wanted."""

    __slots__ = ("_messages", "flags", "generation", "packet")

    def __init__(self, packet: MediaPacket, generation: Generation) -> None:
        self.packet = packet
        self.generation = generation
        self.flags = MediaFlags(packet.flags)
        self._messages: dict[Transport, bytes] = {}

    @property
    def key(self) -> bool:
        """Whether decoding can start here."""
        return MediaFlags.KEY in self.flags

    def message(self, transport: Transport) -> bytes:
        """Header and payload as the transport wants them."""
        if transport not in self._messages:
            self._messages[transport] = self._header(self.flags) + self._payload(transport)
        return self._messages[transport]

    def marked_message(self, transport: Transport, mark: MediaFlags) -> bytes:
        """The same with a flag that concerns only the one who gets it."""
        return self._header(self.flags | mark) + self._payload(transport)

    def init_message(self) -> bytes:
        """The init segment that ``fmp4`` needs before this packet, where it begins a generation."""
        return self._header(MediaFlags.INIT) + init_segment(self.generation.track)

    def _payload(self, transport: Transport) -> bytes:
        unit = self.packet.payload
        if transport == "webcodecs":
            return unit
        index = self.packet.seq
        return fragment(unit, index=index, sequence=index + 1, key=self.key)

    def _header(self, flags: MediaFlags) -> bytes:
        packet = self.packet
        return MediaHeader(
            flags=flags,
            generation=packet.generation,
            seq=packet.seq,
            pts_us=packet.pts_us,
            capture_ms=packet.capture_ms,
        ).pack()


class Taker(Protocol):
    """Somebody who takes packets: the first one is a keyframe, and none is missing after it."""

    def take_packet(self, packet: FeedPacket) -> None:
        """The next packet."""


class MediaFeed:
    """Hands packets to all takers, and holds the newest."""

    def __init__(self, stream_id: str, supervisor: WorkerSupervisor) -> None:
        self._stream_id = stream_id
        self._supervisor = supervisor
        self._takers: list[Taker] = []
        self._fresh: list[Taker] = []
        self._held: deque[FeedPacket] = deque()
        self._held_bytes = 0
        self._announced: GenerationStarted | None = None
        self._generation: Generation | None = None
        self._key_at = -math.inf
        self._key_comes = False

    def announce(self, report: GenerationStarted) -> None:
        """The next packet begins this generation."""
        self._announced = report

    def put(self, packet: MediaPacket) -> None:
        """Hands out the next packet."""
        made = FeedPacket(packet, self._generation_of(packet))
        if made.key:
            self._key_comes = False
            self._takers += self._fresh
            self._fresh.clear()
        self._hold(made)
        for taker in list(self._takers):
            taker.take_packet(made)

    def join(self, taker: Taker) -> None:
        """Adds somebody who has nothing yet: from the newest keyframe if that is near, else from a new one."""
        packets = self.since_newest_key()
        if packets:
            self.follow(taker, packets)
            return
        self._fresh.append(taker)
        if self._generation is not None:
            self.request_key()

    def follow(self, taker: Taker, packets: list[FeedPacket]) -> None:
        """Adds somebody who takes these held packets first; they must be the newest ones."""
        for packet in packets:
            taker.take_packet(packet)
        self._takers.append(taker)

    def held_from(self, pts_us: float) -> list[FeedPacket]:
        """The packet of that time and all after it; none where that one is not held."""
        held = list(self._held)
        for place, packet in enumerate(held):
            if abs(packet.packet.pts_us - pts_us) < SAME_TIME_US:
                return held[place:]
        return []

    def since_newest_key(self) -> list[FeedPacket]:
        """Packets from the newest keyframe on; none where that is too long ago."""
        found: list[FeedPacket] = []
        for packet in reversed(self._held):
            if packet.packet.pts_us < self._held[-1].packet.pts_us - JOIN_BEHIND_US:
                break
            found.append(packet)
            if packet.key:
                return found[::-1]
        return []

    def leave(self, taker: Taker) -> None:
        """Gives a taker no more packets."""
        for takers in (self._takers, self._fresh):
            if taker in takers:
                takers.remove(taker)

    def request_key(self) -> None:
        """Asks for a keyframe, soon: one at a time, and only so often."""
        if self._key_comes:
            return
        self._key_comes = True
        wait_s = self._key_at + KEY_EVERY_S - time.monotonic()
        if wait_s > 0:
            asyncio.get_running_loop().call_later(wait_s, self._send_request)
        else:
            self._send_request()

    def _send_request(self) -> None:
        self._key_at = time.monotonic()
        self._supervisor.send(RequestKeyframe(stream_id=self._stream_id))

    def _generation_of(self, packet: MediaPacket) -> Generation:
        if self._announced is not None:
            report, self._announced = self._announced, None
            track = VideoTrack(
                width=report.width,
                height=report.height,
                fps=report.fps,
                parameter_sets=ParameterSets.find(packet.payload),
            )
            self._generation = Generation(report=report, track=track)
        if self._generation is None:
            raise ValueError("A packet came before its generation was announced.")
        return self._generation

    def _hold(self, packet: FeedPacket) -> None:
        self._held.append(packet)
        self._held_bytes += len(packet.packet.payload)
        newest_us = packet.packet.pts_us
        while self._held_bytes > MAX_HELD_BYTES or self._held[0].packet.pts_us < newest_us - HELD_US:
            self._held_bytes -= len(self._held.popleft().packet.payload)
