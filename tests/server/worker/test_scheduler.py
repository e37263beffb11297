"""The policy in a simulation: a device that works for streams and jobs, by a clock that only the simulation moves."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from ultraflash.server.worker.scheduler import JobDemand, Scheduler, StreamDemand

GROUP_S = 0.75
AHEAD_S = 1.5


@dataclass
class Stream:
    """Plays from the start, once it has a group, and never gets more than a bound ahead."""

    key: str
    cost: float
    media_s: float = 0.0
    began: float | None = None
    late_s: float = 0.0
    groups: int = 0

    def deadline(self, now: float) -> float:
        return now if self.began is None else self.began + self.media_s

    def ready(self, now: float) -> bool:
        return self.deadline(now) - now + GROUP_S <= AHEAD_S + 1e-9

    def made(self, now: float) -> None:
        late = now - self.deadline(now)
        if self.began is None:
            self.began = now
        elif late > 0:
            self.late_s += late
            self.began += late
        self.media_s += GROUP_S
        self.groups += 1


@dataclass
class Job:
    key: str
    cost: float
    left: int
    made_at: list[float] = field(default_factory=list)


class Device:
    """Runs the scheduler's choices one after the other."""

    def __init__(self, streams: list[Stream], jobs: list[Job], *, patience_s: float = 30.0) -> None:
        self.now = 0.0
        self.busy = 0.0
        self.streams, self.jobs = streams, jobs
        self.scheduler = Scheduler(patience_s=patience_s, clock=lambda: self.now)

    def run(self, seconds: float) -> None:
        while self.now < seconds:
            demands = [
                StreamDemand(key=one.key, ready=one.ready(self.now), deadline=one.deadline(self.now))
                for one in self.streams
            ]
            jobs = [JobDemand(key=one.key, ready=one.left > 0) for one in self.jobs]
            chosen = self.scheduler.next(demands, jobs)
            if chosen is None:
                self.now += 0.01
                continue
            self.work(chosen)

    def work(self, key: str) -> None:
        stream = next((one for one in self.streams if one.key == key), None)
        job = next((one for one in self.jobs if one.key == key), None)
        cost = (stream or job).cost  # type: ignore[union-attr]
        self.now += cost
        self.busy += cost
        self.scheduler.ran(key, cost, job=job is not None)
        if stream is not None:
            stream.made(self.now)
        if job is not None:
            job.left -= 1
            job.made_at.append(self.now)


def test_jobs_fill_the_gaps_and_make_no_stream_late() -> None:
    streams = [Stream("a", 0.2), Stream("b", 0.2)]
    device = Device(streams, [Job("job", 0.3, left=10_000)])
    device.run(120)
    assert [stream.late_s for stream in streams] == [0, 0]
    streams_need = 120 / GROUP_S * 0.4
    assert len(device.jobs[0].made_at) * 0.3 > 0.85 * (120 - streams_need)
    assert device.busy > 0.95 * device.now


def test_without_streams_jobs_run_one_after_the_other() -> None:
    jobs = [Job("first", 0.5, left=5), Job("second", 0.1, left=5), Job("third", 0.5, left=5)]
    device = Device([], jobs)
    device.run(10)
    ends = [job.made_at[-1] for job in jobs]
    starts = [job.made_at[0] for job in jobs]
    assert starts[1] > ends[0] and starts[2] > ends[1]
    assert ends[2] == pytest.approx(5.5)


def test_equal_streams_get_equal_shares_even_when_the_device_is_too_slow() -> None:
    streams = [Stream(name, 0.5) for name in "abc"]
    device = Device(streams, [])
    device.run(120)
    groups = [stream.groups for stream in streams]
    assert max(groups) - min(groups) <= 1
    assert device.busy == pytest.approx(device.now, abs=0.1)


def test_the_stream_that_runs_dry_first_comes_first() -> None:
    scheduler = Scheduler(patience_s=30, clock=lambda: 10.0)
    full = StreamDemand(key="full", ready=True, deadline=11.0)
    dry = StreamDemand(key="dry", ready=True, deadline=9.5)
    assert scheduler.next([full, dry], [JobDemand(key="job", ready=True)]) == "dry"


def test_streams_that_take_the_whole_device_cannot_starve_a_job() -> None:
    job = Job("job", 0.4, left=10_000)
    device = Device([Stream("a", 0.5), Stream("b", 0.5)], [job], patience_s=10)
    device.run(200)
    gaps = [later - earlier for earlier, later in zip(job.made_at, job.made_at[1:], strict=False)]
    assert len(job.made_at) >= 18
    assert max(gaps) <= 10 + 0.5 + 0.4 + 0.01


def test_a_job_whose_groups_are_longer_than_every_gap_costs_streams_little() -> None:
    stream, job = Stream("a", 0.2), Job("job", 2.0, left=10_000)
    device = Device([stream], [job], patience_s=30)
    device.run(300)
    # The first group is made without knowing its cost, the others when patience is at its end.
    assert 10 <= len(job.made_at) <= 12
    assert stream.late_s <= len(job.made_at) * 2.0


def test_a_paused_owner_keeps_no_job_waiting() -> None:
    scheduler = Scheduler(patience_s=30, clock=lambda: 10.0)
    scheduler.ran("paused", 0.5, job=False)
    paused = StreamDemand(key="paused", ready=False, deadline=3.0)
    assert scheduler.next([paused], [JobDemand(key="job", ready=True)]) == "job"


def test_a_job_that_waits_for_its_encoder_takes_no_turn() -> None:
    scheduler = Scheduler(patience_s=1, clock=lambda: 10.0)
    assert scheduler.next([], [JobDemand(key="job", ready=False)]) is None
    busy, free = JobDemand(key="busy", ready=False), JobDemand(key="free", ready=True)
    assert scheduler.next([], [busy, free]) == "free"


def test_costs_follow_what_groups_take_and_are_forgotten() -> None:
    scheduler = Scheduler(patience_s=1, clock=lambda: 0.0)
    assert scheduler.cost("a") == 0.0
    for _ in range(20):
        scheduler.ran("a", 0.4, job=False)
    scheduler.ran("a", 1.4, job=False)
    assert scheduler.cost("a") == pytest.approx(0.7)
    assert scheduler.cost("new") == pytest.approx(0.7)
    scheduler.forget("a")
    assert scheduler.cost("a") == 0.0
