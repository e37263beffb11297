"""Pacing by what the owner has seen, without a clock of its own."""

from __future__ import annotations

import pytest

from ultraflash.server.worker.playhead import PacingRule, Playhead

RULE = PacingRule(ahead_us=1_500_000, ack_pause_s=15, ack_end_s=60, paused_end_s=600)
FRAME_US = 62_500
GROUP_US = 12 * FRAME_US


def playhead(now: float = 0.0, rule: PacingRule = RULE) -> Playhead:
    return Playhead(rule, now=now, playhead_us=0, sent_us=0)


def generate_all(head: Playhead, sent_us: float, now: float) -> float:
    """Generates groups as long as that is allowed; where media ends then."""
    while head.may_generate(GROUP_US, now):
        sent_us += GROUP_US
        head.sent(sent_us, now)
    return sent_us


def test_it_stops_before_the_limit_and_goes_on_with_the_owner() -> None:
    head = playhead()
    assert generate_all(head, 0, 0) == 2 * GROUP_US
    head.ack(FRAME_US, 1)
    assert generate_all(head, 2 * GROUP_US, 1) == 2 * GROUP_US
    head.ack(GROUP_US, 2)
    assert generate_all(head, 2 * GROUP_US, 2) == 3 * GROUP_US
    assert head.ahead_us <= RULE.ahead_us


def test_a_group_longer_than_the_limit_starts_when_nearly_all_has_been_seen() -> None:
    head = playhead(rule=PacingRule(ahead_us=100_000, ack_pause_s=15, ack_end_s=60, paused_end_s=600))
    assert generate_all(head, 0, 0) == GROUP_US
    head.ack(GROUP_US - FRAME_US, 1)
    assert generate_all(head, GROUP_US, 1) == 2 * GROUP_US


def test_acknowledging_more_than_was_sent_or_going_back_moves_nothing() -> None:
    head = playhead()
    head.sent(GROUP_US, 0)
    head.ack(10 * GROUP_US, 1)
    assert head.ahead_us == 0
    head.ack(0, 2)
    assert head.ahead_us == 0


def test_silence_rests_then_ends_a_stream_and_any_acknowledgement_wakes_it() -> None:
    head = playhead()
    head.sent(FRAME_US, 0)
    assert head.may_generate(FRAME_US, 15)
    assert not head.may_generate(FRAME_US, 15.1)
    assert head.over(59) is None
    assert head.over(60.1) == "no_ack"
    head.ack(0, 58)
    assert head.may_generate(FRAME_US, 60.1)
    assert head.over(60.1) is None


def test_no_answer_is_owed_while_everything_sent_has_been_seen() -> None:
    head = playhead()
    assert head.over(1000) is None
    head.sent(GROUP_US, 0)
    head.ack(GROUP_US, 1)
    assert head.over(1000) is None
    assert head.may_generate(GROUP_US, 1000)


def test_a_pause_by_the_owner_lasts_longer_but_not_for_ever() -> None:
    head = playhead()
    head.sent(GROUP_US, 0)
    head.set_paused(True, 10)
    head.set_paused(True, 500)
    assert not head.may_generate(GROUP_US, 11)
    assert head.over(609) is None
    assert head.over(611) == "paused_too_long"
    head.set_paused(False, 600)
    assert head.over(611) is None
    assert head.may_generate(GROUP_US, 611)


@pytest.mark.parametrize(("ahead_us", "earlier"), [(GROUP_US, False), (FRAME_US, True)])
def test_who_has_less_media_left_is_more_urgent(ahead_us: float, earlier: bool) -> None:
    one, other = playhead(), playhead()
    one.sent(ahead_us, 0)
    other.sent(4 * FRAME_US, 0)
    assert (one.deadline() < other.deadline()) == earlier
