"""Messages cross the channel whole and typed, or not at all."""

from __future__ import annotations

import asyncio
import socket
import threading

import msgpack
import pytest

from ultraflash.server.worker.channel import AsyncChannel, BlockingChannel, ChannelClosed
from ultraflash.server.worker.messages import (
    AckPlayback,
    MediaPacket,
    Shutdown,
    WorkerReady,
    decode_message,
    encode_message,
)

PACKET = MediaPacket(
    stream_id="s", flags=1, generation=2, seq=3, pts_us=4.5, capture_ms=5.5, payload=b"\x00" * 3_000_000
)
READY = WorkerReady(
    model="m",
    fps=16,
    sizes=[["0.5K", 896, 512]],
    default_size="0.5K",
    max_prompt_chars=1000,
    frame_seconds={"0.5K": 0.04},
)


@pytest.mark.parametrize("message", [PACKET, READY, Shutdown()])
def test_a_message_reads_as_it_was_written(message: MediaPacket | WorkerReady | Shutdown) -> None:
    assert decode_message(encode_message(message)) == message


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc1",
        msgpack.packb("text"),
        msgpack.packb(["Nothing", {}]),
        msgpack.packb(["AckPlayback", {"stream_id": "s"}]),
        msgpack.packb(["AckPlayback", {"stream_id": "s", "pts_us": 1.0, "more": 1}]),
        msgpack.packb(["Shutdown", {}]) + b"\x00",
    ],
)
def test_anything_else_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="Not a message"):
        decode_message(data)


async def test_both_ends_understand_each_other_and_see_the_end() -> None:
    (incoming, their_out), (outgoing, their_in) = socket.socketpair(), socket.socketpair()
    worker = BlockingChannel(their_in, their_out)
    web = await AsyncChannel.over(incoming, outgoing)
    sender = threading.Thread(target=lambda: [worker.send(PACKET) for _ in range(3)])
    sender.start()
    assert [await web.receive() for _ in range(3)] == [PACKET] * 3
    sender.join()
    web.send(AckPlayback(stream_id="s", pts_us=1.0))
    assert worker.receive() == AckPlayback(stream_id="s", pts_us=1.0)
    their_out.close()
    with pytest.raises(ChannelClosed):
        await web.receive()
    their_in.close()
    web.close()


async def test_what_a_worker_sent_before_it_died_is_received_though_commands_to_it_fail() -> None:
    (incoming, their_out), (outgoing, their_in) = socket.socketpair(), socket.socketpair()
    web = await AsyncChannel.over(incoming, outgoing)
    worker = BlockingChannel(their_in, their_out)
    for _ in range(5):
        worker.send(READY)
    for theirs in (their_in, their_out):
        theirs.close()
    for _ in range(5):
        web.send(AckPlayback(stream_id="s", pts_us=1.0))
        await asyncio.sleep(0)
    assert [await web.receive() for _ in range(5)] == [READY] * 5
    with pytest.raises(ChannelClosed):
        await web.receive()
    web.close()


def test_a_length_that_cannot_be_is_refused_before_memory_is_taken() -> None:
    ours, theirs = socket.socketpair()
    ours.sendall(b"\xff\xff\xff\xff")
    with pytest.raises(ValueError, match="out of step"):
        BlockingChannel(theirs, theirs).receive()
    ours.close()
    theirs.close()
