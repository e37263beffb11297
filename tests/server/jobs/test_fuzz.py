"""schemathesis against the description of the whole API: whatever is sent, no answer is a server error."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from typing import Any

import requests
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


def check_answer(answer: Any) -> None:
    """No server error, and every error of the one shape."""
    assert answer.status_code < 500, (answer.request.url, answer.request.body, answer.text)
    if answer.status_code >= 400:
        error = answer.json()["error"]
        assert set(error) == {"code", "message", "param", "type"}, answer.text
        assert error["code"] and error["message"]
        assert error["type"] == "invalid_request_error"


def statuses_of(operation: Any, base: str) -> Counter[int]:
    """What a server answers to requests that fit the description and to some that do not."""
    seen: Counter[int] = Counter()
    for mode in schemathesis.GenerationMode:

        @BOUNDED
        @given(case=operation.as_strategy(generation_mode=mode))
        def send(case: schemathesis.Case) -> None:
            answer = case.call(base_url=base, timeout=120)
            check_answer(answer)
            seen[answer.status_code] += 1

        try:
            send()
        except Unsatisfiable:
            # An operation that takes nothing cannot be asked wrongly.
            if mode is not schemathesis.GenerationMode.NEGATIVE:
                raise
    return seen


def test_no_request_makes_a_server_error(
    start_server: Any, record_property: Callable[[str, object], None]
) -> None:
    server = start_server(jobs__max_seconds=1, jobs__max_queued=20)
    server.wait_until_ready()
    base = f"http://{server.address}"
    schema = schemathesis.openapi.from_url(f"{base}/v1/openapi.json")
    operations = [result.ok() for result in schema.get_all_operations()]
    answers = {operation.label: statuses_of(operation, base) for operation in operations}
    record_property("schemathesis", json.dumps(answers))
    described = requests.get(f"{base}/v1/openapi.json", timeout=120).json()["paths"]
    assert len(answers) == sum(len(methods) for methods in described.values()) > 20
    assert {"POST /v1/videos", "POST /v1/sessions/{session_id}/replay", "GET /v1/sessions"} <= set(answers)
    assert all(answers.values())
    assert server.get("/healthz")[0] == 200
    assert "Traceback" not in server.output()
