"""The owner's place: its connection decides how many bits the stream may have, and which frames it is spared."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from ultraflash.server.bitrate import BitrateControl, Step
from ultraflash.server.media_feed import FeedPacket
from ultraflash.server.outbox import Outbox
from ultraflash.server.protocol import MediaFlags, Transport
from ultraflash.server.seat import Seat

HOLD_AT_MOST_S = 2.0


class OwnerSeat(Seat):
    """A seat whose connection is watched.

    While too much is on its way nothing more is sent; once that has arrived, the stream goes on with a keyframe.
    """

    def __init__(self, outbox: Outbox, transport: Transport) -> None:
        super().__init__(outbox, transport)
        self.control = BitrateControl()
        self._held = False
        self._skipped = False

    def take_packet(self, packet: FeedPacket) -> None:
        """Sends a packet, unless frames are held back."""
        if self._held or (self._skipped and not packet.key):
            return
        super().take_packet(packet)
        self._skipped = False
        self.control.sent(packet.packet.pts_us, 1e6 / packet.generation.report.fps)

    def adapt(
        self,
        *,
        set_share: Callable[[float], None],
        go_on: Callable[[], None],
        last_resort: Callable[[], None],
    ) -> None:
        """Acts on what was sent and acknowledged.

        Args:
            set_share: changes the share of the bitrate.
            go_on: asks for a keyframe, since the frames that were held back are not coming.
            last_resort: is called after a while to adapt again, should nothing be heard of what is on its way.
        """
        step = self.control.step(queued=self.outbox.has_media)
        if step is Step.HOLD:
            self._held = self._skipped = True
            self.control.never_sent(self.outbox.drop_media())
            asyncio.get_running_loop().call_later(HOLD_AT_MOST_S, self._give_up, last_resort)
        elif step is Step.RELEASE:
            self._held = False
            go_on()
        if step in (Step.HOLD, Step.CHANGE_SHARE):
            set_share(self.control.share)

    def _give_up(self, last_resort: Callable[[], None]) -> None:
        if self._held:
            self.control.give_up_holding()
            last_resort()

    def _message(self, packet: FeedPacket) -> bytes:
        if self._skipped:
            return packet.marked_message(self.transport, MediaFlags.DISCONTINUITY)
        return super()._message(packet)
