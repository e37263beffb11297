"""A job in the worker: every frame once, prompts at their groups, and no file before it is complete."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from pattern_engine import PatternEngine, colour, read_number

from ultraflash.models.errors import EmptyPrompt, UnknownSize
from ultraflash.server.worker.messages import JobFailed, JobFinished, JobProgress, JobStopped, RunJob
from ultraflash.server.worker.video_job import VideoJob, make_job_group, open_job


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
        assert self._over.wait(120)
        return self.all[-1]


def command(path: Path, *cues: tuple[int, str], frames: int = 30, size: str = "224x128") -> RunJob:
    return RunJob(
        job_id="video_1",
        cues=[list(cue) for cue in cues or ((0, "a hill"),)],
        size=size,
        seed=7,
        fps=16,
        frames=frames,
        path=str(path),
    )


def run(engine: PatternEngine, job: VideoJob) -> None:
    while not job.complete:
        if job.ready:
            make_job_group(engine, job)


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
    run(engine, open_job(engine, command(tmp_path / "out.mp4"), reports))
    assert reports.last() == JobFinished(job_id="video_1", frames=30, path=str(tmp_path / "out.mp4"))
    assert [report.frames for report in reports.all[:-1]] == [9, 21, 30]
    assert [read_number(picture) for picture in pictures(tmp_path / "out.mp4")] == list(range(30))


def test_a_prompt_is_in_force_from_the_first_group_behind_its_frame(tmp_path: Path) -> None:
    engine, reports = PatternEngine(), Reports()
    cues = ((0, "a hill"), (20, "a lake"), (33, "a town"))
    run(engine, open_job(engine, command(tmp_path / "out.mp4", *cues, frames=40), reports))
    reports.last()
    frames = pictures(tmp_path / "out.mp4")
    for prompt, first, end in (("a hill", 0, 21), ("a lake", 21, 33), ("a town", 33, 40)):
        assert all(shown(frame, prompt) for frame in frames[first:end])


def test_a_job_that_is_stopped_leaves_nothing(tmp_path: Path) -> None:
    engine, reports = PatternEngine(), Reports()
    job = open_job(engine, command(tmp_path / "out.mp4", frames=10_000), reports)
    make_job_group(engine, job)
    job.writer.stop()
    assert reports.last() == JobStopped(job_id="video_1")
    assert job.writer.over
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_cannot_be_written_fails_the_job(tmp_path: Path) -> None:
    engine, reports = PatternEngine(), Reports()
    open_job(engine, command(tmp_path / "nowhere" / "out.mp4"), reports)
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
        open_job(PatternEngine(), command(tmp_path / "out.mp4", *cues, size=size), Reports())
