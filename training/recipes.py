"""Recipes: every stage's full settings, as plain functions.

``mini_gpu`` makes the weights that the package ships, its generator on a GPU in minutes; ``mini`` needs no GPU and
takes hours. ``debug`` runs every stage in seconds and makes nothing of use.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from ultraflash.models.weights import BASE_FILE
from ultraflash.training.autoencoder import AutoencoderConfig
from ultraflash.training.base import PICTURES_FILE, BaseStageConfig
from ultraflash.training.classifier import ClassifierConfig
from ultraflash.training.clip_pool import PoolConfig
from ultraflash.training.decoder import DecoderStageConfig
from ultraflash.training.few_step import FewStepConfig
from ultraflash.training.interpolate import BETWEEN_FILE, InterpolateConfig
from ultraflash.training.latents import LatentsConfig
from ultraflash.training.loop import StageConfig
from ultraflash.training.pairs import PairsConfig
from ultraflash.training.patches import WITH_RESIDUAL, PatchesConfig
from ultraflash.training.seams import SeamsConfig
from ultraflash.training.super_resolution import SuperResolutionStageConfig
from ultraflash.training.trajectory import TRAJECTORY_FILE, TrajectoryConfig
from ultraflash.training.upsampler import UpsamplerStageConfig

STUDENT_STEPS = (1000, 750)
"""What the student of `mini` learns first. From between it and its teacher it goes on to the steps of the preset."""

_ON_GPU: dict[str, Any] = {"device": "cuda", "compile": True, "log_steps": 100}
"""Of stages whose steps take a tenth of a second there."""

_TRAJECTORY_ON_GPU: dict[str, Any] = {
    "batch_size": 64,
    "object_balance": 0.4,
    "solver_steps": 9,
    "learning_rate": 6e-4,
    "muon_rate": 1.2e-3,
    "warmup_steps": 30,
    "ema_decay": 0.99,
    **_ON_GPU,
}
"""Of ``trajectory`` and ``four_steps``, whose batches have 64 streams there."""

_FOUR_STEPS: dict[str, Any] = {"stage": "four_steps", "start_from": BETWEEN_FILE, "result": BASE_FILE}
"""In what ``four_steps`` differs from ``trajectory`` everywhere."""

DEBUG_PRESET = str(Path(__file__).parent / "debug.toml")


def mini(export_to: Path | None = None) -> dict[str, StageConfig]:
    """The cascade without a GPU. Finished weights go to ``RUN_DIR/weights``, and to ``export_to`` too if given."""
    ship = None if export_to is None else str(export_to)
    return {
        "patches": PatchesConfig(steps=300, export_to=ship),
        "latents": LatentsConfig(steps=170),
        "rare_latents": LatentsConfig(steps=25, split="held_out"),
        "classifier": ClassifierConfig(
            steps=4000, batch_size=64, learning_rate=2e-3, ema_decay=0.99, autocast=True, export_to=ship
        ),
        **_many_steps(),
        **_few_steps(ship),
        **_pictures(ship),
    }


def mini_gpu(export_to: Path | None = None) -> dict[str, StageConfig]:
    """The shipped cascade: the stages of :func:`mini`, with more clips and the generator trained on a GPU."""
    recipe = mini(export_to)
    return {
        **recipe,
        "latents": replace(recipe["latents"], steps=490, workers=12),
        "pictures": replace(recipe["pictures"], minutes=1.4, batch_size=256, ema_decay=0.99, **_ON_GPU),
        "base": replace(
            recipe["base"],
            minutes=11,
            batch_size=64,
            object_balance=0.4,
            learning_rate=1e-3,
            muon_rate=2e-3,
            warmup_steps=40,
            **_ON_GPU,
        ),
        "trajectory": replace(recipe["trajectory"], minutes=5.3, **_TRAJECTORY_ON_GPU),
        "few_step": replace(recipe["few_step"], device="cuda"),
        "four_steps": replace(recipe["four_steps"], minutes=6.9, **_TRAJECTORY_ON_GPU),
    }


def _many_steps() -> dict[str, StageConfig]:
    """The multi-step generator: single pictures, then clips."""
    return {
        "pictures": BaseStageConfig(
            stage="pictures",
            result=PICTURES_FILE,
            steps=20_000,
            minutes=70,
            batch_size=16,
            object_weight=4.0,
            blocks=1,
            block_frames=1,
            cut_share=0.0,
            learning_rate=1.5e-3,
            muon_rate=3e-3,
            warmup_steps=60,
            betas=(0.9, 0.95),
            weight_decay=0.01,
            ema_decay=0.999,
            autocast=True,
            compile=True,
        ),
        "base": BaseStageConfig(
            start_from=PICTURES_FILE,
            steps=20_000,
            minutes=105,
            batch_size=3,
            object_weight=4.0,
            motion_weight=0.5,
            guidance_weight=0.5,
            guidance=1.0,
            learning_rate=6e-4,
            muon_rate=1.2e-3,
            warmup_steps=30,
            betas=(0.9, 0.95),
            weight_decay=0.01,
            ema_decay=0.995,
            autocast=True,
            compile=True,
        ),
    }


def _few_steps(ship: str | None) -> dict[str, StageConfig]:
    """What it becomes to stream."""
    trajectory = TrajectoryConfig(
        student_steps=STUDENT_STEPS,
        steps=20_000,
        minutes=45,
        batch_size=4,
        blocks=4,
        solver_steps=7,
        real_context=0.35,
        guidance=1.0,
        learning_rate=5e-4,
        muon_rate=1e-3,
        warmup_steps=20,
        betas=(0.9, 0.95),
        ema_decay=0.98,
        autocast=True,
    )
    return {
        "trajectory": trajectory,
        # Kept beside what ships until an evaluation says that it is better.
        "few_step": FewStepConfig(
            student_steps=STUDENT_STEPS,
            start_from=TRAJECTORY_FILE,
            result="base_matched.safetensors",
            guidance=1.0,
            steps=4_000,
            minutes=12,
            batch_size=8,
            learning_rate=5e-5,
            warmup_steps=20,
            schedule="constant",
            betas=(0.0, 0.95),
            ema_decay=0.95,
            autocast=True,
        ),
        "interpolate": InterpolateConfig(steps=1),
        "four_steps": replace(
            trajectory,
            **_FOUR_STEPS,
            student_steps=None,
            motion_weight=0.5,
            minutes=24,
            batch_size=3,
            learning_rate=2.5e-4,
            muon_rate=5e-4,
            warmup_steps=10,
        ),
        "seams": SeamsConfig(steps=240, export_to=ship),
    }


def _pictures(ship: str | None) -> dict[str, StageConfig]:
    """From low-resolution latents to pixels."""
    return {
        "upsampler": UpsamplerStageConfig(
            steps=3000,
            batch_size=8,
            learning_rate=1e-3,
            pairs=PairsConfig(shards=60),
            autocast=True,
            channels_last=True,
            export_to=ship,
        ),
        "sr": SuperResolutionStageConfig(
            steps=20_000,
            # Half for each of the two networks.
            minutes=180,
            batch_size=4,
            learning_rate=6e-4,
            muon_rate=1.5e-3,
            betas=(0.9, 0.95),
            warmup_steps=20,
            ema_decay=0.995,
            autocast=True,
            export_to=ship,
        ),
        "decoder": DecoderStageConfig(steps=240, export_to=ship),
    }


def debug() -> dict[str, StageConfig]:
    """The smallest of everything."""
    trajectory = TrajectoryConfig(steps=3, batch_size=2, log_steps=1, preset=DEBUG_PRESET, solver_steps=3)
    return {
        "patches": PatchesConfig(steps=3, patch=WITH_RESIDUAL, frames=5, heights=(64,), window=(64, 96)),
        "latents": _debug_latents(),
        "rare_latents": replace(_debug_latents(), split="held_out"),
        "classifier": ClassifierConfig(steps=2, batch_size=2, log_steps=1, preset=DEBUG_PRESET, channels=8),
        "pictures": BaseStageConfig(
            stage="pictures",
            result=PICTURES_FILE,
            steps=2,
            batch_size=2,
            log_steps=1,
            preset=DEBUG_PRESET,
            blocks=1,
            block_frames=1,
            cut_share=0.0,
            sample_steps=2,
        ),
        "base": BaseStageConfig(
            start_from=PICTURES_FILE, steps=4, batch_size=2, log_steps=1, preset=DEBUG_PRESET, sample_steps=2
        ),
        "trajectory": trajectory,
        "few_step": FewStepConfig(steps=4, batch_size=2, log_steps=1, preset=DEBUG_PRESET, score_steps=1),
        "interpolate": InterpolateConfig(steps=1, preset=DEBUG_PRESET),
        "four_steps": replace(trajectory, **_FOUR_STEPS, steps=2),
        "seams": SeamsConfig(steps=2, preset=DEBUG_PRESET, test_clips=1),
        **_debug_pictures(),
    }


def _debug_latents() -> LatentsConfig:
    return LatentsConfig(steps=2, clips_per_shard=4, latent_frames=9, workers=0, height=32, width=32)


def _debug_pictures() -> dict[str, StageConfig]:
    return {
        "autoencoder": AutoencoderConfig(
            steps=6,
            warmup_steps=2,
            log_steps=1,
            learning_rate=1e-3,
            pool=PoolConfig(clips_per_shard=4, frames=5, window=32, heights=(32, 64), shards=1),
            test_clips=1,
            test_height=64,
            workers=0,
        ),
        "upsampler": UpsamplerStageConfig(
            steps=3,
            patch=WITH_RESIDUAL,
            warmup_steps=2,
            log_steps=1,
            batch_size=2,
            pairs=PairsConfig(
                pairs_per_shard=2,
                latent_frames=2,
                windows=((2, 2, 2), (4, 2, 2), (6, 2, 2)),
                base_rows=2,
                base_cols=2,
                shards=1,
            ),
            workers=0,
        ),
        "sr": SuperResolutionStageConfig(
            steps=3,
            batch_size=1,
            log_steps=1,
            preset=DEBUG_PRESET,
            evaluated_windows=1,
            pairs=PairsConfig(
                pairs_per_shard=2,
                latent_frames=6,
                windows=((2, 2, 2), (4, 2, 2), (6, 2, 2)),
                base_rows=2,
                base_cols=2,
                shards=1,
                with_text=True,
                remade=1.0,
            ),
            workers=0,
        ),
        "decoder": DecoderStageConfig(
            steps=4,
            preset=DEBUG_PRESET,
            test_windows=4,
            windows=PairsConfig(
                latent_frames=3,
                windows=((2, 2, 2), (4, 2, 2), (6, 2, 2)),
                base_rows=2,
                base_cols=2,
                with_text=True,
                remade=0.5,
            ),
        ),
    }
