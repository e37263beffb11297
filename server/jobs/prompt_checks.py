"""Asks the worker whether it takes a prompt, so that one it would refuse is refused at once."""

from __future__ import annotations

import asyncio
import contextlib
import itertools

from ultraflash.server.errors import PromptRefused
from ultraflash.server.worker.messages import CheckPrompt, PromptChecked
from ultraflash.server.worker.supervisor import WorkerSupervisor

PATIENCE_S = 10.0


class PromptChecks:
    """Questions to the worker, which answers between two groups."""

    def __init__(self, supervisor: WorkerSupervisor) -> None:
        self._supervisor = supervisor
        self._numbers = itertools.count()
        self._open: dict[int, asyncio.Future[PromptChecked | None]] = {}

    async def check(self, prompt: str) -> None:
        """Raises ``PromptRefused``. Without a worker that answers soon the job itself will find out."""
        if not self._supervisor.is_ready:
            return
        number = next(self._numbers)
        answer = self._open[number] = asyncio.get_running_loop().create_future()
        self._supervisor.send(CheckPrompt(check_id=number, prompt=prompt))
        report = None
        try:
            with contextlib.suppress(asyncio.TimeoutError):
                report = await asyncio.wait_for(answer, PATIENCE_S)
        finally:
            del self._open[number]
        if report is not None and report.code is not None:
            raise PromptRefused(report.code, report.message)

    def on_checked(self, report: PromptChecked) -> None:
        """The worker's answer."""
        answer = self._open.get(report.check_id)
        if answer is not None and not answer.done():
            answer.set_result(report)

    def on_worker_lost(self) -> None:
        """No answer will come."""
        for answer in self._open.values():
            if not answer.done():
                answer.set_result(None)
