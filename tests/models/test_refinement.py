"""The one step of super-resolution, with noise in its input and without."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from small_cascade import drawn
from torch import Tensor

from ultraflash.models.cascade import Cascade
from ultraflash.models.dit import CausalDiT
from ultraflash.models.errors import BadConfig
from ultraflash.models.preset import Preset
from ultraflash.models.refinement import SuperResolutionConfig, refine

FRAMES = torch.arange(3)


def attend(layer: int, q_BLND: Tensor, k_BLND: Tensor, v_BLND: Tensor) -> Tensor:
    """Every token sees itself."""
    return v_BLND


def config_of(preset: Preset, *, noise: bool) -> SuperResolutionConfig:
    assert preset.sr is not None
    channels = preset.decoder.latent_channels
    dit = replace(preset.sr.dit, in_channels=(1 + noise) * channels)
    return replace(preset.sr, dit=dit, noise=noise, prediction="change")


def refined(config: SuperResolutionConfig, noise_BCFHW: Tensor | None) -> tuple[Tensor, Tensor]:
    """A condition, and what a drawn network makes of it."""
    net = drawn(CausalDiT(config.dit), 3)
    generator = torch.Generator().manual_seed(0)
    condition = torch.randn(1, config.dit.out_channels, 3, 4, 6, generator=generator)
    states = torch.randn(1, 4, config.dit.text_dim, generator=generator)
    with torch.no_grad():
        return condition, refine(net, config, condition, noise_BCFHW, net.encode_text(states), FRAMES, attend)


def test_a_network_without_noise_is_told_the_condition_alone(preset: Preset) -> None:
    config = config_of(preset, noise=False)
    condition, found = refined(config, None)
    again = refined(config, None)[1]
    assert found.shape == condition.shape
    assert found.dtype == torch.float32
    assert torch.equal(found, again)
    assert (found - condition).abs().max() > 0.01


def test_a_network_with_noise_makes_something_else_of_other_noise(preset: Preset) -> None:
    config = config_of(preset, noise=True)
    first, second = (
        refined(
            config,
            torch.randn(1, config.dit.out_channels, 3, 4, 6, generator=torch.Generator().manual_seed(i)),
        )[1]
        for i in range(2)
    )
    assert (first - second).abs().max() > 0.01


@pytest.mark.parametrize("noise", [True, False])
def test_noise_is_for_those_that_take_it(preset: Preset, noise: bool) -> None:
    config = config_of(preset, noise=noise)
    given = None if noise else torch.zeros(1, config.dit.out_channels, 3, 4, 6)
    with pytest.raises(ValueError, match="to the networks that take it"):
        refined(config, given)


def test_a_flow_wants_noise(preset: Preset) -> None:
    assert preset.sr is not None
    with pytest.raises(BadConfig, match=r'without noise there is no flow to predict, but a "change"'):
        replace(preset.sr, noise=False, prediction="flow")


def test_a_network_has_the_channels_that_its_input_has(preset: Preset) -> None:
    assert preset.sr is not None
    told = replace(preset.sr, noise=False, prediction="change")
    with pytest.raises(BadConfig, match=r"sr\.dit\.in_channels is \d+, but must be"):
        replace(preset, sr=told)


def test_a_stream_without_noise_is_told_apart_by_its_base_alone(
    build: Callable[..., Cascade], preset: Preset
) -> None:
    """The seed still decides the picture, by what the base makes of it."""
    cascade = build(replace(preset, sr=config_of(preset, noise=False)))
    first, again, other = (cascade.next_group(cascade.open("a calm sea", seed=seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_every_size_is_refined_by_the_network_of_its_factor_under_its_own_text(
    build: Callable[..., Cascade], preset: Preset
) -> None:
    assert preset.sr is not None
    cascade = build(replace(preset, sr=replace(preset.sr, networks=((2,), (6, 4)))))
    state = cascade.open("a calm sea", size="0.5K", seed=1)
    called: list[tuple[str, bool]] = []
    for part, net in cascade.networks.sr.items():
        net.register_forward_pre_hook(
            lambda _, args, part=part: called.append((part, args[2] is state.prompt_context.sr[part]))
        )
    cascade.next_group(state)
    cascade.set_size(state, "1K")
    cascade.next_group(state)
    # A new size refines the group before it once more, to have keys and values of its own.
    assert called == [("sr_x2", True), ("sr_x6", True), ("sr_x6", True)]


def test_a_preset_wants_the_networks_that_its_sizes_do(preset: Preset) -> None:
    assert preset.sr is not None
    assert preset.sr_parts == ("sr_x2", "sr_x4")
    assert replace(preset, sizes=preset.sizes[:1]).sr_parts == ("sr_x2",)
    for none in (None, ()):
        assert replace(preset, sr=replace(preset.sr, networks=none)).sr_parts == ("sr",)
