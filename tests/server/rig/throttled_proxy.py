"""A TCP proxy that lets only so much through to the client, as a thin connection would."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

PIECE_BYTES = 4096
KERNEL_BYTES = 16_384


class ThrottledProxy:
    """Listens on ``address``; ``bytes_per_s`` may be changed while it runs."""

    def __init__(self, upstream: str, bytes_per_s: float) -> None:
        host, port = upstream.split(":")
        self._upstream = (host, int(port))
        self.bytes_per_s = bytes_per_s
        self.address = ""
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: list[asyncio.StreamWriter] = []

    def cut(self) -> None:
        """Breaks all connections without a word."""
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[ThrottledProxy]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.address = "{}:{}".format(*server.sockets[0].getsockname())
        try:
            yield self
        finally:
            server.close()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, client_in: asyncio.StreamReader, client_out: asyncio.StreamWriter) -> None:
        upstream = socket.socket()
        # A thin line holds little; kernels would keep seconds of video otherwise.
        upstream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, KERNEL_BYTES)
        upstream.setblocking(False)
        await asyncio.get_running_loop().sock_connect(upstream, self._upstream)
        server_in, server_out = await asyncio.open_connection(sock=upstream, limit=PIECE_BYTES)
        self._writers += [client_out, server_out]
        for reader, writer, slow in ((client_in, server_out, False), (server_in, client_out, True)):
            task = asyncio.create_task(self._copy(reader, writer, slow))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, slow: bool) -> None:
        with suppress(ConnectionError):
            clock = asyncio.get_running_loop().time
            free_at = clock()
            while piece := await reader.read(PIECE_BYTES):
                writer.write(piece)
                await writer.drain()
                if slow:
                    free_at = max(clock(), free_at) + len(piece) / self.bytes_per_s
                    await asyncio.sleep(free_at - clock())
            writer.close()
