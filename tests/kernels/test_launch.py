import pytest

from ultraflash.kernels.backends import has_triton
from ultraflash.kernels.launch import interpreted, interpreted_language, tile_width


@pytest.mark.parametrize(("size", "width"), [(1, 16), (16, 16), (17, 32), (64, 64), (96, 128)])
def test_a_tile_is_a_power_of_two_that_holds_the_head(size: int, width: int) -> None:
    assert tile_width(size) == width


@pytest.mark.skipif(not has_triton(), reason="Triton is not installed")
def test_interpreting_a_kernel_leaves_the_compiled_one_and_the_language_as_they_were() -> None:
    import triton.language as tl
    from triton.runtime.jit import JITFunction

    from ultraflash.kernels.block_sparse import triton

    before = tl.sum
    with interpreted_language():
        assert not isinstance(tl.sum, JITFunction)
    assert tl.sum is before
    assert interpreted(triton.attend_forward) is interpreted(triton.attend_forward)
    assert isinstance(triton.attend_forward, JITFunction)
    assert isinstance(triton.attend_listed, JITFunction)
