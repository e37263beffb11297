"""A live stream over an engine whose frames are the planes of a video encoder shows what one over RGB shows."""

from __future__ import annotations

import io

import av
import numpy as np
import torch

from ultraflash.models.cascade import Cascade
from ultraflash.server.engine import Engine
from ultraflash.server.worker.live_stream import advance, make_group, open_stream
from ultraflash.server.worker.messages import MediaPacket, OpenStream, StreamReport
from ultraflash.server.worker.playhead import PacingRule
from ultraflash.server.worker.stream_snapshot import SnapshotRule

NOT_KEPT = SnapshotRule(folder=None, share=0, max_bytes=0)
RULE = PacingRule(ahead_us=1e9, ack_pause_s=1e9, ack_end_s=1e9, paused_end_s=1e9)
SIZE = "0.5K"


def shown(engine: Engine, frame_shape: tuple[int, ...]) -> np.ndarray:
    """Pictures that a viewer of the first two groups sees; frames of the engine have that shape."""
    command = OpenStream(
        stream_id="s",
        prompt="snowy mountains at dawn",
        asked_size=SIZE,
        size=SIZE,
        seed=5,
        fps=None,
        bitrate=None,
        max_frames=None,
        paused=False,
        first_index=0,
        generation=0,
        playhead_us=0.0,
        restore=False,
        changes=[],
    )
    live = open_stream(engine, command, RULE, NOT_KEPT, engine.preset.size(SIZE), 0.0)
    reports: list[StreamReport] = []
    for _ in range(2):
        group = make_group(engine, live)
        assert group.size == SIZE
        assert group.frames_THWC.shape[1:] == frame_shape
        live.encoder.encode(group, reports.append)
        advance(live, group, 0.0)
    data = b"".join(report.payload for report in reports if isinstance(report, MediaPacket))
    with av.open(io.BytesIO(data), format="h264") as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def test_a_live_stream_of_planes_shows_what_one_of_rgb_does() -> None:
    rgb = Cascade.load("mini", device="cpu", dtype=torch.float32)
    planar = Cascade.load("mini", device="cpu", dtype=torch.float32, layout="yuv420p")
    size = rgb.preset.size(SIZE)
    wanted = shown(rgb, (size.height, size.width, 3))
    found = shown(planar, (size.height // 2 * 3, size.width))
    assert found.shape == wanted.shape == (21, size.height, size.width, 3)
    error = np.mean((found.astype(float) - wanted.astype(float)) ** 2)
    assert 10 * np.log10(255**2 / error) > 35
