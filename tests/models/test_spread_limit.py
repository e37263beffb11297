"""How far latents spread in a long stream, and what is known of it through everything that happens to a stream."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from ultraflash.models.cascade import Cascade
from ultraflash.models.errors import BadConfig
from ultraflash.models.preset import Preset, load_preset
from ultraflash.models.spread_limit import CHANGE_BLOCKS, FIRST_BLOCKS, Spread, limit_spread
from ultraflash.models.stream_state import StreamState


def block(spread: float, seed: int = 0, mean: float = 0.3) -> torch.Tensor:
    noise = torch.randn(1, 4, 3, 6, 8, generator=torch.Generator().manual_seed(seed))
    return mean + spread * (noise - noise.mean((0, 2, 3, 4), keepdim=True)) / noise.std(
        (0, 2, 3, 4), keepdim=True
    )


def spread_of(latent: torch.Tensor) -> float:
    return float(latent.std((0, 2, 3, 4)).mean())


def settled(*spreads: float) -> Spread:
    known = Spread()
    for spread in spreads:
        _, known = limit_spread(block(spread), known, 1.05)
    return known


def test_the_first_block_is_shown_as_it_is_and_later_ones_spread_little_more_than_the_first_two() -> None:
    first, known = limit_spread(block(1.4), Spread(), 1.05)
    assert torch.equal(first, block(1.4))
    _, known = limit_spread(block(1.2), known, 1.05)
    assert (float(known.usual_C.mean()), known.settling) == (pytest.approx(1.3), 0)
    wide, after = limit_spread(block(2.0), known, 1.05)
    assert spread_of(wide) == pytest.approx(1.05 * 1.3, rel=1e-4)
    assert wide.mean().item() == pytest.approx(0.3, abs=1e-5)
    # What is limited does not become what is usual, however often.
    assert after is known


def test_what_spreads_no_further_than_usual_is_left_alone() -> None:
    known = settled(1.0, 1.0)
    for narrow in (block(0.2), block(1.0), torch.zeros(1, 4, 3, 6, 8)):
        same, _ = limit_spread(narrow, known, 1.05)
        torch.testing.assert_close(same, narrow)


def test_another_scene_may_spread_as_far_as_videos_do_and_is_then_held_to_that() -> None:
    fog = settled(0.4, 0.4)
    held, _ = limit_spread(block(0.9), fog, 1.05)
    assert spread_of(held) == pytest.approx(0.42, rel=1e-3)
    changed = fog.scene_changes()
    for number in range(CHANGE_BLOCKS):
        shown, changed = limit_spread(block(0.9, seed=number), changed, 1.05)
        assert spread_of(shown) == pytest.approx(0.9, rel=1e-4)
    assert changed.settling == 0
    assert float(changed.usual_C.mean()) == pytest.approx(0.9, rel=0.02)


def test_many_changes_of_scene_do_not_add_up() -> None:
    known = settled(0.8, 0.8)
    for number in range(40 * CHANGE_BLOCKS):
        if number % CHANGE_BLOCKS == 0:
            known = known.scene_changes()
        shown, known = limit_spread(block(1.2 * float(known.usual_C.mean()), seed=number), known, 1.05)
        assert spread_of(shown) <= 1.0 + 1e-4


def test_a_change_of_prompt_before_the_first_block_changes_nothing() -> None:
    assert Spread().scene_changes().settling == FIRST_BLOCKS


@pytest.fixture(scope="module")
def limited(preset: Preset) -> Preset:
    return replace(preset, base=replace(preset.base, spread_limit=1.0))


def opened(cascade: Cascade, groups: int = 3) -> StreamState:
    state = cascade.open("a calm sea", size="0.5K", seed=3)
    for _ in range(groups):
        cascade.next_group(state)
    return state


def test_a_stream_is_held_to_its_first_two_blocks_in_what_it_shows_and_in_what_it_goes_on_from(
    build: Callable[..., Cascade], limited: Preset
) -> None:
    cascade = build(limited)
    state = opened(cascade, groups=1)
    usual = state.spread.usual_C.clone()
    for _ in range(3):
        cascade.next_group(state)
        for _, block_BCFHW in state.window.blocks()[-2:]:
            assert bool((block_BCFHW.std((0, 2, 3, 4)) <= usual * 1.0001).all())
    assert torch.equal(state.spread.usual_C, usual)
    free = build(replace(limited, base=replace(limited.base, spread_limit=None)))
    ends = [stream.window.blocks()[-1][1] for stream in (opened(free, groups=4), state)]
    assert bool((ends[0].std((0, 2, 3, 4)) > ends[1].std((0, 2, 3, 4))).any())


def test_a_snapshot_keeps_what_is_known_and_a_change_of_prompt_begins_another_scene(
    build: Callable[..., Cascade], limited: Preset
) -> None:
    cascade = build(limited)
    state = opened(cascade)
    cascade.set_prompt(state, "a desert", transition="keep")
    assert state.spread.settling == CHANGE_BLOCKS
    cascade.next_group(state)
    restored = cascade.load_stream(cascade.save_stream(state))
    assert restored.spread.settling == state.spread.settling == CHANGE_BLOCKS - 2
    assert torch.equal(restored.spread.usual_C, state.spread.usual_C)
    for _ in range(3):
        assert torch.equal(
            torch.as_tensor(cascade.next_group(state)), torch.as_tensor(cascade.next_group(restored))
        )


def test_what_a_stream_starts_from_counts_as_its_first_blocks(
    build: Callable[..., Cascade], limited: Preset
) -> None:
    cascade, frames = build(limited), limited.base.block_frames
    state = cascade.open("a calm sea", size="0.5K", seed=3)
    given = torch.randn(1, 32, FIRST_BLOCKS * frames, 6, 8, generator=torch.Generator().manual_seed(4)) * 0.1
    state.reference_BCFHW = given
    for _ in range(2):
        cascade.next_group(state)
    usual = torch.stack([part.std((0, 2, 3, 4)) for part in given.split(frames, dim=2)]).mean(0)
    torch.testing.assert_close(state.spread.usual_C, usual)
    assert bool((state.window.blocks()[-1][1].std((0, 2, 3, 4)) <= usual * 1.0001).all())


def test_while_one_prompt_is_blended_into_another_the_scene_goes_on_changing(
    build: Callable[..., Cascade], limited: Preset
) -> None:
    cascade = build(limited)
    state = opened(cascade, groups=1)
    cascade.set_prompt(state, "a desert", transition="blend", groups=2)
    settling = []
    for _ in range(4):
        cascade.next_group(state)
        settling.append(state.spread.settling)
    assert settling == [CHANGE_BLOCKS - 2, CHANGE_BLOCKS - 2, CHANGE_BLOCKS - 4, CHANGE_BLOCKS - 6]


def test_generating_ahead_shows_the_same_through_a_change_of_prompt(
    build: Callable[..., Cascade], limited: Preset
) -> None:
    overlapping = replace(limited, execution=replace(limited.execution, overlap=True))
    streams = [(cascade := build(each), opened(cascade)) for each in (limited, overlapping)]
    for cascade, state in streams:
        cascade.set_prompt(state, "a desert", transition="blend", groups=2)
    for _ in range(4):
        first, second = (torch.as_tensor(cascade.next_group(state)) for cascade, state in streams)
        assert torch.equal(first, second)


def test_mini_limits_its_streams_and_a_limit_below_what_is_usual_is_refused() -> None:
    base = load_preset("mini").base
    assert base.spread_limit == 1.05
    for below in (0.9, float("nan"), float("inf")):
        with pytest.raises(BadConfig, match="spread_limit starts at 1"):
            replace(base, spread_limit=below)
