"""Eight-bit linear layers: which layers, how exact, what is refused. On a CPU; fp8 by torch's own arithmetic there."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from small_cascade import drawn
from torch import Tensor, nn

from ultraflash.models.cascade import Cascade
from ultraflash.models.dit import CausalDiT
from ultraflash.models.errors import (
    BadConfig,
    ForeignSnapshot,
    MissingExtra,
    UnsupportedPrecision,
)
from ultraflash.models.execution import ExecutionConfig
from ultraflash.models.memory_plan import memory_plan
from ultraflash.models.pipeline import UltraFlashPipeline
from ultraflash.models.precision import (
    Int8Linear,
    PrecisionConfig,
    check_precision,
    choose_linears,
    large_linears,
    lower_linears,
    to_fp8,
    weight_levels,
)
from ultraflash.models.preset import PRESETS, Preset, load_preset
from ultraflash.models.sources import Source

CPU = torch.device("cpu")
BF16 = torch.bfloat16
PROMPT = "snowy mountains at night, snow falling"

needs_int8 = pytest.mark.skipif(not weight_levels(), reason="int8 linears want an x86 CPU with AVX2")


def lowered(preset: Preset) -> Preset:
    return replace(preset, precision=PrecisionConfig(linears="int8"))


def two_groups(cascade: Cascade) -> tuple[Tensor, Tensor]:
    """Base latents and frames of a stream's second group, which sees what the first left in the caches."""
    state = cascade.open(PROMPT, size="0.5K", seed=7)
    cascade.next_group(state)
    frames = cascade.next_group(state)
    assert state.last_latents_BCFHW is not None
    return state.last_latents_BCFHW, frames


@pytest.fixture(scope="module")
def exact() -> tuple[Tensor, Tensor]:
    """What `mini` makes in float32."""
    return two_groups(Cascade.load("mini", device="cpu", dtype=torch.float32))


def distance(found: tuple[Tensor, Tensor], wanted: tuple[Tensor, Tensor]) -> tuple[float, float]:
    """Relative error of the latents, and PSNR of the frames in dB."""
    latents = ((found[0] - wanted[0]).norm() / wanted[0].norm()).item()
    mean_square = (found[1].float() - wanted[1].float()).square().mean()
    return latents, (10 * torch.log10(255**2 / mean_square)).item()


@pytest.fixture
def fp8_anywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """torchao without its look at the device: torch multiplies float8 on a CPU too, slowly."""
    quant_api = pytest.importorskip("torchao.quantization.quant_api")
    monkeypatch.setattr(quant_api, "_check_hardware_support", lambda granularity: None)


@needs_int8
def test_mini_with_int8_linears_stays_close_to_float32(exact: tuple[Tensor, Tensor]) -> None:
    cascade = Cascade.load(lowered(load_preset("mini")), device="cpu")
    latents, decibels = distance(two_groups(cascade), exact)
    # Half as many levels of weights are half as fine.
    assert 0 < latents < (0.03 if weight_levels() == 127 else 0.04)
    assert decibels > 42


def test_mini_with_fp8_linears_stays_close_to_float32(
    exact: tuple[Tensor, Tensor], fp8_anywhere: None
) -> None:
    cascade = Cascade.load("mini", device="cpu", dtype=BF16)
    for net in (cascade.networks.base, *cascade.networks.sr.values()):
        to_fp8(net)
        kinds = {type(net.get_submodule(name).weight).__name__ for name in large_linears(net)}
        assert kinds == {"Float8Tensor"}
        assert type(net.head.head.weight) is nn.Parameter
    latents, decibels = distance(two_groups(cascade), exact)
    assert 0.01 < latents < 0.08
    assert decibels > 38


@needs_int8
def test_a_layer_in_int8_is_within_rounding_of_its_own() -> None:
    linear = nn.Linear(96, 64)
    x = torch.randn(2, 5, 96)
    found = Int8Linear(linear)(x)
    assert found.shape == (2, 5, 64) and found.dtype == torch.float32
    error = (found - linear(x)).norm() / linear(x).norm()
    assert 0 < error < 0.03
    assert Int8Linear(linear)(x.bfloat16()).dtype == BF16


@needs_int8
def test_a_layer_in_int8_takes_nothings_and_layers_without_bias() -> None:
    linear = nn.Linear(32, 16)
    assert torch.allclose(Int8Linear(linear)(torch.zeros(3, 32)), linear.bias.expand(3, -1), atol=1e-6)
    empty = nn.Linear(32, 16, bias=False)
    nn.init.zeros_(empty.weight)
    assert torch.equal(Int8Linear(empty)(torch.randn(3, 32)), torch.zeros(3, 16))


@needs_int8
def test_only_attention_and_mlp_of_the_blocks_change(preset: Preset) -> None:
    net = drawn(CausalDiT(preset.base.dit), 1)
    linears = {name for name, layer in net.named_modules() if isinstance(layer, nn.Linear)}
    lower_linears(net, "int8", dtype=torch.float32)
    kept = {name for name, layer in net.named_modules() if isinstance(layer, nn.Linear)}
    assert linears - kept == set(large_linears(net))
    layers = preset.base.dit.layers
    assert len(linears - kept) == 8 * layers
    assert {name.split(".")[0] for name in kept} == {
        "text_embedding",
        "time_embedding",
        "time_projection",
        "blocks",
        "head",
    }
    assert {name.partition(".")[2].partition(".")[2] for name in kept if name.startswith("blocks")} == {
        "cross_attn.k",
        "cross_attn.v",
    }


@needs_int8
def test_a_stream_goes_on_among_cascades_of_the_same_number_types_only(
    build: Callable[..., Cascade], preset: Preset, cascade: Cascade
) -> None:
    small = build(lowered(preset))
    state = small.open("a calm sea", seed=1)
    small.next_group(state)
    snapshot = small.snapshot(state)
    with pytest.raises(ForeignSnapshot, match="preset"):
        cascade.restore(snapshot)
    again = build(lowered(preset))
    assert torch.equal(again.next_group(again.restore(snapshot)), small.next_group(state))


@needs_int8
def test_weights_that_run_in_int8_are_not_saved(
    build: Callable[..., Cascade], preset: Preset, tmp_path: Path
) -> None:
    pipeline = UltraFlashPipeline(build(lowered(preset)))
    with pytest.raises(BadConfig, match=r'precision\.linears = "native"'):
        pipeline.save_pretrained(tmp_path / "saved")
    assert not (tmp_path / "saved").exists()


@needs_int8
@pytest.mark.parametrize(
    ("device", "fastest", "chosen"),
    [("cpu", torch.float32, "int8"), ("cpu", BF16, "native"), ("cuda", BF16, "native")],
)
def test_auto_is_int8_where_a_cpu_has_only_float32(
    monkeypatch: pytest.MonkeyPatch, device: str, fastest: torch.dtype, chosen: str
) -> None:
    monkeypatch.setattr("ultraflash.models.precision.fastest_dtype", lambda device: fastest)
    auto = PrecisionConfig(linears="auto")
    assert choose_linears(auto, torch.device(device)) == PrecisionConfig(linears=chosen)
    assert choose_linears(PrecisionConfig(linears="fp8"), torch.device(device)).linears == "fp8"


@needs_int8
def test_mini_is_in_eight_bits_on_a_cpu_of_float32_unless_a_type_is_given(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for module in ("cascade", "precision"):
        monkeypatch.setattr(f"ultraflash.models.{module}.fastest_dtype", lambda device: torch.float32)
    cascades = [Cascade.load("mini", device="cpu", dtype=dtype) for dtype in (None, torch.float32)]
    counts = [sum(isinstance(m, Int8Linear) for m in c.networks.base.modules()) for c in cascades]
    assert counts == [8 * cascades[0].preset.base.dit.layers, 0]
    assert [cascade.preset.precision.linears for cascade in cascades] == ["int8", "auto"]
    compiled = replace(load_preset("mini"), execution=ExecutionConfig(compile=True))
    assert compiled.needs_float_linears


@needs_int8
def test_sums_in_eight_bits_are_exact_where_all_levels_are_at_their_limit() -> None:
    """The worst that a processor without VNNI may have to add up in sixteen bits."""
    linear = nn.Linear(64, 16, bias=False)
    nn.init.constant_(linear.weight, 1.0)
    found = Int8Linear(linear)(torch.full((4, 64), 2.0))
    assert torch.allclose(found, torch.full((4, 16), 128.0), rtol=1e-5)


@pytest.mark.parametrize("linears", ["int8", "fp8"])
def test_the_plan_knows_that_eight_bits_are_half_of_sixteen(linears: str) -> None:
    preset = load_preset("ultraflash-1k")
    native = memory_plan(preset)
    small = memory_plan(replace(preset, precision=PrecisionConfig(linears=linears)))
    assert small.weights["decoder"] == native.weights["decoder"]
    assert 0.5 < small.weights["base"] / native.weights["base"] < 0.6
    assert small.weights["sr"] < native.weights["sr"]


def test_the_plan_of_fp8_linears_is_what_they_take(fp8_anywhere: None) -> None:
    preset = load_preset("mini")
    net = CausalDiT(preset.base.dit).cast(BF16)
    to_fp8(net)
    taken = 0
    for tensor in net.state_dict().values():
        parts = [tensor.qdata, tensor.scale] if hasattr(tensor, "qdata") else [tensor]
        taken += sum(part.numel() * part.element_size() for part in parts)
    plan = memory_plan(replace(preset, precision=PrecisionConfig(linears="fp8")))
    assert plan.weights["base"] == taken


def test_a_device_that_cannot_is_refused_before_anything_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    fp8 = replace(load_preset("mini"), precision=PrecisionConfig(linears="fp8"), weights="/nowhere")
    with pytest.raises(UnsupportedPrecision, match=r"sm_89 on .*this is no GPU"):
        Cascade.load(fp8, device="cpu")
    with pytest.raises(UnsupportedPrecision, match="want an x86 CPU with AVX2"):
        check_precision("int8", device=torch.device("cuda"), dtype=BF16)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    with pytest.raises(UnsupportedPrecision, match="this is sm_80"):
        check_precision("fp8", device=torch.device("cuda"), dtype=BF16)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    with pytest.raises(UnsupportedPrecision, match="go with bfloat16"):
        check_precision("fp8", device=torch.device("cuda"), dtype=torch.float32)


def test_without_torchao_fp8_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr("ultraflash.models.precision.find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r"ultraflash\[fp8\]"):
        check_precision("fp8", device=torch.device("cuda"), dtype=BF16)


def test_presets_say_what_their_linears_are(tmp_path: Path) -> None:
    text = (PRESETS / "mini.toml").read_text()
    path = tmp_path / "own.toml"
    path.write_text(text.replace('linears = "auto"', 'linears = "int8"'))
    assert load_preset(path).precision.linears == "int8"
    path.write_text(text.replace('linears = "auto"', 'linears = "int4"'))
    with pytest.raises(BadConfig, match="auto, native, int8, fp8, not 'int4'"):
        load_preset(path)


def test_number_types_that_cannot_be_are_refused_with_the_preset() -> None:
    preset = load_preset("mini")
    odd = replace(preset.base, dit=replace(preset.base.dit, ffn_dim=100))
    with pytest.raises(BadConfig, match=r"16 divides, and those of base are \[256, 100\]"):
        replace(preset, base=odd, precision=PrecisionConfig(linears="fp8"))
    live = Source(part="base", store="s", repo="a/b", files=("f",), lora="l", lora_live=True)
    with pytest.raises(BadConfig, match="leave lora_live out"):
        replace(preset, sources=(live,), precision=PrecisionConfig(linears="int8"))
