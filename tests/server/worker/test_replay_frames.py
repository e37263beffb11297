"""The engine makes the same frames for a replay as it made for the stream, bit for bit, before any encoder."""

from __future__ import annotations

import numpy as np

from ultraflash.models.cascade import Cascade
from ultraflash.server.engine import Engine
from ultraflash.server.jobs.orders import replay_order
from ultraflash.server.jobs.wire import ReplayLog
from ultraflash.server.protocol import PromptUpdate
from ultraflash.server.session_log import SessionLog
from ultraflash.server.worker.live_stream import advance, apply_changes, make_group, open_stream
from ultraflash.server.worker.messages import OpenStream, PromptShown, SetPrompt, WorkerReady
from ultraflash.server.worker.playhead import PacingRule
from ultraflash.server.worker.stream_snapshot import SnapshotRule
from ultraflash.server.worker.video_job import JobCue, VideoJob, make_job_group

NOT_KEPT = SnapshotRule(folder=None, share=0, max_bytes=0)
RULE = PacingRule(ahead_us=1e9, ack_pause_s=1e9, ack_end_s=1e9, paused_end_s=1e9)
PROMPTS = {
    1: PromptUpdate(prompt="a calm sea at dusk", event_id="cut"),
    2: PromptUpdate(prompt="a city at night", event_id="blend", transition="blend", groups=3),
    5: PromptUpdate(prompt="a desert at noon", event_id="fade", transition="fade"),
}
GROUPS = 7


class CaughtFrames:
    """Takes frames where a job would encode them."""

    has_room, over = True, False

    def __init__(self) -> None:
        self.frames: list[np.ndarray] = []

    def write(self, frames_THWC: np.ndarray, *, last: bool, kept: object = None) -> None:
        self.frames += list(frames_THWC)


def stream(engine: Engine, log: SessionLog) -> list[np.ndarray]:
    """Some groups of a live stream whose prompt is cut, blended and faded."""
    command = OpenStream(
        stream_id="s",
        prompt="snowy mountains at dawn",
        asked_size="0.5K",
        size="0.5K",
        seed=log.seed,
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
    live = open_stream(engine, command, RULE, NOT_KEPT, engine.preset.size("0.5K"), 0.0)
    log.began(model=engine.preset.name, fps=live.fps, prompt=command.prompt, size=live.size.name)
    frames: list[np.ndarray] = []
    for number in range(GROUPS):
        if number in PROMPTS:
            event = PROMPTS[number]
            live.new_prompts.append(
                SetPrompt(
                    stream_id="s",
                    event_id=event.event_id,
                    prompt=event.prompt,
                    transition=event.transition,
                    groups=event.spread,
                )
            )
        for report in apply_changes(engine, live):
            assert isinstance(report, PromptShown)
            log.prompt_shown(report, PROMPTS[number])
        group = make_group(engine, live)
        frames += list(group.frames_THWC)
        advance(live, group, 0.0)
    return frames


def test_a_replay_has_the_frames_of_the_stream_bit_for_bit() -> None:
    engine = Cascade.load("mini")
    preset = engine.preset
    log = SessionLog(11, lambda: None)
    shown = stream(engine, log)
    ready = WorkerReady(
        model=preset.name,
        fps=preset.fps,
        sizes=[[size.name, size.width, size.height] for size in preset.sizes],
        default_size=preset.default_size,
        max_prompt_chars=preset.max_prompt_chars,
        frame_seconds={},
    )
    order = replay_order(ReplayLog.model_validate(log.replay(len(shown))), None, None, ready, 60)
    caught = CaughtFrames()
    job = VideoJob(
        job_id="video_1",
        state=engine.open(order.cues[0].prompt, size=f"{order.width}x{order.height}", seed=order.seed),
        size="0.5K",
        seed=order.seed,
        writer=caught,
        cues=[JobCue(cue.frame, cue.prompt, cue.transition, cue.groups, cue.restarts) for cue in order.cues],
        frames=order.frames,
        kept_at=0.0,
    )
    while not job.complete:
        make_job_group(engine, job, now=0.0, checkpoint_s=1e9)
    assert len(caught.frames) == len(shown) == 9 + 12 * (GROUPS - 1)
    assert np.array_equal(np.stack(caught.frames), np.stack(shown))
    assert not np.array_equal(shown[-1], shown[-2])
