"""Background work of the web process: what fails is seen, and is tried again."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from ultraflash.server.background_tasks import LONGEST_ROUND_S, BackgroundTasks
from ultraflash.server.metrics import Metrics

TROUBLE = "the shelf is out of reach"


@contextlib.asynccontextmanager
async def repeated(background: BackgroundTasks, work: Callable[[], Awaitable[None]]) -> AsyncIterator[None]:
    """Repeats it, with next to no time between two rounds, while the block runs."""
    task = asyncio.create_task(background.repeat("shelf", work, every_s=0.001, trouble=TROUBLE))
    try:
        yield
        assert not task.done()
    finally:
        task.cancel()
        await asyncio.wait({task})


class Shelf:
    """Work that fails as long as it is told to."""

    def __init__(self) -> None:
        self.rounds = 0
        self.broken = True
        self.next_round = asyncio.Event()

    async def tidy(self) -> None:
        self.rounds += 1
        self.next_round.set()
        if self.broken:
            raise ZeroDivisionError("nobody has thought of this")

    async def wait_for_rounds(self, count: int) -> None:
        """Until so many more are over."""
        for _ in range(count):
            self.next_round.clear()
            await asyncio.wait_for(self.next_round.wait(), 60)


async def test_an_error_that_nobody_has_thought_of_is_logged_and_counted_and_the_work_goes_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    metrics, shelf = Metrics(), Shelf()
    background = BackgroundTasks(metrics)
    caplog.set_level(logging.INFO)
    async with repeated(background, shelf.tidy):
        await shelf.wait_for_rounds(4)
        assert background.trouble == TROUBLE
        failures = metrics.registry.get_sample_value(
            "ultraflash_background_failures_total", {"task": "shelf"}
        )
        assert failures == shelf.rounds
        shelf.broken = False
        await shelf.wait_for_rounds(2)
        assert background.trouble is None
    errors = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert len(errors) == failures
    assert all("nobody has thought of this" in record.getMessage() for record in errors)
    assert [bool(record.exc_info) for record in errors] == [True] + [False] * (len(errors) - 1)
    assert caplog.messages[-1] == "the background task 'shelf' succeeds again"


async def test_work_that_hangs_is_trouble_too() -> None:
    now = 1000.0
    background = BackgroundTasks(Metrics(), clock=lambda: now)
    hanging = asyncio.Event()
    async with repeated(background, lambda: wait_for(hanging)):
        await asyncio.sleep(0.01)
        assert background.trouble is None
        now += LONGEST_ROUND_S + 1
        assert background.trouble == TROUBLE
        hanging.set()
        await asyncio.sleep(0.01)
        assert background.trouble is None


async def wait_for(event: asyncio.Event) -> None:
    await event.wait()
