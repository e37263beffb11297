"""Video files: frames out of one, and into an MP4 that keeps the first one's times and sound.

Axis letters: H rows, W columns, C the three channels R, G, B.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from tempfile import NamedTemporaryFile
from types import TracebackType
from typing import TYPE_CHECKING, Any

import av
from av.audio.stream import AudioStream
from av.error import FFmpegError
from av.packet import Packet
from av.video.frame import VideoFrame

from ultraflash.server.errors import BadOption
from ultraflash.server.media.h264 import BT709, LIMITED_RANGE

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

QUALITY = {"preset": "veryfast", "crf": "18"}
BT601 = 5
# Files that don't name their colours mean these, by the height from which a picture is high definition.
_UNSPECIFIED, _HIGH_DEFINITION = 2, 720
_MP4_SOUND = ("aac", "mp3", "ac3", "opus", "flac")


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """When a frame is shown: ``pts`` in units of ``time_base`` seconds."""

    pts: int
    time_base: Fraction


class VideoReader:
    """The frames of the first video stream of a file. Sizes are cut to even numbers, which H.264 wants."""

    def __init__(self, path: Path) -> None:
        """Open it. Raises ``BadOption`` for what is no video."""
        try:
            self.container = av.open(str(path))
        except (FFmpegError, OSError) as error:
            raise BadOption(f"{path} cannot be opened as a video: {error}.", param="input") from error
        if not self.container.streams.video:
            self.container.close()
            raise BadOption(f"There is no video in {path}.", param="input")
        self.path = path
        self._video = self.container.streams.video[0]
        self._video.thread_type = "AUTO"
        self.width = self._video.width // 2 * 2
        self.height = self._video.height // 2 * 2
        self.rate = self._video.average_rate or self._video.guessed_rate or Fraction(25)
        self.time_base = self._video.time_base or 1 / self.rate
        self.frames = self._video.frames or None
        self.sound: AudioStream | None = next(
            (each for each in self.container.streams.audio if each.codec_context.name in _MP4_SOUND), None
        )
        self.packets: list[Packet[Any]] = []

    def __enter__(self) -> VideoReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.container.close()

    def __iter__(self) -> Iterator[tuple[Moment, NDArray[np.uint8]]]:
        """Frames, uint8 (H, W, 3), with their times. Sound passed on the way is kept in ``packets``.

        Raises ``BadOption`` where the file is damaged.
        """
        streams = [self._video, *([self.sound] if self.sound is not None else [])]
        try:
            for packet in self.container.demux(streams):
                if packet.stream is not self._video:
                    if packet.dts is not None:
                        self.packets.append(packet)
                    continue
                for frame in packet.decode():
                    assert isinstance(frame, VideoFrame)
                    yield self._moment(frame), self._picture(frame)
        except FFmpegError as error:
            raise BadOption(f"{self.path} is damaged: {error}.", param="input") from error

    def _moment(self, frame: VideoFrame) -> Moment:
        if frame.pts is None or frame.time_base is None:
            raise BadOption(f"{self.path} has frames without a time.", param="input")
        return Moment(pts=frame.pts, time_base=frame.time_base)

    def _picture(self, frame: VideoFrame) -> NDArray[np.uint8]:
        space = frame.colorspace
        if space == _UNSPECIFIED:
            space = BT709 if self.height >= _HIGH_DEFINITION else BT601
        rgb = frame.reformat(format="rgb24", src_colorspace=space)
        picture: Any = rgb.to_ndarray()  # of many types by its annotation, of bytes by its format
        even: NDArray[np.uint8] = picture[: self.height, : self.width]
        return even


class VideoWriter:
    """An MP4 with the times and sound of a file that is being read. Only a complete one gets its name."""

    def __init__(self, path: Path, source: VideoReader, *, width: int, height: int) -> None:
        self._path, self._source = path, source
        with NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}-", delete=False) as file:
            self._draft = Path(file.name)
        self._container = av.open(str(self._draft), "w", format="mp4", options={"movflags": "+faststart"})
        self._video = self._container.add_stream("libx264", rate=source.rate, options=QUALITY)
        self._video.width, self._video.height, self._video.pix_fmt = width, height, "yuv420p"
        context = self._video.codec_context
        context.color_primaries = context.color_trc = context.colorspace = BT709
        context.color_range = LIMITED_RANGE
        context.time_base = source.time_base
        sound = source.sound
        self._sound = None if sound is None else self._container.add_stream_from_template(sound)

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._container.mux(self._video.encode(None))
                self._pass_sound()
            self._container.close()
            if kind is None:
                os.replace(self._draft, self._path)
        finally:
            self._draft.unlink(missing_ok=True)

    def write(self, frame_HWC: NDArray[np.uint8], moment: Moment) -> None:
        """Adds a frame, uint8 (H, W, 3)."""
        picture = VideoFrame.from_ndarray(frame_HWC, format="rgb24").reformat(
            format="yuv420p", dst_colorspace="ITU709", dst_color_range="MPEG"
        )
        picture.pts, picture.time_base = moment.pts, moment.time_base
        self._container.mux(self._video.encode(picture))
        self._pass_sound()

    def _pass_sound(self) -> None:
        """Copies the sound that has been read so far."""
        for packet in self._source.packets:
            packet.stream = self._sound
            self._container.mux(packet)
        self._source.packets.clear()
