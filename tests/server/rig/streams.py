"""The pictures of what a client has received."""

from __future__ import annotations

import io

import av
import numpy as np
from live_server import StreamClient


def decoded(client: StreamClient) -> list[np.ndarray]:
    """All frames of a client; a decoder goes on over the keyframe of another encoder."""
    data = b"".join(payload for _, payload in client.frames())
    with av.open(io.BytesIO(data), format="h264") as container:
        frames = list(container.decode(video=0))
    return [
        frame.reformat(format="rgb24", src_colorspace="ITU709", src_color_range="MPEG").to_ndarray()
        for frame in frames
    ]
