"""Streams that start from a picture or a clip show it, and go on from it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from ultraflash.models import reference as reference_module
from ultraflash.models.activation_peak import activation_peak
from ultraflash.models.cascade import Cascade
from ultraflash.models.errors import MissingWeights, NotEnoughMemory
from ultraflash.models.frame_encoder import blank_frame_encoder, load_frame_encoder
from ultraflash.models.preset import Preset, load_preset
from ultraflash.models.reference import ReferenceEncoder, reference_bytes


@pytest.fixture(scope="module")
def cascade() -> Cascade:
    """One whose window holds two blocks beside the one that is made."""
    preset = load_preset("mini")
    return Cascade.load(replace(preset, base=replace(preset.base, window_frames=9)))


@pytest.fixture(scope="module")
def clip(cascade: Cascade) -> np.ndarray:
    """Two groups of the cascade itself, from above the base's resolution down to it: pictures of its world."""
    state = cascade.open("a red hot air balloon over snowy mountains at dusk", size="0.5K", seed=3)
    frames_THWC = torch.cat([cascade.next_group(state) for _ in range(2)]).float()
    small = torch.nn.functional.avg_pool2d(frames_THWC.permute(0, 3, 1, 2), 2)
    return small.round().byte().permute(0, 2, 3, 1).contiguous().numpy()


def difference(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.abs(one.astype(float) - other.astype(float)).mean())


def halved(frames_THWC: torch.Tensor) -> np.ndarray:
    pooled = torch.nn.functional.avg_pool2d(frames_THWC.float().permute(0, 3, 1, 2), 2)
    return pooled.permute(0, 2, 3, 1).numpy()


def test_a_picture_is_held_for_a_block_and_the_next_block_goes_on_from_it(
    cascade: Cascade, clip: np.ndarray
) -> None:
    prompt = "a red hot air balloon over snowy mountains at dusk"
    started, free = (cascade.open(prompt, size="0.5K", seed=8) for _ in range(2))
    cascade.start_from(started, clip[-1:])
    first, second = (halved(cascade.next_group(started)) for _ in range(2))
    others = [halved(cascade.next_group(free)) for _ in range(2)]
    assert len(first) == 9
    assert all(difference(frame, clip[-1]) < 10 for frame in first[4:])
    assert difference(second[0], clip[-1]) < 0.6 * difference(others[1][0], clip[-1])
    assert difference(second[-1], second[0]) > 0
    assert started.reference_BCFHW is None


def test_of_a_clip_the_newest_frames_that_fill_whole_blocks_are_shown(
    cascade: Cascade, clip: np.ndarray
) -> None:
    state = cascade.open("mountains", size="0.5K", seed=8)
    cascade.start_from(state, np.concatenate([np.zeros_like(clip[:7]), clip]))
    assert state.reference_BCFHW is not None and state.reference_BCFHW.shape[2] == 6
    shown = halved(torch.cat([cascade.next_group(state) for _ in range(2)]))
    assert np.mean([difference(a, b) for a, b in zip(shown, clip, strict=True)]) < 10
    short = cascade.open("mountains", size="0.5K", seed=8)
    cascade.start_from(short, clip[:14])
    assert short.reference_BCFHW is not None and short.reference_BCFHW.shape[2] == 3


def test_a_snapshot_keeps_what_is_still_to_be_shown(cascade: Cascade, clip: np.ndarray) -> None:
    state = cascade.open("mountains", size="0.5K", seed=8)
    cascade.start_from(state, clip)
    cascade.next_group(state)
    twin = cascade.load_stream(cascade.save_stream(state))
    for _ in range(2):
        assert torch.equal(cascade.next_group(state), cascade.next_group(twin))


def test_frames_of_another_size_and_streams_that_have_begun_are_refused(
    cascade: Cascade, clip: np.ndarray
) -> None:
    state = cascade.open("mountains", size="0.5K", seed=8)
    with pytest.raises(ValueError, match="256x448 are wanted"):
        cascade.start_from(state, clip[:, :128])
    cascade.next_group(state)
    with pytest.raises(ValueError, match="without a group"):
        cascade.start_from(state, clip)


def formats(preset: Preset) -> tuple[int, int, int]:
    found = ReferenceEncoder(preset, None, torch.device("cpu")).format  # type: ignore[arg-type]
    return found.frames, found.height, found.width


def test_what_the_window_would_forget_at_once_is_not_asked_for() -> None:
    assert formats(load_preset("mini")) == (4 * 3 - 3, 256, 448)
    assert formats(load_preset("ultraflash-1k")) == (4 * 18 - 3, 480, 832)
    # A first block of a single frame, then blocks of three beside a window of twelve.
    assert formats(load_preset("ultraflash-long")) == (4 * 7 - 3, 480, 832)


def test_without_wan_s_encoder_an_official_preset_says_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ULTRAFLASH_MODELS", str(tmp_path))
    with pytest.raises(MissingWeights, match=r"ultraflash models pull.*put Wan2\.1_VAE\.pth of") as caught:
        ReferenceEncoder.load(load_preset("ultraflash-1k"), torch.device("cpu"))
    assert f"no VAE in {tmp_path / 'wan-vae'}" in caught.value.message


def test_a_preset_without_its_encoder_says_so(tmp_path: Path) -> None:
    preset = replace(load_preset("mini"), weights=str(tmp_path))
    with pytest.raises(MissingWeights, match="encoder"):
        ReferenceEncoder.load(preset, torch.device("cpu"))


def test_what_the_encoder_takes_is_known_before_it_is_loaded(cascade: Cascade) -> None:
    """By counting what the loaded one holds, and what it really has in memory while it encodes."""
    preset = cascade.preset
    loaded = load_frame_encoder(preset, device=torch.device("cpu"))
    held = sum(tensor.nbytes for tensor in loaded.networks.state_dict().values())
    wanted = ReferenceEncoder(preset, loaded, torch.device("cpu")).format
    size = (1, wanted.frames, 3, wanted.height, wanted.width)
    peak = activation_peak(lambda: loaded.encode(torch.zeros(size), loaded.init_memory()))
    assert reference_bytes(preset) == held + peak
    assert peak > 4 * wanted.frames * 3 * wanted.height * wanted.width


def test_wans_encoder_is_counted_without_its_decoder() -> None:
    pytest.importorskip("diffusers")
    preset = load_preset("ultraflash-1k")
    tensors = blank_frame_encoder(preset).networks.state_dict()
    assert {name.split(".")[0] for name in tensors} == {"encoder", "quant_conv"}
    # Of 126.9 million parameters in all; float32.
    assert sum(tensor.numel() for tensor in tensors.values()) == 53_596_928
    assert reference_bytes(preset) > 4 * 53_596_928


def test_pictures_are_refused_where_their_encoder_does_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    needed = reference_bytes(load_preset("mini"))
    monkeypatch.setattr(reference_module, "free_bytes", lambda _: needed - 1)
    nowhere = replace(load_preset("mini"), weights="no such folder")
    with pytest.raises(NotEnoughMemory, match="start it from a prompt alone") as refusal:
        ReferenceEncoder.load(nowhere, torch.device("cpu"))
    assert (refusal.value.needed_bytes, refusal.value.free_bytes) == (needed, needed - 1)
    monkeypatch.setattr(reference_module, "free_bytes", lambda _: needed)
    with pytest.raises(MissingWeights):
        ReferenceEncoder.load(nowhere, torch.device("cpu"))
