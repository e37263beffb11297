"""How much memory of a GPU is in use, which is nothing where there is none."""

from __future__ import annotations

import pytest
import torch

from ultraflash.models.device_memory import gpu_memory


def test_a_cpu_has_no_gpu_memory() -> None:
    assert gpu_memory(torch.device("cpu")) == {}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU that PyTorch can use")
def test_what_is_allocated_counts_as_in_use() -> None:
    ((name, (before, total)),) = gpu_memory(torch.device("cuda")).items()
    assert name == f"cuda:{torch.cuda.current_device()}"
    assert 0 < before < total
    held = torch.empty(2**28, dtype=torch.uint8, device="cuda")
    assert gpu_memory(torch.device(name))[name] == (pytest.approx(before + 2**28, abs=2**26), total)
    del held
