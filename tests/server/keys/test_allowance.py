"""How many sessions and pixels a second one key may have at a time."""

from __future__ import annotations

import pytest

from ultraflash.models.errors import PromptTooLong
from ultraflash.server.errors import LimitReached, OverLimit
from ultraflash.server.keys.allowance import Allowances, check_prompt_length
from ultraflash.server.keys.records import ANYBODY, Caller, KeyLimits

ONE = Caller(key_id="key_1", limits=KeyLimits(max_sessions=2, max_pixels_per_s=1000, max_prompt_chars=5))
OTHER = Caller(key_id="key_2", limits=ONE.limits)


def test_a_key_has_so_many_sessions_and_another_key_its_own() -> None:
    live: list[str] = []
    allowances = Allowances(lambda: live)
    for name in ("a", "b"):
        allowances.check_start(ONE, 100)
        allowances.began(name, ONE, 100)
        live.append(name)
    with pytest.raises(LimitReached, match="2 is its limit"):
        allowances.check_start(ONE, 100)
    allowances.check_start(OTHER, 100)
    live.remove("a")
    allowances.check_start(ONE, 100)
    assert allowances.keys() == {"key_1": ["b"]}


def test_the_pixels_of_all_sessions_of_a_key_count_together() -> None:
    live = ["a"]
    allowances = Allowances(lambda: live)
    allowances.began("a", ONE, 600)
    allowances.check_start(ONE, 400)
    with pytest.raises(LimitReached, match=r"401 pixels a second beside the 600 .* 1000 is its limit"):
        allowances.check_start(ONE, 401)
    with pytest.raises(OverLimit, match="1000 is this key's limit"):
        allowances.check_start(ONE, 1001)
    live.append("b")
    allowances.began("b", ONE, 300)
    with pytest.raises(OverLimit, match="1000 is its limit"):
        allowances.check_size("b", 500)
    allowances.check_size("b", 400)
    allowances.check_size("a", 600)


def test_an_owner_who_is_back_has_the_limits_of_now() -> None:
    allowances = Allowances(lambda: ["a"])
    allowances.began("a", Caller(key_id="key_1", limits=KeyLimits()), 600)
    allowances.check_size("a", 10**9)
    allowances.came_back("a", ONE)
    with pytest.raises(OverLimit, match="1000 is this key's limit"):
        allowances.check_size("a", 1001)


def test_without_a_key_only_the_limits_of_the_server_count() -> None:
    allowances = Allowances(lambda: ["a"])
    allowances.began("a", ANYBODY, 10**9)
    allowances.check_start(ANYBODY, 10**9)
    assert allowances.keys() == {}
    check_prompt_length("a long prompt", ANYBODY)


def test_a_prompt_that_is_too_long_for_its_key_is_refused_with_the_limit() -> None:
    check_prompt_length("  hills ", ONE)
    with pytest.raises(PromptTooLong, match="may send 5"):
        check_prompt_length("a hill", ONE)
