"""From what a client asks for to an order that the engine can fulfil, or an error that says what it can."""

from __future__ import annotations

import math
import secrets

from ultraflash.models.errors import UnknownPreset
from ultraflash.server.errors import InvalidField, UnsupportedField, VideoGone, VideoNotReady
from ultraflash.server.jobs.records import Cue, Job, Order, Reference
from ultraflash.server.jobs.wire import CreateVideo, ReplayLog
from ultraflash.server.worker.messages import AUTO, WorkerReady

DEFAULT_SECONDS = 4.0


def new_order(
    wish: CreateVideo, ready: WorkerReady, max_seconds: float, reference: Reference | None = None
) -> Order:
    """The order of a new video, which starts from ``reference`` if there is one.

    Raises ``UnsupportedField``, ``UnknownPreset``, ``UnknownSize``, ``InvalidField``, ``EmptyPrompt`` or
    ``PromptTooLong``.
    """
    if wish.negative_prompt:
        raise UnsupportedField(
            "No model here uses a negative prompt: leave negative_prompt out.", param="negative_prompt"
        )
    if wish.model not in (None, "", ready.model):
        raise UnknownPreset(
            f"No model {wish.model!r} is loaded; this server runs {ready.model!r}.", param="model"
        )
    width, height = _pixels(wish.size, ready)
    fps = wish.fps or ready.fps
    return Order(
        model=ready.model,
        cues=(Cue(frame=0, prompt=ready.check_prompt(wish.prompt)),),
        width=width,
        height=height,
        fps=fps,
        frames=_frames(wish, fps, max_seconds),
        seed=secrets.randbelow(2**53) if wish.seed is None else wish.seed,
        reference=reference,
    )


def remix_order(source: Job, prompt: str, ready: WorkerReady) -> Order:
    """The order of a completed video under another prompt: same seed, same size, same length."""
    order = _order_of_completed(source, ready)
    return Order(
        model=order.model,
        cues=(Cue(frame=0, prompt=ready.check_prompt(prompt)),),
        width=order.width,
        height=order.height,
        fps=order.fps,
        frames=order.frames,
        seed=order.seed,
        reference=order.reference,
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
        cues=(*order.cues, Cue(frame=order.frames, prompt=ready.check_prompt(prompt))),
        width=order.width,
        height=order.height,
        fps=order.fps,
        frames=frames,
        seed=order.seed,
        reference=order.reference,
    )


def replay_order(
    log: ReplayLog,
    size: str | None,
    seconds: str | None,
    ready: WorkerReady,
    max_seconds: float,
    reference: Reference | None = None,
) -> Order:
    """The order of a session as a video: the same frames where the session kept the video's size throughout.

    ``reference`` is what the log's image is here.

    Raises ``UnknownPreset``, ``UnknownSize``, ``InvalidField``, ``EmptyPrompt`` or ``PromptTooLong``.
    """
    if log.model != ready.model:
        raise UnknownPreset(
            f"The session was made by {log.model!r}, and this server runs {ready.model!r}.", param="replay"
        )
    width, height = _replay_size(log, ready) if size is None else _pixels(size, ready)
    if seconds is None:
        frames = log.frames
        if frames == 0:
            raise InvalidField("The session had no frames yet; give seconds.", param="seconds")
        _check_length(frames, log.fps, max_seconds, what="The session")
    else:
        frames = _frames_in(seconds, log.fps, max_seconds)
    return Order(
        model=log.model,
        cues=tuple(cue for cue in _replay_cues(log, ready) if cue.frame < frames),
        width=width,
        height=height,
        fps=log.fps,
        frames=frames,
        seed=log.seed,
        reference=reference,
    )


def _replay_size(log: ReplayLog, ready: WorkerReady) -> tuple[int, int]:
    """The largest size that a session had."""
    shown = [_pixels(event.size, ready) for event in log.events if event.size is not None]
    return max(shown, key=lambda size: size[0] * size[1], default=_pixels(None, ready))


def _replay_cues(log: ReplayLog, ready: WorkerReady) -> list[Cue]:
    """The prompts and restarts of a session, in the order of their frames. Raises ``InvalidField``."""
    cues: list[Cue] = []
    for event in log.events:
        frame = round(event.first_pts_us * log.fps / 1e6)
        if event.prompt is None:
            continue
        if event.restarted:
            # What was to be seen in frames that the lost worker never sent.
            cues = [cue for cue in cues if cue.frame < frame]
        elif cues and cues[-1].frame == frame and not cues[-1].restarts and len(cues) > 1:
            # Of several prompts before one group only the last one was shown.
            cues.pop()
        if cues and cues[-1].frame > frame:
            raise InvalidField("The events of a replay come in the order of their frames.", param="replay")
        cues.append(
            Cue(
                frame=frame,
                prompt=ready.check_prompt(event.prompt),
                transition=event.transition,
                groups=event.groups,
                restarts=event.restarted and frame > 0,
            )
        )
    if not cues or cues[0].frame != 0:
        raise InvalidField("The first event of a replay has the prompt at first_pts_us 0.", param="replay")
    return cues


def _pixels(text: str | None, ready: WorkerReady) -> tuple[int, int]:
    """Width and height of a size by name or as ``WxH``. Raises ``UnknownSize``."""
    size = ready.size(text or AUTO)
    return size.width, size.height


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
    if source.order.reference is not None and not source.has_file:
        raise VideoGone("What this video started from went with its file; send it again for a new one.")
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
