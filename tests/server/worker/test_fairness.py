"""Scheduler, pacing, sizes and admission together: many streams and jobs with drawn costs, on a clock of its own.

Owners play in real time and acknowledge what they see. The device makes one group after the other, as the worker's
loop does.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest

from ultraflash.server.admission import Admission, Claim
from ultraflash.server.settings import StreamSettings
from ultraflash.server.worker.playhead import PacingRule, Playhead
from ultraflash.server.worker.playout import Playout
from ultraflash.server.worker.quality import QualityPolicy, StreamLoad, largest_that_fits
from ultraflash.server.worker.scheduler import JobDemand, Scheduler, StreamDemand

GROUP_FRAMES = 12
AHEAD_S = 1.5
PATIENCE_S = 30.0
IDLE_S = 0.01
RULE = PacingRule(ahead_us=AHEAD_S * 1e6, ack_pause_s=15, ack_end_s=60, paused_end_s=600)
SIZES = ("0.5K", "1K", "2K")


@dataclass
class Stream:
    """``place`` is that of its size; one whose size is ``named`` keeps it, a ``greedy`` one does not wait to play."""

    key: str
    fps: int
    place: int
    named: bool
    playhead: Playhead
    playout: Playout
    began: float | None = None
    joined_at: float = 0.0
    greedy: bool = False
    groups: int = 0
    longest_wait_s: float = 0.0
    ready_since: float | None = None

    @property
    def group_us(self) -> float:
        return GROUP_FRAMES * 1e6 / self.fps

    def watch(self, now: float) -> None:
        """The owner plays on, and waits where nothing is there."""
        if self.began is not None:
            sent_us = self.groups * self.group_us
            played_us = sent_us if self.greedy else min((now - self.began) * 1e6, sent_us)
            self.began = now - played_us / 1e6
            self.playhead.ack(played_us, now)


@dataclass
class Job:
    key: str
    cost_s: float
    left: int
    made_at: list[float] = field(default_factory=list)


class Device:
    """Time passes only where a group is made or nothing is to do."""

    def __init__(self, frame_seconds: tuple[float, ...], jobs: list[Job], *, capacity: float = 0.9) -> None:
        self.now = 0.0
        self.frame_seconds = dict(zip(SIZES, frame_seconds, strict=True))
        self.streams: dict[str, Stream] = {}
        self.jobs = jobs
        self.admission = Admission(StreamSettings(max_streams=100, capacity=capacity))
        self.scheduler = Scheduler(patience_s=PATIENCE_S, clock=lambda: self.now)
        self.policy = QualityPolicy(raise_after_s=10, clock=lambda: self.now)
        self.steps = 0
        self.busy_s = 0.0

    def offer(self, key: str, fps: int, size: str | None) -> bool:
        """A stream wants to begin. Returns whether it does."""
        claim = Claim(fps=fps, size=size, frames_left=None)
        running = [
            Claim(fps=one.fps, size=SIZES[one.place] if one.named else None, frames_left=None)
            for one in self.streams.values()
        ]
        if not self.admission.fits(claim, running, self.frame_seconds):
            return False
        taken = sum(self.load(one.fps, one.place) for one in self.streams.values())
        loads = [self.load(fps, place) for place in range(len(SIZES))]
        self.streams[key] = Stream(
            key=key,
            fps=fps,
            place=largest_that_fits(loads, taken) if size is None else SIZES.index(size),
            named=size is not None,
            playhead=Playhead(RULE, now=self.now, playhead_us=0, sent_us=0),
            playout=Playout(AHEAD_S),
            joined_at=self.now,
        )
        return True

    def misses(self) -> int:
        return sum(one.playout.misses for one in self.streams.values())

    def load(self, fps: int, place: int) -> float:
        return fps * self.frame_seconds[SIZES[place]]

    def run(self, seconds: float) -> None:
        end = self.now + seconds
        while self.now < end:
            for stream in self.streams.values():
                stream.watch(self.now)
            self.adapt()
            self.work(self.choose())

    def adapt(self) -> None:
        demands = [
            StreamLoad(
                key=one.key,
                loads=(self.load(one.fps, one.place),)
                if one.named
                else tuple(self.load(one.fps, place) for place in range(len(SIZES))),
                place=0 if one.named else one.place,
                adapts=not one.named,
                misses=one.playout.misses,
            )
            for one in self.streams.values()
        ]
        step = self.policy.step(demands)
        if step is not None:
            self.streams[step.key].place = step.place
            self.steps += 1

    def choose(self) -> str | None:
        demands = []
        for one in self.streams.values():
            ready = one.playhead.may_generate(one.group_us if one.groups else 0, self.now)
            if not ready:
                one.playout.held(self.now)
                one.ready_since = None
            elif one.ready_since is None:
                one.ready_since = self.now
            demands.append(
                StreamDemand(key=one.key, ready=ready, deadline=max(one.playhead.deadline(), one.playout.due))
            )
        job_waits = [JobDemand(key=job.key, ready=True) for job in self.jobs if job.left]
        chosen = self.scheduler.next(demands, job_waits)
        earliest = min((one for one in demands if one.ready), key=lambda one: one.deadline, default=None)
        # Earliest deadline first: whatever stream is chosen, no other one that may go on runs dry before it.
        assert chosen not in self.streams or earliest is None or chosen == earliest.key
        return chosen

    def work(self, key: str | None) -> None:
        if key is None:
            self.now += IDLE_S
            return
        stream = self.streams.get(key)
        if stream is None:
            job = next(job for job in self.jobs if job.key == key)
            self.now += job.cost_s
            self.busy_s += job.cost_s
            job.left -= 1
            job.made_at.append(self.now)
            self.scheduler.ran(key, job.cost_s, job=True)
            return
        if stream.ready_since is not None:
            stream.longest_wait_s = max(stream.longest_wait_s, self.now - stream.ready_since)
        stream.ready_since = None
        cost_s = GROUP_FRAMES * self.frame_seconds[SIZES[stream.place]]
        self.now += cost_s
        self.busy_s += cost_s
        self.scheduler.ran(key, cost_s, job=False)
        stream.groups += 1
        stream.began = self.now if stream.began is None else stream.began
        stream.playhead.sent(stream.groups * stream.group_us, self.now)
        stream.playout.sent(stream.group_us / 1e6, self.now)


def drawn_device(seed: int, *, job_groups: Sequence[int] = ()) -> Device:
    """Streams that come one after the other, of which those begin that fit, and jobs."""
    draw = random.Random(seed)
    small = draw.uniform(0.002, 0.02)
    costs = (small, small * draw.uniform(2, 4), small * draw.uniform(5, 10))
    jobs = [Job(f"job {number}", draw.uniform(0.05, 0.5), groups) for number, groups in enumerate(job_groups)]
    device = Device(costs, jobs)
    # The first one is always accepted, and fits here.
    device.offer("first", 16, None)
    for number in range(15):
        device.offer(
            f"stream {number}", draw.choice((12, 16, 24, 30)), draw.choice((None, None, "0.5K", "1K"))
        )
        device.run(5)
    device.run(15)
    return device


@pytest.mark.parametrize("seed", range(12))
def test_no_stream_that_was_accepted_is_ever_late(seed: int) -> None:
    device = drawn_device(seed)
    before, steps = device.misses(), device.steps
    # Joining may cost one late group where others have to make room first.
    assert before <= len(device.streams)
    device.run(120)
    assert device.misses() == before
    assert device.steps - steps <= 2
    needed = sum(device.load(one.fps, one.place) for one in device.streams.values())
    assert needed <= 1
    for one in device.streams.values():
        assert one.groups * one.group_us / 1e6 >= device.now - one.joined_at - 1
        assert one.longest_wait_s < AHEAD_S


@pytest.mark.parametrize("seed", range(12))
def test_jobs_go_on_beside_streams_and_make_them_late_only_where_patience_is_at_its_end(seed: int) -> None:
    device = drawn_device(seed, job_groups=(40, 40, 10_000))
    device.run(200)
    made_at = sorted(at for job in device.jobs for at in job.made_at)
    waits = [later - earlier for earlier, later in zip([0.0, *made_at], made_at, strict=False)]
    longest_group = max(job.cost_s for job in device.jobs) + GROUP_FRAMES * max(device.frame_seconds.values())
    assert max(waits) <= PATIENCE_S + longest_group
    # Nobody can keep a job from its next group, and jobs come in their order.
    ends = [job.made_at[-1] for job in device.jobs if job.made_at]
    assert ends == sorted(ends)
    forced = sum(wait >= PATIENCE_S - IDLE_S for wait in waits)
    assert device.misses() <= (forced + 1) * len(device.streams)
    # What streams leave is used, but for gaps that are shorter than a group of the job.
    assert device.busy_s > 0.9 * device.now or forced


def test_an_owner_that_takes_everything_at_once_makes_no_other_one_late() -> None:
    device = Device((0.015, 0.05, 0.1), [])
    for name in "abc":
        assert device.offer(name, 16, "0.5K")
    device.streams["a"].greedy = True
    device.run(120)
    assert device.misses() == 0
    groups = {key: one.groups for key, one in device.streams.items()}
    # The others get what they play, and it gets the rest.
    assert groups["b"] == pytest.approx(120 * 16 / GROUP_FRAMES, abs=3) and groups["c"] - groups["b"] <= 1
    assert groups["a"] > 1.5 * groups["b"]
    assert device.busy_s > 0.99 * device.now


def test_streams_that_are_more_than_the_device_can_make_get_equal_shares_of_it() -> None:
    device = Device((0.01, 0.03, 0.08), [Job("job", 0.2, 10_000)], capacity=5)
    for number, fps in enumerate((12, 16, 24, 30, 30, 24, 16)):
        assert device.offer(f"stream {number}", fps, "1K")
    device.run(300)
    groups = [one.groups for one in device.streams.values()]
    assert max(groups) - min(groups) <= 2
    assert device.busy_s > 0.99 * device.now
    assert len(device.jobs[0].made_at) >= 300 // (PATIENCE_S + 1)


def test_a_machine_that_becomes_slow_loses_size_and_not_time_and_gets_the_size_back() -> None:
    device = Device((0.004, 0.012, 0.03), [])
    for name in "ab":
        device.offer(name, 16, None)
    device.run(60)
    largest = {one.key: one.place for one in device.streams.values()}
    before, fast = device.misses(), dict(device.frame_seconds)
    device.frame_seconds = {size: 3 * seconds for size, seconds in fast.items()}
    device.run(120)
    smaller = {one.key: one.place for one in device.streams.values()}
    assert sum(smaller.values()) < sum(largest.values())
    assert device.misses() - before <= 2
    device.frame_seconds = fast
    device.run(120)
    assert {one.key: one.place for one in device.streams.values()} == largest
    assert device.misses() - before <= 2
    assert device.steps <= 8
