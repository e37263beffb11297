"""Bodies that are not read beyond a limit."""

from __future__ import annotations

from starlette.types import Message, Receive

from ultraflash.server.errors import BodyTooLarge


def too_large(limit: int) -> BodyTooLarge:
    """What is said of a body of more than ``limit`` bytes."""
    return BodyTooLarge(f"The body has more than {limit} bytes, which is all that is read.")


def limited(receive: Receive, limit: int) -> Receive:
    """Stops reading a body that grows beyond the limit. What it returns raises ``BodyTooLarge``."""
    read = 0

    async def receive_limited() -> Message:
        nonlocal read
        message = await receive()
        read += len(message.get("body", b""))
        if read > limit:
            raise too_large(limit)
        return message

    return receive_limited
