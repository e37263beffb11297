"""Decodes an upload in a process of its own, which the system stops when it takes too much.

It is told what to do by one JSON object as its argument and answers by one JSON object. Whatever a file does to the
decoder, it does it to this process alone.

Axis letters: T frames, H rows, W columns, C the channels R, G, B.
"""

from __future__ import annotations

import json
import math
import resource
import sys
from collections import deque
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from ultraflash.models.errors import UltraflashError
from ultraflash.server.media.signatures import ACCEPTED

if TYPE_CHECKING:
    import numpy as np
    from av.video.frame import VideoFrame
    from numpy.typing import NDArray

MEMORY_BYTES = 3 * 2**30
WIDEST = 8
SPARE_BYTES = 4096


class BadReference(UltraflashError):
    """An upload that is no picture, or one that cannot be read."""

    code = "bad_reference"


class ReferenceTooLarge(UltraflashError):
    """An upload with more pixels, frames or seconds than are read."""

    code = "reference_too_large"


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeOrder:
    """What to decode, to which frames, and within which limits.

    Attributes:
        path, demuxer: the upload.
        target: the file to write: uint8 (T, H, W, 3) as numpy stores it.
        frames: of a longer clip the last so many are kept.
        height, width: of the frames; the picture covers them and is cut at its edges.
        fps: at which a clip is sampled.
        max_pixels, max_frames, max_seconds: of what is read.
        cpu_s: seconds of processor time that it may take.
    """

    path: str
    demuxer: str
    target: str
    frames: int
    height: int
    width: int
    fps: int
    max_pixels: int
    max_frames: int
    max_seconds: float
    cpu_s: int

    def to_json(self) -> str:
        """As the process is told."""
        return json.dumps(asdict(self))


def main() -> None:
    """Does what its argument says."""
    order = DecodeOrder(**json.loads(sys.argv[1]))
    _confine(order)
    code, message = "", ""
    try:
        decode(order)
    except UltraflashError as error:
        code, message = error.code, error.message
    except MemoryError:
        code, message = ReferenceTooLarge.code, "The picture takes more memory than it may."
    print(json.dumps({"code": code, "message": message}))


def _confine(order: DecodeOrder) -> None:
    frame_bytes = order.height * order.width * 3
    limits = {
        resource.RLIMIT_CPU: order.cpu_s,
        resource.RLIMIT_AS: MEMORY_BYTES,
        resource.RLIMIT_FSIZE: order.frames * frame_bytes + SPARE_BYTES,
        resource.RLIMIT_CORE: 0,
    }
    for kind, limit in limits.items():
        resource.setrlimit(kind, (limit, limit))


def decode(order: DecodeOrder) -> None:
    """Writes the frames. Raises ``BadReference`` or ``ReferenceTooLarge``."""
    import numpy as np
    from av.error import FFmpegError

    kept: deque[NDArray[np.uint8]] = deque(maxlen=order.frames)
    try:
        for frame in _sampled(order):
            kept.append(fitted(frame, order.height, order.width))
    except (FFmpegError, ValueError, OSError) as error:
        raise BadReference(
            f"The file cannot be read as what it begins as: {_reason(error)}. Send {ACCEPTED}."
        ) from error
    if not kept:
        raise BadReference(f"The file has no picture in it. Send {ACCEPTED}.")
    np.save(order.target, np.stack(kept))


def _sampled(order: DecodeOrder) -> Iterator[VideoFrame]:
    """The frames that are to be seen at 0, 1/fps, 2/fps ... seconds from the first one."""
    number, shown, first_s = 0, None, 0.0
    for time_s, frame in _decoded(order):
        if shown is None:
            first_s = time_s
        else:
            if time_s - first_s > order.max_seconds:
                raise ReferenceTooLarge(
                    f"The clip has more than {order.max_seconds:g} seconds, which is all that is read."
                )
            while number / order.fps < time_s - first_s:
                yield shown
                number += 1
        shown = frame
    if shown is not None:
        yield shown


def _decoded(order: DecodeOrder) -> Iterator[tuple[float, VideoFrame]]:
    """All frames of the first picture in the file, with their seconds, none larger than it may be."""
    import av

    # Neither a playlist nor a reference inside of a file makes it open another one.
    options = {"protocol_whitelist": "file"}
    with av.open(order.path, format=order.demuxer, options=options) as container:
        if not container.streams.video:
            return
        stream = container.streams.video[0]
        context = stream.codec_context
        context.thread_count = 1
        _check_size(order, context.width, context.height)
        context.options = {"max_pixels": str(order.max_pixels)}
        for number, frame in enumerate(container.decode(stream)):
            if number == order.max_frames:
                raise ReferenceTooLarge(
                    f"The clip has more than {order.max_frames} frames, which is all that is read."
                )
            _check_size(order, frame.width, frame.height)
            yield (0.0 if frame.time is None else frame.time), frame


def _check_size(order: DecodeOrder, width: int, height: int) -> None:
    if width * height > order.max_pixels:
        raise ReferenceTooLarge(
            f"The picture has {width}x{height} pixels; {order.max_pixels} are read at most. Send a smaller one."
        )
    if max(width, height) > WIDEST * min(width, height):
        raise BadReference(
            f"The picture has {width}x{height} pixels; one side may be {WIDEST} times the other at most."
        )


def fitted(frame: VideoFrame, height: int, width: int) -> NDArray[np.uint8]:
    """A frame as RGB that covers ``height`` x ``width``, cut to its middle, uint8 (H, W, 3), the right way up."""
    import numpy as np

    turns = round(frame.rotation / 90)
    rows, columns = (width, height) if turns % 2 else (height, width)
    scale = max(rows / frame.height, columns / frame.width)
    scaled = frame.reformat(
        width=max(columns, math.ceil(frame.width * scale)),
        height=max(rows, math.ceil(frame.height * scale)),
        format="rgb24",
        interpolation="AREA" if scale < 1 else "BICUBIC",
    ).to_ndarray()
    top, left = (scaled.shape[0] - rows) // 2, (scaled.shape[1] - columns) // 2
    cut = scaled[top : top + rows, left : left + columns]
    return np.ascontiguousarray(np.rot90(cut, turns))


def _reason(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error)
