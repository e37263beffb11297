"""Messages over Unix socket pairs, one for each direction: four bytes of length, big-endian, then the message.

With one pair for both, a command to a worker that has just died would fail, and the failure would take with it what
that worker had sent and nobody had read yet.

The worker's end blocks and may be written by several threads; the web process's end is asynchronous.
"""

from __future__ import annotations

import asyncio
import socket
import threading

from ultraflash.server.worker.messages import Command, Report, decode_message, encode_message

MAX_MESSAGE_BYTES = 64 * 1024 * 1024
_LENGTH_BYTES = 4


class ChannelClosed(Exception):
    """The other end has gone."""


def _framed(message: Command | Report) -> bytes:
    data = encode_message(message)
    return len(data).to_bytes(_LENGTH_BYTES, "big") + data


def _checked_length(prefix: bytes) -> int:
    length = int.from_bytes(prefix, "big")
    if length > MAX_MESSAGE_BYTES:
        raise ValueError(f"A message of {length} bytes; the channel is out of step.")
    return length


class BlockingChannel:
    """The worker's end."""

    def __init__(self, incoming: socket.socket, outgoing: socket.socket) -> None:
        self._incoming = incoming
        self._outgoing = outgoing
        self._write_lock = threading.Lock()

    def send(self, message: Command | Report) -> None:
        """Writes a message; waits while the other end does not read. Raises ``ChannelClosed``."""
        try:
            with self._write_lock:
                self._outgoing.sendall(_framed(message))
        except OSError as error:
            raise ChannelClosed(str(error)) from error

    def receive(self) -> Command | Report:
        """Waits for a message. Raises ``ChannelClosed`` at the end."""
        return decode_message(self._read(_checked_length(self._read(_LENGTH_BYTES))))

    def _read(self, size: int) -> bytes:
        parts = []
        while size:
            try:
                part = self._incoming.recv(min(size, 1 << 20))
            except OSError as error:
                raise ChannelClosed(str(error)) from error
            if not part:
                raise ChannelClosed("The other end closed the channel.")
            parts.append(part)
            size -= len(part)
        return b"".join(parts)


class AsyncChannel:
    """The web process's end."""

    def __init__(
        self, reader: asyncio.StreamReader, reading: asyncio.StreamWriter, writing: asyncio.StreamWriter
    ) -> None:
        self._reader = reader
        self._reading = reading
        self._writing = writing

    @classmethod
    async def over(cls, incoming: socket.socket, outgoing: socket.socket) -> AsyncChannel:
        """Takes over one end of each socket pair."""
        reader, reading = await asyncio.open_unix_connection(sock=incoming)
        _, writing = await asyncio.open_unix_connection(sock=outgoing)
        return cls(reader, reading, writing)

    def send(self, message: Command | Report) -> None:
        """Queues a message; dropped where the other end has gone, as ``receive`` will say.

        Commands are small and few, so nothing waits here.
        """
        if not self._writing.is_closing():
            self._writing.write(_framed(message))

    async def receive(self) -> Command | Report:
        """Waits for a message. Raises ``ChannelClosed`` at the end."""
        try:
            length = _checked_length(await self._reader.readexactly(_LENGTH_BYTES))
            return decode_message(await self._reader.readexactly(length))
        except (asyncio.IncompleteReadError, ConnectionError) as error:
            raise ChannelClosed(str(error)) from error

    def close(self) -> None:
        """Lets the other end see the end."""
        self._reading.close()
        self._writing.close()
