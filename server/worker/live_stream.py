"""One live stream as the worker sees it: the engine's state, its encoder, its playhead, what was asked of it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ultraflash.server.engine import DetailChooser, Engine, EngineState, PictureSize, engine_transition
from ultraflash.server.media.h264 import H264Config, picture_size
from ultraflash.server.wall_clock import unix_ms
from ultraflash.server.worker.encoding import FrameGroup, StreamEncoder
from ultraflash.server.worker.messages import (
    ControlStream,
    OpenStream,
    PromptShown,
    SetPrompt,
    SizeShown,
    StreamOpened,
    StreamStats,
)
from ultraflash.server.worker.playhead import PacingRule, Playhead
from ultraflash.server.worker.playout import Playout
from ultraflash.server.worker.reference_start import start_from
from ultraflash.server.worker.stream_snapshot import (
    SnapshotFiles,
    SnapshotRule,
    StreamKeeping,
    StreamSnapshot,
    find_snapshots,
    load_newest,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SizeChange:
    """A size that takes effect with the next group; see ``SizeShown``."""

    event_id: str
    size: PictureSize
    asked: str
    reason: str
    sr_share: float = 1.0


@dataclass(slots=True, kw_only=True)
class LiveStream:
    """Everything that changes while a stream runs.

    Attributes:
        sr_share: of the attention of super-resolution that is kept.
        asked: the size that its owner has asked for, by name or ``auto``.
        next_index: number of the next frame to be sent.
        made_index: number of the first frame of the next group, which is lower while frames that were sent before
            the worker was replaced are made once more.
        cut: whether the next frame does not continue the one before.
        keeping: keeps the stream; None where that is not wanted.
        changes: log entries of changes that were made before and have to be made again.
        group_frames: frames of the newest group, which the next one is expected to have.
        groups: made by the engine's state so far.
        new_prompts, new_size: asked for since the newest group.
        trace: context of the session's span.
    """

    stream_id: str
    state: EngineState
    size: PictureSize
    asked: str
    fps: int
    max_frames: int | None
    playhead: Playhead
    playout: Playout
    encoder: StreamEncoder
    next_index: int
    made_index: int
    cut: bool
    keeping: StreamKeeping | None
    changes: list[dict[str, Any]] = field(default_factory=list)
    group_frames: int = 0
    groups: int = 0
    new_prompts: list[SetPrompt] = field(default_factory=list)
    new_size: SizeChange | None = None
    sr_share: float = 1.0
    trace: str | None = None

    @property
    def frame_us(self) -> float:
        """Duration of a frame in microseconds."""
        return 1e6 / self.fps

    @property
    def deadline(self) -> float:
        """When its owner runs out of media; one that takes everything at once has no more of a claim than one that
        plays in real time."""
        return max(self.playhead.deadline(), self.playout.due)

    def may_generate(self, now: float) -> bool:
        """Whether the next group may start."""
        may = self.playhead.may_generate(self.group_frames * self.frame_us, now)
        if not may:
            self.playout.held(now)
        return may


def open_stream(
    engine: Engine,
    command: OpenStream,
    pacing: PacingRule,
    keeping: SnapshotRule,
    size: PictureSize,
    now: float,
) -> LiveStream:
    """Opens a stream of a size on the engine, or goes on with it from a snapshot, and an encoder.

    Raises the engine's errors.
    """
    fps = command.fps or engine.preset.fps
    config = H264Config.live(width=size.width, height=size.height, fps=fps, bitrate=command.bitrate)
    kept = _kept_stream(engine, command, keeping)
    first_index, made_index, groups = command.first_index, command.first_index, 0
    if kept is None:
        state, snapshot = engine.open(command.prompt, size=size.name, seed=command.seed), None
        start_from(engine, state, command.reference)
    else:
        state, snapshot = kept
        first_index, made_index = max(first_index, snapshot.next_index), snapshot.next_index
        groups = snapshot.groups
    sent_us = first_index * 1e6 / fps
    playhead = Playhead(pacing, now=now, playhead_us=command.playhead_us, sent_us=sent_us)
    playhead.set_paused(command.paused, now)
    return LiveStream(
        stream_id=command.stream_id,
        state=state,
        size=size,
        asked=command.asked_size,
        fps=fps,
        max_frames=command.max_frames,
        playhead=playhead,
        playout=Playout(pacing.ahead_us / 1e6),
        encoder=StreamEncoder(
            command.stream_id, config, generation=command.generation, bitrate=command.bitrate
        ),
        next_index=first_index,
        made_index=made_index,
        cut=first_index > (0 if snapshot is None else command.first_index),
        keeping=_keeping(keeping, command.stream_id, snapshot),
        changes=[] if snapshot is None else command.changes,
        groups=groups,
        sr_share=1.0 if snapshot is None else command.sr_share,
        trace=command.trace,
    )


def _kept_stream(
    engine: Engine, command: OpenStream, rule: SnapshotRule
) -> tuple[EngineState, StreamSnapshot] | None:
    if rule.folder is None or not command.restore:
        return None
    found = find_snapshots(rule.folder, command.stream_id, command.first_index)
    return load_newest(engine, found, command.stream_id)


def _keeping(rule: SnapshotRule, stream_id: str, snapshot: StreamSnapshot | None) -> StreamKeeping | None:
    if rule.folder is None or rule.share == 0:
        return None
    return StreamKeeping(SnapshotFiles(rule.folder, stream_id, snapshot), rule, stream_id)


def opened_report(stream: LiveStream) -> StreamOpened:
    """What the owner is told when its stream starts."""
    return StreamOpened(
        stream_id=stream.stream_id,
        codec=stream.encoder.codec,
        size=stream.size.name,
        width=stream.size.width,
        height=stream.size.height,
        fps=stream.fps,
        first_index=stream.next_index,
        restored=stream.groups > 0,
    )


def control_stream(stream: LiveStream, command: ControlStream, size: PictureSize | None, now: float) -> None:
    """Notes what the owner wants; ``size`` is what the command's comes to."""
    if command.size is not None and size is not None:
        stream.new_size = SizeChange(
            event_id=command.event_id, size=size, asked=command.size, reason="requested"
        )
    if command.bitrate is not None:
        stream.encoder.request_bitrate(command.bitrate)
    if command.paused is not None:
        stream.playhead.set_paused(command.paused, now)


def apply_changes(engine: Engine, stream: LiveStream) -> list[PromptShown | SizeShown]:
    """Gives the engine what was asked since the newest group; returns what to tell the owner.

    While frames are made that have been sent already, only what was changed in these groups then is changed again:
    anything else would show in the middle of a group.
    """
    _repeat_changes(engine, stream)
    if stream.made_index < stream.next_index:
        return []
    first_us = stream.next_index * stream.frame_us
    reports: list[PromptShown | SizeShown] = []
    if stream.new_prompts:
        newest = stream.new_prompts[-1]
        _set_prompt(engine, stream, newest.prompt, newest.transition, newest.groups)
        reports += [
            PromptShown(
                stream_id=stream.stream_id,
                event_id=change.event_id,
                first_pts_us=first_us,
                group=stream.groups,
            )
            for change in stream.new_prompts
        ]
        stream.new_prompts = []
    if stream.new_size is not None:
        change, stream.new_size = stream.new_size, None
        engine.set_size(stream.state, change.size.name)
        _set_sr_share(engine, stream, change.sr_share)
        stream.size, stream.asked = change.size, change.asked
        reports.append(
            SizeShown(
                stream_id=stream.stream_id,
                event_id=change.event_id,
                size=change.size.name,
                asked_size=change.asked,
                reason=change.reason,
                first_pts_us=first_us,
                group=stream.groups,
                sr_share=stream.sr_share,
            )
        )
    return reports


def _repeat_changes(engine: Engine, stream: LiveStream) -> None:
    """Gives the engine what it was given before this very group, by a worker before this one."""
    again = [change for change in stream.changes if change["group"] == stream.groups]
    prompts = [change for change in again if "prompt" in change]
    if prompts:
        newest = prompts[-1]
        _set_prompt(
            engine, stream, newest["prompt"], newest.get("transition", "cut"), newest.get("groups", 1)
        )
    for change in again:
        if "size" in change:
            engine.set_size(stream.state, change["size"])
            _set_sr_share(engine, stream, change.get("sr_share", 1.0))
    stream.changes = [change for change in stream.changes if change["group"] > stream.groups]


def _set_prompt(engine: Engine, stream: LiveStream, prompt: str, transition: str, groups: int) -> None:
    engine.set_prompt(stream.state, prompt, transition=engine_transition(transition), groups=groups)


def _set_sr_share(engine: Engine, stream: LiveStream, share: float) -> None:
    if isinstance(engine, DetailChooser):
        engine.set_sr_share(stream.state, share)
        stream.sr_share = share


def make_group(engine: Engine, stream: LiveStream) -> FrameGroup:
    """Runs the engine for one group, cut where ``max_frames`` is reached; frames that were sent before are left out."""
    start = time.perf_counter()
    frames_THWC = np.asarray(engine.next_group(stream.state))
    work_s = time.perf_counter() - start
    stream.group_frames = len(frames_THWC)
    stream.groups += 1
    sent_before = stream.next_index - stream.made_index
    stream.made_index += len(frames_THWC)
    seconds = dict(stream.state.stage_seconds)
    start = time.perf_counter()
    keep = None
    if stream.keeping is not None:
        keep = stream.keeping.after_group(
            engine, stream.state, next_index=stream.made_index, groups=stream.groups, work_s=work_s
        )
        seconds["keep"] = time.perf_counter() - start
    # Of a shape that no encoder takes the preset has no size either.
    width, height = picture_size(frames_THWC.shape[1:]) or frames_THWC.shape[2:0:-1]
    frames_THWC = frames_THWC[sent_before:]
    if stream.max_frames is not None:
        frames_THWC = frames_THWC[: stream.max_frames - stream.next_index]
    return FrameGroup(
        frames_THWC=frames_THWC,
        # Not that of the stream: frames that are made again may be from before a change of it.
        size=engine.preset.size(f"{width}x{height}").name,
        first_index=stream.next_index,
        captured_ms=unix_ms(),
        discontinuity=stream.cut,
        seconds=seconds,
        keep=keep,
    )


def advance(stream: LiveStream, group: FrameGroup, now: float) -> bool:
    """Counts a group as sent. Returns whether it was the last one."""
    if len(group.frames_THWC):
        stream.playout.sent(len(group.frames_THWC) * stream.frame_us / 1e6, now)
        stream.next_index += len(group.frames_THWC)
        stream.cut = False
    stream.playhead.sent(stream.next_index * stream.frame_us, now)
    return stream.max_frames is not None and stream.next_index >= stream.max_frames


def stream_stats(stream: LiveStream) -> StreamStats:
    """Speed and rate over the newest groups, whose work is counted and whose waiting is not."""
    costs = list(stream.encoder.costs)
    frames = sum(cost.frames for cost in costs)
    stages: dict[str, float] = {}
    for cost in costs:
        for stage, seconds in cost.stages.items():
            stages[stage] = stages.get(stage, 0.0) + seconds
    use = stream.state.cache_use
    return StreamStats(
        stream_id=stream.stream_id,
        generated_fps=_ratio(frames, sum(stages.values())),
        encoded_kbps=_ratio(sum(cost.encoded_bytes for cost in costs) * 8 / 1000, frames / stream.fps),
        ahead_ms=stream.playhead.ahead_us / 1000,
        deadline_misses=stream.playout.misses,
        stages=_milliseconds_per_frame(stages, frames),
        stage_seconds=stream.encoder.stage_seconds,
        steps_saved=use.steps_saved,
        refreshes_skipped=use.refreshes_skipped,
        cache_occupancy={cache: round(part, 3) for cache, part in use.occupancy.items()},
    )


def _ratio(amount: float, of: float) -> float:
    return round(amount / of, 3) if of else 0.0


def _milliseconds_per_frame(stages: Mapping[str, float], frames: int) -> dict[str, float]:
    return {stage: _ratio(seconds * 1000, frames) for stage, seconds in stages.items()}
