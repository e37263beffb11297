"""A place at a session for one socket: events and media go into its outbox in the transport that it plays."""

from __future__ import annotations

from collections.abc import Mapping

from ultraflash.server.media_feed import FeedPacket, Generation
from ultraflash.server.outbox import Outbox
from ultraflash.server.protocol import MediaFlags, ServerEvent, StreamConfig, Transport

CONTAINERS: Mapping[Transport, str] = {"webcodecs": "annexb", "fmp4": "fmp4"}


class Seat:
    """One who watches, owner or not."""

    def __init__(self, outbox: Outbox, transport: Transport) -> None:
        self.outbox = outbox
        self.transport = transport
        self._generation: Generation | None = None

    @property
    def container(self) -> str:
        """What the media comes in."""
        return CONTAINERS[self.transport]

    def tell(self, event: ServerEvent) -> None:
        """Sends an event."""
        self.outbox.put_event(event)

    def adopt(self, generation: Generation) -> None:
        """The client's decoder is set up for this generation already."""
        self._generation = generation

    def take_packet(self, packet: FeedPacket) -> None:
        """Sends a packet, behind the description of its generation where that is new."""
        if packet.generation is not self._generation:
            self._generation = packet.generation
            self.tell(self._config(packet.generation))
            if self.transport == "fmp4":
                self.outbox.put_media(MediaFlags.INIT, packet.init_message())
        self.outbox.put_media(packet.flags, self._message(packet))

    def _message(self, packet: FeedPacket) -> bytes:
        return packet.message(self.transport)

    def _config(self, generation: Generation) -> StreamConfig:
        report = generation.report
        return StreamConfig.model_validate(
            {
                "generation": report.generation & 0xFFFF,
                "codec": report.codec,
                "container": self.container,
                "size": report.size,
                "width": report.width,
                "height": report.height,
                "fps": report.fps,
            }
        )
