"""From what a client asks for to an order that the engine can fulfil, or an error that says what it can."""

from __future__ import annotations

import math
import secrets

from ultraflash.models.errors import EmptyPrompt, PromptTooLong, UnknownPreset, UnknownSize
from ultraflash.server.errors import InvalidField, UnsupportedField, VideoNotReady
from ultraflash.server.jobs.records import Cue, Job, Order
from ultraflash.server.jobs.wire import CreateVideo
from ultraflash.server.worker.messages import WorkerReady

DEFAULT_SECONDS = 4.0


def new_order(wish: CreateVideo, ready: WorkerReady, max_seconds: float) -> Order:
    """The order of a new video.

    Raises ``UnsupportedField``, ``UnknownPreset``, ``UnknownSize``, ``InvalidField``, ``EmptyPrompt`` or
    ``PromptTooLong``.
    """
    if wish.input_reference not in (None, ""):
        raise UnsupportedField(
            "No model here starts from a picture yet: leave input_reference out.", param="input_reference"
        )
    if wish.negative_prompt:
        raise UnsupportedField(
            "No model here uses a negative prompt: leave negative_prompt out.", param="negative_prompt"
        )
    if wish.model not in (None, "", ready.model):
        raise UnknownPreset(
            f"No model {wish.model!r} is loaded; this server runs {ready.model!r}.", param="model"
        )
    width, height = picture_size(wish.size, ready)
    fps = wish.fps or ready.fps
    return Order(
        model=ready.model,
        cues=(Cue(frame=0, prompt=usable_prompt(wish.prompt, ready)),),
        width=width,
        height=height,
        fps=fps,
        frames=_frames(wish, fps, max_seconds),
        seed=secrets.randbelow(2**53) if wish.seed is None else wish.seed,
    )


def remix_order(source: Job, prompt: str, ready: WorkerReady) -> Order:
    """The order of a completed video under another prompt: same seed, same size, same length."""
    order = _order_of_completed(source, ready)
    return Order(
        model=order.model,
        cues=(Cue(frame=0, prompt=usable_prompt(prompt, ready)),),
        width=order.width,
        height=order.height,
        fps=order.fps,
        frames=order.frames,
        seed=order.seed,
    )


def extension_order(source: Job, prompt: str, seconds: str, ready: WorkerReady, max_seconds: float) -> Order:
    """The order of a completed video with more behind it.

    Its frames come first and are the same, since everything that decided them is in the order; the new prompt is in
    force from the first group behind them.
    """
    order = _order_of_completed(source, ready)
    frames = order.frames + _frames_in(seconds, order.fps, max_seconds)
    _check_length(frames, order.fps, max_seconds, what="The source and its extension together")
    return Order(
        model=order.model,
        cues=(*order.cues, Cue(frame=order.frames, prompt=usable_prompt(prompt, ready))),
        width=order.width,
        height=order.height,
        fps=order.fps,
        frames=frames,
        seed=order.seed,
    )


def usable_prompt(prompt: str, ready: WorkerReady) -> str:
    """The prompt without outer white space. Raises ``EmptyPrompt`` or ``PromptTooLong``."""
    stripped = prompt.strip()
    if not stripped:
        raise EmptyPrompt("The prompt is empty; describe what to show.", param="prompt")
    if len(stripped) > ready.max_prompt_chars:
        raise PromptTooLong(
            f"The prompt has {len(stripped)} characters; {ready.max_prompt_chars} are accepted.",
            param="prompt",
        )
    return stripped


def picture_size(text: str | None, ready: WorkerReady) -> tuple[int, int]:
    """Width and height of a size by name or as ``WxH``. Raises ``UnknownSize``."""
    wanted = (text or "auto").strip().lower()
    wanted = ready.default_size.lower() if wanted == "auto" else wanted
    for name, width, height in ready.sizes:
        if wanted in (name.lower(), f"{width}x{height}"):
            return width, height
    choices = ", ".join(f"{width}x{height} ({name})" for name, width, height in ready.sizes)
    raise UnknownSize(f"{ready.model} cannot make the size {text!r}; it makes {choices}.", param="size")


def _order_of_completed(source: Job, ready: WorkerReady) -> Order:
    if source.state != "completed":
        raise VideoNotReady(
            f"The video is {source.state}; only a completed one can be gone on from.", param="video"
        )
    if source.order.model != ready.model:
        raise UnknownPreset(
            f"The video was made by {source.order.model!r}, and this server runs {ready.model!r}.",
            param="video",
        )
    return source.order


def _frames(wish: CreateVideo, fps: int, max_seconds: float) -> int:
    if wish.num_frames is None:
        return _frames_in(wish.seconds or f"{min(DEFAULT_SECONDS, max_seconds)}", fps, max_seconds)
    if wish.seconds is not None and _frames_in(wish.seconds, fps, max_seconds) != wish.num_frames:
        raise InvalidField(
            f"{wish.num_frames} frames at {fps} a second are not {wish.seconds} seconds; give one of num_frames and "
            "seconds.",
            param="num_frames",
        )
    _check_length(wish.num_frames, fps, max_seconds, what="The video")
    return wish.num_frames


def _frames_in(seconds: str, fps: int, max_seconds: float) -> int:
    try:
        length = float(seconds)
    except ValueError:
        length = math.nan
    if not 0 < length <= max_seconds:
        raise InvalidField(
            f"seconds must be a number above 0 and at most {max_seconds:g}, unlike {seconds!r}.",
            param="seconds",
        )
    return max(1, round(length * fps))


def _check_length(frames: int, fps: int, max_seconds: float, *, what: str) -> None:
    if frames > max_seconds * fps:
        raise InvalidField(
            f"{what} would have {frames / fps:g} seconds; at most {max_seconds:g} can be made.",
            param="seconds",
        )
