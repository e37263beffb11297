import logging
import sys
from collections.abc import Iterator
from types import ModuleType

import pytest
import torch
from torch import Tensor

from ultraflash.kernels import attention
from ultraflash.kernels.attention import BackendUnavailable, backend_problem, dense_attention
from ultraflash.kernels.attention import chunked as chunked_module

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def undecided() -> Iterator[None]:
    """No choice and no probe of another test."""
    caches = (attention._chosen, attention._failed_probe)
    for cache in caches:
        cache.cache_clear()
    yield
    for cache in caches:
        cache.cache_clear()


def draw(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    q_BLND = torch.randn(2, 5, 3, 8, generator=generator)
    k_BMND, v_BMND = (torch.randn(2, 7, 3, 8, generator=generator) for _ in range(2))
    return q_BLND.to(dtype), k_BMND.to(dtype), v_BMND.to(dtype)


def expected(q_BLND: Tensor, k_BMND: Tensor, v_BMND: Tensor) -> Tensor:
    weights_BNLM = (torch.einsum("blnd,bmnd->bnlm", q_BLND, k_BMND) / 8**0.5).softmax(dim=-1)
    return torch.einsum("bnlm,bmnd->blnd", weights_BNLM, v_BMND)


@pytest.mark.parametrize("backend", ["auto", "sdpa", "chunked"])
@pytest.mark.parametrize("chunk", [1, 2, 1024])
def test_dense_attention_is_softmax_of_scaled_products(
    backend: str, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunked_module, "CHUNK", chunk)
    case = draw()
    torch.testing.assert_close(dense_attention(*case, backend=backend), expected(*case), atol=1e-5, rtol=0)


@pytest.mark.parametrize("backend", ["auto", "sdpa", "chunked"])
def test_the_gradient_is_that_of_the_formula(backend: str) -> None:
    case = [x.requires_grad_() for x in draw()]
    outs = dense_attention(*case, backend=backend), expected(*case)
    torch.testing.assert_close(*outs, atol=1e-5, rtol=0)
    grads = (torch.autograd.grad(out.square().sum(), case) for out in outs)
    for mine, wanted in zip(*grads, strict=True):
        torch.testing.assert_close(mine, wanted, atol=1e-4, rtol=1e-4)


def test_sums_of_chunks_are_as_good_as_pytorchs_own_in_bfloat16() -> None:
    case = draw(torch.bfloat16)
    wanted = expected(*(x.float() for x in case))
    assert (dense_attention(*case, backend="chunked").float() - wanted).abs().max() < 0.02


def test_the_choice_is_made_once_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger=attention.__name__)
    for _ in range(3):
        dense_attention(*draw())
    assert [record.getMessage() for record in caplog.records] == ["dense attention on cpu uses backend sdpa"]


def test_where_the_first_ones_fail_the_next_that_a_tiny_call_finds_right_is_taken_and_told(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger=attention.__name__)

    def raises(*_: Tensor) -> Tensor:
        raise RuntimeError("no kernel image")

    order = {
        "one": raises,
        "two": lambda q, k, v: torch.zeros_like(q),
        "chunked": chunked_module.attend,
    }
    monkeypatch.setattr(attention, "_DIFFERENTIABLE", order)
    case = draw()
    torch.testing.assert_close(dense_attention(*case), expected(*case), atol=1e-5, rtol=0)
    told = caplog.records[-1].getMessage()
    assert told.startswith(
        "dense attention on cpu uses backend chunked; not one: a probe failed with RuntimeError"
    )
    assert "not two: a probe gave wrong numbers" in told


def test_packages_are_named_where_they_are_missing_or_of_no_use() -> None:
    for backend in ("flash", "xformers"):
        assert backend_problem(backend, CPU) == "it wants a GPU, and this is cpu"
        with pytest.raises(BackendUnavailable, match="wants a GPU"):
            dense_attention(*draw(), backend=backend)
    assert backend_problem("chunked", CPU) is None
    if "flash_attn" not in sys.modules:
        assert backend_problem("flash", torch.device("cuda")) == "flash_attn is not installed"
    with pytest.raises(
        BackendUnavailable, match="there are sdpa, flash, xformers, chunked, triton, interpreter"
    ):
        dense_attention(*draw(), backend="cudnn")


def test_packages_are_called_with_tokens_before_heads_as_they_want_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Stand-ins for what wants a GPU; `pytest -m gpu` calls the packages."""
    flash, xformers, ops = (ModuleType(name) for name in ("flash_attn", "xformers", "xformers.ops"))
    flash.flash_attn_func = expected
    ops.memory_efficient_attention = expected
    for module in (flash, xformers, ops):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    case = draw()
    for call in (attention.libraries.flash, attention.libraries.xformers):
        torch.testing.assert_close(call(*case), dense_attention(*case), atol=1e-5, rtol=0)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU that PyTorch can use")
@pytest.mark.parametrize("backend", ["sdpa", "flash", "xformers", "chunked"])
def test_on_a_gpu_every_backend_that_is_installed_agrees_with_float32(backend: str) -> None:
    device = torch.device("cuda")
    if problem := backend_problem(backend, device):
        pytest.skip(problem)
    case = [x.to(device, torch.bfloat16) for x in draw()]
    wanted = expected(*(x.float() for x in case))
    assert (dense_attention(*case, backend=backend).float() - wanted).abs().max() < 0.02
