"""schemathesis against the description of ``/v1/videos``: whatever is sent, no answer is a server error."""

from __future__ import annotations

from typing import Any

import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable

EXAMPLES = 5
BOUNDED = settings(
    max_examples=EXAMPLES,
    deadline=None,
    database=None,
    derandomize=True,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)


def statuses_of(operation: Any, base: str) -> set[int]:
    """What a server answers to requests that fit the description and to some that do not."""
    seen: set[int] = set()
    for mode in schemathesis.GenerationMode:

        @BOUNDED
        @given(case=operation.as_strategy(generation_mode=mode))
        def send(case: schemathesis.Case) -> None:
            seen.add(case.call(base_url=base, timeout=120).status_code)

        try:
            send()
        except Unsatisfiable:
            # An operation that takes nothing cannot be asked wrongly.
            if mode is not schemathesis.GenerationMode.NEGATIVE:
                raise
    return seen


def test_no_request_makes_a_server_error(start_server: Any) -> None:
    server = start_server(jobs__max_seconds=1, jobs__max_queued=20)
    server.wait_until_ready()
    base = f"http://{server.address}"
    schema = schemathesis.openapi.from_url(f"{base}/v1/openapi.json")
    operations = [result.ok() for result in schema.include(path_regex="^/v1/videos").get_all_operations()]
    answers = {operation.label: statuses_of(operation, base) for operation in operations}
    assert len(answers) == 10
    assert all(answers.values())
    assert {status for statuses in answers.values() for status in statuses if status >= 500} == set(), answers
    assert server.get("/healthz")[0] == 200
    assert "Traceback" not in server.output()
