"""Every launch with the types, shapes and alignment that it really has, compiled for devices that are not here.

The table of tiles knows one shape of each kernel. What a call makes of its tensors (ragged tails, small heads, float32,
a cache or none) is compiled here: launches are caught where they leave for the GPU.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from ultraflash.kernels import tiles
from ultraflash.kernels.attention import forward as dense
from ultraflash.kernels.backends import has_triton
from ultraflash.kernels.block_sparse import (
    BlockGrid,
    BlockSelection,
    PastBlocks,
    RingSpan,
    SelectionRule,
    autograd,
    device_selection,
    fp8,
)
from ultraflash.kernels.compilation import compile_launch
from ultraflash.kernels.devices import DEVICES
from ultraflash.kernels.heads import forward as heads
from ultraflash.kernels.pixels import forward as pixels
from ultraflash.kernels.quantization import quantize
from ultraflash.kernels.residual_norm import forward as residual_norm

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not has_triton(), reason="Triton is not installed"),
]

FLOATING = (torch.bfloat16, torch.float16, torch.float32)
SHAPES = ((64, 64), (128, 128), (60, 24), (5, 8))
"""Tokens of a block and head size: those that ship, and ragged ones."""

FEW_BYTES = 16
"""What a lane may spill in float32 and in head sizes that nothing ships: `ptxas` makes room for more programs so."""

SHIPPED = (64, 128, 1536)
"""Head sizes, and the width of kernels without heads, that the presets have."""


@pytest.fixture
def caught(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[Any, dict[str, Any]]]]:
    """Kernels that would have been started, with their arguments."""
    from triton.runtime.jit import JITFunction

    found: list[tuple[Any, dict[str, Any]]] = []

    def catch(kernel: Any, *_: Any, grid: Any, warmup: bool, **arguments: Any) -> None:
        found.append((kernel, arguments))

    monkeypatch.setattr(JITFunction, "run", catch)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "a GPU that nothing was measured on")
    tiles.tiles_for.cache_clear()
    yield found
    tiles.tiles_for.cache_clear()


def on(monkeypatch: pytest.MonkeyPatch, arch: str) -> None:
    """Let launches choose what they would on such a device."""
    nvidia = arch.startswith("sm_")
    monkeypatch.setattr(tiles, "architecture", lambda _: arch)
    monkeypatch.setattr(torch.version, "hip", None if nvidia else "6.0")
    capability = (int(arch[3:-1]), int(arch[-1])) if nvidia else (9, 4)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)


def check(caught: list[tuple[Any, dict[str, Any]]], arch: str, *, kernels: int) -> None:
    assert len(caught) == kernels
    for kernel, arguments in caught:
        warps, stages = arguments.pop("num_warps"), arguments.pop("num_stages")
        usage = compile_launch(kernel, arguments, arch=arch, warps=warps, stages=stages)
        wide = "q_ptr" in arguments and arguments["q_ptr"].dtype == torch.float32
        ships = not wide and arguments.get("SIZE", SHIPPED[0]) in SHIPPED
        assert usage.resident > 0, (kernel.fn.__name__, usage)
        assert usage.spilled <= (0 if ships else FEW_BYTES), (kernel.fn.__name__, usage)
    caught.clear()


def blocks(count: int, shape: tuple[int, int], dtype: torch.dtype) -> Tensor:
    tokens, size = shape
    return torch.zeros(1, count, tokens, 2, size, dtype=dtype)


def everything(queries: int, keys: int) -> BlockSelection:
    return BlockSelection.from_mask(torch.ones(1, 2, queries, keys, dtype=torch.bool))


def ring(shape: tuple[int, int], dtype: torch.dtype, *, narrow: bool) -> PastBlocks:
    keys, scale = quantize(blocks(3, shape, dtype)) if narrow else (blocks(3, shape, dtype), None)
    return PastBlocks(
        k_BRTND=keys, v_BRTND=keys, k_scale_BRTN=scale, v_scale_BRTN=scale, span=RingSpan(first=2, count=2)
    )


Caught = list[tuple[Any, dict[str, Any]]]
every_device = pytest.mark.parametrize("arch", list(DEVICES))
# Streams run in bfloat16 on a GPU; the other types are compiled by hand: pytest -m exhaustive.
every_dtype = pytest.mark.parametrize(
    "dtype",
    [
        pytest.param(dtype, marks=[] if dtype == torch.bfloat16 else pytest.mark.exhaustive)
        for dtype in FLOATING
    ],
    ids=str,
)


@every_device
@every_dtype
def test_block_sparse_attention(
    monkeypatch: pytest.MonkeyPatch, caught: Caught, arch: str, dtype: torch.dtype
) -> None:
    on(monkeypatch, arch)
    kept = (dtype, torch.bfloat16) if dtype == torch.float32 else (dtype,)
    for shape in SHAPES:
        q = blocks(2, shape, dtype)
        floating = [ring(shape, kind, narrow=False) for kind in kept]
        for past in (None, *floating, ring(shape, dtype, narrow=True)):
            autograd.attend(q, q, q, everything(2, 2 if past is None else 4), past, interpret=False)
            check(caught, arch, kernels=1)


@every_device
@every_dtype
def test_its_gradient(monkeypatch: pytest.MonkeyPatch, caught: Caught, arch: str, dtype: torch.dtype) -> None:
    on(monkeypatch, arch)
    for shape in SHAPES[1:]:
        past = ring(shape, dtype, narrow=False)
        q = blocks(2, shape, dtype).requires_grad_()
        autograd.attend(q, q, q, everything(2, 4), past, interpret=False).sum().backward()
        check(caught, arch, kernels=3)


@every_device
@every_dtype
def test_dense_attention(
    monkeypatch: pytest.MonkeyPatch, caught: Caught, arch: str, dtype: torch.dtype
) -> None:
    on(monkeypatch, arch)
    for tokens, size in ((256, 64), (256, 128), (100, 24)):
        q = torch.zeros(1, tokens, 2, size, dtype=dtype)
        narrow, scale = quantize(q)
        kept = [q, q.bfloat16()] if dtype == torch.float32 else [q]
        for k in kept:
            dense.attend(q, k, k, interpret=False)
        dense.attend(q, narrow, narrow, (scale, scale), interpret=False)
        check(caught, arch, kernels=len(kept) + 1)


@pytest.mark.parametrize("arch", ["sm_89", "sm_90", "sm_100", "sm_120"])
def test_attention_in_8_bit_floating_point(
    monkeypatch: pytest.MonkeyPatch, caught: Caught, arch: str
) -> None:
    on(monkeypatch, arch)
    for shape in SHAPES:
        q = blocks(2, shape, torch.bfloat16)
        fp8.attend(q, q, q, everything(2, 2), None, interpret=False)
        check(caught, arch, kernels=1)


@every_device
@every_dtype
def test_the_choice_of_blocks(
    monkeypatch: pytest.MonkeyPatch, caught: Caught, arch: str, dtype: torch.dtype
) -> None:
    on(monkeypatch, arch)
    grid = BlockGrid(frames=2, rows=10, cols=10, block=(1, 4, 4))
    rule = SelectionRule(chunk_frames=1, local_range=3, ratio=0.4)
    q = torch.zeros(1, grid.n_blocks, 16, 2, 24, dtype=dtype)
    for past, scale in ((q, None), quantize(q)):
        device_selection.select(
            q, q, grid, rule,
            cached_k_BCTND=past, cached_k_scale_BCTN=scale, interpret=False,
            span=RingSpan(first=grid.spatial_blocks, count=grid.n_blocks),
        )  # fmt: skip
        check(caught, arch, kernels=6)


class NothingIsAsked(TorchDispatchMode):
    """Refuses what makes a program wait for the GPU: to read a number, or to learn how many there are."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert func.overloadpacket._qualified_op_name not in WAITING, func
        return func(*args, **(kwargs or {}))


WAITING = {f"aten::{name}" for name in ("_local_scalar_dense", "nonzero", "masked_select", "unique_dim")}


def test_choosing_attending_and_their_gradient_ask_nothing_of_the_gpu(
    monkeypatch: pytest.MonkeyPatch, caught: Caught
) -> None:
    on(monkeypatch, "sm_90")
    grid = BlockGrid(frames=2, rows=8, cols=8, block=(1, 4, 4))
    rule = SelectionRule(chunk_frames=1, local_range=3, ratio=0.4)
    q = torch.zeros(1, grid.n_blocks, 16, 2, 16).requires_grad_()
    past = PastBlocks(k_BRTND=q.detach(), v_BRTND=q.detach(), span=RingSpan(first=4, count=8))
    with NothingIsAsked():
        with torch.no_grad():
            chosen = device_selection.select(
                q, q, grid, rule,
                cached_k_BCTND=past.k_BRTND, cached_k_scale_BCTN=None, span=past.span, interpret=False,
            )  # fmt: skip
        autograd.attend(q, q, q, chosen, past, interpret=False).sum().backward()
    assert len(caught) == 6 + 3
    with pytest.raises(AssertionError, match="nonzero"), NothingIsAsked():
        everything(1, 1)


@every_device
@every_dtype
def test_small_operators(
    monkeypatch: pytest.MonkeyPatch, caught: Caught, arch: str, dtype: torch.dtype
) -> None:
    on(monkeypatch, arch)
    grid = BlockGrid(frames=2, rows=3, cols=5, block=(1, 2, 2))
    for width in (1536, 192, 24):
        x = torch.zeros(1, grid.tokens, width, dtype=dtype)
        weight, rope = torch.zeros(width), torch.zeros(2, grid.tokens, 1, 6)
        calls: list[Callable[[], Any]] = [
            lambda x=x, weight=weight, rope=rope: heads.run(
                x, x.shape[-1] // 12, weight_E=weight, eps=1e-6, rope=rope, grid=grid, interpret=False
            ),
            lambda x=x: heads.run(x, 1, weight_E=None, eps=0.0, rope=None, grid=None, interpret=False),
        ]
        gate, factor, offset = torch.zeros(1, 2, 3, 1, width).unbind(2)
        calls += [
            lambda x=x, gate=gate, factor=factor, offset=offset: residual_norm.run(
                x.float(), x, gate, (factor, offset), eps=1e-6, dtype=x.dtype, interpret=False
            ),
            lambda x=x: residual_norm.run(x.float(), x, None, None, eps=0.0, dtype=x.dtype, interpret=False),
        ]
        for call in calls:
            call()
        check(caught, arch, kernels=len(calls))


@every_device
@every_dtype
def test_packing_of_pixels(
    monkeypatch: pytest.MonkeyPatch, caught: Caught, arch: str, dtype: torch.dtype
) -> None:
    on(monkeypatch, arch)
    for layout in ("rgb", "yuv420p", "nv12"):
        pixels.run(torch.zeros(2, 6, 10, 3, dtype=dtype), layout=layout, offset=0.5, interpret=False)
    check(caught, arch, kernels=3)
