"""Stage ``sr``: one-step block-sparse super-resolution of upsampled latents, network by network.

The condition is what the cascade will see: low-resolution latents of the same scene through the frozen upsampler, and,
where the config says so, marred before as a generator mars them. The network runs group by group over its own cached
keys and values, sparse as at run time, and one step has to hit the latents of the picture drawn at full size.

Shapes: B batch, C channels, F latent frames, H W latent rows and columns, L tokens, N heads, D head size.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ultraflash.kernels.block_sparse import BlockGrid, SelectionRule, block_sparse_attention, select_blocks
from ultraflash.models.dit import CausalDiT
from ultraflash.models.errors import BadConfig
from ultraflash.models.preset import Preset, load_preset
from ultraflash.models.refinement import refine
from ultraflash.models.upsampler import LatentUpsampler
from ultraflash.models.weights import load_file, upsampler_file
from ultraflash.training.autoencoder import psnr
from ultraflash.training.linear_pixels import LinearPixels
from ultraflash.training.loop import StageConfig, train
from ultraflash.training.pairs import Pairs, PairsConfig, PairsReader, make_pairs, pairs_folder
from ultraflash.training.patches import export
from ultraflash.training.placement import on_device
from ultraflash.training.sheets import comparison_sheet

PAIRS = Path("sr") / "pairs"


@dataclass(frozen=True, slots=True, kw_only=True)
class SuperResolutionStageConfig(StageConfig):
    """How super-resolution is trained; ``minutes`` are shared out evenly among its networks, ``steps`` are each one's.

    Args:
        preset: whose networks of super-resolution to train.
        pairs: what it is trained on: with captions, and of whole groups, the later of which see cached keys and values.
        workers: processes that draw them.
        noise: largest noise level put on the low-resolution latents; a network that has learned to take noise off
            takes detail with it where there is none.
        blur: share of clips whose low-resolution latents are blurred.
        evaluated_windows: test windows per factor.
    """

    preset: str = "mini"
    pairs: PairsConfig = field(
        default_factory=lambda: PairsConfig(
            latent_frames=6,
            windows=((2, 8, 14), (4, 4, 8), (6, 4, 6)),
            shards=60,
            with_text=True,
        )
    )
    workers: int = 2
    noise: float = 0.0
    blur: float = 0.0
    evaluated_windows: int = 8

    def __post_init__(self) -> None:
        StageConfig.__post_init__(self)
        if not self.pairs.with_text:
            raise BadConfig("super-resolution wants pairs with_text", param="pairs")


class GroupAttention:
    """Block-sparse attention as a stream runs it, over keys and values that are kept without gradients."""

    def __init__(self, grid: BlockGrid, rule: SelectionRule, cached_blocks: int) -> None:
        self._grid, self._rule = grid, rule
        self._kept = cached_blocks * grid.spatial_blocks
        self._past: dict[int, tuple[Tensor, Tensor]] = {}

    def __call__(self, layer: int, q_BLND: Tensor, k_BLND: Tensor, v_BLND: Tensor) -> Tensor:
        q, k, v = (self._grid.to_blocks(x) for x in (q_BLND, k_BLND, v_BLND))
        past_k, past_v = self._past.get(layer, (k[:, :0], v[:, :0]))
        selection = select_blocks(q, k, self._grid, self._rule, cached_k_BCTND=past_k)
        out = block_sparse_attention(q, k, v, selection, cached_k_BCTND=past_k, cached_v_BCTND=past_v)
        joined = (torch.cat((past, new.detach()), 1) for past, new in ((past_k, k), (past_v, v)))
        first, second = (x[:, max(0, x.shape[1] - self._kept) :] for x in joined)
        self._past[layer] = (first, second)
        return self._grid.to_tokens(out)


def degrade(latent_BCFHW: Tensor, *, noise: float, blur: float) -> Tensor:
    """Mar latents as a small generator does: lost detail, and errors that change from frame to frame.

    Args:
        noise: largest level of the noise mixed in, drawn per clip.
        blur: share of clips that are smoothed, by a drawn amount.
    """
    batch = latent_BCFHW.shape[0]
    flat = latent_BCFHW.transpose(1, 2).flatten(0, 1)
    smooth = F.avg_pool2d(F.pad(flat, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    smooth = smooth.unflatten(0, (batch, -1)).transpose(1, 2)
    device = latent_BCFHW.device
    weight, chance, level = (torch.rand(batch, 1, 1, 1, 1, device=device) for _ in range(3))
    weight = weight * (chance < blur)
    return (
        torch.lerp(latent_BCFHW, smooth, weight) + noise * level * torch.randn_like(latent_BCFHW)
    ).detach()


@dataclass(frozen=True, slots=True, kw_only=True)
class PairBatch:
    """Low- and high-resolution latents of the same windows, and their prompts; ``high`` is ``factor`` times larger."""

    low_BCFHW: Tensor
    high_BCFHW: Tensor
    text_BLD: Tensor
    factor: int


def _with_factor(pairs: Pairs, factor: int) -> PairBatch:
    if pairs.text_BLD is None:
        raise BadConfig("these pairs were drawn without their text", param="pairs")
    return PairBatch(
        low_BCFHW=pairs.low.transpose(1, 2),
        high_BCFHW=pairs.high.transpose(1, 2),
        text_BLD=pairs.text_BLD,
        factor=factor,
    )


class SuperResolutionStage:
    """Training of one network of super-resolution, named ``part`` in the preset. See `loop.Stage`.

    Raises:
        BadConfig: of a factor that it serves there are no pairs, or their clips are no whole groups.
    """

    def __init__(self, config: SuperResolutionStageConfig, run_dir: Path, part: str) -> None:
        self.name = part
        self.config = config
        self.preset: Preset = load_preset(config.preset)
        self.run_dir = run_dir
        if config.pairs.latent_frames % self.preset.group_frames:
            raise BadConfig(
                f"{config.pairs.latent_frames} latent frames are no whole groups of {self.preset.group_frames}",
                param="pairs",
            )
        factors = [factor for factor in config.pairs.factors if self.preset.sr.part(factor) == part]
        if not factors:
            raise BadConfig(f"there are no pairs of a factor that {part} serves", param="pairs")
        self.pairs, self.held_out = (
            {
                factor: PairsReader(pairs_folder(run_dir / PAIRS, factor, split), seed=config.seed)
                for factor in factors
            }
            for split in ("train", "test")
        )
        self.upsamplers = {}
        for factor in factors:
            net = LatentUpsampler(self.preset.upsampler[factor])
            load_file(net, run_dir / "weights" / upsampler_file(factor))
            self.upsamplers[factor] = net.eval().requires_grad_(False).to(config.device)
        self.pixels = LinearPixels(self.preset.decoder, run_dir / "weights", device=config.device)

    def build(self) -> nn.Module:
        self.net = CausalDiT(self.preset.sr.dit)
        nn.init.zeros_(self.net.head.head.weight)
        nn.init.zeros_(self.net.head.head.bias)
        return self.net

    def batch(self, step: int) -> PairBatch:
        """Pairs of one factor; the factors take turns."""
        factors = sorted(self.pairs)
        factor = factors[step % len(factors)]
        return _with_factor(self.pairs[factor].batch(step, self.config.batch_size), factor)

    def _condition(self, low_BCFHW: Tensor, factor: int) -> Tensor:
        net = self.upsamplers[factor]
        with torch.no_grad():
            return net(low_BCFHW.transpose(1, 2), net.init_memory()).transpose(1, 2).float()

    def _refine(self, condition_BCFHW: Tensor, text_BLD: Tensor) -> Tensor:
        """One step of the network over the whole clip, group by group."""
        sr, size = self.preset.sr, self.preset.group_frames
        rows, cols = sr.dit.token_grid(*condition_BCFHW.shape[3:])
        grid = BlockGrid(frames=size, rows=rows, cols=cols, block=sr.block)
        attend = GroupAttention(grid, sr.rule, sr.cached_blocks)
        text = self.net.encode_text(text_BLD)
        made = []
        for start in range(0, condition_BCFHW.shape[2], size):
            condition = condition_BCFHW[:, :, start : start + size]
            noise = torch.randn_like(condition) if sr.noise else None
            positions = torch.arange(start, start + size, device=condition.device)
            made.append(refine(self.net, sr, condition, noise, text, positions, attend))
        return torch.cat(made, dim=2)

    def loss(self, batch: PairBatch) -> tuple[Tensor, dict[str, Tensor | float]]:
        low = degrade(batch.low_BCFHW, noise=self.config.noise, blur=self.config.blur)
        condition = self._condition(low, batch.factor)
        made = self._refine(condition, batch.text_BLD)
        before, after = (self.pixels.squared_error(x - batch.high_BCFHW) for x in (condition, made))
        return after, {"gain_over_condition": (before / after).detach()}

    def sample(self, step: int) -> Tensor:
        rows = []
        for index, factor in enumerate(sorted(self.pairs)):
            index %= len(self.held_out[factor])
            batch = self._held_out(factor, index)
            condition = self._condition(batch.low_BCFHW, factor)
            rows.append((condition, self._refine(condition, batch.text_BLD), batch.high_BCFHW))
        return comparison_sheet(rows, self.run_dir / "weights", self.preset)

    def evaluate(self) -> dict[str, float]:
        """PSNR in dB of the linear pixels, of the condition and of what the network makes of it, per factor."""
        measures = {}
        for factor in sorted(self.pairs):
            decibels = []
            for index in range(min(self.config.evaluated_windows, len(self.held_out[factor]))):
                batch = self._held_out(factor, index)
                condition = self._condition(batch.low_BCFHW, factor)
                made = self._refine(condition, batch.text_BLD)
                decibels.append(
                    [psnr(self.pixels.difference(x - batch.high_BCFHW)) for x in (condition, made)]
                )
            before, after = torch.tensor(decibels).mean(0).tolist()
            measures |= {f"psnr_condition_x{factor}": before, f"psnr_x{factor}": after}
        return measures

    def _held_out(self, factor: int, index: int) -> PairBatch:
        return on_device(_with_factor(self.held_out[factor].take([index]), factor), self.config.device)

    def export(self, folder: Path) -> list[Path]:
        return [export(self.net, folder / f"{self.name}.safetensors")]


def run(config: SuperResolutionStageConfig, run_dir: Path) -> bool:
    """Draw the pairs, then train one network after the other; returns whether all are done."""
    preset = load_preset(config.preset)
    made = make_pairs(
        config.pairs,
        run_dir / PAIRS,
        patch=preset.decoder,
        weights=run_dir / "weights",
        seed=config.seed,
        workers=config.workers,
        base=preset.base,
    )
    parts = preset.sr_parts
    each = config.shared_by(len(parts))
    return made and all(train(SuperResolutionStage(each, run_dir, part), each, run_dir) for part in parts)
