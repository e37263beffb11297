"""Stages ``pictures`` and ``base``: the causal generator by flow matching.

``pictures`` trains it on single latent frames, which teaches more scenes for the same work; ``base`` goes on from
there with blocks, each conditioned on the clean blocks before it.

Shapes: B batch, C channels, F latent frames, K blocks, H W latent rows and columns, L text tokens, D text width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from ultraflash.models.compilation import compile_for_training
from ultraflash.models.dit import CausalDiT
from ultraflash.models.errors import BadConfig
from ultraflash.models.preset import BaseConfig, load_preset
from ultraflash.models.schedule import add_noise, shift_sigma
from ultraflash.models.weights import load_file
from ultraflash.training.latents import LATENTS_FOLDER, LatentsBatch, split_latents
from ultraflash.training.loop import StageConfig, train
from ultraflash.training.patches import export
from ultraflash.training.placement import on_device
from ultraflash.training.rollout import sample_blocks
from ultraflash.training.seeding import counter_generator
from ultraflash.training.sheets import latent_sheet
from ultraflash.training.teacher_forcing import teacher_forced_output

EVALUATION_SIGMAS = (0.3, 0.6, 0.8, 0.9, 0.97)

SMALLEST_SIGMA = 0.5
"""Below this noise level, errors of a predicted clean latent count no more than at it."""

TEACHER_FILE = "base_multistep.safetensors"
"""The multi-step generator: not shipped, it teaches the few-step one."""

PICTURES_FILE = "base_pictures.safetensors"
"""The generator after single pictures."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseStageConfig(StageConfig):
    """How the generator is trained.

    Args:
        preset: whose base to train.
        stage: name of the stage.
        start_from: weights of RUN_DIR/weights to start from; None starts from nothing.
        result: name of the weights that are made.
        blocks: blocks of a training clip.
        block_frames: latent frames of a training block, if not those of the preset: 1 trains on single pictures.
        text_dropout: share of clips without their prompt, for guidance.
        context_noise: largest noise level put on the clean context, so that it tolerates what a stream has made itself.
        cut_share: share of clips whose first blocks come from another clip: what a prompt change looks like.
        held_out_shards: shards of the latents cache kept for evaluation.
        object_balance: how far clips of rare objects are drawn more often: 0 not at all, 1 until all are as frequent.
        object_weight: by how much more an error counts on a latent that an object covers: objects are a twentieth of
            the pictures, and would be learned last.
        motion_weight: how much errors of the changes from frame to frame within a block count beside those of the
            frames, see :func:`motion_error`.
        guidance_weight: w in [0, 1) teaches the network to give what guidance of scale 1 / (1 - w) would make of it, so
            that no second pass without the prompt is needed (Tang et al., Diffusion Models without Classifier-free
            Guidance, 2025).
        sample_steps, guidance: of the sample sheet.
        compile: whether the training pass is compiled, on a CPU as a whole, a minute or two at the start and a quarter
            faster from then on, on a GPU block by block, samples and evaluation too, each half a minute at first.
    """

    preset: str = "mini"
    stage: str = "base"
    start_from: str | None = None
    result: str = TEACHER_FILE
    blocks: int = 3
    block_frames: int | None = None
    text_dropout: float = 0.1
    context_noise: float = 0.15
    cut_share: float = 0.15
    held_out_shards: int = 1
    object_balance: float = 0.0
    object_weight: float = 0.0
    motion_weight: float = 0.0
    guidance_weight: float = 0.0
    sample_steps: int = 16
    guidance: float = 2.0
    compile: bool = False

    def __post_init__(self) -> None:
        StageConfig.__post_init__(self)
        if not 0 <= self.guidance_weight < 1:
            raise BadConfig("guidance_weight lies in [0, 1)", param="guidance_weight")
        for name in ("object_weight", "motion_weight"):
            if getattr(self, name) < 0:
                raise BadConfig(f"{name} is not negative", param=name)
        for name in ("text_dropout", "context_noise", "cut_share", "object_balance"):
            if not 0 <= getattr(self, name) <= 1:
                raise BadConfig(f"{name} lies in [0, 1]", param=name)
        if self.blocks < 1 or (self.block_frames is not None and self.block_frames < 1):
            raise BadConfig("blocks and block_frames start at 1", param="blocks")
        if self.blocks == 1 and self.cut_share > 0:
            raise BadConfig(
                "a cut needs a block on each side: with blocks = 1, cut_share is 0", param="cut_share"
            )
        if self.held_out_shards < 1:
            raise BadConfig("held_out_shards starts at 1", param="held_out_shards")


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipBatch:
    """Clips as the loss takes them; ``weight_BK`` is 0 for blocks that only serve as context, ``object_BFHW`` the share
    of a latent that an object covers."""

    latent_BCFHW: Tensor
    object_BFHW: Tensor
    text_BLD: Tensor
    weight_BK: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class NoisedClips:
    """Clips, the noise put on them at a level per block, the context that later blocks see, and what to predict."""

    clean_BCFHW: Tensor
    noise_BCFHW: Tensor
    context_BCFHW: Tensor
    target: Tensor
    sigma_BK: Tensor


class BaseStage:
    """See :class:`ultraflash.training.loop.Stage`."""

    def __init__(self, config: BaseStageConfig, run_dir: Path) -> None:
        self.config = config
        self.name = config.stage
        base = load_preset(config.preset).base
        self.base: BaseConfig = replace(base, block_frames=config.block_frames or base.block_frames)
        self.run_dir = run_dir
        self.clips, self.held_out = split_latents(
            run_dir / LATENTS_FOLDER,
            seed=config.seed,
            held_out_shards=config.held_out_shards,
            object_balance=config.object_balance,
            device=config.device,
        )

    def build(self) -> nn.Module:
        self.net = CausalDiT(self.base.dit)
        self.training_pass = teacher_forced_output
        if self.config.compile and torch.device(self.config.device).type == "cuda":
            compile_for_training(self.net)
        elif self.config.compile:
            self.training_pass = torch.compile(teacher_forced_output, dynamic=False)
        if self.config.start_from is not None:
            load_file(self.net, self.run_dir / "weights" / self.config.start_from)
            return self.net
        # Blocks and head start as the identity and as zero flow, the usual start of diffusion transformers.
        nn.init.zeros_(self.net.head.head.weight)
        nn.init.zeros_(self.net.head.head.bias)
        return self.net

    def batch(self, step: int) -> ClipBatch:
        config = self.config
        clips = self.clips.batch(step, config.batch_size)
        generator = counter_generator(config.seed, "base clips", step)
        batch = cut_windows(clips, config.blocks * self.base.block_frames, self.base.block_frames, generator)
        batch = splice_prompts(batch, config.cut_share, self.base.block_frames, generator)
        dropped = torch.rand(batch.text_BLD.shape[0], generator=generator) < config.text_dropout
        text = batch.text_BLD.masked_fill(on_device(dropped, batch.text_BLD.device)[:, None, None], 0.0)
        return replace(batch, text_BLD=text)

    def loss(self, batch: ClipBatch) -> tuple[Tensor, dict[str, Tensor | float]]:
        sigma = self._draw_sigmas(batch.weight_BK)
        noised = self._noised(batch, sigma)
        output = self._output(noised, batch.text_BLD, self.training_pass)
        target = noised.target
        if self.config.guidance_weight > 0:
            with torch.no_grad():
                free = self._output(noised, torch.zeros_like(batch.text_BLD), self.training_pass)
            target = target + self.config.guidance_weight * (output.detach() - free)
        weight = 1 + self.config.object_weight * batch.object_BFHW
        error = self._error(output, target, sigma, weight, motion_weight=self.config.motion_weight)
        loss = (error * batch.weight_BK).sum() / batch.weight_BK.sum()
        high = batch.weight_BK * (sigma > 0.8)
        return loss, {"loss_high_noise": ((error * high).sum() / high.sum().clamp_min(1)).detach()}

    def _draw_sigmas(self, like_BK: Tensor) -> Tensor:
        return shift_sigma(torch.rand_like(like_BK), self.base.schedule.shift)

    def _noised(self, batch: ClipBatch, sigma_BK: Tensor) -> NoisedClips:
        clean = batch.latent_BCFHW
        noise = torch.randn_like(clean)
        level = self.config.context_noise * torch.rand(clean.shape[0], 1, 1, 1, 1, device=clean.device)
        return NoisedClips(
            clean_BCFHW=clean,
            noise_BCFHW=noise,
            context_BCFHW=add_noise(clean, torch.randn_like(clean), level),
            target=clean if self.base.prediction == "clean" else noise - clean,
            sigma_BK=sigma_BK,
        )

    def _output(self, noised: NoisedClips, text_BLD: Tensor, forward: Callable[..., Tensor]) -> Tensor:
        return forward(
            self.net,
            noised.clean_BCFHW,
            noised.noise_BCFHW,
            noised.sigma_BK,
            text_BLD,
            block_frames=self.base.block_frames,
            window_blocks=self.base.window_frames // self.base.block_frames,
            context_BCFHW=noised.context_BCFHW,
        )

    def _error(
        self,
        output: Tensor,
        target: Tensor,
        sigma_BK: Tensor,
        weight_BFHW: Tensor | float = 1.0,
        *,
        motion_weight: float = 0.0,
    ) -> Tensor:
        """Mean squared error of the flow, (B, K), whatever the network predicts; with ``motion_weight`` that of its
        changes is added."""
        error = output - target
        squared = error.square().mean(dim=1)
        if motion_weight > 0:
            squared = squared + motion_weight * motion_error(error, self.base.block_frames)
        squared = (squared * weight_BFHW).mean(dim=(2, 3))
        squared = squared.unflatten(1, (-1, self.base.block_frames)).mean(dim=2)
        # flow = (noisy - clean) / sigma, so an error of the clean latent counts 1 / sigma**2 as an error of the flow.
        if self.base.prediction == "clean":
            return squared / sigma_BK.clamp_min(SMALLEST_SIGMA).square()
        return squared

    def sample(self, step: int) -> Tensor:
        clips = on_device(self.held_out.batch(0, 8), self.config.device)
        latents = sample_blocks(
            self.net,
            self.base,
            clips.text_BLD,
            blocks=self.config.blocks,
            steps=self.config.sample_steps,
            guidance=self.config.guidance,
            seed=self.config.seed,
        )
        return latent_sheet(
            latents, clips.captions, self.run_dir / "weights", load_preset(self.config.preset)
        )

    def evaluate(self) -> dict[str, float]:
        clips = self.held_out.batch(0, 32)
        frames = self.config.blocks * self.base.block_frames
        batch = cut_windows(
            clips, frames, self.base.block_frames, counter_generator(self.config.seed, "evaluation")
        )
        batch = on_device(batch, self.config.device)
        measures = {}
        for sigma in EVALUATION_SIGMAS:
            torch.manual_seed(self.config.seed)
            noised = self._noised(batch, torch.full_like(batch.weight_BK, sigma))
            output = self._output(noised, batch.text_BLD, teacher_forced_output)
            error = self._error(output, noised.target, noised.sigma_BK)
            measures[f"flow_error_at_{sigma}"] = float(error.mean())
        return measures

    def export(self, folder: Path) -> list[Path]:
        return [export(self.net, folder / self.config.result)]


def motion_error(error_BCFHW: Tensor, block_frames: int) -> Tensor:
    """Squared errors of the changes from frame to frame, mean over channels: (B, F, H, W).

    A block's first frame has none, and F is a multiple of ``block_frames``. Added to the errors of the frames by a
    ``motion_weight``: changes are small beside what stands still, and would be learned last.
    """
    change_BCKFHW = error_BCFHW.unflatten(2, (-1, block_frames)).diff(dim=3)
    return functional.pad(change_BCKFHW.square().mean(dim=1), (0, 0, 0, 0, 1, 0)).flatten(1, 2)


def cut_windows(clips: LatentsBatch, frames: int, block_frames: int, generator: torch.Generator) -> ClipBatch:
    """Windows of ``frames`` latent frames; those that don't begin with the clip give their first block no loss,
    since a stream only ever makes a first block at its start. A window of one block counts all the same."""
    latent, objects = clips.latent_BCTHW, clips.object_BTHW
    spare = latent.shape[2] - frames
    if spare < 0:
        raise BadConfig(f"the latents cache holds clips of {latent.shape[2]} frames; training wants {frames}")
    starts = torch.randint(spare + 1, (latent.shape[0],), generator=generator)
    spans = [slice(start, start + frames) for start in starts.tolist()]
    weight = torch.ones(latent.shape[0], frames // block_frames)
    if frames > block_frames:
        weight[:, 0] = (starts == 0).float()
    return ClipBatch(
        latent_BCFHW=torch.stack([clip[:, span] for clip, span in zip(latent, spans, strict=True)]),
        object_BFHW=torch.stack([clip[span] for clip, span in zip(objects, spans, strict=True)]),
        text_BLD=clips.text_BLD,
        weight_BK=weight,
    )


def splice_prompts(
    batch: ClipBatch, share: float, block_frames: int, generator: torch.Generator
) -> ClipBatch:
    """Replace the first blocks of some clips by those of their neighbour, keeping the prompt of what follows."""
    latent, weight = batch.latent_BCFHW.clone(), batch.weight_BK.clone()
    blocks = weight.shape[1]
    if blocks == 1:
        return batch
    for i in torch.nonzero(torch.rand(latent.shape[0], generator=generator) < share).flatten().tolist():
        before = int(torch.randint(1, blocks, (1,), generator=generator))
        latent[i, :, : before * block_frames] = batch.latent_BCFHW[i - 1, :, : before * block_frames]
        weight[i, :before] = 0.0
    # Blocks without a weight need no objects either.
    return replace(batch, latent_BCFHW=latent, weight_BK=weight)


def run(config: BaseStageConfig, run_dir: Path) -> bool:
    """Run the stage; returns whether it is done."""
    return train(BaseStage(config, run_dir), config, run_dir)
