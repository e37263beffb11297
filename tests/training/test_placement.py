"""Stages on another device than the CPU: what can be checked anywhere, and whole runs on a GPU.

The latents, texts and weights here are random: it is where tensors lie that matters.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ultraflash.models.dit import CausalDiT
from ultraflash.models.patch_autoencoder import PatchDecoder
from ultraflash.models.preset import load_preset
from ultraflash.models.upsampler import LatentUpsampler
from ultraflash.models.weights import DECODER_FILE, load_file, read_tensors, upsampler_file
from ultraflash.training.base import PICTURES_FILE, TEACHER_FILE, BaseStage, BaseStageConfig
from ultraflash.training.checkpoint import load_latest
from ultraflash.training.classifier import ClassifierStage
from ultraflash.training.few_step import FewStepStage
from ultraflash.training.latents import LATENTS_FOLDER, RARE_FOLDER
from ultraflash.training.loop import Stage, StageConfig, train
from ultraflash.training.patches import export
from ultraflash.training.placement import on_device
from ultraflash.training.recipes import DEBUG_PRESET, debug
from ultraflash.training.run_log import read_log
from ultraflash.training.self_forcing import RollConfig
from ultraflash.training.shards import shard_path
from ultraflash.training.super_resolution import PAIRS as SR_PAIRS
from ultraflash.training.super_resolution import SuperResolutionStage
from ultraflash.training.trajectory import TRAJECTORY_FILE, TrajectoryStage
from ultraflash.training.upsampler import PAIRS as UPSAMPLER_PAIRS
from ultraflash.training.upsampler import UpsamplerStage
from ultraflash.training.vista.scene import sample_scene

PRESET = load_preset(DEBUG_PRESET)
STAGES: dict[str, Any] = {
    "classifier": ClassifierStage,
    "pictures": BaseStage,
    "base": BaseStage,
    "trajectory": TrajectoryStage,
    "few_step": FewStepStage,
}
FACTORS = (2, 4, 6)
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU that PyTorch can use")


def prepare(run_dir: Path) -> Path:
    """What the stages find of the ones before them."""
    draw = torch.Generator().manual_seed(0)
    for folder in ("latents/text", RARE_FOLDER, "weights"):
        (run_dir / folder).mkdir(parents=True)
    for number in range(2):
        scenes = [asdict(sample_scene(4 * number + clip)) for clip in range(4)]
        tensors = {
            "latents": torch.randn(4, 32, 9, 2, 2, generator=draw).half(),
            "objects": torch.randint(256, (4, 9, 2, 2), generator=draw, dtype=torch.uint8),
        }
        for folder in (LATENTS_FOLDER, RARE_FOLDER):
            save_file(tensors, shard_path(run_dir / folder, number), {"scenes": json.dumps(scenes)})
        texts = {"text": torch.randn(4, 2, 64, 384, generator=draw).half()}
        captions = json.dumps([["one", "two"]] * 4)
        save_file(texts, shard_path(run_dir / "latents" / "text", number), {"captions": captions})
    for factor in FACTORS:
        stages = {"low": 1, "middle": 2 if factor > 2 else factor, "high": factor}
        for root, frames in ((UPSAMPLER_PAIRS, 2), (SR_PAIRS, 6)):
            tensors = {
                name: torch.randn(2, frames, 32, 2 * enlarged, 2 * enlarged, generator=draw).half()
                for name, enlarged in stages.items()
            }
            tensors["text"] = torch.randn(2, 64, 384, generator=draw).half()
            for folder in (f"x{factor}", f"x{factor}-test"):
                (run_dir / root / folder).mkdir(parents=True)
                save_file(tensors, shard_path(run_dir / root / folder, 0))
    torch.manual_seed(0)
    weights = run_dir / "weights"
    for file in (PICTURES_FILE, TEACHER_FILE):
        export(CausalDiT(PRESET.base.dit), weights / file)
    export(PatchDecoder(PRESET.decoder), weights / DECODER_FILE)
    for factor in FACTORS:
        export(LatentUpsampler(PRESET.upsampler[factor]), weights / upsampler_file(factor))
    return run_dir


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A batch as stages have them."""

    latents: Tensor
    labels: dict[str, Tensor]
    text: Tensor | None
    captions: tuple[str, ...]


def test_a_batch_moves_with_all_its_tensors_and_nothing_else() -> None:
    part = Part(latents=torch.ones(2, 3), labels={"biome": torch.ones(2)}, text=None, captions=("a", "b"))
    moved = on_device(part, "meta")
    assert moved.latents.device.type == moved.labels["biome"].device.type == "meta"
    assert moved.text is None and moved.captions == ("a", "b")
    assert on_device(part, "cpu").latents is part.latents


class OneDevice(TorchDispatchMode):
    """Refuses operators over tensors of several devices, which on a GPU fail; numbers may lie anywhere."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        tensors = [x for x in tree_leaves((args, kwargs, out)) if isinstance(x, Tensor) and x.dim()]
        assert len({x.device for x in tensors}) <= 1, f"{func} mixes devices"
        return out


@pytest.mark.parametrize("name", STAGES)
def test_nothing_of_a_loss_stays_behind_on_the_cpu(tmp_path: Path, name: str) -> None:
    config = replace(debug()[name], device="meta")
    if isinstance(config, BaseStageConfig):
        config = replace(config, guidance_weight=0.5, object_weight=4.0, motion_weight=0.5)
    stage = STAGES[name](config, prepare(tmp_path))
    if isinstance(stage, TrajectoryStage | FewStepStage):
        stage.base = replace(stage.base, spread_limit=1.05)
    module = stage.build().to("meta")
    # So many that all ways of making a past come up.
    for step in range(8):
        batch = on_device(stage.batch(step), "meta")
        with OneDevice():
            loss, metrics = stage.loss(batch)
            loss.backward()
        assert {loss.device.type, *(metric.device.type for metric in metrics.values())} == {"meta"}
    assert any(parameter.grad is not None for parameter in module.parameters())


def run_twice(stage: Any, config: StageConfig, folders: tuple[Path, Path], *more: Any) -> None:
    """Train in one go in the first folder, and in two in the second. Losses must agree within a tenth: two runs on a
    GPU differ by rounding, which training enlarges."""
    config = replace(config, schedule="constant", warmup_steps=1)
    for folder, runs in zip(folders, ((4,), (2, 4)), strict=True):
        for steps in runs:
            part = replace(config, steps=steps)
            made: Stage = stage(part, folder, *more)
            assert train(made, part, folder)
        assert list((folder / made.name / "samples").glob("*.png")) or stage is ClassifierStage
        checkpoint = load_latest(folder / made.name / "checkpoints")
        assert checkpoint is not None and checkpoint.progress.step == 4
    whole, cut = (
        {record["step"]: record["loss"] for record in read_log(folder / made.name / "log.jsonl")}
        for folder in folders
    )
    assert list(cut) == [1, 2, 3, 4]
    assert cut == pytest.approx(whole, rel=0.1, abs=1e-4)


def moved_matrices(before: dict[str, Tensor], file: Path) -> set[bool]:
    """Whether training has moved the matrices of the blocks, which ``file`` gives back on the CPU."""
    after = read_tensors(file)
    assert all(x.device.type == "cpu" and x.isfinite().all() for x in after.values())
    return {
        not torch.equal(before[name], x) for name, x in after.items() if "blocks" in name and x.dim() == 2
    }


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("as_mini", [False, True], ids=["plain", "as mini is trained"])
def test_the_generator_trains_on_a_gpu_and_goes_on_from_a_checkpoint(tmp_path: Path, as_mini: bool) -> None:
    folders = prepare(tmp_path / "whole"), prepare(tmp_path / "cut")
    torch.cuda.reset_peak_memory_stats()
    held = torch.cuda.memory_allocated()
    for name, stage in STAGES.items():
        config = replace(debug()[name], device="cuda", autocast=as_mini, learning_rate=1e-2)
        if as_mini and name != "classifier" and hasattr(torch.optim, "Muon"):
            config = replace(config, muon_rate=1e-2)
        if isinstance(config, BaseStageConfig):
            config = replace(config, guidance_weight=0.5, object_weight=4.0, motion_weight=0.5)
        if isinstance(config, BaseStageConfig | RollConfig):
            config = replace(config, compile=as_mini)
        run_twice(stage, config, folders)
    assert torch.cuda.max_memory_allocated() > held
    weights = folders[1] / "weights"
    assert moved_matrices(read_tensors(weights / PICTURES_FILE), weights / TEACHER_FILE) == {True}
    assert moved_matrices(read_tensors(weights / TEACHER_FILE), weights / TRAJECTORY_FILE) == {True}
    for file in (PICTURES_FILE, TEACHER_FILE, TRAJECTORY_FILE):
        load_file(CausalDiT(PRESET.base.dit), weights / file)


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("autocast", [False, True])
def test_upsamplers_train_on_a_gpu(tmp_path: Path, autocast: bool) -> None:
    folders = prepare(tmp_path / "whole"), prepare(tmp_path / "cut")
    config = replace(debug()["upsampler"], device="cuda", autocast=autocast, channels_last=autocast)
    # It starts at a minimum, out of which larger steps leap at random.
    config = replace(config, learning_rate=1e-5)
    run_twice(UpsamplerStage, config, folders, 4)
    load_file(LatentUpsampler(PRESET.upsampler[4]), folders[1] / "weights" / upsampler_file(4))


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("autocast", [False, True])
def test_super_resolution_trains_on_a_gpu(tmp_path: Path, autocast: bool) -> None:
    folders = prepare(tmp_path / "whole"), prepare(tmp_path / "cut")
    config = replace(debug()["sr"], device="cuda", autocast=autocast)
    run_twice(SuperResolutionStage, config, folders, "sr_x2")
    load_file(CausalDiT(PRESET.sr.dit), folders[1] / "weights" / "sr_x2.safetensors")
