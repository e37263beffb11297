"""Pixels to bytes, the kernel of which Triton's interpreter runs."""

from typing import get_args

import numpy as np
import pytest
import torch
from av import VideoFrame
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ultraflash.kernels.backends import BackendUnavailable, has_triton
from ultraflash.kernels.pixels import PixelLayout, pack, quantize

needs_triton = pytest.mark.skipif(not has_triton(), reason="Triton is not installed")

LAYOUTS = get_args(PixelLayout)


def draw(*shape: int, seed: int = 0) -> Tensor:
    """Colours, some of them out of range."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 0.4 + 0.5


def smooth(height: int, width: int) -> Tensor:
    """A picture (1, H, W, 3) without edges, on which ways to place chroma agree."""
    coarse = torch.rand(1, 3, 6, 8, generator=torch.Generator().manual_seed(0))
    fine = torch.nn.functional.interpolate(coarse, size=(height, width), mode="bicubic")
    return fine.clamp(0, 1).permute(0, 2, 3, 1)


@pytest.mark.parametrize(
    ("colour", "luma", "blue", "red"),
    [
        ((0, 0, 0), 16, 128, 128),
        ((1, 1, 1), 235, 128, 128),
        ((1, 0, 0), 63, 102, 240),
        ((0, 0, 9), 32, 240, 118),
    ],
)
def test_known_colours_have_the_bytes_of_the_standard(
    colour: tuple[int, int, int], luma: int, blue: int, red: int
) -> None:
    pixels = torch.tensor(colour, dtype=torch.float32).expand(1, 2, 4, 3)
    assert pack(pixels, layout="yuv420p").flatten().tolist() == [luma] * 8 + [blue] * 2 + [red] * 2
    assert pack(pixels, layout="nv12").flatten().tolist() == [luma] * 8 + [blue, red] * 2


def test_quantize_rounds_and_clamps() -> None:
    values = torch.tensor([[-1.0, 0.0], [0.5 + 1e-4, 2.0]])
    assert quantize(values, offset=0.0).tolist() == [[0, 0], [128, 255]]


def test_planes_are_those_that_swscale_makes() -> None:
    """What the encoder would have made of RGB, up to roundings."""
    pixels = smooth(48, 64)
    rgb = VideoFrame.from_ndarray(pack(pixels)[0].numpy(), format="rgb24")
    wanted = rgb.reformat(format="yuv420p", dst_colorspace="ITU709", dst_color_range="MPEG").to_ndarray()
    off = np.abs(pack(pixels, layout="yuv420p")[0].numpy().astype(int) - wanted)
    assert off[:48].max() <= 1
    assert off[48:].max() <= 3
    assert off.mean() < 0.3


@needs_triton
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_kernel_equals_the_reference_on_pixels_in_place(dtype: torch.dtype, layout: PixelLayout) -> None:
    """As a decoder gives them: a view of pictures whose colours may come first or last."""
    for strided in (draw(2, 3, 6, 10).permute(0, 2, 3, 1), draw(2, 12, 20, 6)[:, ::2, ::2, ::2]):
        pixels = strided.to(dtype) - 0.5
        made, wanted = (
            pack(pixels, layout=layout, offset=0.5, backend=name) for name in ("interpreter", "reference")
        )
        assert made.dtype == torch.uint8
        assert made.is_contiguous()
        assert (made.int() - wanted.int()).abs().max() <= 1
        assert (made != wanted).float().mean() < 0.01


@needs_triton
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@settings(max_examples=6)
@given(
    frames=st.integers(1, 3),
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    layout=st.sampled_from(LAYOUTS),
    seed=st.integers(0, 99),
)
def test_any_shape_is_packed(
    dtype: torch.dtype, frames: int, height: int, width: int, layout: PixelLayout, seed: int
) -> None:
    if layout != "rgb":
        height, width = 2 * height, 2 * width
    pixels = draw(frames, height, width, 3, seed=seed).to(dtype)
    made, wanted = (pack(pixels, layout=layout, backend=name) for name in ("interpreter", "reference"))
    assert made.shape == wanted.shape
    assert (made.int() - wanted.int()).abs().max() <= 1


def test_what_cannot_be_packed_is_refused() -> None:
    with pytest.raises(ValueError, match="even sizes"):
        pack(draw(1, 3, 4, 3), layout="nv12")
    with pytest.raises(ValueError, match="three colours"):
        pack(draw(1, 4, 4, 4))
    with pytest.raises(ValueError, match="'bgr'"):
        pack(draw(1, 4, 4, 3), layout="bgr")  # type: ignore[arg-type]
    with pytest.raises(BackendUnavailable, match="choose reference"):
        pack(draw(1, 4, 4, 3), backend="triton")
