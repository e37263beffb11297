"""The debug recipe, stage after stage, and what each leaves behind."""

import json
import math
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file as load_file_as_stored

from ultraflash.models.dit import CausalDiT
from ultraflash.models.errors import BadConfig, MissingWeights
from ultraflash.models.patch_autoencoder import PatchDecoder
from ultraflash.models.preset import load_preset
from ultraflash.models.upsampler import LatentUpsampler, UpsamplerConfig
from ultraflash.models.weights import load_file
from ultraflash.training.classifier import ClassifierConfig, ClassifierStage
from ultraflash.training.commands import STAGES, main
from ultraflash.training.decoder import DecoderStageConfig
from ultraflash.training.interpolate import InterpolateConfig
from ultraflash.training.latents import LatentsDataset
from ultraflash.training.pairs import PairsConfig
from ultraflash.training.patches import WITH_RESIDUAL, load_encoder
from ultraflash.training.recipes import DEBUG_PRESET, debug
from ultraflash.training.seen_windows import SeenWindows
from ultraflash.training.shards import shard_path
from ultraflash.training.super_resolution import SuperResolutionStage, SuperResolutionStageConfig
from ultraflash.training.trajectory import TrajectoryConfig, TrajectoryStage
from ultraflash.training.vista.scene import Scene, held_out_pairs_of


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("debug")
    for stage in STAGES:
        assert main(["train", stage, "--recipe", "debug", "--run-dir", str(folder)]) == 0
    return folder


def test_encoder_and_linear_decoder_undo_each_other(run_dir: Path) -> None:
    encoder = load_encoder(WITH_RESIDUAL, run_dir / "weights")
    decoder = PatchDecoder(WITH_RESIDUAL)
    load_file(decoder, run_dir / "weights/decoder.safetensors")
    decoder.residual = decoder.neighbours = None
    latent_BTCHW = torch.randn(1, 2, 32, 2, 3, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        again_BTCHW = encoder(decoder(latent_BTCHW, decoder.init_memory()))
    torch.testing.assert_close(again_BTCHW, latent_BTCHW, atol=0.02, rtol=0.02)


def test_the_cache_holds_clips_with_captions_and_their_states(run_dir: Path) -> None:
    clips = LatentsDataset(run_dir / "latents")
    assert len(clips) == 8
    latent_CTHW, text_LD, caption = clips.clip(0, caption=1)
    assert latent_CTHW.shape == (32, 9, 2, 2) and latent_CTHW.dtype == torch.float16
    assert text_LD.shape == (64, 384) and isinstance(caption, str)


def test_a_batch_depends_on_seed_and_step_alone(run_dir: Path) -> None:
    first, second = LatentsDataset(run_dir / "latents", seed=1), LatentsDataset(run_dir / "latents", seed=1)
    second.batch(3, 4)
    assert torch.equal(first.batch(7, 4).latent_BCTHW, second.batch(7, 4).latent_BCTHW)
    assert first.batch(7, 4).captions == second.batch(7, 4).captions
    assert not torch.equal(first.batch(7, 4).latent_BCTHW, first.batch(8, 4).latent_BCTHW)


def test_held_out_shards_are_apart(run_dir: Path) -> None:
    folder = run_dir / "latents"
    train = LatentsDataset(folder, held_out_shards=1)
    test = LatentsDataset(folder, held_out_shards=1, held_out=True)
    assert len(train) == len(test) == 4
    assert not torch.equal(train.clip(0)[0], test.clip(0)[0])


def test_an_absent_cache_names_the_command_that_makes_it(tmp_path: Path) -> None:
    with pytest.raises(MissingWeights, match="ultraflash train latents"):
        LatentsDataset(tmp_path)


def test_a_lost_shard_is_made_again_bit_for_bit(run_dir: Path) -> None:
    path = shard_path(run_dir / "latents", 1)
    before = path.read_bytes()
    path.unlink()
    assert main(["train", "latents", "--recipe", "debug", "--run-dir", str(run_dir)]) == 0
    assert path.read_bytes() == before


def test_every_shard_says_what_it_shows(run_dir: Path) -> None:
    with safe_open(shard_path(run_dir / "latents", 0), "pt") as shard:
        scenes = json.loads(shard.metadata()["scenes"])
    assert len(scenes) == 4 and {"biome", "time", "weather", "camera"} <= set(scenes[0])


@pytest.mark.parametrize(("folder", "pairs"), [("latents", 0), ("rare_latents", 1)])
def test_the_generator_sees_no_held_out_pair_and_the_classifier_one_in_each_of_its_rare_scenes(
    run_dir: Path, folder: str, pairs: int
) -> None:
    for number in range(2):
        with safe_open(shard_path(run_dir / folder, number), "pt") as shard:
            scenes = [Scene(**fields) for fields in json.loads(shard.metadata()["scenes"])]
        assert [len(held_out_pairs_of(scene)) for scene in scenes] == 4 * [pairs]


@pytest.mark.parametrize("folder", ["latents", "rare_latents"])
def test_the_classifier_names_the_stage_whose_shards_are_too_few(
    tmp_path: Path, run_dir: Path, folder: str
) -> None:
    for each in ("latents", "rare_latents"):
        shutil.copytree(run_dir / each, tmp_path / each)
    shard_path(tmp_path / folder, 0).unlink()
    with pytest.raises(MissingWeights, match=f"has 1 shards.*ultraflash train {folder}$"):
        ClassifierStage(ClassifierConfig(steps=1, preset=DEBUG_PRESET), tmp_path)


def test_the_autoencoder_reports_its_quality_beside_the_linear_part(run_dir: Path) -> None:
    report = json.loads((run_dir / "autoencoder/evaluation.json").read_text())
    assert report["step"] == 6
    assert report["psnr_rendered"] > 15 and report["psnr_rendered_linear"] > 15
    assert list((run_dir / "autoencoder/samples").glob("*.png"))


@pytest.mark.parametrize("factor", [2, 4, 6])
def test_each_upsampler_loads_strictly_and_enlarges(run_dir: Path, factor: int) -> None:
    net = LatentUpsampler(UpsamplerConfig(channels=32, mid_channels=48, blocks=4, factor=factor))
    load_file(net, run_dir / f"weights/upsampler_x{factor}.safetensors")
    with torch.no_grad():
        high_BTCHW = net(torch.zeros(1, 2, 32, 2, 3), net.init_memory())
    assert high_BTCHW.shape == (1, 2, 32, 2 * factor, 3 * factor)
    report = json.loads((run_dir / f"upsampler_x{factor}/evaluation.json").read_text())
    assert {"latent_mse", "latent_mse_bicubic"} <= set(report)


def test_generator_and_super_resolution_leave_weights_that_fit_their_preset(run_dir: Path) -> None:
    preset = load_preset(DEBUG_PRESET)
    for name, config in (
        ("base", preset.base.dit),
        ("base_multistep", preset.base.dit),
        ("sr_x2", preset.sr.dit),
        ("sr_x4", preset.sr.dit),
    ):
        load_file(CausalDiT(config), run_dir / f"weights/{name}.safetensors")


def test_every_stage_evaluates_what_it_made(run_dir: Path) -> None:
    for stage in ("base", "few_step", "sr_x2", "sr_x4"):
        report = json.loads((run_dir / stage / "evaluation.json").read_text())
        measures = {name: value for name, value in report.items() if isinstance(value, float)}
        assert len(measures) > 2
        assert all(math.isfinite(value) for value in measures.values())
        assert list((run_dir / stage / "samples").glob("*.png"))


@pytest.mark.parametrize(("part", "factors"), [("sr_x2", {2}), ("sr_x4", {4, 6})])
def test_a_network_of_super_resolution_is_trained_for_the_factors_that_it_serves(
    run_dir: Path, part: str, factors: set[int]
) -> None:
    report = json.loads((run_dir / part / "evaluation.json").read_text())
    measured = {int(name.removeprefix("psnr_x")) for name in report if name.startswith("psnr_x")}
    assert measured == factors


def test_a_network_without_pairs_is_refused_by_name(tmp_path: Path) -> None:
    config = debug()["sr"]
    assert isinstance(config, SuperResolutionStageConfig)
    config = replace(config, pairs=replace(config.pairs, windows=((2, 2, 2),)))
    with pytest.raises(BadConfig, match="no pairs of a factor that sr_x4 serves"):
        SuperResolutionStage(config, tmp_path, "sr_x4")


def test_the_classifier_leaves_weights_and_its_accuracy_by_attribute(run_dir: Path) -> None:
    report = json.loads((run_dir / "classifier/evaluation.json").read_text())
    assert {"biome", "time", "weather", "object", "object_color"} <= report.keys()
    assert all(0 <= report[name] <= 1 for name in ("biome", "time", "weather", "rare_biome", "rare_weather"))
    assert (run_dir / "weights/classifier.safetensors").is_file()


def test_errors_of_motion_add_to_what_the_student_loses(run_dir: Path) -> None:
    losses = []
    for weight in (0.0, 0.5, 1.0):
        config = replace(debug()["trajectory"], motion_weight=weight)
        assert isinstance(config, TrajectoryConfig)
        stage = TrajectoryStage(config, run_dir)
        stage.build()
        torch.manual_seed(0)
        losses.append(float(stage.loss(stage.batch(0))[0].detach()))
    assert losses[0] < losses[1]
    assert losses[2] - losses[0] == pytest.approx(2 * (losses[1] - losses[0]), rel=1e-3)


def test_a_generator_lies_where_it_should_between_student_and_teacher(tmp_path: Path, run_dir: Path) -> None:
    folder = tmp_path / "weights"
    shutil.copytree(run_dir / "weights", folder)
    student, teacher = (
        load_file_as_stored(folder / f"{name}.safetensors") for name in ("base_trajectory", "base_multistep")
    )
    assert any(not torch.equal(student[name], teacher[name]) for name in student)
    for share in (0.0, 0.3, 1.0):
        command = ["train", "interpolate", "--recipe", "debug", "--run-dir", str(tmp_path)]
        assert main([*command, "--set", f"teacher_share={share}"]) == 0
        for name, tensor in load_file_as_stored(folder / "base_between.safetensors").items():
            between = (1 - share) * student[name].float() + share * teacher[name].float()
            torch.testing.assert_close(tensor.float(), between, atol=1e-5, rtol=1e-3)


def test_a_share_beyond_both_generators_is_refused() -> None:
    with pytest.raises(BadConfig, match="teacher_share lies in"):
        InterpolateConfig(steps=1, teacher_share=1.5)


def test_seams_are_fitted_into_the_generator_and_nothing_else_of_it_changes(
    tmp_path: Path, run_dir: Path
) -> None:
    folder = tmp_path / "weights"
    shutil.copytree(run_dir / "weights", folder)
    before = load_file_as_stored(folder / "base.safetensors")
    assert main(["train", "seams", "--recipe", "debug", "--steps", "3", "--run-dir", str(tmp_path)]) == 0
    after = load_file_as_stored(folder / "base.safetensors")
    assert {name for name in after if not torch.equal(after[name], before[name])} == {
        "seams.conv.weight",
        "seams.conv.bias",
    }
    measures = json.loads((tmp_path / "seams/evaluation.json").read_text())
    assert measures["seams_mended"] != measures["seams_remade"]


def test_the_decoder_learns_of_neighbours_and_nothing_else_of_it_changes(
    run_dir: Path, tmp_path: Path
) -> None:
    shutil.copytree(run_dir / "weights", tmp_path / "weights")
    before = load_file_as_stored(tmp_path / "weights/decoder.safetensors")
    command = ["train", "decoder", "--recipe", "debug", "--steps", "6", "--run-dir", str(tmp_path)]
    assert main(command) == 0
    after = load_file_as_stored(tmp_path / "weights/decoder.safetensors")
    changed = {name for name, tensor in after.items() if not torch.equal(tensor, before[name])}
    assert changed == {"neighbours.reduce.weight", "neighbours.expand.weight"}
    measures = json.loads((tmp_path / "decoder/evaluation.json").read_text())
    assert measures["psnr_encoded"] != measures["psnr_encoded_before"]
    # What was fitted before has no say.
    assert main(command) == 0
    again = load_file_as_stored(tmp_path / "weights/decoder.safetensors")
    assert all(torch.equal(tensor, after[name]) for name, tensor in again.items())
    assert json.loads((tmp_path / "decoder/evaluation.json").read_text()) == measures


@pytest.mark.parametrize(
    ("remade", "enlarged", "origin"), [(0.0, 0.0, "encoded"), (0.0, 1.0, "enlarged"), (1.0, 0.0, "remade")]
)
def test_a_decoder_sees_latents_of_the_encoder_an_upsampler_or_the_generator(
    run_dir: Path, remade: float, enlarged: float, origin: str
) -> None:
    pairs = PairsConfig(
        latent_frames=3, windows=((2, 2, 2),), base_rows=2, base_cols=2, with_text=True, remade=remade
    )
    preset, weights = load_preset(DEBUG_PRESET), run_dir / "weights"
    windows = SeenWindows(pairs, preset, weights, seed=0, enlarged=enlarged)
    window = windows("test", 0)
    assert window.origin == origin
    assert window.latent_FCHW.shape == (3, 32, 4, 4) and window.pixel_TCHW.shape == (9, 3, 64, 64)
    assert torch.equal(windows("test", 0).latent_FCHW, window.latent_FCHW)


def test_origins_come_in_their_shares(run_dir: Path) -> None:
    pairs = PairsConfig(
        latent_frames=3, windows=((2, 2, 2),), base_rows=2, base_cols=2, with_text=True, remade=0.25
    )
    windows = SeenWindows(pairs, load_preset(DEBUG_PRESET), run_dir / "weights", seed=0, enlarged=0.5)
    counts = Counter(windows("test", number).origin for number in range(40))
    assert 5 <= counts["remade"] <= 15 <= counts["enlarged"] <= 25 and 5 <= counts["encoded"] <= 15


@pytest.mark.parametrize(("remade", "enlarged"), [(0.9, 0.2), (0.0, -0.1), (1.0, 0.1)])
def test_shares_of_more_than_all_or_less_than_nothing_are_refused(remade: float, enlarged: float) -> None:
    pairs = PairsConfig(with_text=True, remade=remade)
    with pytest.raises(BadConfig, match="at most 1 with remade"):
        DecoderStageConfig(steps=1, windows=pairs, enlarged=enlarged)
    DecoderStageConfig(steps=1, windows=PairsConfig(with_text=True, remade=0.9), enlarged=0.1)


def test_a_recipe_without_a_stage_says_which_it_has(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "autoencoder", "--recipe", "mini", "--run-dir", str(tmp_path)]) == 2
    assert "recipe mini has no stage autoencoder; it has patches, latents," in capsys.readouterr().err
