"""H.264 through x264: RGB frames in, Annex-B access units out.

Axis letters: H rows, W columns, C the three channels R, G, B.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction
from typing import TYPE_CHECKING

from av.codec.context import Flags
from av.video.codeccontext import VideoCodecContext
from av.video.frame import PictureType, VideoFrame
from av.video.reformatter import ColorRange, Colorspace

from ultraflash.models.cores import cores
from ultraflash.models.errors import BadConfig
from ultraflash.server.media.annexb import (
    NAL_DELIMITER,
    NAL_SEI,
    ParameterSets,
    nal_type,
    nal_units,
    to_annexb,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

BITS_PER_PIXEL = 3.5
BUFFER_SECONDS = 0.25
ENOUGH_CORES = 4
BT709 = 1
LIMITED_RANGE = 1
MAX_THREADS = 4
NEVER = 1 << 30


@dataclass(frozen=True, slots=True, kw_only=True)
class H264Config:
    """How to encode one stream.

    Attributes:
        width, height: pixels, both even.
        fps: frames per second.
        bitrate: bits per second; held by a buffer of 0.25 s. None encodes for constant quality instead.
        speed: x264's preset. Where the networks share few cores with it, a live stream takes the fastest one.
        crf: quality of constant-quality encoding, lower is better.
        zero_latency: every frame comes out as it goes in; without it the encoder looks ahead.
        keyframe_every: frames between keyframes that nobody asked for.
        threads: of the encoder.
    """

    width: int
    height: int
    fps: int
    bitrate: int | None
    speed: str = "superfast"
    crf: int = 18
    zero_latency: bool = True
    keyframe_every: int = NEVER
    threads: int = 2

    def __post_init__(self) -> None:
        if self.width < 16 or self.height < 16 or self.width % 2 or self.height % 2:
            raise BadConfig(
                f"H.264 needs even sizes of at least 16, not {self.width}x{self.height}.", param="size"
            )
        if self.fps < 1:
            raise BadConfig(f"Frames per second must be at least 1, not {self.fps}.", param="fps")
        if not 1 <= self.threads <= MAX_THREADS:
            raise BadConfig(f"1 to {MAX_THREADS} encoder threads, not {self.threads}.", param="threads")

    @classmethod
    def live(cls, *, width: int, height: int, fps: int, bitrate: int | None = None) -> H264Config:
        """Settings of a live stream; the bitrate follows the picture size unless given."""
        speed = "superfast" if cores() >= ENOUGH_CORES else "ultrafast"
        rate = bitrate or default_bitrate(width, height)
        return cls(width=width, height=height, fps=fps, bitrate=rate, speed=speed)

    @classmethod
    def file(cls, *, width: int, height: int, fps: int) -> H264Config:
        """Settings of a file: constant quality, a keyframe every two seconds for seeking."""
        return cls(
            width=width,
            height=height,
            fps=fps,
            bitrate=None,
            speed="veryfast",
            zero_latency=False,
            keyframe_every=2 * fps,
        )


def default_bitrate(width: int, height: int) -> int:
    """Bits per second that suit a picture size at film-like rates: 5.6 Mb/s at 1664x960."""
    return round(BITS_PER_PIXEL * width * height)


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessUnit:
    """One encoded frame.

    Attributes:
        data: Annex-B; a keyframe carries its parameter sets.
        key: whether decoding can start here.
        index: number that the frame was encoded under.
    """

    data: bytes
    key: bool
    index: int


def picture_size(shape: tuple[int, ...]) -> tuple[int, int] | None:
    """Width and height of a frame of a shape that `H264Encoder.encode` takes, or None."""
    if len(shape) == 2 and shape[0] % 3 == 0:
        return shape[1], shape[0] // 3 * 2
    if len(shape) == 3 and shape[2] == 3:
        return shape[1], shape[0]
    return None


class H264Encoder:
    """One x264 encoder without B-frames, tagged and converted as BT.709, limited range.

    It opens with the parameter sets known, so that a stream can be announced before its first frame.
    """

    def __init__(self, config: H264Config) -> None:
        self.config = config
        self._context = _open_context(config)
        self.parameter_sets = ParameterSets.find(bytes(self._context.extradata or b""))

    def encode(self, frame: NDArray[np.uint8], index: int, *, key: bool = False) -> list[AccessUnit]:
        """Encodes one frame, uint8, contiguous: RGB (H, W, 3), or planes (3H/2, W) of yuv420p, BT.709 in limited range.

        Indices must grow. Returns exactly one unit with ``zero_latency``, else those that are ready. Raises
        ``ValueError`` for a frame of another size.
        """
        if picture_size(frame.shape) != (self.config.width, self.config.height):
            raise ValueError(
                f"A frame of {self.config.width}x{self.config.height} was expected, not one of shape {frame.shape}."
            )
        if frame.ndim == 2:
            picture = VideoFrame.from_numpy_buffer(frame, format="yuv420p")
            picture.colorspace, picture.color_range = Colorspace.ITU709, ColorRange.MPEG
        else:
            rgb = VideoFrame.from_numpy_buffer(frame, format="rgb24")
            picture = rgb.reformat(format="yuv420p", dst_colorspace="ITU709", dst_color_range="MPEG")
        picture.pts = index
        picture.time_base = Fraction(1, self.config.fps)
        if key:
            picture.pict_type = PictureType.I
        return self._units(picture)

    def set_bitrate(self, bitrate: int) -> None:
        """Changes the bitrate from the next frame on.

        Below the rate it was opened with nothing else changes. Above it x264 has to be opened anew, so the next
        frame is a keyframe and ``parameter_sets`` may differ.
        """
        if self.config.bitrate is not None and bitrate <= self.config.bitrate:
            self._context.bit_rate = bitrate
            return
        self.config = replace(self.config, bitrate=bitrate)
        self._context = _open_context(self.config)
        self.parameter_sets = ParameterSets.find(bytes(self._context.extradata or b""))

    def flush(self) -> list[AccessUnit]:
        """The frames still inside; the encoder takes no more after this."""
        return self._units(None)

    def _units(self, picture: VideoFrame | None) -> list[AccessUnit]:
        units = []
        for packet in self._context.encode(picture):
            kept = [
                unit for unit in nal_units(bytes(packet)) if nal_type(unit) not in (NAL_SEI, NAL_DELIMITER)
            ]
            if packet.pts is None:
                raise RuntimeError("x264 returned a packet without a time stamp.")
            units.append(AccessUnit(data=to_annexb(kept), key=packet.is_keyframe, index=packet.pts))
        return units


def _open_context(config: H264Config) -> VideoCodecContext:
    context = VideoCodecContext.create("libx264", "w")
    context.width, context.height = config.width, config.height
    context.pix_fmt = "yuv420p"
    context.time_base = Fraction(1, config.fps)
    context.framerate = Fraction(config.fps)
    context.gop_size = config.keyframe_every
    context.max_b_frames = 0
    context.thread_count = config.threads
    context.color_primaries = context.color_trc = context.colorspace = BT709
    context.color_range = LIMITED_RANGE
    # The global header makes the parameter sets known at once, repeat-headers keeps them in band as well.
    context.flags |= Flags.global_header
    options = {"preset": config.speed, "forced-idr": "1", "x264-params": "repeat-headers=1:scenecut=0"}
    if config.zero_latency:
        options["tune"] = "zerolatency"
    if config.bitrate is None:
        options["crf"] = str(config.crf)
    else:
        context.bit_rate = config.bitrate
        options["maxrate"] = str(config.bitrate)
        options["bufsize"] = str(round(config.bitrate * BUFFER_SECONDS))
    context.options = options
    context.open()
    return context
