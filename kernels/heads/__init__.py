"""From a projection to the heads of attention: RMSNorm, rotation by position and block layout, in one pass.

Backends:

- ``reference``: PyTorch, operator by operator; what ``auto`` is on a CPU, where a gradient is wanted and under
  ``torch.compile``;
- ``triton``: one pass over memory, on a GPU;
- ``interpreter``: the same kernel run in Python by Triton's interpreter, to test it without a GPU.

Shapes: B batch, L tokens in reading order, N heads, D head size, E = N * D width, G blocks, T tokens of a block.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ultraflash.kernels.backends import fused_backend
from ultraflash.kernels.block_sparse import BlockGrid

from . import forward, reference
from .reference import apply_rope

__all__ = ["apply_rope", "to_heads"]

OPERATOR = "norm and rotation of heads"


def to_heads(
    x_BLE: Tensor,
    heads: int,
    *,
    weight_E: Tensor | None = None,
    eps: float = 0.0,
    rope: Tensor | None = None,
    grid: BlockGrid | None = None,
    backend: str = "auto",
) -> Tensor:
    """Split a projection into heads, after an RMSNorm over the whole width and a rotation, where they are wanted.

    Args:
        x_BLE: queries, keys or values as they come out of their projection.
        heads: N.
        weight_E: of the RMSNorm, or None for no norm.
        eps: of the RMSNorm.
        rope: float32 (2, L, 1, D/2), cosines then sines of adjacent pairs, or None for no rotation.
        grid: of the L tokens, to have them in block layout with zeros where it is filled up, or None.
        backend: "auto", or one of `backends.FUSED`.

    Returns:
        (B, L, N, D), or (B, G, T, N, D) with a grid, in the dtype of `x_BLE`.

    Raises:
        BackendUnavailable: no such backend here.
        ValueError: weight, table or grid do not fit the projection.
    """
    _check(x_BLE, heads, weight_E, rope, grid)
    inputs = (x_BLE,) if weight_E is None else (x_BLE, weight_E)
    name = fused_backend(OPERATOR, backend, inputs, _probe)
    # With nothing to compute and no layout to change there is nothing to run.
    if name == "reference" or (weight_E is None and rope is None and grid is None):
        return reference.to_heads(x_BLE, heads, weight_E=weight_E, eps=eps, rope=rope, grid=grid)
    return forward.run(
        x_BLE, heads, weight_E=weight_E, eps=eps, rope=rope, grid=grid, interpret=name == "interpreter"
    )


def _check(
    x_BLE: Tensor, heads: int, weight_E: Tensor | None, rope: Tensor | None, grid: BlockGrid | None
) -> None:
    _, tokens, width = x_BLE.shape
    if width % heads:
        raise ValueError(f"a width of {width} does not split into {heads} heads")
    if weight_E is not None and tuple(weight_E.shape) != (width,):
        raise ValueError(f"expected a weight of {(width,)}, got {tuple(weight_E.shape)}")
    if rope is not None and tuple(rope.shape) != (2, tokens, 1, width // heads // 2):
        raise ValueError(
            f"expected cosines and sines {(2, tokens, 1, width // heads // 2)}, got {tuple(rope.shape)}"
        )
    if grid is not None and grid.tokens != tokens:
        raise ValueError(f"expected {grid.tokens} tokens for a grid of {grid.shape}, got {tokens}")


def _probe(device: torch.device) -> bool:
    grid = BlockGrid(frames=1, rows=3, cols=2, block=(1, 2, 2))
    generator = torch.Generator(device).manual_seed(0)
    x_BLE, weight_E, rope = (
        torch.randn(shape, device=device, generator=generator) for shape in ((1, 6, 48), (48,), (2, 6, 1, 12))
    )
    made = forward.run(x_BLE, 2, weight_E=weight_E, eps=1e-6, rope=rope, grid=grid, interpret=False)
    wanted = reference.to_heads(x_BLE, 2, weight_E=weight_E, eps=1e-6, rope=rope, grid=grid)
    return torch.allclose(made, wanted, atol=1e-4)
