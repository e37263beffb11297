"""The job store on SQLite and on PostgreSQL: one claim for each job, and no state that a kill could tear."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from ultraflash.server.errors import (
    IdempotencyConflict,
    NotCancellable,
    QueueFull,
    StorageFull,
    UnknownVideo,
    VideoTooLarge,
)
from ultraflash.server.jobs.records import Cue, Job, Lineage, Order, Reference
from ultraflash.server.jobs.store import Idempotency, JobStore

if TYPE_CHECKING:
    from conftest import Clock

OpenStore = Callable[..., JobStore]
MakeOrder = Callable[..., Order]


def claimed(store: JobStore) -> Job:
    job = store.claim("pattern")
    assert job is not None
    return job


def kinds(store: JobStore, job: Job) -> list[str]:
    return [event.kind for event in store.events(job.id)]


def test_a_job_is_what_was_ordered(store: JobStore, make_order: MakeOrder) -> None:
    order = make_order("hügel \x00 \U0001f3d4", seed=2**63 - 1)
    made = store.create(order, lineage=Lineage(remixed_from="video_1"))
    job = store.get(made.id)
    assert job == made
    assert (job.state, job.progress, job.order, job.lineage.remixed_from) == ("queued", 0, order, "video_1")


def test_a_whole_script_is_kept(store: JobStore, make_order: MakeOrder) -> None:
    cues = (
        Cue(frame=0, prompt="a hill"),
        Cue(frame=21, prompt="a lake", transition="blend", groups=3),
        Cue(frame=40, prompt="a lake", restarts=True),
    )
    order = replace(make_order(), cues=cues, reference=Reference(id="ab", bytes=70_000))
    assert store.get(store.create(order).id).order == order
    assert order.prompts == ("a hill", "a lake")
    assert order.room_bytes - replace(order, reference=None).room_bytes == 70_000


def test_what_a_job_starts_from_is_needed_until_its_file_is_gone(
    store: JobStore, make_order: MakeOrder
) -> None:
    def ordered(reference: str) -> str:
        return store.create(replace(make_order(), reference=Reference(id=reference, bytes=1))).id

    store.create(make_order())
    cancelled, _ = ordered("cancelled"), ordered("made")
    assert store.references_in_use() == {"cancelled", "made"}
    store.cancel(cancelled)
    claimed(store)
    made = claimed(store)
    assert store.complete(made.id, 100, "digest")
    assert store.references_in_use() == {"made"}
    assert store.file_removed(made.id, "expired") == Reference(id="made", bytes=1)
    assert store.references_in_use() == set()
    assert store.file_removed("video_0", "expired") is None


def test_jobs_are_claimed_in_order_and_each_by_one_server(
    open_store: OpenStore, make_order: MakeOrder
) -> None:
    stores = [open_store(f"host-{number}:1:aa") for number in range(4)]
    made = [stores[0].create(make_order(f"job {number}")).id for number in range(12)]
    stores[0].create(replace(make_order(), model="another"))

    def claim_all(store: JobStore) -> list[str]:
        return [job.id for job in iter(lambda: store.claim("pattern"), None)]

    with ThreadPoolExecutor(4) as threads:
        got = list(threads.map(claim_all, stores))
    assert sorted(job_id for ids in got for job_id in ids) == sorted(made)
    assert all(ids == sorted(ids, key=made.index) for ids in got)


def test_the_same_request_twice_makes_one_job(open_store: OpenStore, make_order: MakeOrder) -> None:
    stores = [open_store(f"host-{number}:1:aa") for number in range(4)]
    once = Idempotency(key="once", request_hash="1")
    with ThreadPoolExecutor(4) as threads:
        jobs = list(threads.map(lambda store: store.create(make_order(), idempotency=once), stores))
    assert len({job.id for job in jobs}) == 1
    with pytest.raises(IdempotencyConflict, match="another request"):
        stores[0].create(make_order(), idempotency=replace(once, request_hash="2"))
    stores[0].delete(jobs[0].id)
    assert stores[0].create(make_order(), idempotency=once).id != jobs[0].id


def test_limits_of_queue_and_room(open_store: OpenStore, make_order: MakeOrder) -> None:
    order = make_order()
    limits = replace(open_store().limits, max_queued=2, quota_bytes=order.room_bytes * 5 // 2)
    store = open_store(limits=limits)
    with pytest.raises(VideoTooLarge, match="shorter"):
        store.create(make_order(frames=300))
    store.create(order)
    store.create(order)
    with pytest.raises(QueueFull) as full:
        store.create(order, retry_after_s=17)
    assert (full.value.status, full.value.headers) == (429, {"Retry-After": "17"})
    claimed(store)
    with pytest.raises(StorageFull, match="promised"):
        store.create(order)


def test_progress_is_kept_and_logged_once_a_percent(
    store: JobStore, make_order: MakeOrder, clock: Clock
) -> None:
    job = store.create(make_order(frames=1000))
    assert not store.keep(job.id, 5)
    assert claimed(store).started_at == clock.now
    for frames in (5, 9, 12, 500, 1000):
        assert store.keep(job.id, frames)
    assert store.get(job.id).progress == 99
    assert store.complete(job.id, 1234, "aa")
    job = store.get(job.id)
    assert (job.state, job.progress, job.has_file, job.room_bytes) == ("completed", 100, True, 1234)
    assert job.expires_at == clock.now + 3600
    assert (store.id_of_file("aa"), store.id_of_file("bb")) == (job.id, None)
    log = store.events(job.id)
    assert [event.kind for event in log] == ["queued", "in_progress", *["progress"] * 3, "completed"]
    assert [event.data["progress"] for event in log] == [0, 0, 1, 50, 99, 100]
    assert store.events(job.id, after=log[-2].number) == log[-1:]


def test_what_was_cancelled_stays_cancelled(
    open_store: OpenStore, make_order: MakeOrder, clock: Clock
) -> None:
    store = open_store()
    running, queued = store.create(make_order()), store.create(make_order())
    assert claimed(store).id == running.id
    for job in (running, queued):
        for ends in (True, False):
            cancelled, ended = store.cancel(job.id)
            assert (cancelled.state, ended) == ("cancelled", ends)
    assert store.claim("pattern") is None
    assert not store.keep(running.id, 10)
    assert not store.complete(running.id, 10, "aa")
    assert not store.fail(running.id, "late", "too late")
    store.give_back(running.id)
    clock.now += 1000
    assert open_store("another:1:aa").recover(None) == []
    assert store.get(running.id).state == "cancelled"


def test_what_is_over_cannot_be_cancelled(store: JobStore, make_order: MakeOrder) -> None:
    job = store.create(make_order())
    claimed(store)
    store.fail(job.id, "engine_fault", "broken")
    with pytest.raises(NotCancellable, match="failed"):
        store.cancel(job.id)
    failed = store.get(job.id)
    assert (failed.error_code, failed.error_message) == ("engine_fault", "broken")


def test_a_job_whose_worker_died_keeps_its_place(store: JobStore, make_order: MakeOrder) -> None:
    first, second = store.create(make_order()), store.create(make_order())
    claimed(store)
    store.keep(first.id, 40)
    store.give_back(first.id)
    job = store.get(first.id)
    assert (job.state, job.frames_done) == ("queued", 0)
    assert [claimed(store).id, claimed(store).id] == [first.id, second.id]
    assert kinds(store, first) == ["queued", "in_progress", "progress", "restarted", "in_progress"]


def test_a_job_that_kills_every_worker_at_the_same_place_fails(
    store: JobStore, make_order: MakeOrder
) -> None:
    job = store.create(make_order())
    for frames in (20, 40, 30, 40):
        assert store.get(job.id).state == "queued"
        claimed(store)
        store.keep(job.id, frames)
        store.give_back(job.id)
    failed = store.get(job.id)
    assert (failed.state, failed.error_code) == ("failed", "engine_fault")
    assert "3 times" in str(failed.error_message)


def test_jobs_of_servers_that_are_gone_are_taken_over(
    open_store: OpenStore, make_order: MakeOrder, clock: Clock
) -> None:
    host = socket.gethostname()
    me = open_store(f"{host}:{os.getpid()}:me")
    before_me = open_store(f"{host}:{os.getpid()}:before")
    far, alive = open_store("far-away:1:aa"), open_store(f"{host}:{os.getppid()}:aa")
    stores = (before_me, far, alive, me)
    jobs = [me.create(make_order()).id for _ in stores]
    assert [claimed(store).id for store in stores] == jobs
    assert me.recover(jobs[3]) == jobs[:1]
    clock.now += 20
    alive.keep(jobs[2], 5)
    clock.now += 20
    assert me.recover(jobs[3]) == [jobs[1]]
    assert not far.keep(jobs[1], 5)
    assert me.recover(None) == [jobs[3]]


def test_pages_follow_each_other_both_ways(store: JobStore, make_order: MakeOrder) -> None:
    made = [store.create(make_order()).id for _ in range(5)]
    for newest_first, expected in ((False, made), (True, made[::-1])):
        seen: list[str] = []
        more = True
        while more:
            after = seen[-1] if seen else None
            page, more = store.page(after=after, limit=2, newest_first=newest_first)
            seen += [job.id for job in page]
        assert seen == expected
    with pytest.raises(UnknownVideo):
        store.page(after="video_nowhere", limit=2, newest_first=True)


def test_old_files_go_first_and_old_records_later(
    store: JobStore, make_order: MakeOrder, clock: Clock
) -> None:
    jobs = []
    for _ in range(3):
        jobs.append(store.create(make_order()).id)
        claimed(store)
        store.complete(jobs[-1], 400 * 2**20, "aa")
        clock.now += 10
    assert store.beyond_quota(0) == jobs[:1]
    assert store.beyond_quota(300 * 2**20) == jobs[:2]
    clock.now += 3600 - 25
    assert store.expired() == jobs[:1]
    store.file_removed(jobs[0], "expired")
    assert store.expired() == store.beyond_quota(0) == []
    assert store.events(jobs[0])[-1].data == {"reason": "expired"}
    assert store.forget_older(3600) == 1
    with pytest.raises(UnknownVideo):
        store.get(jobs[0])
    assert store.events(jobs[0]) == []


def test_a_deleted_job_is_forgotten(store: JobStore, make_order: MakeOrder) -> None:
    job = store.create(make_order())
    claimed(store)
    assert store.delete(job.id).id == job.id
    assert not store.complete(job.id, 10, "aa")
    for what in (store.get, store.cancel, store.delete):
        with pytest.raises(UnknownVideo):
            what(job.id)


@pytest.mark.parametrize("name", ["", "video_1", "video_" + "0" * 24 + "\n", "x\x00y", "video_é"])
def test_what_is_no_id_is_unknown(store: JobStore, name: str) -> None:
    with pytest.raises(UnknownVideo):
        store.get(name)


def test_work_ahead_is_counted_in_pixels(store: JobStore, make_order: MakeOrder) -> None:
    huge = replace(make_order(frames=100_000), width=2496, height=1440)
    first = store.create(replace(huge, frames=5_000))
    second = store.create(make_order())
    assert store.work_before(first) == (0, 0.0)
    assert store.work_before(second) == (1, 5_000 * 2496 * 1440)
    assert store.work_before()[0] == 2
