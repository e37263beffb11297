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
    known: dict[str, bool] = {}
    allowances = Allowances(lambda: known)
    for name in ("a", "b"):
        allowances.check_start(ONE, 100)
        allowances.began(name, ONE, 100)
        known[name] = True
    with pytest.raises(LimitReached, match="2 is its limit"):
        allowances.check_start(ONE, 100)
    allowances.check_start(OTHER, 100)
    known["a"] = False
    allowances.check_start(ONE, 100)
    assert allowances.keys() == {"key_1": ["b"]}


def test_the_pixels_of_all_sessions_of_a_key_count_together() -> None:
    known = {"a": True}
    allowances = Allowances(lambda: known)
    allowances.began("a", ONE, 600)
    allowances.check_start(ONE, 400)
    with pytest.raises(LimitReached, match=r"401 pixels a second beside the 600 .* 1000 is its limit"):
        allowances.check_start(ONE, 401)
    with pytest.raises(OverLimit, match="1000 is this key's limit"):
        allowances.check_start(ONE, 1001)
    known["b"] = True
    allowances.began("b", ONE, 300)
    with pytest.raises(OverLimit, match="1000 is its limit"):
        allowances.check_size("b", 500)
    allowances.check_size("b", 400)
    allowances.check_size("a", 600)


def test_a_session_that_is_over_is_its_owners_until_it_is_forgotten() -> None:
    known = {"a": False}
    allowances = Allowances(lambda: known)
    allowances.began("a", ONE, 1)
    allowances.check_start(ONE, 1)
    assert allowances.belongs_to("a", ONE)
    assert not allowances.belongs_to("a", OTHER)
    assert not allowances.belongs_to("a", ANYBODY)
    known.clear()
    allowances.check_start(ONE, 1)
    assert not allowances.belongs_to("a", ONE)


def test_without_a_key_only_the_limits_of_the_server_count() -> None:
    allowances = Allowances(lambda: {"a": True})
    allowances.began("a", ANYBODY, 10**9)
    allowances.check_start(ANYBODY, 10**9)
    assert allowances.keys() == {}
    check_prompt_length("a long prompt", ANYBODY)


def test_a_prompt_that_is_too_long_for_its_key_is_refused_with_the_limit() -> None:
    check_prompt_length("  hills ", ONE)
    with pytest.raises(PromptTooLong, match="may send 5"):
        check_prompt_length("a hill", ONE)
