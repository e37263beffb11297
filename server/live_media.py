"""Live sessions as plain HTTP media, for programs that know nothing of the stream's protocol."""

from __future__ import annotations

from collections.abc import AsyncIterator
from fractions import Fraction

from ultraflash.server.outbox import Close, Outbox
from ultraflash.server.protocol import HEADER_BYTES, MediaFlags, MediaHeader

MICROSECOND = Fraction(1, 1_000_000)


async def media_of(outbox: Outbox) -> AsyncIterator[tuple[MediaHeader, bytes]]:
    """The media that a seat's outbox gets, until the session is over; events are left out."""
    while not isinstance(item := await outbox.take(), Close):
        if isinstance(item, bytes):
            yield MediaHeader.unpack(item), item[HEADER_BYTES:]


async def fragmented_mp4(outbox: Outbox) -> AsyncIterator[bytes]:
    """Pieces of one fragmented MP4, of media in ``fmp4``. It ends where another size needs another file."""
    begun = False
    async for header, piece in media_of(outbox):
        init = MediaFlags.INIT in header.flags
        if init and begun:
            return
        begun = begun or init
        yield piece


async def transport_stream(outbox: Outbox, fps: int) -> AsyncIterator[bytes]:
    """Pieces of one MPEG transport stream, of media in ``webcodecs``; it goes on through changes of size."""
    muxer = TransportStreamMuxer(fps)
    async for header, unit in media_of(outbox):
        yield muxer.mux(unit, pts_us=header.pts_us, key=MediaFlags.KEY in header.flags)


class _Pieces:
    """A file that FFmpeg writes to, from which what was written is taken away."""

    def __init__(self) -> None:
        self._written = bytearray()

    def write(self, data: bytes) -> int:
        """Keeps what FFmpeg writes."""
        self._written += data
        return len(data)

    def take(self) -> bytes:
        """What was written since the last time."""
        taken = bytes(self._written)
        self._written.clear()
        return taken


class TransportStreamMuxer:
    """H.264 access units in, MPEG transport stream out, without delay."""

    def __init__(self, fps: int) -> None:
        import av

        self._pieces = _Pieces()
        self._container = av.open(
            self._pieces, "w", format="mpegts", options={"flush_packets": "1", "muxdelay": "0"}
        )
        self._stream = self._container.add_mux_stream("h264", rate=fps)

    def mux(self, access_unit: bytes, *, pts_us: float, key: bool) -> bytes:
        """The packets of one access unit, Annex-B; a keyframe repeats the tables that a receiver needs to begin."""
        from av.packet import Packet

        packet = Packet(access_unit)
        packet.stream = self._stream
        packet.time_base = MICROSECOND
        packet.pts = packet.dts = round(pts_us)
        packet.is_keyframe = key
        self._container.mux(packet)
        return self._pieces.take()
