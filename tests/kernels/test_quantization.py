import pytest
import torch

from ultraflash.kernels.quantization import dequantize, quantize


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_rounding_is_off_by_half_a_step_at_most(dtype: torch.dtype) -> None:
    x = torch.randn(3, 5, 16, generator=torch.Generator().manual_seed(0)).to(dtype)
    narrow, scale = quantize(x)
    assert narrow.dtype == torch.int8
    assert scale.shape == x.shape[:-1]
    error = (dequantize(narrow, scale, torch.float32) - x.float()).abs()
    assert (error <= 0.501 * scale[..., None]).all()


def test_zeros_stay_zeros() -> None:
    narrow, scale = quantize(torch.zeros(2, 4))
    assert (dequantize(narrow, scale, torch.float32) == 0).all()
