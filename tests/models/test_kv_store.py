from dataclasses import replace

import pytest
import torch

from ultraflash.models.cascade import Cascade
from ultraflash.models.errors import BadConfig
from ultraflash.models.kv_store import KvStorage, KvStore, head_bytes, quantize
from ultraflash.models.preset import Preset, load_preset
from ultraflash.models.stream_state import StreamState

CPU = torch.device("cpu")
# Of the frames' own contrast, over groups whose errors add up through the window. bfloat16 keeps 8 bits of every
# value and int8 keeps 8 bits of a head's largest one, so that the second may be a few times as far off.
FRAME_ERROR: dict[KvStorage, float] = {"bf16": 0.05, "int8": 0.10}


def store(storage: KvStorage, dtype: torch.dtype = torch.float32) -> KvStore:
    return KvStore((2, 1, 6, 3, 8), storage=storage, dtype=dtype, device=CPU)


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_int8_is_off_by_at_most_half_a_step_of_a_heads_largest_value() -> None:
    x = drawn(1, 5, 3, 8) * torch.tensor([1e-3, 1.0, 1e3]).view(1, 1, 3, 1)
    levels, scale = quantize(x)
    error = (levels * scale - x).abs().amax(dim=-1)
    assert (error <= x.abs().amax(dim=-1) * (0.5001 / 127)).all()


def test_int8_of_zeros_is_zeros() -> None:
    levels, scale = quantize(torch.zeros(1, 2, 3, 4))
    assert not (levels * scale).any()


def test_what_is_kept_in_the_models_type_comes_back_bit_for_bit_and_without_a_copy() -> None:
    kept = store("model")
    keys, values = drawn(1, 2, 3, 8), drawn(1, 2, 3, 8, seed=1)
    kept.write(1, 3, keys, values)
    read = kept.read(1, 3, 5)
    assert torch.equal(read[0], keys)
    assert torch.equal(read[1], values)
    assert read[0].data_ptr() == kept.read(1, 3, 6)[0].data_ptr()


@pytest.mark.parametrize(("storage", "bound"), [("bf16", 1 / 256), ("int8", 1 / 254)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_smaller_types_come_back_close_and_in_the_models_type(
    storage: KvStorage, bound: float, dtype: torch.dtype
) -> None:
    kept = store(storage, dtype)
    keys, values = drawn(1, 2, 3, 8).to(dtype), drawn(1, 2, 3, 8, seed=1).to(dtype)
    kept.write(0, 0, keys, values)
    for read, wanted in zip(kept.read(0, 0, 2), (keys, values), strict=True):
        assert read.dtype == dtype
        largest = wanted.float().abs().amax(dim=-1, keepdim=True)
        rounding = 0 if dtype == torch.float32 else 1 / 256
        assert ((read.float() - wanted.float()).abs() <= (bound + rounding) * largest * 1.001).all()


@pytest.mark.parametrize("storage", ["model", "bf16", "int8"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_bytes_are_what_is_allocated(storage: KvStorage, dtype: torch.dtype) -> None:
    kept = store(storage, dtype)
    allocated = sum(part.untyped_storage().nbytes() for part in kept.tensors(slice(0, 6)).values())
    assert kept.nbytes == allocated == 2 * 2 * 6 * 3 * head_bytes(storage, 8, dtype)


@pytest.mark.parametrize("storage", ["model", "bf16", "int8"])
def test_what_is_kept_can_be_had_as_it_is_and_without_a_copy(storage: KvStorage) -> None:
    kept = store(storage)
    kept.write(1, 0, drawn(1, 6, 3, 8), drawn(1, 6, 3, 8, seed=1))
    keys, values, scales = kept.kept(1)
    wide = kept.read(1, 0, 6)
    if scales is None:
        assert storage != "int8"
        assert keys.dtype == values.dtype == {"model": torch.float32, "bf16": torch.bfloat16}[storage]
        assert torch.equal(keys.float(), wide[0]) and torch.equal(values.float(), wide[1])
    else:
        assert keys.dtype == values.dtype == torch.int8
        assert torch.equal(keys * scales[0][..., None], wide[0])
        assert torch.equal(values * scales[1][..., None], wide[1])
    buffers = kept.tensors(slice(0, 6))
    assert keys.data_ptr() == buffers["keys"][1].data_ptr()
    assert values.data_ptr() == buffers["values"][1].data_ptr()


def test_places_of_several_runs_are_joined_in_their_order() -> None:
    kept = store("int8")
    kept.write(0, 0, drawn(1, 6, 3, 8), drawn(1, 6, 3, 8, seed=1))
    for name, part in kept.tensors(slice(4, 6), slice(0, 1)).items():
        assert torch.equal(part, kept.tensors(slice(0, 6))[name][:, :, [4, 5, 0]])


def test_an_unknown_storage_is_refused() -> None:
    with pytest.raises(BadConfig, match="int8"):
        replace(load_preset("mini").base, kv="int4")  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def mini() -> Preset:
    return load_preset("mini")


def frames(preset: Preset, groups: int = 4) -> tuple[torch.Tensor, StreamState]:
    cascade = Cascade.load(preset, dtype=torch.float32)
    state = cascade.open("a calm sea at dawn", size=preset.sizes[0].name, seed=3)
    return torch.cat([cascade.next_group(state) for _ in range(groups)]).float(), state


def test_frames_of_mini_stay_close_where_keys_and_values_are_kept_small(mini: Preset) -> None:
    exact, plain = frames(mini)
    for storage, bound in FRAME_ERROR.items():
        small = replace(mini, base=replace(mini.base, kv=storage), sr=replace(mini.sr, kv=storage))
        close, state = frames(small)
        assert not torch.equal(close, exact)
        assert float((close - exact).norm() / (exact - exact.mean()).norm()) < bound
        saved = 2 if storage == "bf16" else 4 / (1 + 4 / mini.base.dit.head_dim)
        assert plain.base_cache.nbytes == pytest.approx(saved * state.base_cache.nbytes)
        assert plain.picture.sr.nbytes == pytest.approx(saved * state.picture.sr.nbytes)
