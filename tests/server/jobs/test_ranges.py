"""Byte ranges as RFC 9110 has them."""

from __future__ import annotations

import pytest

from ultraflash.server.errors import RangeNotSatisfiable
from ultraflash.server.jobs.ranges import asked_range


@pytest.mark.parametrize(
    ("header", "part"),
    [
        ("bytes=0-0", (0, 1)),
        ("bytes=10-19", (10, 10)),
        ("bytes=90-", (90, 10)),
        ("bytes=90-1000", (90, 10)),
        ("bytes=-10", (90, 10)),
        ("bytes=-1000", (0, 100)),
        ("Bytes = 1 - 2", (1, 2)),
    ],
)
def test_one_range(header: str, part: tuple[int, int]) -> None:
    assert asked_range(header, 100) == part


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "bytes=-",
        "bytes=5-4",
        "bytes=0-1,5-6",
        "lines=0-1",
        "bytes=a-b",
        "bytes=٣-٤",
        "bytes=0-" + "9" * 40,
    ],
)
def test_what_is_not_one_range_is_ignored(header: str | None) -> None:
    assert asked_range(header, 100) is None


@pytest.mark.parametrize("header", ["bytes=100-", "bytes=100-200", "bytes=-0"])
def test_a_range_outside_of_the_file_is_refused(header: str) -> None:
    with pytest.raises(RangeNotSatisfiable, match="100 bytes"):
        asked_range(header, 100)
