"""One live stream as the worker sees it: the engine's state, its encoder, its playhead, what was asked of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from ultraflash.server.engine import Engine, EngineState, PictureSize
from ultraflash.server.media.h264 import H264Config
from ultraflash.server.wall_clock import unix_ms
from ultraflash.server.worker.encoding import FrameGroup, StreamEncoder
from ultraflash.server.worker.messages import (
    ControlStream,
    OpenStream,
    PromptShown,
    SetPrompt,
    SizeShown,
    StreamOpened,
    StreamReport,
    StreamStats,
)
from ultraflash.server.worker.playhead import PacingRule, Playhead
from ultraflash.server.worker.playout import Playout


@dataclass(frozen=True, slots=True, kw_only=True)
class SizeChange:
    """A size that takes effect with the next group; see ``SizeShown``."""

    event_id: str
    size: PictureSize
    asked: str
    reason: str


@dataclass(slots=True, kw_only=True)
class LiveStream:
    """Everything that changes while a stream runs.

    Attributes:
        asked: the size that its owner has asked for, by name or ``auto``.
        next_index: number of the first frame of the next group.
        group_frames: frames of the newest group, which the next one is expected to have.
        groups: made by the engine's state so far.
        new_prompts, new_size: asked for since the newest group.
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
    group_frames: int = 0
    groups: int = 0
    new_prompts: list[SetPrompt] = field(default_factory=list)
    new_size: SizeChange | None = None

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
    engine: Engine, command: OpenStream, rule: PacingRule, size: PictureSize, now: float
) -> LiveStream:
    """Opens a stream of a size on the engine and an encoder for it. Raises the engine's errors."""
    fps = command.fps or engine.preset.fps
    config = H264Config.live(width=size.width, height=size.height, fps=fps, bitrate=command.bitrate)
    state = engine.open(command.prompt, size=size.name, seed=command.seed)
    sent_us = command.first_index * 1e6 / fps
    playhead = Playhead(rule, now=now, playhead_us=command.playhead_us, sent_us=sent_us)
    playhead.set_paused(command.paused, now)
    encoder = StreamEncoder(
        command.stream_id,
        config,
        generation=command.generation,
        bitrate=command.bitrate,
    )
    return LiveStream(
        stream_id=command.stream_id,
        state=state,
        size=size,
        asked=command.asked_size,
        fps=fps,
        max_frames=command.max_frames,
        playhead=playhead,
        playout=Playout(rule.ahead_us / 1e6),
        encoder=encoder,
        next_index=command.first_index,
    )


def opened_report(stream: LiveStream) -> StreamOpened:
    """What the owner is told when its stream starts."""
    return StreamOpened(
        stream_id=stream.stream_id,
        codec=stream.encoder.codec,
        size=stream.size.name,
        width=stream.size.width,
        height=stream.size.height,
        fps=stream.fps,
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


def apply_changes(engine: Engine, stream: LiveStream) -> list[StreamReport]:
    """Gives the engine what was asked since the newest group; returns what to tell the owner."""
    first_us = stream.next_index * stream.frame_us
    reports: list[StreamReport] = []
    if stream.new_prompts:
        newest = stream.new_prompts[-1]
        # A cut sees the past under the new prompt: the base is trained on windows whose prompt is that of their last
        # block, and what was kept from under the old one would go on pulling towards it.
        engine.set_prompt(
            stream.state,
            newest.prompt,
            transition="blend" if newest.transition == "blend" else "recompute",
            groups=newest.groups,
        )
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
            )
        )
    return reports


def make_group(engine: Engine, stream: LiveStream) -> FrameGroup:
    """Runs the engine for one group, cut where ``max_frames`` is reached."""
    frames_THWC = np.asarray(engine.next_group(stream.state))
    stream.group_frames = len(frames_THWC)
    if stream.max_frames is not None:
        frames_THWC = frames_THWC[: stream.max_frames - stream.next_index]
    return FrameGroup(
        frames_THWC=frames_THWC,
        size=stream.size.name,
        first_index=stream.next_index,
        captured_ms=unix_ms(),
        discontinuity=stream.groups == 0 and stream.next_index > 0,
        seconds=dict(stream.state.stage_seconds),
    )


def advance(stream: LiveStream, group: FrameGroup, now: float) -> bool:
    """Counts a group as sent. Returns whether it was the last one."""
    stream.playout.sent(len(group.frames_THWC) * stream.frame_us / 1e6, now)
    stream.next_index += len(group.frames_THWC)
    stream.groups += 1
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
        steps_saved=use.steps_saved,
        refreshes_skipped=use.refreshes_skipped,
        cache_occupancy={cache: round(part, 3) for cache, part in use.occupancy.items()},
    )


def _ratio(amount: float, of: float) -> float:
    return round(amount / of, 3) if of else 0.0


def _milliseconds_per_frame(stages: Mapping[str, float], frames: int) -> dict[str, float]:
    return {stage: _ratio(seconds * 1000, frames) for stage, seconds in stages.items()}
