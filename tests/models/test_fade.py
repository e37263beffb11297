from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ultraflash.kernels.pixels import PixelLayout, pack
from ultraflash.models.cascade import Cascade
from ultraflash.models.errors import BadTransition
from ultraflash.models.fade import Fade, resized, share
from ultraflash.models.preset import load_preset
from ultraflash.models.stream_state import StreamState
from ultraflash.models.transition import PromptChangeConfig

SEA, DESERT = "a calm sea", "a desert at noon"
GROUP = 16


def grey(*levels: int) -> Tensor:
    return torch.tensor(levels, dtype=torch.uint8)[:, None, None, None].expand(-1, 2, 2, 3)


def levels(frames: Tensor) -> list[int]:
    return frames[:, 0, 0, 0].tolist()


def test_frames_go_over_step_by_step_across_groups_and_then_are_themselves() -> None:
    fade = Fade()
    assert levels(fade.apply(grey(7, 100))) == [7, 100]
    fade.begin(8)
    # Of eight steps of 10 those to the first picture of a latent frame are of 4, the others of 12.
    assert levels(fade.apply(grey(*[180] * 5))) == [104, 116, 128, 140, 144]
    assert fade.left == 3
    assert levels(fade.apply(grey(180, 180, 180, 30))) == [156, 168, 180, 30]
    assert fade.left == 0
    assert levels(fade.apply(grey(60))) == [60]


def test_a_fade_that_ends_within_a_latent_frame_ends_all_the_same() -> None:
    assert [share(done, 6) for done in (4, 5, 6, 7)] == pytest.approx([4 / 6, 4.4 / 6, 1.0, 1.0])


def test_a_fade_takes_over_from_what_was_shown_last() -> None:
    fade = Fade()
    fade.apply(grey(0))
    fade.begin(2)
    assert levels(fade.apply(grey(100))) == [20]
    fade.begin(2)
    between, last = levels(fade.apply(grey(150, 150)))
    assert 20 < between < last == 150


def test_a_cut_ends_a_fade() -> None:
    fade = Fade()
    fade.apply(grey(0))
    fade.begin(4)
    fade.begin(0)
    assert levels(fade.apply(grey(80))) == [80]


def test_before_the_first_frame_there_is_nothing_to_fade_from() -> None:
    fade = Fade()
    fade.begin(4)
    assert fade.left == 0
    assert levels(fade.apply(grey(80))) == [80]
    assert levels(fade.apply(grey(90))) == [90]


def running(cascade: Cascade) -> tuple[StreamState, Tensor]:
    """A stream of two groups, and its last frame."""
    state = cascade.open(SEA, size="0.5K", seed=3)
    cascade.next_group(state)
    return state, cascade.next_group(state)[-1]


def test_a_faded_change_shows_the_recomputed_stream_through_the_last_frame(cascade: Cascade) -> None:
    cut, _ = running(cascade)
    faded, last = running(cascade)
    cascade.set_prompt(cut, DESERT, transition="recompute")
    cascade.set_prompt(faded, DESERT, transition="fade", groups=2)
    for group in range(3):
        plain, shown = cascade.next_group(cut), cascade.next_group(faded)
        for frame, (before, after) in enumerate(zip(plain, shown, strict=True), start=1 + group * GROUP):
            mixed = torch.lerp(last.float(), before.float(), share(frame, 2 * GROUP))
            assert torch.equal(after, mixed.round().to(torch.uint8))


def test_a_change_takes_what_the_preset_says_unless_told_otherwise(cascade: Cascade) -> None:
    assert cascade.preset.prompt_change == PromptChangeConfig(transition="fade", groups=3)
    left = {}
    for transition in (None, "recompute"):
        state, _ = running(cascade)
        cascade.set_prompt(state, DESERT, transition=transition)  # type: ignore[arg-type]
        left[transition] = state.picture.fade.left
    assert left == {None: 3 * GROUP, "recompute": 0}


def test_a_change_that_keeps_the_past_leaves_a_fade_alone(cascade: Cascade) -> None:
    state, _ = running(cascade)
    cascade.set_prompt(state, DESERT, transition="fade", groups=2)
    cascade.next_group(state)
    cascade.set_prompt(state, SEA, transition="keep")
    assert state.picture.fade.left == GROUP


def test_a_fade_goes_on_at_another_size_from_what_was_shown(cascade: Cascade) -> None:
    state, _ = running(cascade)
    cascade.set_prompt(state, DESERT, transition="fade", groups=4)
    shown = cascade.next_group(state)[-1]
    cut, _ = running(cascade)
    cascade.set_prompt(cut, DESERT, transition="recompute")
    cascade.next_group(cut)
    cascade.set_size(cut, "1K")
    cascade.set_size(state, "1K")
    plain, faded = cascade.next_group(cut)[0], cascade.next_group(state)[0]
    before = resized(shown, plain.shape, "rgb").float()
    assert (faded.float() - before).abs().mean() < 0.1 * (plain.float() - before).abs().mean()


def test_a_compact_snapshot_keeps_a_fade_to_come(cascade: Cascade) -> None:
    state, _ = running(cascade)
    cascade.set_prompt(state, DESERT, transition="fade", groups=2)
    assert cascade.restore(cascade.snapshot(state, max_bytes=0)).picture.fade.left == 2 * GROUP
    cascade.next_group(state)
    assert cascade.restore(cascade.snapshot(state, max_bytes=0)).picture.fade.left == 0


def test_a_fade_of_another_layout_is_cut_short() -> None:
    fade = Fade()
    fade.apply(torch.zeros(1, 3, 2, dtype=torch.uint8))
    fade.begin(2)
    assert levels(fade.apply(grey(80))) == [80]
    assert fade.left == 0


@pytest.mark.parametrize("layout", ["yuv420p", "nv12"])
def test_planes_are_resized_like_the_picture_they_hold(layout: PixelLayout) -> None:
    colours = torch.rand(3, 2, 3, generator=torch.Generator().manual_seed(0)).repeat_interleave(8, 0)
    picture = colours.repeat_interleave(8, 1)[None, :16]
    small, large = (
        pack(each, layout=layout)[0]
        for each in (picture, picture.repeat_interleave(2, 1).repeat_interleave(2, 2))
    )
    error = (resized(small, large.shape, layout).int() - large.int()).abs()
    assert error.float().median() <= 1


def test_a_fade_outlives_a_change_of_size(cascade: Cascade) -> None:
    state, _ = running(cascade)
    cascade.set_prompt(state, DESERT, transition="fade", groups=2)
    cascade.next_group(state)
    cascade.set_size(state, "1K")
    cascade.next_group(state)
    assert state.picture.fade.left == 0
    again, _ = running(cascade)
    cascade.set_prompt(again, DESERT, transition="fade", groups=3)
    cascade.next_group(again)
    cascade.set_size(again, "1K")
    cascade.next_group(again)
    assert again.picture.fade.left == GROUP


def test_a_preset_that_says_nothing_recomputes_and_one_that_cannot_be_is_refused() -> None:
    assert load_preset("ultraflash-1k").prompt_change == PromptChangeConfig()
    with pytest.raises(BadTransition):
        PromptChangeConfig(transition="recompute", groups=2)
