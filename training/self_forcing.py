"""What the distillations of the generator share: a few-step student that rolls out on its own outputs.

A training step draws prompts, a past (the student's own blocks or real clips, at times of another prompt, as after a
change of prompt in a stream) and the step of the schedule at which the student is looked at (Huang et al., Self
Forcing, 2025).

Shapes: B batch, C channels, F latent frames, H W latent rows and columns, X text tokens, W text width.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from ultraflash.models.compilation import compile_for_training
from ultraflash.models.dit import CausalDiT
from ultraflash.models.errors import BadConfig
from ultraflash.models.preset import BaseConfig, load_preset
from ultraflash.models.schedule import add_noise
from ultraflash.models.weights import BASE_FILE, load_file
from ultraflash.training.base import TEACHER_FILE
from ultraflash.training.latents import LATENTS_FOLDER, split_latents
from ultraflash.training.loop import StageConfig
from ultraflash.training.patches import export
from ultraflash.training.placement import on_device
from ultraflash.training.rollout import Roller, block_estimate, sample_few_steps
from ultraflash.training.seeding import counter_generator
from ultraflash.training.sheets import latent_sheet


@dataclass(frozen=True, slots=True, kw_only=True)
class RollConfig(StageConfig):
    """How a student is rolled out.

    Args:
        preset: whose base to train.
        student_steps: nominal denoising steps that the student learns; those of the preset if None.
        stage: name of the stage.
        start_from: weights of RUN_DIR/weights that the student starts from.
        result: name of the weights that are made.
        blocks: longest roll-out; beyond the window the first blocks are forgotten, as in a stream.
        guidance: of the teacher; 1 for one that was trained to give guided estimates itself.
        real_context: share of batches whose past are real clips instead of the student's own blocks.
        cut_share: share of those whose past is of another prompt.
        held_out_shards: shards of the latents cache kept for evaluation.
        object_balance: how far clips of rare objects are drawn more often: 0 not at all, 1 until all are as frequent.
        compile: whether the blocks of the networks are compiled, on a GPU: half a minute at the start.
    """

    preset: str = "mini"
    student_steps: tuple[int, ...] | None = None
    stage: str = "few_step"
    start_from: str = TEACHER_FILE
    result: str = BASE_FILE
    blocks: int = 3
    guidance: float = 2.0
    real_context: float = 0.5
    cut_share: float = 0.3
    held_out_shards: int = 1
    object_balance: float = 0.0
    compile: bool = False

    def __post_init__(self) -> None:
        # slots=True makes the class anew, so the argument-less super() would name the wrong one.
        StageConfig.__post_init__(self)
        if self.blocks < 1 or self.held_out_shards < 1:
            raise BadConfig("blocks and held_out_shards start at 1")
        if self.compile and torch.device(self.device).type != "cuda":
            raise BadConfig("blocks are compiled with device=cuda alone", param="compile")
        for name in ("real_context", "cut_share", "object_balance"):
            if not 0 <= getattr(self, name) <= 1:
                raise BadConfig(f"{name} lies in [0, 1]", param=name)


@dataclass(frozen=True, slots=True, kw_only=True)
class RollBatch:
    """Prompts, clips for their past, and what this step does with them."""

    latent_BCFHW: Tensor
    text_BXW: Tensor
    past_blocks: int
    exit_step: int
    real_context: bool
    moves_student: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class StudentBlock:
    """What the student started its exit step from, at which noise level, and its estimate."""

    noisy_BCFHW: Tensor
    sigma: float
    clean_BCFHW: Tensor


class RollStage:
    """Data, roll-outs and evaluation of a distillation; `build` and `loss` are the stage's own.

    See :class:`ultraflash.training.loop.Stage`.
    """

    student: CausalDiT
    teacher: CausalDiT

    def __init__(self, config: RollConfig, run_dir: Path) -> None:
        self.settings = config
        self.name = config.stage
        base = load_preset(config.preset).base
        if config.student_steps is not None:
            base = replace(base, schedule=replace(base.schedule, nominal_steps=config.student_steps))
        self.base: BaseConfig = base
        self.run_dir = run_dir
        self.clips, self.held_out = split_latents(
            run_dir / LATENTS_FOLDER,
            seed=config.seed,
            held_out_shards=config.held_out_shards,
            object_balance=config.object_balance,
            device=config.device,
        )

    def network(self, file: str) -> CausalDiT:
        """A generator with weights of RUN_DIR/weights, on the stage's device, compiled where that is wanted."""
        net = CausalDiT(self.base.dit)
        load_file(net, self.run_dir / "weights" / file)
        if self.settings.compile:
            compile_for_training(net)
        return net.to(self.settings.device)

    def batch(self, step: int) -> RollBatch:
        config = self.settings
        clips = self.clips.batch(step, config.batch_size)
        generator = counter_generator(config.seed, "roll-out", step)
        draw = torch.rand(4, generator=generator).tolist()
        cut = draw[3] < config.cut_share
        return RollBatch(
            latent_BCFHW=clips.latent_BCTHW.roll(1, 0) if cut else clips.latent_BCTHW,
            text_BXW=clips.text_BLD,
            past_blocks=int(draw[0] * config.blocks),
            exit_step=int(draw[1] * len(self.base.schedule.sigmas)),
            real_context=draw[2] < config.real_context,
            moves_student=self.moves_student(step),
        )

    def moves_student(self, step: int) -> bool:
        """Whether the student learns at this step."""
        return True

    def past_blocks(self, batch: RollBatch) -> list[Tensor]:
        """Clean blocks before the one in work, without gradients."""
        size = self.base.block_frames
        if batch.real_context:
            blocks = list(batch.latent_BCFHW.split(size, dim=2))
            return blocks[: min(batch.past_blocks, batch.latent_BCFHW.shape[2] // size)]
        stream = Roller(self.student, self.base, batch.text_BXW)
        blocks = []
        for _ in range(batch.past_blocks):
            clean = stream.limited(self._few_steps(stream, len(self.base.schedule.sigmas)))
            stream.commit(clean)
            blocks.append(clean)
        return blocks

    def _few_steps(self, stream: Roller, count: int) -> Tensor:
        """Clean estimate after the first ``count`` steps, without gradients."""
        clean = torch.zeros(stream.shape, device=stream.device)
        for sigma in self.base.schedule.sigmas[:count]:
            noisy = add_noise(clean, torch.randn(stream.shape, device=stream.device), sigma)
            clean = stream.clean(noisy, sigma)
        return clean

    def committed(self, net: CausalDiT, text_BXW: Tensor, past: list[Tensor]) -> Roller:
        """A stream of ``net`` behind ``past``."""
        stream = Roller(net, self.base, text_BXW)
        for clean in past:
            stream.commit(clean)
        return stream

    def student_block(self, batch: RollBatch, past: list[Tensor]) -> StudentBlock:
        """The student at its exit step, differentiable when this step moves it."""
        stream = self.committed(self.student, batch.text_BXW, past)
        seen = stream.past()
        with torch.no_grad():
            clean = self._few_steps(stream, batch.exit_step)
        sigma = self.base.schedule.sigmas[batch.exit_step]
        noisy = add_noise(clean, torch.randn(stream.shape, device=stream.device), sigma)
        with torch.set_grad_enabled(batch.moves_student):
            text = self.student.encode_text(batch.text_BXW)
            level = torch.full((noisy.shape[0],), sigma, device=noisy.device)
            clean = block_estimate(self.student, self.base, noisy, level, text, stream.positions, seen)
        return StudentBlock(noisy_BCFHW=noisy, sigma=sigma, clean_BCFHW=clean)

    def sample(self, step: int) -> Tensor:
        clips = on_device(self.held_out.batch(0, 8), self.settings.device)
        latents = sample_few_steps(
            self.student, self.base, clips.text_BLD, blocks=self.settings.blocks, seed=self.settings.seed
        )
        return latent_sheet(
            latents, clips.captions, self.run_dir / "weights", load_preset(self.settings.preset)
        )

    def evaluate(self) -> dict[str, float]:
        """Mean and spread of few-step latents against those of held-out clips: 0 and 1 when they agree."""
        clips = on_device(self.held_out.batch(0, 16), self.settings.device)
        made = sample_few_steps(
            self.student, self.base, clips.text_BLD, blocks=self.settings.blocks, seed=self.settings.seed
        )
        real = clips.latent_BCTHW
        mean_gap = (made.mean((0, 2, 3, 4)) - real.mean((0, 2, 3, 4))).abs().mean()
        return {"mean_gap": float(mean_gap), "spread_ratio": float(made.std() / real.std())}

    def export(self, folder: Path) -> list[Path]:
        return [export(self.student, folder / self.settings.result)]


class GuidedTeacher:
    """A frozen multi-step generator behind a past: its guided clean estimates of the block in work."""

    def __init__(self, stage: RollStage, text_BXW: Tensor, past: list[Tensor]) -> None:
        self._guidance = stage.settings.guidance
        texts = [text_BXW] if self._guidance == 1.0 else [text_BXW, torch.zeros_like(text_BXW)]
        streams = [stage.committed(stage.teacher, text, past) for text in texts]
        self._streams = [(stream, stream.past()) for stream in streams]

    @torch.no_grad()
    def clean(self, noisy_BCFHW: Tensor, sigma_B: Tensor) -> Tensor:
        """Clean estimate at a noise level per sample."""
        estimates = [
            block_estimate(
                stream.net, stream.config, noisy_BCFHW, sigma_B, stream.text, stream.positions, seen
            )
            for stream, seen in self._streams
        ]
        if len(estimates) == 1:
            return estimates[0]
        prompted, free = estimates
        return free + self._guidance * (prompted - free)
