import logging
import subprocess
import sys

import pytest
import torch

from ultraflash.kernels import backends
from ultraflash.kernels.backends import BackendUnavailable, check_backend, gpu_problem

CUDA = torch.device("cuda")


def works(_: torch.device) -> bool:
    return True


def test_a_cpu_needs_no_probe() -> None:
    def probe(_: torch.device) -> bool:
        raise AssertionError

    assert gpu_problem(torch.device("cpu"), probe) == "tensors are on cpu"


def test_a_machine_without_triton_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "has_triton", lambda: False)
    assert gpu_problem(CUDA, works) == "Triton is not installed"
    with pytest.raises(BackendUnavailable, match=r"pip install 'ultraflash\[cuda\]', or choose gather"):
        check_backend("some", "interpreter", ("gather", "triton", "interpreter"), "cpu")


def test_a_probe_that_fails_is_logged_and_one_that_is_wrong_is_told_apart(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(_: torch.device) -> bool:
        raise RuntimeError("no such instruction")

    monkeypatch.setattr(backends, "has_triton", lambda: True)
    with caplog.at_level(logging.WARNING, logger=backends.__name__):
        assert gpu_problem(CUDA, fails) == "a probe of the kernel failed with RuntimeError"
    assert "no such instruction" in caplog.text
    assert gpu_problem(CUDA, lambda _: False) == "a probe of the kernel gave wrong numbers"
    assert gpu_problem(CUDA, works) is None


def test_importing_the_operators_does_not_import_triton() -> None:
    code = (
        "import sys, ultraflash.kernels.attention, ultraflash.kernels.block_sparse, ultraflash.kernels.candidates;"
        "sys.exit('triton' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-I", "-c", code], check=False).returncode == 0
