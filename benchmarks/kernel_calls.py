"""What is timed on a GPU: our kernels, and what else computes the same there.

Everything is checked when it is made; `WrongNumbers` names what does not compute what it should. Bytes are those that
must be moved at least once; operations are those of the products.

Shape legend: B batch, N heads, T tokens of a block, D head size, L tokens, E width.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from attention_case import Case, Tensors, WrongNumbers, check
from provenance import installed
from torch import Tensor

from ultraflash.kernels import residual_norm
from ultraflash.kernels.attention import backend_problem, dense_attention
from ultraflash.kernels.block_sparse import SELECTION_BACKEND, block_sparse_attention, select_blocks
from ultraflash.kernels.heads import to_heads
from ultraflash.kernels.pixels import pack
from ultraflash.kernels.quantization import quantize

BLOCK_OF_EXTENSION = 128
"""Tokens of a block that block_sparse_attn is compiled for."""

BASE_WINDOW = {"queries": 3 * 1560, "keys": 21 * 1560, "heads": 12, "size": 128}
"""Attention of the full-size base: a block of three latent frames of 1560 tokens over a window of 21."""

OTHERS_DENSE = {"sdpa": "SDPA", "flash": "FlashAttention", "xformers": "xformers"}
"""Backends of `dense_attention` that are not ours, and how the table calls them."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Timed:
    """One line of the table.

    Attributes:
        name: for the table.
        call: what is timed.
        operations: of its products.
        bytes: that it moves at least.
    """

    name: str
    call: Callable[[], Any]
    operations: float
    bytes: float


def sparse(case: Case, tensors: Tensors, *, ours: str, others: bool) -> Iterator[Timed]:
    """Attention to the selected blocks alone, the cache a ring. `others` are what has to be compiled or installed."""
    q, k, v = tensors.q_BQTND, tensors.k_BQTND, tensors.v_BQTND
    past_k, past_v, span = tensors.ring()
    (narrow_k, k_scale), (narrow_v, v_scale) = quantize(past_k), quantize(past_v)

    def by(backend: str) -> Tensor:
        return block_sparse_attention(
            q, k, v, tensors.selection,
            cached_k_BCTND=past_k, cached_v_BCTND=past_v, cached_span=span, backend=backend,
        )  # fmt: skip

    def by_int8() -> Tensor:
        return block_sparse_attention(
            q, k, v, tensors.selection,
            cached_k_BCTND=narrow_k, cached_v_BCTND=narrow_v,
            cached_k_scale_BCTN=k_scale, cached_v_scale_BCTN=v_scale, cached_span=span, backend=ours,
        )  # fmt: skip

    fp8 = {"triton": "fp8", "interpreter": "fp8-interpreter"}[ours]
    foreign: list[tuple[str, Callable[[], Tensor], float]] = []
    calls: list[tuple[str, Callable[[], Tensor], float]] = [
        ("Triton", lambda: by(ours), 5e-2),
        ("Triton, int8 cache", by_int8, 5e-2),
        ("gather", lambda: by("gather"), 5e-2),
    ]
    if q.device.type != "cuda" or torch.cuda.get_device_capability(q.device) >= (8, 9):
        calls.append(("Triton, e4m3", lambda: by(fp8), 0.3))
    if others:
        foreign.append(("flex_attention", flex_call(tensors), 5e-2))
        if installed("block_sparse_attn") and case.grid.block_tokens == BLOCK_OF_EXTENSION:
            foreign.append(("block_sparse_attn (CUDA)", extension_call(tensors), 5e-2))
    wide = moved(q, q, *tensors.all_keys())  # the result is as large as the queries
    narrow = moved(q, q, k, v, narrow_k, narrow_v, k_scale, v_scale)
    for name, call, tolerance in (*calls, *filter(runs, foreign)):
        check(f"block-sparse, {name} at {case.name}", call(), tensors, tolerance)
        yield Timed(
            name=f"block-sparse, {name}",
            call=call,
            operations=products(case, tensors.pairs),
            bytes=narrow if "int8" in name else wide,
        )


def runs(foreign: tuple[str, Callable[[], Tensor], float]) -> bool:
    """Whether what is not ours runs here at all; why not is told, and the rest is timed without it."""
    name, call, _ = foreign
    try:
        call()
    except Exception as error:  # noqa: BLE001 - what others' compilers raise is theirs to choose
        reason = next(iter(str(error).splitlines()), "")
        print(f"{name} is left out: {type(error).__name__}: {reason}", file=sys.stderr)
        return False
    return True


def gradients(case: Case, tensors: Tensors, *, ours: str) -> list[Timed]:
    """The gradient of block-sparse attention, without the forward pass: five products instead of two."""
    inputs = [
        x.clone().requires_grad_()
        for x in (
            tensors.q_BQTND, tensors.k_BQTND, tensors.v_BQTND, tensors.past_k_BCTND, tensors.past_v_BCTND,
        )
    ]  # fmt: skip
    generator = torch.Generator(device=inputs[0].device).manual_seed(0)
    d_out = torch.empty_like(tensors.q_BQTND).normal_(generator=generator)

    def of(backend: str) -> Callable[[], tuple[Tensor, ...]]:
        with torch.enable_grad():
            q, k, v, past_k, past_v = inputs
            out = block_sparse_attention(
                q, k, v, tensors.selection, cached_k_BCTND=past_k, cached_v_BCTND=past_v, backend=backend
            )
        return lambda: torch.autograd.grad(out, inputs, d_out, retain_graph=True)

    calls = {"Triton": of(ours), "gather": of("gather")}
    for made, wanted in zip(calls["Triton"](), calls["gather"](), strict=True):
        same(f"gradient of block-sparse attention at {case.name}", made, wanted, 0.1)
    operations = 2.5 * products(case, tensors.pairs)
    size = moved(*inputs) * 2 + moved(d_out, d_out)
    return [
        Timed(name=f"its gradient, {name}", call=call, operations=operations, bytes=size)
        for name, call in calls.items()
    ]


def choices(case: Case, tensors: Tensors, *, ours: str) -> list[Timed]:
    """The choice of blocks."""
    past_k, _, span = tensors.ring()

    def by(backend: str) -> Callable[[], Any]:
        return lambda: select_blocks(
            tensors.q_BQTND,
            tensors.k_BQTND,
            case.grid,
            case.rule,
            cached_k_BCTND=past_k,
            cached_span=span,
            backend=SELECTION_BACKEND.get(backend, backend),
        )

    calls = {"Triton": by(ours), "reference": by("reference")}
    differ = (calls["Triton"]().to_mask() != calls["reference"]().to_mask()).float().mean().item()
    if differ > 1e-3:  # means are added up in another order, so near ties may fall the other way
        raise WrongNumbers(f"the choice of blocks at {case.name} differs in {differ:.2%} of the pairs")
    size = moved(tensors.q_BQTND, tensors.k_BQTND, tensors.past_k_BCTND)
    return [
        Timed(name=f"choice of blocks, {name}", call=call, operations=0, bytes=size)
        for name, call in calls.items()
    ]


def dense(tensors: Tensors, case: Case) -> Iterator[Timed]:
    """Attention to everything, cache and new keys joined beforehand: what being sparse saves."""
    q, k, v = (x.flatten(1, 2) for x in (tensors.q_BQTND, *tensors.all_keys()))
    operations = products(case, case.heads * case.grid.n_blocks * case.key_blocks)
    for name, call in full_attention(q, k, v).items():
        yield Timed(name=f"dense, {name}", call=call, operations=operations, bytes=moved(q, q, k, v))


def window(
    *, queries: int, keys: int, heads: int, size: int, dtype: torch.dtype, device: torch.device, ours: str
) -> Iterator[Timed]:
    """Dense attention of a block over the ring cache of the base, in place."""
    generator = torch.Generator().manual_seed(0)

    def draw(tokens: int) -> Tensor:
        return torch.randn(1, tokens, heads, size, generator=generator).to(device, dtype)

    q, k, v = draw(queries), draw(keys), draw(keys)
    (narrow_k, k_scale), (narrow_v, v_scale) = quantize(k), quantize(v)
    scales = {"k_scale_BMN": k_scale, "v_scale_BMN": v_scale}
    wanted = dense_attention(q.float(), k.float(), v.float(), backend="sdpa")
    wide, narrow = moved(q, q, k, v), moved(q, q, narrow_k, narrow_v, k_scale, v_scale)
    calls: dict[str, tuple[Callable[[], Tensor], float]] = {
        "Triton": (lambda: dense_attention(q, k, v, backend=ours), wide),
        **{name: (call, wide) for name, call in full_attention(q, k, v).items()},
        "Triton, int8": (lambda: dense_attention(q, narrow_k, narrow_v, **scales, backend=ours), narrow),
        "SDPA, int8 widened": (
            lambda: dense_attention(q, narrow_k, narrow_v, **scales, backend="sdpa"),
            narrow,
        ),
    }
    for name, (call, size_moved) in calls.items():
        same(f"window, {name}", call(), wanted, 5e-2)
        yield Timed(
            name=f"window, {name}",
            call=call,
            operations=4.0 * queries * keys * heads * size,
            bytes=size_moved,
        )


def small(
    *, tokens: int, width: int, heads: int, dtype: torch.dtype, device: torch.device, ours: str
) -> Iterator[Timed]:
    """The small operators of a transformer block, and the bytes of pixels."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(device)

    x, update, stream = (
        draw(1, tokens, width).to(dtype),
        draw(1, tokens, width).to(dtype),
        draw(1, tokens, width),
    )
    weight, rope = draw(width), draw(2, tokens, 1, width // heads // 2)
    gate, factor, offset = draw(1, 1, 3, 1, width).unbind(2)
    pixels = draw(2, 64, 96, 3).to(dtype)
    forms: dict[str, tuple[Callable[[str], Any], float]] = {
        "norm and rotation of heads": (
            lambda backend: to_heads(x, heads, weight_E=weight, eps=1e-6, rope=rope, backend=backend),
            moved(x, x, weight, rope),
        ),
        "gated sum and norm": (
            lambda backend: residual_norm.add_normed(
                stream, update, gate, factor, offset, eps=1e-6, dtype=dtype, backend=backend
            ),
            moved(stream, stream, update, x),
        ),
        "bytes of pixels": (
            lambda backend: pack(pixels, layout="nv12", offset=0.5, backend=backend),
            moved(pixels) + pixels.numel() // 2,
        ),
    }
    for name, (form, size) in forms.items():
        made, wanted = (
            [part.float() for part in (out if isinstance(out, tuple) else (out,))]
            for out in (form(ours), form("reference"))
        )
        for one, other in zip(made, wanted, strict=True):
            same(name, one, other, 1.0 if name.startswith("bytes") else 0.1)
        for label, backend in (("Triton", ours), ("reference", "reference")):
            yield Timed(
                name=f"{name}, {label}",
                call=lambda form=form, backend=backend: form(backend),
                operations=0,
                bytes=size,
            )


def full_attention(q_BLND: Tensor, k_BLND: Tensor, v_BLND: Tensor) -> dict[str, Callable[[], Tensor]]:
    """Others' attention of every query to every key, by name: what a tiny call of `backend_problem` finds right."""
    return {
        label: partial(dense_attention, q_BLND, k_BLND, v_BLND, backend=backend)
        for backend, label in OTHERS_DENSE.items()
        if backend_problem(backend, q_BLND.device) is None
    }


def flex_call(tensors: Tensors) -> Callable[[], Tensor]:
    """PyTorch's flex_attention over the same lists, compiled. Cache and new keys are joined beforehand."""
    from torch.nn.attention.flex_attention import BlockMask, flex_attention

    mask_BNQK = tensors.selection.to_mask()
    tokens = tensors.q_BQTND.shape[2]
    counts = mask_BNQK.sum(dim=-1, dtype=torch.int32)
    chosen_first = mask_BNQK.int().argsort(dim=-1, descending=True, stable=True).int()
    blocks = BlockMask.from_kv_blocks(
        torch.zeros_like(counts), chosen_first, counts, chosen_first, BLOCK_SIZE=(tokens, tokens)
    )
    q, k, v = (x.flatten(1, 2).transpose(1, 2) for x in (tensors.q_BQTND, *tensors.all_keys()))
    compiled = torch.compile(flex_attention)
    # Its own choice may be larger than our blocks, and then it refuses them.
    tiles = {"BLOCK_M": tokens, "BLOCK_N": tokens}
    return lambda: (
        compiled(q, k, v, block_mask=blocks, kernel_options=tiles)
        .transpose(1, 2)
        .reshape(tensors.q_BQTND.shape)
    )


def extension_call(tensors: Tensors) -> Callable[[], Tensor]:
    """The CUDA extension block_sparse_attn, where it is installed. Cache and new keys are joined beforehand."""
    from block_sparse_attn import block_sparse_attn_func

    q, k, v = (x.flatten(1, 2)[0] for x in (tensors.q_BQTND, *tensors.all_keys()))
    heads, device = q.shape[1], q.device
    ends = [torch.tensor([0, len(x)], dtype=torch.int32, device=device) for x in (q, k)]
    kinds = torch.ones(heads, dtype=torch.int32, device=device)
    streaming = torch.zeros(2 * heads, dtype=torch.int32, device=device)
    mask = tensors.selection.to_mask()
    return lambda: block_sparse_attn_func(
        q, k, v, *ends, kinds, streaming, mask, len(q), len(k), 0.0, is_causal=False
    ).view(tensors.q_BQTND.shape)


def products(case: Case, pairs: int) -> float:
    """Operations of two products over so many pairs of blocks: two a pair of tokens and number of a head."""
    return 4.0 * pairs * case.grid.block_tokens**2 * case.size


def moved(*tensors: Tensor) -> float:
    """Bytes of tensors."""
    return float(sum(x.numel() * x.element_size() for x in tensors))


def same(name: str, made: Tensor, wanted: Tensor, tolerance: float) -> None:
    """Refuse what is off by more than `tolerance` of the largest number wanted.

    Raises:
        WrongNumbers: saying by how much.
    """
    off = (made.float() - wanted.float()).abs().max().item()
    largest = max(1.0, wanted.float().abs().max().item())
    if not off <= tolerance * largest:
        raise WrongNumbers(f"{name} is off by {off:.2g}, the largest number is {largest:.2g}")
