"""Frames of long streams on one sheet, with their times and prompts."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from ultraflash.models.errors import MissingExtra
from ultraflash.training.evaluation.long_streams import LongStream, light

if TYPE_CHECKING:
    from PIL import Image

_WIDTH = 224
_GAP = 6
_LINE = 20
_LETTERS_PER_LINE = 230


def contact_sheet(streams: Sequence[LongStream]) -> Image.Image:
    """A row of frames for every stream, the time over each and the prompts below.

    Raises:
        MissingExtra: Pillow is not installed.
    """
    try:
        from PIL import Image, ImageDraw, ImageFont
    except ModuleNotFoundError as error:
        raise MissingExtra("a sheet of long streams needs Pillow: pip install 'ultraflash[train]'") from error

    height, width, _ = streams[0].moments[0][1].shape
    size = (_WIDTH, round(_WIDTH * height / width))
    texts = [caption_lines(stream) for stream in streams]
    bands = [_LINE + size[1] + _LINE * len(lines) + 2 * _GAP for lines in texts]
    columns = max(len(stream.moments) for stream in streams)
    sheet = Image.new("RGB", (columns * (size[0] + _GAP) + _GAP, sum(bands) + _GAP), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=14)
    top = _GAP
    for stream, lines, band in zip(streams, texts, bands, strict=True):
        for column, (seconds, frame) in enumerate(stream.moments):
            left = _GAP + column * (size[0] + _GAP)
            pen.text((left, top), moment_words(seconds, frame), fill="black", font=font)
            picture = Image.fromarray(frame.numpy()).resize(size, Image.Resampling.LANCZOS)
            sheet.paste(picture, (left, top + _LINE))
        for number, line in enumerate(lines):
            pen.text((_GAP, top + _LINE * (1 + number) + size[1] + 2), line, fill="black", font=font)
        top += band
    return sheet


def moment_words(seconds: float, frame_HWC: Tensor) -> str:
    """When a frame was shown, and its light: a stream may drift before the first ten seconds are over."""
    mean, deviation = light(frame_HWC[None])
    return f"{seconds:.0f} s: mean {mean:.0f}, contrast {deviation:.0f}"


def caption_lines(stream: LongStream) -> list[str]:
    """The prompts with the times at which they come, and how light and contrast went."""
    stay_s = stream.seconds / len(stream.prompts)
    told = " / ".join(f"{k * stay_s:.0f} s: {prompt.text}" for k, prompt in enumerate(stream.prompts))
    (mean_a, std_a), (mean_b, std_b) = light(stream.start), light(stream.end)
    wandered = (
        f"from the first to the last seconds: mean {mean_a:.0f} to {mean_b:.0f}, "
        f"contrast {std_a:.0f} to {std_b:.0f} grey levels"
    )
    return [*textwrap.wrap(told, _LETTERS_PER_LINE), wandered]
