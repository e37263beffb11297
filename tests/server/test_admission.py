"""Who may begin, and how long the others are told to wait."""

from __future__ import annotations

import pytest

from ultraflash.models.errors import UnknownSize
from ultraflash.server.admission import Admission, Claim, claim_of, seconds_until_places, share_of_time
from ultraflash.server.settings import StreamSettings
from ultraflash.server.worker.messages import WorkerReady

COSTS = {"0.5K": 0.02, "1K": 0.05}
READY = WorkerReady(
    model="mini",
    fps=16,
    sizes=[["0.5K", 896, 512], ["1K", 1664, 960]],
    default_size="0.5K",
    max_prompt_chars=20,
    frame_seconds=COSTS,
)
ADAPTS = Claim(fps=16, size=None, frames_left=None)
LARGE = Claim(fps=16, size="1K", frames_left=None)


def fits(claim: Claim, *running: Claim, **limits: float) -> bool:
    settings = StreamSettings(**limits)  # type: ignore[arg-type]
    return Admission(settings).fits(claim, running, COSTS)


def test_a_stream_fits_while_the_frames_of_all_can_be_made_in_real_time() -> None:
    # 0.32 of the time for one that adapts, 0.8 for one of 1K; a tenth of it is kept free.
    assert fits(ADAPTS, ADAPTS)
    assert not fits(ADAPTS, ADAPTS, ADAPTS)
    assert fits(ADAPTS, ADAPTS, ADAPTS, capacity=1)
    assert not fits(LARGE, ADAPTS)
    assert not fits(ADAPTS, LARGE)
    assert fits(Claim(fps=8, size="1K", frames_left=None), ADAPTS)


def test_the_first_stream_is_accepted_whatever_it_costs() -> None:
    assert fits(Claim(fps=60, size="1K", frames_left=None))


def test_a_larger_capacity_takes_more_streams_that_are_slower_than_real_time() -> None:
    assert not fits(LARGE, LARGE)
    assert fits(LARGE, LARGE, capacity=1.6)


def test_no_capacity_takes_more_streams_than_the_limit() -> None:
    assert not fits(ADAPTS, ADAPTS, capacity=100, max_streams=1)


def test_a_size_by_name_counts_as_the_smallest_where_it_may_be_changed() -> None:
    strict, loose = StreamSettings(), StreamSettings(adapt_named_sizes=True)
    assert claim_of("1664x960", 24, 90, ready=READY, limits=strict) == Claim(
        fps=24, size="1K", frames_left=90
    )
    assert claim_of("1K", None, None, ready=READY, limits=loose) == ADAPTS
    assert claim_of("auto", None, None, ready=READY, limits=strict) == ADAPTS
    for limits in (strict, loose):
        with pytest.raises(UnknownSize, match="1664x960"):
            claim_of("8K", None, None, ready=READY, limits=limits)


def test_the_wait_is_that_for_the_streams_that_end_first() -> None:
    ends = [Claim(fps=16, size=None, frames_left=frames) for frames in (160, 1600)]
    running = [*ends, ADAPTS]
    waits = [
        seconds_until_places(places, running, share=0.9, mean_length_s=60.0) for places in (1, 2, 3, 4, 6)
    ]
    assert waits == [10, 60, 100, 70, 160]


def test_nothing_is_promised_while_no_session_has_ended_but_what_has_an_announced_end() -> None:
    ends = Claim(fps=16, size=None, frames_left=160)
    waits = [
        seconds_until_places(places, [ADAPTS, ends], share=0.5, mean_length_s=None) for places in (1, 2, 3)
    ]
    assert waits == [10, None, None]


def test_streams_that_are_slower_than_real_time_end_later() -> None:
    ends = Claim(fps=16, size="1K", frames_left=160)
    share = share_of_time([ends, LARGE], COSTS)
    assert share == pytest.approx(1.6)
    assert seconds_until_places(1, [ends], share=share, mean_length_s=None) == pytest.approx(16)
