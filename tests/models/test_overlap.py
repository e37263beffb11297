"""Streams whose next group is generated early make the frames that they make without, whatever happens in between."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from small_cascade import small_long_preset
from torch import Tensor

from ultraflash.models.cascade import Cascade
from ultraflash.models.dynamic_cache import DynamicCacheConfig
from ultraflash.models.execution import ExecutionConfig
from ultraflash.models.memory_plan import memory_plan
from ultraflash.models.overlap import Background
from ultraflash.models.preset import Preset
from ultraflash.models.stream_state import StreamState

Build = Callable[..., Cascade]
Change = Callable[[Cascade, StreamState], StreamState]

CPU = torch.device("cpu")


def overlapping(preset: Preset) -> Preset:
    return replace(preset, execution=ExecutionConfig(overlap=True))


@pytest.fixture(scope="module")
def ahead(build: Build, preset: Preset) -> Cascade:
    return build(overlapping(preset))


@pytest.fixture(scope="module")
def long_pair(build: Build) -> tuple[Cascade, Cascade]:
    """The official layout with a sink and a first block of one frame: without overlap, and with it."""
    preset = small_long_preset()
    return build(preset), build(overlapping(preset))


def nothing(cascade: Cascade, state: StreamState) -> StreamState:
    return state


def new_prompt(cascade: Cascade, state: StreamState) -> StreamState:
    cascade.set_prompt(state, "a desert at noon")
    return state


def kept_prompt(cascade: Cascade, state: StreamState) -> StreamState:
    cascade.set_prompt(state, "a desert at noon", transition="keep")
    return state


def blend(cascade: Cascade, state: StreamState) -> StreamState:
    cascade.set_prompt(state, "a desert at noon", transition="blend", groups=3)
    return state


def second_blend(cascade: Cascade, state: StreamState) -> StreamState:
    blend(cascade, state)
    cascade.next_group(state)
    cascade.set_prompt(state, "snowy mountains at night", transition="blend", groups=3)
    return state


def new_size(cascade: Cascade, state: StreamState) -> StreamState:
    cascade.set_size(state, "1K")
    return state


def other_rule(cascade: Cascade, state: StreamState) -> StreamState:
    state.dynamic_cache = DynamicCacheConfig(later_steps=2, skip_commit_above=-9.0)
    return state


def rest(cascade: Cascade, state: StreamState) -> StreamState:
    cascade.pause(state)
    cascade.resume(state)
    return state


def saved_and_loaded(cascade: Cascade, state: StreamState) -> StreamState:
    return cascade.load_stream(cascade.save_stream(state))


def saved_only(cascade: Cascade, state: StreamState) -> StreamState:
    cascade.save_stream(state)
    return state


CHANGES = [
    nothing,
    new_prompt,
    kept_prompt,
    blend,
    second_blend,
    new_size,
    other_rule,
    rest,
    saved_and_loaded,
    saved_only,
]


def story(cascade: Cascade, change: Change) -> tuple[list[Tensor], StreamState]:
    """Frames of a stream that is changed between its fourth and fifth group: its window is full then."""
    state = cascade.open("a calm sea", size="0.5K", seed=1)
    groups = [cascade.next_group(state) for _ in range(4)]
    state = change(cascade, state)
    return groups + [cascade.next_group(state) for _ in range(4)], state


def assert_same(found: tuple[list[Tensor], StreamState], wanted: tuple[list[Tensor], StreamState]) -> None:
    assert [torch.equal(a, b) for a, b in zip(found[0], wanted[0], strict=True)] == [True] * len(wanted[0])
    assert found[1].prompt == wanted[1].prompt
    assert found[1].cache_use == wanted[1].cache_use


@pytest.mark.parametrize("change", CHANGES)
def test_frames_are_those_of_a_stream_without_overlap(
    cascade: Cascade, ahead: Cascade, change: Change
) -> None:
    found = story(ahead, change)
    assert found[1].ahead is not None
    assert_same(found, story(cascade, change))


@pytest.mark.parametrize("change", [new_prompt, kept_prompt, blend, saved_and_loaded])
def test_a_sink_and_a_short_first_block_change_nothing_about_it(
    long_pair: tuple[Cascade, Cascade], change: Change
) -> None:
    without, with_overlap = long_pair
    assert_same(story(with_overlap, change), story(without, change))


def test_keys_and_values_in_small_types_are_taken_back_exactly_too(build: Build, preset: Preset) -> None:
    small = replace(preset, base=replace(preset.base, kv="int8"))
    assert_same(story(build(overlapping(small)), kept_prompt), story(build(small), kept_prompt))


def test_the_next_group_is_there_before_it_is_asked_for_but_for_the_second(ahead: Cascade) -> None:
    state = ahead.open("a calm sea", seed=1)
    ahead.next_group(state)
    assert state.ahead is None
    ahead.next_group(state)
    assert state.ahead is not None
    latents = state.ahead.latents_BCFHW
    ahead.next_group(state)
    assert state.last_latents_BCFHW is latents
    assert set(state.stage_seconds) == {"base", "upsample", "sr", "decode"}


@pytest.mark.parametrize("groups", [2, 3, 5])
def test_a_snapshot_goes_on_in_a_cascade_without_overlap_and_costs_nothing_ahead(
    cascade: Cascade, ahead: Cascade, groups: int
) -> None:
    state = ahead.open("a calm sea", seed=1)
    for _ in range(groups):
        ahead.next_group(state)
    there = state.ahead
    restored = cascade.load_stream(ahead.save_stream(state))
    assert there is not None and state.ahead is there
    for _ in range(3):
        assert torch.equal(cascade.next_group(restored), ahead.next_group(state))


def test_streams_in_turn_are_those_alone(ahead: Cascade) -> None:
    alone = [story(ahead, change)[0] for change in (nothing, new_prompt)]
    states = [ahead.open("a calm sea", size="0.5K", seed=1) for _ in range(2)]
    for group in range(8):
        if group == 4:
            new_prompt(ahead, states[1])
        for wanted, state in zip(alone, states, strict=True):
            assert torch.equal(ahead.next_group(state), wanted[group])


def test_nothing_runs_between_groups_nor_after_a_stream_was_let_go(ahead: Cascade) -> None:
    threads = threading.active_count()
    state = ahead.open("a calm sea", seed=1)
    for _ in range(3):
        ahead.next_group(state)
        assert threading.active_count() == threads


def test_room_to_take_a_group_back_is_allocated_once_and_given_up_at_rest(ahead: Cascade) -> None:
    state = ahead.open("a calm sea", seed=1)
    rooms = []
    for _ in range(6):
        ahead.next_group(state)
        ahead.save_stream(state)
        rooms.append(state.undo)
    assert rooms[0] is None and rooms[1] is not None
    assert all(room is rooms[1] for room in rooms[2:])
    kept = [tensor.data_ptr() for tensor in rooms[1].cache.kept.values()]
    new_prompt(ahead, state)
    ahead.next_group(state)
    assert [tensor.data_ptr() for tensor in rooms[1].cache.kept.values()] == kept
    ahead.pause(state)
    assert state.undo is None


def test_what_the_stream_holds_ahead_is_in_the_plan(ahead: Cascade, preset: Preset) -> None:
    state = ahead.open("a calm sea", seed=1)
    for _ in range(6):
        ahead.next_group(state)
    held = state.ahead
    assert held is not None
    assert state.undo is not None
    tensors = [held.latents_BCFHW, state.undo.latents_BCFHW, *state.undo.cache.kept.values()]
    taken = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    plan = memory_plan(overlapping(preset), dtype=torch.float32)
    assert plan.stream["base_ahead"] == taken
    assert plan.estimates["activations"] > memory_plan(preset, dtype=torch.float32).estimates["activations"]


def test_an_error_in_the_background_is_raised_where_the_result_is_asked_for() -> None:
    def fail() -> None:
        raise ValueError("on purpose")

    with pytest.raises(ValueError, match="on purpose"), Background(CPU, fail) as background:
        background.result()


def test_an_error_in_the_foreground_waits_for_the_background() -> None:
    begun, ended = threading.Event(), threading.Event()

    def call() -> None:
        begun.wait()
        ended.set()

    def front() -> None:
        begun.set()
        raise ValueError("on purpose")

    with pytest.raises(ValueError, match="on purpose"), Background(CPU, call):
        front()
    assert ended.is_set()


def test_the_background_computes_with_as_many_threads() -> None:
    with Background(CPU, torch.get_num_threads) as background:
        assert background.result() == torch.get_num_threads()
