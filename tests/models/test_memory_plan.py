"""Plans against what is really allocated: bit exact for everything that is not marked an estimate."""

from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
import torch
from small_cascade import small_long_preset
from torch import Tensor, nn

from ultraflash.models import cascade as cascade_module
from ultraflash.models.activation_peak import activation_peak
from ultraflash.models.cascade import Cascade
from ultraflash.models.device_memory import _available, _left_in_container, free_bytes
from ultraflash.models.errors import NotEnoughMemory, UnknownSize
from ultraflash.models.memory_plan import MemoryPlan, check_memory, largest_that_fits, memory_plan
from ultraflash.models.preset import Preset, available_presets, load_preset
from ultraflash.models.stream_state import StreamState

BF16 = torch.bfloat16


def storages(thing: object, seen: set[int]) -> Iterator[tuple[int, int]]:
    """(address, bytes) of all memory that an object's tensors refer to."""
    if id(thing) in seen or isinstance(thing, type | int | float | str | None):
        return
    seen.add(id(thing))
    if isinstance(thing, Tensor):
        storage = thing.untyped_storage()
        yield storage.data_ptr(), storage.nbytes()
        return
    parts: list[object] = [*vars(thing).values()] if hasattr(thing, "__dict__") else []
    parts += [getattr(thing, name) for name in getattr(type(thing), "__slots__", ())]
    parts += [*thing.values()] if isinstance(thing, dict) else []
    parts += [*thing] if isinstance(thing, list | tuple | set) else []
    for part in parts:
        yield from storages(part, seen)


def allocated(*things: object) -> int:
    """Bytes behind objects, each counted once."""
    return sum(dict(entry for thing in things for entry in storages(thing, set())).values())


def held(state: StreamState) -> dict[str, int]:
    return {
        "base_cache": allocated(state.base_cache),
        "window_latents": allocated(state.window),
        "last_latents": allocated(state.last_latents_BCFHW),
        "spread": allocated(state.spread),
        "prompt": allocated(state.prompt_context),
        "decoder_memory": allocated(state.picture.decoder),
        "newest_frame": allocated(state.picture.fade),
        "sr_cache": allocated(state.picture.sr),
        "upsampler_memory": allocated(state.picture.upsampler),
    }


def networks(cascade: Cascade) -> dict[str, nn.Module]:
    nets = cascade.networks
    upsamplers = {f"upsampler_x{factor}": net for factor, net in nets.upsamplers.items()}
    return {"base": nets.base, "decoder": nets.decoder, **nets.sr, **upsamplers}


def check_exact(cascade: Cascade, size: str, dtype: torch.dtype, groups: int = 1) -> MemoryPlan:
    plan = memory_plan(cascade.preset, size, dtype=dtype)
    assert plan.weights == {
        name: allocated(*net.state_dict().values()) for name, net in networks(cascade).items()
    }
    state = cascade.open("a calm sea at dawn", size=size, seed=1)
    for _ in range(groups):
        cascade.next_group(state)
    assert {**dict.fromkeys(held(state), 0), **plan.stream} == held(state)
    assert plan.stream_bytes == allocated(state)
    return plan


def test_the_plan_of_mini_is_what_is_allocated_at_every_size() -> None:
    cascade = Cascade.load("mini", dtype=BF16)
    plans = [check_exact(cascade, size.name, BF16) for size in cascade.preset.sizes]
    assert [plan.total_bytes for plan in plans] == sorted(plan.total_bytes for plan in plans)


@pytest.mark.parametrize("storage", ["bf16", "int8"])
def test_small_keys_and_values_are_planned_exactly_too(
    build: Callable[..., Cascade], preset: Preset, storage: str
) -> None:
    small = replace(preset, base=replace(preset.base, kv=storage), sr=replace(preset.sr, kv=storage))
    check_exact(build(small), "1K", torch.float32)


def test_the_official_layout_is_planned_exactly_with_and_without_super_resolution(
    build: Callable[..., Cascade],
) -> None:
    cascade = build(small_long_preset())
    for size in ("0.5K", "1K", "2K"):
        plan = check_exact(cascade, size, torch.float32, groups=2)
        assert ("sr_cache" in plan.stream) == (size != "0.5K")


@pytest.mark.parametrize("name", available_presets())
def test_every_preset_that_ships_has_a_plan_without_its_weights(name: str) -> None:
    preset = load_preset(name)
    plan = memory_plan(preset, preset.sizes[-1].name)
    assert plan.total_bytes == sum(size for _, size, _ in plan.table())
    parameters = 0.0115e9 if preset.weights == "mini" else 1.42e9
    assert plan.weights["base"] == pytest.approx(2 * parameters, rel=0.15)


def test_what_attention_copies_at_a_time_does_not_grow_with_the_pairs_that_it_keeps() -> None:
    preset = load_preset("ultraflash-1k")
    assert preset.sr is not None
    rules = [replace(preset.sr.rule, top_k=pairs) for pairs in (2000, 8000)]
    plans = [
        memory_plan(replace(preset, sr=replace(preset.sr, rule=rule)), "1K", dtype=BF16) for rule in rules
    ]
    assert plans[0].estimates["activations"] == plans[1].estimates["activations"]


def test_the_text_encoder_of_the_official_presets_is_umt5_xxl() -> None:
    assert memory_plan(load_preset("self-forcing")).estimates["text"] == 2 * 5_680_910_336


def test_the_official_window_takes_the_bytes_that_its_shapes_say() -> None:
    plan = memory_plan(load_preset("ultraflash-1k"), "1K")
    assert plan.stream["base_cache"] == 21 * 1560 * 30 * 2 * 1536 * 2
    # Three temporal blocks of 8 x 13 blocks of 128 tokens: 60 rows are filled up to 64.
    assert plan.stream["sr_cache"] == 3 * (8 * 13) * 128 * 30 * 2 * 1536 * 2
    assert plan.weights["sr"] - plan.weights["base"] == 2 * 16 * 4 * 1536


def test_what_does_not_fit_is_refused_with_the_bytes_and_the_largest_size_that_does() -> None:
    preset = load_preset("mini")
    plans = {size.name: memory_plan(preset, size.name, dtype=BF16) for size in preset.sizes}
    free = plans["2K"].total_bytes - 1
    with pytest.raises(NotEnoughMemory, match="mini at 1K does") as refusal:
        check_memory(preset, plans["2K"], free_bytes=free, dtype=BF16)
    assert (refusal.value.needed_bytes, refusal.value.free_bytes) == (free + 1, free)
    assert str(free) in refusal.value.message and str(free + 1) in refusal.value.message
    check_memory(preset, plans["2K"], free_bytes=free + 1, dtype=BF16)
    stream = plans["2K"].total_bytes - plans["2K"].loaded_bytes
    check_memory(preset, plans["2K"], free_bytes=stream, dtype=BF16, loaded=True)
    with pytest.raises(NotEnoughMemory, match="one more stream of mini at 2K"):
        check_memory(preset, plans["2K"], free_bytes=stream - 1, dtype=BF16, loaded=True)
    with pytest.raises(NotEnoughMemory, match="nothing that ships"):
        check_memory(preset, plans["0.5K"], free_bytes=1000, dtype=BF16)


def test_where_no_size_of_a_preset_fits_another_preset_is_named() -> None:
    best = largest_that_fits(load_preset("self-forcing"), 1 << 30, dtype=BF16)
    assert best is not None
    assert (best.preset, best.size) == ("mini", "2K")


def test_a_cascade_refuses_before_it_loads_and_before_it_opens(
    cascade: Cascade, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cascade_module, "free_bytes", lambda _: 1000)
    nowhere = replace(load_preset("mini"), weights="no such folder")
    with pytest.raises(NotEnoughMemory):
        Cascade.load(nowhere)
    with pytest.raises(NotEnoughMemory, match="one more stream"):
        cascade.open("a calm sea", size="0.5K")
    with pytest.raises(UnknownSize):
        Cascade.load(nowhere, size="9K")


def test_the_peak_counts_what_is_alive_at_once_and_no_views_or_inputs() -> None:
    x = torch.empty(256, device="meta")

    def run() -> None:
        first = x * 2  # 1 KiB
        second = first + 1  # 2 KiB
        del first
        second.view(16, 16).add_(1)
        _ = torch.cat((second, x))  # 1 KiB and another 2
        assert x.view(16, 16).shape == (16, 16)

    assert activation_peak(run) == 3 * 1024


def test_free_memory_is_read_as_linux_writes_it() -> None:
    assert _available("MemTotal: 9 kB\nMemAvailable:    1024 kB\n") == 1 << 20
    free = free_bytes(torch.device("cpu"))
    assert free is None or free > 1 << 20
    assert free_bytes(torch.device("meta")) is None


def test_a_containers_limit_leaves_what_is_not_in_use(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("cgroup")
    assert _left_in_container(folder) is None
    (folder / "memory.max").write_text("max\n")
    assert _left_in_container(folder) is None
    (folder / "memory.max").write_text("1000\n")
    (folder / "memory.current").write_text("900\n")
    (folder / "memory.stat").write_text("anon 1\ninactive_file 50\n")
    assert _left_in_container(folder) == 150
