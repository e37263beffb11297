import pytest
import torch

from ultraflash.models import device_memory
from ultraflash.models.preset import available_presets
from ultraflash.server.cli import main


def doctor(capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    status = main(["doctor"])
    return status, capsys.readouterr().out


def test_it_names_devices_encoder_kernels_and_what_every_preset_needs(
    capsys: pytest.CaptureFixture[str],
) -> None:
    status, out = doctor(capsys)
    assert status == 0
    assert "H.264 by x264: works" in out
    assert "block-sparse attention on cpu: gather" in out
    assert "dense attention on cpu: sdpa (chunked would do too)" in out
    assert all(f"preset {name}\n" in out for name in available_presets())
    assert "missing; ultraflash models pull ultraflash-1k" in out
    assert "starting from pictures: vae missing" in out
    assert "without --preset: mini, since there is no GPU" in out or torch.cuda.is_available()
    last = out.strip().splitlines()[-1]
    assert last.startswith("can run here: ")
    assert "mini" in last


def test_where_nothing_fits_it_says_so_and_fails(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device_memory, "free_bytes", lambda _: 1 << 20)
    status, out = doctor(capsys)
    assert status == 1
    assert "0.0 GiB free" in out
    assert "does not fit" in out
    assert out.strip().endswith("no preset can run here")
