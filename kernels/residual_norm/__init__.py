"""What stands between the parts of a transformer block: a gated sum, and the modulated LayerNorm of that sum.

Backends:

- ``reference``: PyTorch, operator by operator; what ``auto`` is on a CPU, where a gradient is wanted and under
  ``torch.compile``;
- ``triton``: one pass over memory, on a GPU;
- ``interpreter``: the same kernel run in Python by Triton's interpreter, to test it without a GPU.

Shapes: B batch, F frames, S tokens of a frame, L = F * S tokens, E width. The stream is float32 throughout.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ultraflash.kernels.backends import fused_backend

from . import forward, reference

__all__ = ["add", "add_normed", "normed"]

OPERATOR = "residual sum and norm"


def normed(
    x_BLE: Tensor, factor: Tensor, offset: Tensor, *, eps: float, dtype: torch.dtype, backend: str = "auto"
) -> Tensor:
    """``LayerNorm(x) * factor + offset``, (B, L, E) in ``dtype``.

    Args:
        x_BLE: the stream.
        factor, offset: float32, both (E,), a norm's own weight and bias, or both (B or 1, F, 1, E), per frame.
        eps: of the norm.
        dtype: of the result.
        backend: "auto", or one of `backends.FUSED`.

    Raises:
        BackendUnavailable: no such backend here.
        ValueError: factor and offset do not fit the stream or each other.
    """
    _check_affine(x_BLE, factor, offset)
    name = fused_backend(OPERATOR, backend, (x_BLE, factor, offset), _probe)
    if name == "reference":
        return reference.normed(x_BLE, factor, offset, eps=eps, dtype=dtype)
    interpret = name == "interpreter"
    return forward.run(x_BLE, None, None, (factor, offset), eps=eps, dtype=dtype, interpret=interpret)[1]


def add(
    x_BLE: Tensor, update_BLE: Tensor, gate_BF1E: Tensor | None = None, *, backend: str = "auto"
) -> Tensor:
    """``x + gate * update``, float32, with one gate per frame, or none.

    Raises:
        BackendUnavailable: no such backend here.
        ValueError: the gate does not fit the stream.
    """
    if gate_BF1E is not None:
        _check_frames(x_BLE, gate_BF1E)
    inputs = [x for x in (x_BLE, update_BLE, gate_BF1E) if x is not None]
    name = fused_backend(OPERATOR, backend, inputs, _probe)
    if name == "reference":
        return reference.add(x_BLE, update_BLE, gate_BF1E)
    interpret = name == "interpreter"
    return forward.run(x_BLE, update_BLE, gate_BF1E, None, eps=0.0, dtype=x_BLE.dtype, interpret=interpret)[0]


def add_normed(
    x_BLE: Tensor,
    update_BLE: Tensor,
    gate_BF1E: Tensor | None,
    factor: Tensor,
    offset: Tensor,
    *,
    eps: float,
    dtype: torch.dtype,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """`add`, and `normed` of what it gives: the new stream, float32, and its norm in ``dtype``.

    Raises:
        BackendUnavailable: no such backend here.
        ValueError: gate, factor or offset do not fit the stream.
    """
    if gate_BF1E is not None:
        _check_frames(x_BLE, gate_BF1E)
    _check_affine(x_BLE, factor, offset)
    inputs = [x for x in (x_BLE, update_BLE, gate_BF1E, factor, offset) if x is not None]
    name = fused_backend(OPERATOR, backend, inputs, _probe)
    if name == "reference":
        stream = reference.add(x_BLE, update_BLE, gate_BF1E)
        return stream, reference.normed(stream, factor, offset, eps=eps, dtype=dtype)
    interpret = name == "interpreter"
    return forward.run(
        x_BLE, update_BLE, gate_BF1E, (factor, offset), eps=eps, dtype=dtype, interpret=interpret
    )


def _check_frames(x_BLE: Tensor, per_frame: Tensor) -> None:
    batch, tokens, width = x_BLE.shape
    fits = per_frame.dim() == 4 and per_frame.shape[0] in (1, batch) and per_frame.shape[2:] == (1, width)
    if not fits or tokens % per_frame.shape[1]:
        raise ValueError(
            f"expected ({batch}, frames, 1, {width}), in frames that divide {tokens} tokens, for a stream "
            f"{tuple(x_BLE.shape)}, got {tuple(per_frame.shape)}"
        )


def _check_affine(x_BLE: Tensor, factor: Tensor, offset: Tensor) -> None:
    if factor.shape != offset.shape:
        raise ValueError(
            f"factor and offset differ in shape: {tuple(factor.shape)} and {tuple(offset.shape)}"
        )
    if tuple(factor.shape) != (x_BLE.shape[2],):
        _check_frames(x_BLE, factor)


def _probe(device: torch.device) -> bool:
    generator = torch.Generator(device).manual_seed(0)
    x_BLE, update_BLE = torch.randn(2, 1, 6, 48, device=device, generator=generator)
    gate, factor, offset = torch.randn(3, 1, 2, 1, 48, device=device, generator=generator)
    made = forward.run(
        x_BLE, update_BLE, gate, (factor, offset), eps=1e-6, dtype=torch.float32, interpret=False
    )
    stream = reference.add(x_BLE, update_BLE, gate)
    wanted = stream, reference.normed(stream, factor, offset, eps=1e-6, dtype=torch.float32)
    return all(torch.allclose(a, b, atol=1e-4) for a, b in zip(made, wanted, strict=True))
