"""The whole cascade over the kernels that `auto` chooses on a GPU, which Triton's interpreter runs here."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from ultraflash.kernels import block_sparse, heads, residual_norm
from ultraflash.kernels.backends import has_triton
from ultraflash.models.cascade import Cascade
from ultraflash.models.dit import CausalDiT
from ultraflash.models.patch_autoencoder import PatchDecoder
from ultraflash.models.preset import Preset, load_preset
from ultraflash.models.text import MiniLMEncoder
from ultraflash.models.upsampler import LatentUpsampler

FUSED = (heads, residual_norm)


def small(preset: Preset) -> Preset:
    """The preset with small networks, and a cache of two temporal blocks that calls of one go round."""
    dit = replace(
        preset.base.dit, dim=48, ffn_dim=64, layers=1, heads=2, position_grid=None, text_summary=False
    )
    sr_dit = replace(dit, mend_seams=False)
    # Scaled to so few tokens the ratio would keep every pair.
    rule = replace(preset.sr.rule, ref_spatial_tokens=None)
    sr = replace(preset.sr, dit=sr_dit, rule=rule, block=(1, 4, 4), cached_blocks=2, call_frames=1)
    size = replace(preset.sizes[0], rows=6, cols=10)
    return replace(preset, base=replace(preset.base, dit=dit, rows=6, cols=10), sr=sr, sizes=(size,))


def drawn(net: nn.Module) -> nn.Module:
    """Weights that keep activations alive: the zeros that training starts from would hide every mistake."""
    generator = torch.Generator().manual_seed(5)
    for parameter in net.parameters():
        scale = 0.5 / parameter[0].numel() ** 0.5 if parameter.dim() > 1 else 0.05
        parameter.data = (
            torch.randn(parameter.shape, generator=generator) * scale + (parameter.dim() == 1) * 0.5
        )
    return net


@pytest.mark.skipif(not has_triton(), reason="Triton is not installed")
def test_frames_over_the_kernels_are_those_over_the_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    preset = small(load_preset("mini"))
    cascade = Cascade(
        preset,
        text=MiniLMEncoder(),
        base=drawn(CausalDiT(preset.base.dit)),
        upsamplers={factor: drawn(LatentUpsampler(config)) for factor, config in preset.upsampler.items()},
        sr={part: drawn(CausalDiT(preset.sr.dit)) for part in preset.sr_parts},
        decoder=drawn(PatchDecoder(preset.decoder)),
        device=torch.device("cpu"),
        dtype=torch.float32,
    )
    asked: set[str] = set()

    def frames(backend: str) -> torch.Tensor:
        def fused(operator: str, *_: object) -> str:
            asked.add(operator)
            return backend

        monkeypatch.setattr(block_sparse, "_auto_backend", lambda _: backend)
        for package in FUSED:
            monkeypatch.setattr(package, "fused_backend", fused)
        state = cascade.open("a calm sea at dawn", size=preset.sizes[0].name, seed=3)
        return torch.cat([cascade.next_group(state) for _ in range(2)])

    wanted, made = frames("reference"), frames("interpreter")
    assert asked == {package.OPERATOR for package in FUSED}
    assert wanted.float().std() > 5
    off = (made.int() - wanted.int()).abs()
    assert off.max() <= 1
    assert (off > 0).float().mean() < 0.01
