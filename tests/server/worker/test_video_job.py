"""A job in the worker: every frame once, prompts at their groups, and no file before it is complete."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import msgpack
import numpy as np
import pytest
from pattern_engine import PatternEngine, colour, read_number

from ultraflash.models.errors import EmptyPrompt, UnknownSize
from ultraflash.server.worker.job_checkpoint import CHECKPOINT, JOURNAL, read_checkpoint
from ultraflash.server.worker.messages import JobFailed, JobFinished, JobProgress, JobStopped, RunJob
from ultraflash.server.worker.video_job import VideoJob, make_job_group, open_job

PATIENCE_S = 120.0


class Reports:
    """Collects reports and waits for the last one."""

    def __init__(self) -> None:
        self.all: list[Any] = []
        self._over = threading.Event()

    def __call__(self, report: Any) -> None:
        self.all.append(report)
        if not isinstance(report, JobProgress):
            self._over.set()

    def last(self) -> Any:
        assert self._over.wait(PATIENCE_S)
        return self.all[-1]


def command(
    path: Path,
    *cues: tuple[int, str],
    frames: int = 30,
    size: str = "224x128",
    resume_from: Path | None = None,
    reference: Path | None = None,
) -> RunJob:
    return RunJob(
        job_id="video_1",
        cues=[list(cue) for cue in cues or ((0, "a hill"),)],
        size=size,
        seed=7,
        fps=16,
        frames=frames,
        path=str(path),
        reference=None if reference is None else str(reference),
        resume_from=None if resume_from is None else str(resume_from),
    )


def opened(engine: PatternEngine, order: RunJob, reports: Reports) -> VideoJob:
    return open_job(engine, order, reports, now=0.0)


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def group(engine: PatternEngine, job: VideoJob, checkpoint_s: float = 1e9) -> None:
    wait_until(lambda: job.ready)
    make_job_group(engine, job, now=1.0, checkpoint_s=checkpoint_s)


def run(engine: PatternEngine, job: VideoJob, checkpoint_s: float = 1e9) -> None:
    while not job.complete:
        group(engine, job, checkpoint_s)


def pictures(path: Path) -> list[np.ndarray]:
    with av.open(str(path)) as container:
        return [
            frame.reformat(format="rgb24", src_colorspace="ITU709", src_color_range="MPEG").to_ndarray()
            for frame in container.decode(video=0)
        ]


def shown(picture: np.ndarray, prompt: str) -> bool:
    """Whether the background is that of the prompt."""
    return bool(np.abs(picture[100, 100].astype(float) - colour(prompt, 7)).max() < 12)


def test_every_frame_is_in_the_file_once_and_progress_is_told_by_group(tmp_path: Path) -> None:
    engine, reports = PatternEngine(), Reports()
    run(engine, opened(engine, command(tmp_path / "out.mp4"), reports))
    assert reports.last() == JobFinished(job_id="video_1", frames=30, path=str(tmp_path / "out.mp4"))
    assert [report.frames for report in reports.all[:-1]] == [9, 21, 30]
    assert [read_number(picture) for picture in pictures(tmp_path / "out.mp4")] == list(range(30))


def test_a_prompt_is_in_force_from_the_first_group_behind_its_frame(tmp_path: Path) -> None:
    engine, reports = PatternEngine(), Reports()
    cues = ((0, "a hill"), (20, "a lake"), (33, "a town"))
    run(engine, opened(engine, command(tmp_path / "out.mp4", *cues, frames=40), reports))
    reports.last()
    frames = pictures(tmp_path / "out.mp4")
    for prompt, first, end in (("a hill", 0, 21), ("a lake", 21, 33), ("a town", 33, 40)):
        assert all(shown(frame, prompt) for frame in frames[first:end])


def test_a_stream_that_begins_anew_does_so_at_its_very_frame(tmp_path: Path) -> None:
    engine, reports = PatternEngine(), Reports()
    order = command(tmp_path / "out.mp4", frames=40)
    order.cues.extend([[15, "a lake", "cut", 1, True], [24, "a town"]])
    run(engine, opened(engine, order, reports))
    reports.last()
    frames = pictures(tmp_path / "out.mp4")
    assert [read_number(frame) for frame in frames] == [*range(15), *range(25)]
    for prompt, first, end in (("a hill", 0, 15), ("a lake", 15, 24), ("a town", 24, 40)):
        assert all(shown(frame, prompt) for frame in frames[first:end])


def test_a_blend_goes_on_behind_its_first_group(tmp_path: Path) -> None:
    engine, reports = PatternEngine(), Reports()
    order = command(tmp_path / "out.mp4", frames=45)
    order.cues.append([9, "a town", "blend", 3, False])
    run(engine, opened(engine, order, reports))
    reports.last()
    frames = pictures(tmp_path / "out.mp4")
    assert shown(frames[8], "a hill") and shown(frames[44], "a town") and shown(frames[33], "a town")
    assert not any(shown(frame, "a hill") or shown(frame, "a town") for frame in frames[9:33])


def test_a_job_that_is_stopped_leaves_nothing(tmp_path: Path) -> None:
    engine, reports = PatternEngine(), Reports()
    job = opened(engine, command(tmp_path / "out.mp4", frames=10_000), reports)
    group(engine, job)
    job.writer.stop()
    assert reports.last() == JobStopped(job_id="video_1")
    assert job.writer.over
    assert not (tmp_path / "out.mp4").exists()


def test_a_file_that_cannot_be_written_fails_the_job(tmp_path: Path) -> None:
    engine, reports = PatternEngine(), Reports()
    opened(engine, command(tmp_path / "nowhere" / "out.mp4"), reports)
    failed = reports.last()
    assert isinstance(failed, JobFailed)
    assert failed.code == "write_failed"


@pytest.mark.parametrize(
    ("cues", "size", "error"),
    [
        (((0, " "),), "224x128", EmptyPrompt),
        (((0, "a"), (9, "")), "224x128", EmptyPrompt),
        (((0, "a"),), "9x9", UnknownSize),
    ],
)
def test_what_the_engine_cannot_do_is_its_own_error(
    tmp_path: Path, cues: tuple[tuple[int, str], ...], size: str, error: type[Exception]
) -> None:
    with pytest.raises(error):
        opened(PatternEngine(), command(tmp_path / "out.mp4", *cues, size=size), Reports())


def interrupted(tmp_path: Path, cues: tuple[tuple[int, str], ...], groups: int) -> Path:
    """The folder of a job whose worker died after some groups, with a torn record at the end of the journal."""
    folder = tmp_path / "before"
    folder.mkdir()
    engine, reports = PatternEngine(), Reports()
    job = opened(engine, command(folder / "out.mp4", *cues, frames=100), reports)
    for _ in range(groups):
        group(engine, job, checkpoint_s=0)
    wait_until(
        lambda: any(
            isinstance(report, JobProgress) and report.frames == job.next_index for report in reports.all
        )
    )
    job.writer.stop()
    assert isinstance(reports.last(), JobStopped)
    with (folder / JOURNAL).open("ab") as journal:
        journal.write(b"torn")
    return folder


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_a_job_goes_on_from_its_last_group_with_the_same_frames(tmp_path: Path, groups: int) -> None:
    cues = ((0, "a hill"), (20, "a lake"), (50, "a town"))
    before = interrupted(tmp_path, cues, groups)
    engine, reports = PatternEngine(), Reports()
    job = opened(engine, command(tmp_path / "out.mp4", *cues, frames=60, resume_from=before), reports)
    first = 9 + 12 * (groups - 1)
    assert job.next_index == first
    run(engine, job)
    assert isinstance(reports.last(), JobFinished)
    assert reports.all[0] == JobProgress(job_id="video_1", frames=first)
    frames = pictures(tmp_path / "out.mp4")
    assert [read_number(frame) for frame in frames] == list(range(60))
    for prompt, start, end in (("a hill", 0, 21), ("a lake", 21, 57), ("a town", 57, 60)):
        assert all(shown(frame, prompt) for frame in frames[start:end])


@pytest.mark.parametrize("damage", ["no checkpoint", "torn checkpoint", "short journal", "foreign stream"])
def test_a_checkpoint_that_cannot_be_used_means_starting_over(tmp_path: Path, damage: str) -> None:
    before = interrupted(tmp_path, ((0, "a hill"),), 2)
    if damage == "no checkpoint":
        (before / CHECKPOINT).unlink()
    elif damage == "torn checkpoint":
        (before / CHECKPOINT).write_bytes((before / CHECKPOINT).read_bytes()[:20])
    elif damage == "short journal":
        (before / JOURNAL).write_bytes(b"")
    else:
        kept = msgpack.unpackb((before / CHECKPOINT).read_bytes())
        (before / CHECKPOINT).write_bytes(msgpack.packb([b"foreign", *kept[1:]]))
    engine, reports = PatternEngine(), Reports()
    job = opened(engine, command(tmp_path / "out.mp4", resume_from=before), reports)
    assert job.next_index == 0
    run(engine, job)
    reports.last()
    assert [read_number(frame) for frame in pictures(tmp_path / "out.mp4")] == list(range(30))


def test_the_last_checkpoint_is_the_last_whole_group(tmp_path: Path) -> None:
    engine, reports = PatternEngine(), Reports()
    run(engine, opened(engine, command(tmp_path / "out.mp4", frames=64), reports))
    reports.last()
    checkpoint = read_checkpoint(tmp_path)
    assert checkpoint is not None
    assert checkpoint.kept.frames == 57
    assert [unit.index for unit in checkpoint.units()] == list(range(57))
