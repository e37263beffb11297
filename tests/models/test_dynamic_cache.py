"""Each switch changes what really runs: calls of the networks are counted by hooks on them."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from ultraflash.models.cascade import Cascade
from ultraflash.models.dynamic_cache import DynamicCacheConfig, agreement
from ultraflash.models.errors import BadConfig
from ultraflash.models.preset import PRESETS, Preset, dump_preset, load_preset
from ultraflash.models.stream_state import StreamState

OFF = DynamicCacheConfig()


@contextmanager
def calls(net: nn.Module) -> Iterator[list[tuple[Any, ...]]]:
    """The arguments of every call of a network."""
    seen: list[tuple[Any, ...]] = []
    hook = net.register_forward_hook(lambda _, arguments, __: seen.append(arguments))
    try:
        yield seen
    finally:
        hook.remove()


def opened(cascade: Cascade, rule: DynamicCacheConfig) -> StreamState:
    state = cascade.open("a calm sea", size="0.5K", seed=3)
    assert state.dynamic_cache == OFF
    state.dynamic_cache = rule
    return state


def timesteps(seen: list[tuple[Any, ...]]) -> list[float]:
    return [round(float(arguments[1][0, 0])) for arguments in seen]


@pytest.mark.parametrize(
    ("later", "expected"),
    [(None, (0, 1, 2, 3)), (4, (0, 1, 2, 3)), (3, (0, 2, 3)), (2, (0, 3)), (1, (0,))],
)
def test_later_blocks_run_a_rounded_linspace_of_the_steps(
    later: int | None, expected: tuple[int, ...]
) -> None:
    rule = DynamicCacheConfig(later_steps=later)
    assert rule.steps(4, first_block=False) == expected
    assert rule.steps(4, first_block=True) == (0, 1, 2, 3)


def test_without_switches_everything_runs_and_nothing_is_counted(cascade: Cascade) -> None:
    state = opened(cascade, OFF)
    with calls(cascade.networks.base) as seen:
        for _ in range(2):
            cascade.next_group(state)
    assert timesteps(seen) == [1000, 938, 833, 625, 0] * 4
    assert (state.cache_use.steps_saved, state.cache_use.refreshes_skipped) == (0, 0)
    assert state.cache_use.occupancy == {"base": 1.0, "sr": 1.0}


def test_fewer_steps_are_fewer_passes_from_the_second_block_on(cascade: Cascade) -> None:
    state = opened(cascade, DynamicCacheConfig(later_steps=2))
    with calls(cascade.networks.base) as seen:
        for _ in range(2):
            cascade.next_group(state)
    assert timesteps(seen) == [1000, 938, 833, 625, 0] + [1000, 625, 0] * 3
    assert state.cache_use.steps_saved == 6


def test_a_skipped_commit_is_a_pass_less_and_leaves_the_keys_of_the_last_denoising_pass(
    cascade: Cascade,
) -> None:
    committed, skipped = opened(cascade, OFF), opened(cascade, DynamicCacheConfig(skip_commit_above=-9.0))
    cascade.next_group(committed)
    with calls(cascade.networks.base) as seen:
        cascade.next_group(skipped)
    assert timesteps(seen) == [1000, 938, 833, 625] * 2
    assert skipped.cache_use.refreshes_skipped == 2
    # The first block is made alike; what the cache holds of it differs, down to the first layer's values.
    (_, a), (_, b) = committed.window.blocks()[0], skipped.window.blocks()[0]
    assert torch.equal(a, b)
    keys, others = (state.base_cache.capture()[0]["values"][0] for state in (committed, skipped))
    assert keys.shape == others.shape
    assert not torch.equal(keys, others)


def test_a_score_below_the_threshold_commits_as_ever(cascade: Cascade) -> None:
    plain, careful = opened(cascade, OFF), opened(cascade, DynamicCacheConfig(skip_commit_above=0.999999))
    for _ in range(2):
        assert torch.equal(cascade.next_group(plain), cascade.next_group(careful))
    assert careful.cache_use.refreshes_skipped == 0


def test_a_block_of_one_step_has_nothing_to_agree_with_and_is_committed(cascade: Cascade) -> None:
    state = opened(cascade, DynamicCacheConfig(later_steps=1, skip_commit_above=-9.0))
    with calls(cascade.networks.base) as seen:
        cascade.next_group(state)
    assert timesteps(seen) == [1000, 938, 833, 625, 1000, 0]
    assert (state.cache_use.steps_saved, state.cache_use.refreshes_skipped) == (3, 1)


def test_the_score_is_one_for_equal_estimates_and_falls_with_their_distance() -> None:
    x = torch.randn(1, 2, 3, 4, 5, generator=torch.Generator().manual_seed(1))
    assert agreement(x, x) == 1.0
    assert agreement(0.75 * x, x) == pytest.approx(0.75)
    assert agreement(-x, x) == pytest.approx(-1.0)
    assert agreement(x, torch.zeros_like(x)) < -1e6


def test_the_window_of_super_resolution_shrinks_by_a_block_a_group_to_its_minimum(cascade: Cascade) -> None:
    rule = DynamicCacheConfig(shrink_sr_window=True, warmup_groups=2, min_sr_blocks=1)
    state, plain = opened(cascade, rule), opened(cascade, OFF)
    seen, full, equal = [], [], []
    hook = cascade.networks.sr["sr_x2"].register_forward_pre_hook(
        lambda _, args: seen.append(args[4].cache.frame_blocks)
    )
    try:
        for _ in range(5):
            frames = cascade.next_group(state)
            full.append(state.cache_use.occupancy["sr"])
            equal.append(torch.equal(frames, cascade.next_group(plain)))
    finally:
        hook.remove()
    assert seen[::2] == [0, 3, 2, 1, 1]
    assert seen[1::2] == [0, 3, 3, 3, 3]
    assert full == pytest.approx([1, 1, 2 / 3, 1 / 3, 1 / 3])
    assert equal == [True, True, False, False, False]


def test_a_change_of_size_does_not_open_a_shrunk_window_again(cascade: Cascade) -> None:
    state = opened(cascade, DynamicCacheConfig(shrink_sr_window=True, warmup_groups=0, min_sr_blocks=1))
    for _ in range(3):
        cascade.next_group(state)
    cascade.set_size(state, "1K")
    cascade.next_group(state)
    assert state.cache_use.occupancy["sr"] == pytest.approx(1 / 3)


def test_streams_take_the_switches_of_their_preset(build: Callable[..., Cascade], preset: Preset) -> None:
    rule = DynamicCacheConfig(later_steps=3)
    assert build(replace(preset, dynamic_cache=rule)).open("a calm sea").dynamic_cache == rule


def test_a_preset_file_may_have_a_table_of_switches_and_ships_without(tmp_path: Path) -> None:
    path = tmp_path / "own.toml"
    table = "\n[dynamic_cache]\nlater_steps = 1\nskip_commit_above = 0.95\nshrink_sr_window = true\n"
    path.write_text((PRESETS / "mini.toml").read_text() + table)
    preset = load_preset(path)
    assert preset.dynamic_cache == DynamicCacheConfig(
        later_steps=1, skip_commit_above=0.95, shrink_sr_window=True
    )
    path.write_text(dump_preset(preset))
    assert load_preset(path) == preset
    assert load_preset("mini").dynamic_cache == OFF


@pytest.mark.parametrize(
    "wrong",
    [{"later_steps": 0}, {"skip_commit_above": 1.0}, {"warmup_groups": -1}, {"min_sr_blocks": -1}],
)
def test_switches_that_mean_nothing_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(BadConfig):
        DynamicCacheConfig(**wrong)


def test_more_later_steps_than_the_schedule_has_are_refused(preset: Preset) -> None:
    with pytest.raises(BadConfig, match="4 steps"):
        replace(preset, dynamic_cache=DynamicCacheConfig(later_steps=5))
