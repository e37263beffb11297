from dataclasses import fields, replace

import pytest
import torch
from torch import nn

from ultraflash.kernels.pixels import pack
from ultraflash.models.cascade import Cascade
from ultraflash.models.device import best_device
from ultraflash.models.dit import CausalDiT
from ultraflash.models.errors import EmptyPrompt, InvalidSeed, PromptTooLong, UnknownSize
from ultraflash.models.patch_autoencoder import PatchDecoder
from ultraflash.models.preset import Preset, load_preset
from ultraflash.models.stream_state import StreamState
from ultraflash.models.text import MiniLMEncoder
from ultraflash.models.upsampler import LatentUpsampler


def tiny(preset: Preset) -> Preset:
    """The shipped preset with small networks over a small grid: the same code paths in a fraction of the time."""
    dit = replace(
        preset.base.dit, dim=48, ffn_dim=64, layers=2, heads=2, position_grid=None, text_summary=False
    )
    sizes = tuple(
        replace(size, rows=4, cols=6) if size.factor > 2 else replace(size, rows=6, cols=8)
        for size in preset.sizes[:2]
    )
    return replace(
        preset,
        base=replace(preset.base, dit=dit, rows=6, cols=8),
        sr=replace(
            preset.sr,
            dit=replace(dit, mend_seams=False),
            # Scaled to so few tokens the ratio would keep every pair.
            rule=replace(preset.sr.rule, ref_spatial_tokens=None),
            block=(1, 4, 4),
        ),
        sizes=sizes,
    )


def faint(decoder: PatchDecoder) -> PatchDecoder:
    """The same pictures with so little contrast that all colours are in range."""
    for parameter in decoder.parameters():
        parameter.data = parameter.data * 0.08
    return decoder


def drawn(net: nn.Module) -> nn.Module:
    """Weights that keep activations alive: the zeros that training starts from would hide every mistake."""
    generator = torch.Generator().manual_seed(5)
    for parameter in net.parameters():
        scale = 0.5 / parameter[0].numel() ** 0.5 if parameter.dim() > 1 else 0.05
        parameter.data = (
            torch.randn(parameter.shape, generator=generator) * scale + (parameter.dim() == 1) * 0.5
        )
    return net


@pytest.fixture(scope="module")
def cascade() -> Cascade:
    preset = tiny(load_preset("mini"))
    return Cascade(
        preset,
        text=MiniLMEncoder(),
        base=drawn(CausalDiT(preset.base.dit)),
        upsamplers={factor: drawn(LatentUpsampler(config)) for factor, config in preset.upsampler.items()},
        sr={part: drawn(CausalDiT(preset.sr.dit)) for part in preset.sr_parts},
        decoder=faint(drawn(PatchDecoder(preset.decoder))),
        device=torch.device("cpu"),
        dtype=torch.float32,
    )


def held(thing: object, seen: set[int] | None = None) -> int:
    """Bytes of all tensors, and the number of all collections and objects, that can be reached from an object."""
    seen = set() if seen is None else seen
    if id(thing) in seen or isinstance(thing, type | int | float | str | None):
        return 0
    seen.add(id(thing))
    if isinstance(thing, torch.Tensor):
        return thing.untyped_storage().nbytes()
    parts: list[object] = [*vars(thing).values()] if hasattr(thing, "__dict__") else []
    parts += [getattr(thing, name) for name in getattr(type(thing), "__slots__", ())]
    parts += [*thing.values()] if isinstance(thing, dict) else []
    parts += [*thing] if isinstance(thing, list | tuple | set) else []
    return 1 + sum(held(part, seen) for part in parts)


def run(cascade: Cascade, state: StreamState, groups: int) -> torch.Tensor:
    return torch.cat([cascade.next_group(state) for _ in range(groups)])


def test_groups_are_uint8_pictures_and_the_first_is_three_frames_short(cascade: Cascade) -> None:
    state = cascade.open("a calm sea", size="0.5K", seed=1)
    size = state.size
    for frames in (9, 12, 12):
        group = cascade.next_group(state)
        assert group.dtype == torch.uint8
        assert group.shape == (frames, size.height, size.width, 3)
        assert group.is_contiguous()
    assert state.frames_emitted == 33
    assert group.float().std() > 1
    assert set(state.stage_seconds) == {"base", "upsample", "sr", "decode"}


def test_planes_for_a_video_encoder_are_those_of_the_rgb_frames(cascade: Cascade) -> None:
    networks = {field.name: getattr(cascade.networks, field.name) for field in fields(cascade.networks)}
    planar = Cascade(
        cascade.preset, **networks, device=torch.device("cpu"), dtype=torch.float32, layout="yuv420p"
    )
    rgb_THWC, planes = (run(each, each.open("a calm sea", seed=1), 1) for each in (cascade, planar))
    assert rgb_THWC.min() > 0
    assert rgb_THWC.max() < 255
    wanted = pack(rgb_THWC.float() / 255, layout="yuv420p")
    assert planes.is_contiguous()
    assert (planes.int() - wanted.int()).abs().max() <= 2


def test_seams_are_mended_in_what_is_shown_while_the_window_keeps_what_was_made(cascade: Cascade) -> None:
    state = cascade.open("a calm sea", seed=1)
    cascade.next_group(state)
    (_, made_BCFHW), *_ = state.window.blocks()
    mender = cascade.networks.base.seams
    assert mender is not None and state.last_latents_BCFHW is not None
    with torch.no_grad():
        torch.testing.assert_close(state.last_latents_BCFHW, mender(made_BCFHW))
    assert not torch.equal(state.last_latents_BCFHW, made_BCFHW)


def test_a_block_that_is_given_stays_unmended_and_the_one_made_after_it_is_mended(cascade: Cascade) -> None:
    wanted, mender = cascade.reference_format(), cascade.networks.base.seams
    generator = torch.Generator().manual_seed(4)
    shape = (4 * 3 - 3, wanted.height, wanted.width, 3)
    state = cascade.open("a calm sea", seed=1)
    cascade.start_from(state, torch.randint(256, shape, dtype=torch.uint8, generator=generator).numpy())
    given_BCFHW = state.reference_BCFHW
    assert mender is not None and given_BCFHW is not None and given_BCFHW.shape[2] == 3
    with torch.no_grad():
        assert not torch.equal(mender(given_BCFHW), given_BCFHW)
        cascade.next_group(state)
        assert torch.equal(state.last_latents_BCFHW, given_BCFHW)
        cascade.next_group(state)
        (_, kept_BCFHW), (_, made_BCFHW) = state.window.blocks()
        assert torch.equal(kept_BCFHW, given_BCFHW)
        torch.testing.assert_close(state.last_latents_BCFHW, mender(made_BCFHW))


def test_same_seed_gives_the_same_frames_and_another_seed_does_not(cascade: Cascade) -> None:
    first, again, other = (run(cascade, cascade.open("a calm sea", seed=seed), 3) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_interleaved_streams_equal_separate_ones_bit_for_bit(cascade: Cascade) -> None:
    prompts = [("a calm sea", "0.5K"), ("snowy mountains at night", "1K")]
    alone = [run(cascade, cascade.open(p, size=s, seed=i), 4) for i, (p, s) in enumerate(prompts)]
    states = [cascade.open(p, size=s, seed=i) for i, (p, s) in enumerate(prompts)]
    groups: list[list[torch.Tensor]] = [[], []]
    for _ in range(4):
        for i, state in enumerate(states):
            groups[i].append(cascade.next_group(state))
    for i in range(2):
        assert torch.equal(torch.cat(groups[i]), alone[i])


def test_prompt_change_acts_from_the_next_group_on(cascade: Cascade) -> None:
    plain, changed = (cascade.open("a calm sea", seed=3) for _ in range(2))
    assert torch.equal(run(cascade, plain, 2), run(cascade, changed, 2))
    cascade.set_prompt(changed, "  a desert at noon ")
    assert changed.prompt == "a desert at noon"
    assert not torch.equal(cascade.next_group(plain), cascade.next_group(changed))


def test_refused_prompt_changes_nothing(cascade: Cascade) -> None:
    state = cascade.open("a calm sea", seed=3)
    with pytest.raises(EmptyPrompt):
        cascade.set_prompt(state, "   ")
    with pytest.raises(PromptTooLong, match="1000"):
        cascade.set_prompt(state, "x" * 1001)
    assert state.prompt == "a calm sea"


def test_size_change_keeps_the_scene_and_the_frame_count(cascade: Cascade) -> None:
    steady, resized = (cascade.open("a calm sea", size="0.5K", seed=4) for _ in range(2))
    run(cascade, steady, 2)
    run(cascade, resized, 2)
    cascade.set_size(resized, "1K")
    group = cascade.next_group(resized)
    assert group.shape[1:] == (resized.size.height, resized.size.width, 3)
    assert group.shape[0] == 12
    cascade.set_size(resized, "0.5K")
    cascade.next_group(steady)
    assert torch.equal(steady.last_latents_BCFHW, resized.last_latents_BCFHW)
    cascade.next_group(resized)
    cascade.next_group(steady)
    assert torch.equal(steady.last_latents_BCFHW, resized.last_latents_BCFHW)


def test_memory_of_a_stream_does_not_grow(cascade: Cascade) -> None:
    state = cascade.open("a calm sea", seed=5)
    run(cascade, state, 5)
    before = held(state)
    run(cascade, state, 5)
    assert held(state) == before


def test_less_attention_in_super_resolution_changes_the_picture_from_the_next_group_on(
    cascade: Cascade,
) -> None:
    full, sparse = (cascade.open("a calm sea", size="1K", seed=4) for _ in range(2))
    assert torch.equal(cascade.next_group(full), cascade.next_group(sparse))
    assert cascade.sr_shares("1K")[0] == 1
    cascade.set_sr_share(sparse, 0.01)
    one, other = cascade.next_group(full), cascade.next_group(sparse)
    assert one.shape == other.shape
    assert not torch.equal(one, other)
    with pytest.raises(ValueError, match="share"):
        cascade.set_sr_share(sparse, 0)


def test_unknown_size_and_seed_are_refused_with_what_is_accepted(cascade: Cascade) -> None:
    with pytest.raises(UnknownSize, match=r"0\.5K \(256x192\)"):
        cascade.open("a calm sea", size="3K")
    with pytest.raises(InvalidSeed):
        cascade.open("a calm sea", seed=-1)


def test_size_is_found_by_name_and_by_pixels() -> None:
    preset = load_preset("mini")
    assert preset.size("1k") is preset.size("1664x960")
    assert [(s.name, s.width, s.height) for s in preset.sizes] == [
        ("0.5K", 896, 512),
        ("1K", 1664, 960),
        ("2K", 2496, 1440),
    ]


def test_without_a_device_a_gpu_is_taken_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    for there, kind in ((True, "cuda"), (False, "cpu")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=there: there)
        assert best_device().type == kind
