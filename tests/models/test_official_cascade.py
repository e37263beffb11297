"""A cascade in the official layout, end to end: text encoder, groups of two blocks, factors 2 and 3, tiny decoder."""

from dataclasses import replace

import pytest
import torch
from tiny_official import Official
from torch import Tensor

from ultraflash.models.cascade import Cascade
from ultraflash.models.dit import CausalDiT
from ultraflash.models.errors import PromptTooLong
from ultraflash.models.preset import Preset


def load(official: Official, **changes: object) -> Cascade:
    return Cascade.load(replace(official.preset, **changes), dtype=torch.float32)


@pytest.fixture(scope="module")
def cascade(official: Official) -> Cascade:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ULTRAFLASH_MODELS", str(official.home))
        return load(official)


@pytest.mark.parametrize(
    ("size", "stages"),
    [
        ("0.5K", {"base", "decode"}),
        ("1K", {"base", "upsample", "sr", "decode"}),
        ("2K", {"base", "upsample", "sr", "decode"}),
    ],
)
def test_groups_of_two_blocks_become_pictures_of_every_size(
    cascade: Cascade, size: str, stages: set[str]
) -> None:
    state = cascade.open("a calm sea", size=size, seed=1)
    picture = cascade.preset.size(size)
    assert (picture.height, picture.width) == {"0.5K": (32, 64), "1K": (64, 128), "2K": (96, 192)}[size]
    for frames in (21, 24):
        group = cascade.next_group(state)
        assert group.shape == (frames, picture.height, picture.width, 3)
        assert group.dtype == torch.uint8 and group.float().std() > 1
    assert state.stage_seconds.keys() == stages
    assert state.latent_frames == 12


def test_prompts_and_seeds_matter_and_the_same_ones_give_the_same_frames(cascade: Cascade) -> None:
    def first(prompt: str, seed: int) -> Tensor:
        return cascade.next_group(cascade.open(prompt, size="1K", seed=seed))

    assert torch.equal(first("a calm sea", 1), first("a calm sea", 1))
    assert not torch.equal(first("a calm sea", 1), first("a calm sea", 2))
    assert not torch.equal(first("a calm sea", 1), first("a desert at noon", 1))
    with pytest.raises(PromptTooLong):
        cascade.open("a " * 40)


def test_a_stream_goes_from_a_size_without_refining_to_one_with_it_and_back(cascade: Cascade) -> None:
    steady, moving = (cascade.open("a calm sea", size="0.5K", seed=4) for _ in range(2))
    for size in ("0.5K", "2K", "1K", "0.5K"):
        cascade.set_size(moving, size)
        frames = cascade.next_group(moving)
        cascade.next_group(steady)
        assert frames.shape[2] == moving.size.width
        assert torch.equal(steady.last_latents_BCFHW, moving.last_latents_BCFHW)


def test_the_first_group_is_refined_at_once_and_later_ones_two_frames_at_a_time(
    cascade: Cascade, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[int, ...]] = []
    sr = cascade.networks.sr["sr"]
    sr.register_forward_pre_hook(lambda _, args: calls.append(tuple(args[3].tolist())))
    state = cascade.open("a calm sea", size="1K", seed=1)
    cascade.next_group(state)
    cascade.next_group(state)
    sr._forward_pre_hooks.clear()
    assert calls == [tuple(range(6)), (6, 7), (8, 9), (10, 11)]


def test_a_stream_that_starts_with_a_single_frame_has_a_shorter_first_group(official_home: Official) -> None:
    base = replace(official_home.preset.base, independent_first_frame=True, sink_frames=3)
    cascade = load(official_home, base=base)
    state = cascade.open("a calm sea", size="1K", seed=1)
    assert [len(cascade.next_group(state)) for _ in range(3)] == [13, 24, 24]
    assert state.latent_frames == 16


def test_a_preset_without_super_resolution_shows_what_the_base_made(
    official_home: Official, cascade: Cascade
) -> None:
    sizes = official_home.preset.sizes[:1]
    alone = load(official_home, sr=None, upsampler={}, sizes=sizes, default_size="0.5K")
    assert alone.networks.sr == {} and alone.networks.upsamplers == {}
    whole = cascade.next_group(cascade.open("a calm sea", size="0.5K", seed=2))
    state = alone.open("a calm sea", seed=2)
    assert torch.equal(alone.next_group(state), whole[:9])
    assert len(alone.next_group(state)) == 12


def test_the_last_decoder_of_the_official_ones_shows_the_same_latents(official_home: Official) -> None:
    from ultraflash.models.tiny_decoder import TinyDecoder

    preset: Preset = official_home.preset
    decoder = replace(preset.decoder, upsampling="pixel_shuffle", first_frame="replicate")
    networks = load(official_home).networks
    torch.manual_seed(0)
    cascade = Cascade(
        replace(preset, decoder=decoder),
        text=networks.text,
        base=networks.base,
        upsamplers=networks.upsamplers,
        sr=networks.sr,
        decoder=TinyDecoder(decoder),
        device=torch.device("cpu"),
        dtype=torch.float32,
    )
    assert cascade.next_group(cascade.open("a calm sea", size="1K")).shape == (21, 64, 128, 3)


def test_low_rank_weights_beside_the_base_can_be_turned_down(
    official_home: Official, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tiny_official import write_official

    home = tmp_path_factory.mktemp("lora")
    write_official(home)
    monkeypatch.setenv("ULTRAFLASH_MODELS", str(home))
    preset = official_home.preset
    layers = [
        name for name, _ in CausalDiT(preset.base.dit).named_modules() if name.endswith(("ffn.0", ".q"))
    ]
    widths = {name: (32 if "ffn" in name else 24) for name in layers}
    lora = {
        f"base_model.model.{name}.lora_{half}.weight": torch.randn(shape)
        for name in layers
        for half, shape in (("A", (2, 24)), ("B", (widths[name], 2)))
    }
    torch.save(lora, home / "self-forcing" / "lora.pt")
    sources = tuple(
        replace(source, lora="lora.pt", lora_alpha=2.0, lora_live=True) if source.part == "base" else source
        for source in preset.sources
    )

    def latents(cascade: Cascade) -> Tensor:
        state = cascade.open("a calm sea", size="0.5K", seed=1)
        cascade.next_group(state)
        assert state.last_latents_BCFHW is not None
        return state.last_latents_BCFHW

    plain = latents(load(official_home))
    cascade = load(official_home, sources=sources)
    lora_of = cascade.networks.lora
    assert lora_of is not None
    assert not torch.allclose(latents(cascade), plain)
    lora_of.scale = 0.0
    torch.testing.assert_close(latents(cascade), plain, atol=1e-4, rtol=1e-4)
