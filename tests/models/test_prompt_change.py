"""Changes of prompt over a running stream's caches, with small drawn networks; last, on the shipped ones."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from ultraflash.models.cascade import Cascade
from ultraflash.models.dit import TextContext
from ultraflash.models.errors import BadTransition, EmptyPrompt
from ultraflash.models.preset import Preset, load_preset
from ultraflash.models.prompt_change import blend_between
from ultraflash.models.ring_cache import RingCache
from ultraflash.models.stream_state import StreamState
from ultraflash.models.streaming_attention import WindowAttention, window_cache
from ultraflash.models.transition import Transition, check_transition
from ultraflash.models.window_latents import WindowLatents

Build = Callable[..., Cascade]
SEA, DESERT = "a calm sea", "a desert at noon, camera drifting left"
CPU = torch.device("cpu")


def keys_and_values(cache: RingCache) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in cache.capture()[0].items()}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return all(torch.equal(a[name], b[name]) for name in a)


def running(cascade: Cascade, groups: int, prompt: str = SEA) -> StreamState:
    state = cascade.open(prompt, size="0.5K", seed=3)
    for _ in range(groups):
        cascade.next_group(state)
    return state


def change_now(cascade: Cascade, state: StreamState, prompt: str, transition: Transition) -> None:
    """The change as the next group begins with it, without the rest of the group."""
    cascade.set_prompt(state, prompt, transition=transition)
    with torch.inference_mode():
        cascade._base.change_prompt(state)


@pytest.mark.parametrize("groups", [1, 2, 5])
def test_recomputing_leaves_what_a_stream_holds_whose_window_was_committed_under_the_new_prompt(
    cascade: Cascade, preset: Preset, groups: int
) -> None:
    state = running(cascade, groups)
    change_now(cascade, state, DESERT, "recompute")
    fresh = window_cache(preset.base, batch=1, dtype=torch.float32, device=CPU)
    context = cascade.open(DESERT).prompt_context.base
    with torch.inference_mode():
        for start, latent in state.window.blocks():
            frames = latent.shape[2]
            positions = torch.arange(start, start + frames)
            cascade.networks.base(latent, torch.zeros(1, frames), context, positions, WindowAttention(fresh))
            fresh.commit()
    assert same(keys_and_values(state.base_cache), keys_and_values(fresh))
    assert state.base_cache.frames == min(4 * groups, 6)


def test_recomputing_under_the_same_prompt_changes_nothing_while_nothing_has_left_the_window(
    cascade: Cascade,
) -> None:
    state = running(cascade, 1)
    before = keys_and_values(state.base_cache)
    change_now(cascade, state, SEA, "recompute")
    assert same(keys_and_values(state.base_cache), before)


def test_recomputing_under_another_prompt_changes_the_cache_and_keeping_does_not(cascade: Cascade) -> None:
    for transition, changes in (("keep", False), ("recompute", True)):
        state = running(cascade, 2)
        before = keys_and_values(state.base_cache)
        change_now(cascade, state, DESERT, transition)  # type: ignore[arg-type]
        assert same(keys_and_values(state.base_cache), before) != changes


def test_the_three_ways_give_three_streams_from_the_next_group_on(cascade: Cascade) -> None:
    plain = cascade.next_group(running(cascade, 2))
    shown = [plain]
    for transition, groups in (("keep", 1), ("recompute", 1), ("blend", 2)):
        state = running(cascade, 2)
        cascade.set_prompt(state, DESERT, transition=transition, groups=groups)  # type: ignore[arg-type]
        assert state.prompt == DESERT
        shown.append(cascade.next_group(state))
    for i in range(4):
        for j in range(i):
            assert not torch.equal(shown[i], shown[j]), (i, j)


def parts(context: TextContext) -> tuple[Tensor, ...]:
    return (*context.keys, *context.values)


def test_a_blend_goes_there_in_equal_steps_and_ends_with_the_new_prompts_own_context(
    cascade: Cascade,
) -> None:
    state = running(cascade, 1)
    old = state.prompt_context.states_1XW
    new = cascade.open(DESERT).prompt_context
    cascade.set_prompt(state, DESERT, transition="blend", groups=4)
    for part in (0.25, 0.5, 0.75):
        cascade.next_group(state)
        torch.testing.assert_close(state.prompt_context.states_1XW, old + part * (new.states_1XW - old))
    assert state.blend is not None
    cascade.next_group(state)
    assert state.blend is None
    assert state.prompt_context.prompt == new.prompt
    contexts = [(state.prompt_context.base, new.base)]
    contexts += [(state.prompt_context.sr[part], new.sr[part]) for part in ("sr_x2", "sr_x4")]
    for ours, wanted in contexts:
        assert all(torch.equal(a, b) for a, b in zip(parts(ours), parts(wanted), strict=True))


def test_a_blend_over_one_group_is_keeping(cascade: Cascade) -> None:
    kept, blended = running(cascade, 1), running(cascade, 1)
    cascade.set_prompt(kept, DESERT, transition="keep")
    cascade.set_prompt(blended, DESERT, transition="blend", groups=1)
    assert torch.equal(cascade.next_group(kept), cascade.next_group(blended))


def test_a_blend_takes_over_from_wherever_the_one_before_is(cascade: Cascade) -> None:
    state = running(cascade, 1)
    cascade.set_prompt(state, DESERT, transition="blend", groups=3)
    cascade.next_group(state)
    between = state.prompt_context.states_1XW
    cascade.set_prompt(state, "snow", transition="blend", groups=2)
    cascade.next_group(state)
    target = cascade.open("snow").prompt_context.states_1XW
    torch.testing.assert_close(state.prompt_context.states_1XW, (between + target) / 2)


def test_the_last_of_several_changes_before_one_group_counts(cascade: Cascade) -> None:
    direct, detour = running(cascade, 2), running(cascade, 2)
    cascade.set_prompt(detour, "snow", transition="recompute")
    for state in (direct, detour):
        cascade.set_prompt(state, DESERT, transition="keep")
    assert torch.equal(cascade.next_group(direct), cascade.next_group(detour))


def test_texts_of_different_length_blend_as_if_the_shorter_had_rows_of_zeros() -> None:
    blend = blend_between(torch.ones(1, 2, 3), torch.ones(1, 4, 3), 2)
    halfway = replace(blend, done=1).states_1XW
    assert halfway.shape == (1, 4, 3)
    assert halfway[0, :, 0].tolist() == [1.0, 1.0, 0.5, 0.5]


@pytest.mark.parametrize(
    ("transition", "groups"),
    [("wipe", 1), ("keep", 2), ("recompute", 0), ("blend", 0), ("blend", 65), ("fade", 65)],
)
def test_a_change_that_cannot_be_made_is_refused_and_changes_nothing(
    cascade: Cascade, transition: str, groups: int
) -> None:
    with pytest.raises(BadTransition):
        check_transition(transition, groups)
    state = running(cascade, 1)
    with pytest.raises(BadTransition):
        cascade.set_prompt(state, DESERT, transition=transition, groups=groups)  # type: ignore[arg-type]
    with pytest.raises(EmptyPrompt):
        cascade.set_prompt(state, " ", transition="blend", groups=2)
    assert (state.prompt, state.blend, state.recompute_window) == (SEA, None, False)


@pytest.mark.parametrize(("frames", "sink"), [(6, 0), (6, 2), (9, 3), (5, 1), (7, 1)])
@pytest.mark.parametrize("first", [1, 2])
def test_the_window_holds_the_latents_of_the_frames_that_the_ring_cache_holds(
    frames: int, sink: int, first: int
) -> None:
    window = WindowLatents((1, 1, 1), frames=frames, sink_frames=sink, device=CPU)
    seen = 0
    for count in (first, *([2] * 9)):
        window.append(torch.arange(seen, seen + count).float().view(1, 1, -1, 1, 1))
        seen += count
        blocks = window.blocks()
        found = [int(value) for _, latent in blocks for value in latent.flatten()]
        assert found == sorted({*range(min(sink, seen)), *range(max(0, seen - frames + sink), seen)})
        assert all(start == int(latent.flatten()[0]) for start, latent in blocks)
        assert all(latent.shape[2] <= 2 for _, latent in blocks)


def test_on_mini_recomputing_follows_the_new_prompt_and_keeps_the_scene_running() -> None:
    cascade = Cascade.load("mini")
    preset = load_preset("mini")
    shown = {}
    for transition in ("keep", "recompute", "blend"):
        state = cascade.open(SEA, size=preset.sizes[0].name, seed=3)
        cascade.next_group(state)
        before = keys_and_values(state.base_cache)
        cascade.set_prompt(state, DESERT, transition=transition, groups=1)  # type: ignore[arg-type]
        shown[transition] = cascade.next_group(state)
        filled = before["keys"].shape[2]
        kept = {name: tensor[:, :, :filled] for name, tensor in keys_and_values(state.base_cache).items()}
        assert same(kept, before) == (transition != "recompute")
    assert torch.equal(shown["keep"], shown["blend"])
    assert not torch.equal(shown["keep"], shown["recompute"])
