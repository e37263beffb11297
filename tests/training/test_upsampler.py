import pytest
import torch
from torch.nn import functional

from ultraflash.models.upsampler import LatentUpsampler, UpsamplerConfig
from ultraflash.training.pairs import Pairs
from ultraflash.training.upsampler import fit_convolution, start_linear


def test_least_squares_finds_a_convolution_again() -> None:
    generator = torch.Generator().manual_seed(0)
    conv = torch.nn.Conv2d(3, 5, 3, padding=1)
    x_NCHW = torch.randn(8, 3, 10, 10, generator=generator)
    with torch.no_grad():
        weight, bias = fit_convolution(x_NCHW, conv(x_NCHW))
    torch.testing.assert_close(weight, conv.weight.detach(), atol=5e-3, rtol=0)
    torch.testing.assert_close(bias, conv.bias.detach(), atol=5e-3, rtol=0)


@pytest.mark.parametrize(("factor", "middle"), [(2, 2), (4, 2), (6, 2)])
def test_the_start_enlarges_smooth_latents_as_linear_interpolation_does(factor: int, middle: int) -> None:
    generator = torch.Generator().manual_seed(1)
    low_NCHW = functional.interpolate(torch.randn(12, 4, 3, 3, generator=generator), size=8, mode="bicubic")
    pairs = Pairs(
        low=low_NCHW.unflatten(0, (6, 2)),
        middle=functional.interpolate(low_NCHW, scale_factor=middle, mode="bilinear").unflatten(0, (6, 2)),
        high=functional.interpolate(low_NCHW, scale_factor=factor, mode="bilinear").unflatten(0, (6, 2)),
    )
    net = LatentUpsampler(UpsamplerConfig(channels=4, mid_channels=6, blocks=2, factor=factor))
    start_linear(net, pairs)
    with torch.no_grad():
        high_BTCHW = net(pairs.low, net.init_memory())
    error = (high_BTCHW - pairs.high)[..., factor:-factor, factor:-factor]
    assert float(error.square().mean()) < 0.01 * float(pairs.high.square().mean())
