"""What goes into the encoder comes out of a decoder, as a stream, as fragments and as a file."""

from __future__ import annotations

import io
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from ultraflash.kernels.pixels import pack
from ultraflash.models.cores import cores
from ultraflash.models.errors import BadConfig
from ultraflash.server.media.annexb import NAL_IDR, NAL_PPS, NAL_SPS, nal_type, nal_units, to_annexb
from ultraflash.server.media.boxes import VideoTrack
from ultraflash.server.media.fmp4 import fragment, init_segment
from ultraflash.server.media.h264 import ENOUGH_CORES, AccessUnit, H264Config, H264Encoder
from ultraflash.server.media.mp4 import Mp4Writer

WIDTH, HEIGHT, FPS = 224, 128, 16


def moving_hills(count: int) -> list[NDArray[np.uint8]]:
    """Smooth coloured pictures that pan, uint8 (H, W, 3)."""
    rows, columns = np.mgrid[0:HEIGHT, 0:WIDTH]
    frames = []
    for index in range(count):
        phase = 0.2 * index
        red = 128 + 100 * np.sin(columns / 40 + phase)
        green = 128 + 90 * np.cos(rows / 25 - phase)
        blue = 255 * rows / HEIGHT
        frames.append(
            np.ascontiguousarray(np.stack([red, green, blue], axis=-1).clip(0, 255).astype(np.uint8))
        )
    return frames


def psnr(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float:
    """Peak signal to noise ratio in dB."""
    error = np.mean((a.astype(np.float64) - b.astype(np.float64)) ** 2)
    return float(10 * np.log10(255**2 / error))


def decoded(file: io.BytesIO | str, kind: str | None = None) -> list[av.VideoFrame]:
    with av.open(file, format=kind) as container:
        return list(container.decode(video=0))


def rgb(frame: av.VideoFrame) -> NDArray[np.uint8]:
    return frame.reformat(format="rgb24", src_colorspace="ITU709", src_color_range="MPEG").to_ndarray()


def encode_live(
    frames: list[NDArray[np.uint8]], keys: tuple[int, ...] = (0,)
) -> tuple[H264Encoder, list[AccessUnit]]:
    encoder = H264Encoder(H264Config.live(width=WIDTH, height=HEIGHT, fps=FPS, bitrate=2_000_000))
    units = []
    for index, frame in enumerate(frames):
        units += encoder.encode(frame, index, key=index in keys)
    return encoder, units


def track(encoder: H264Encoder) -> VideoTrack:
    return VideoTrack(width=WIDTH, height=HEIGHT, fps=FPS, parameter_sets=encoder.parameter_sets)


@pytest.mark.parametrize(
    ("count", "speed", "profile"), [(2, "ultrafast", "avc1.42c0"), (4, "superfast", "avc1.64")]
)
def test_few_cores_take_the_fastest_encoder_for_what_is_live(
    monkeypatch: pytest.MonkeyPatch, count: int, speed: str, profile: str
) -> None:
    monkeypatch.setattr("ultraflash.server.media.h264.cores", lambda: count)
    live = H264Config.live(width=WIDTH, height=HEIGHT, fps=FPS)
    assert live.speed == speed
    assert H264Encoder(live).parameter_sets.codec.startswith(profile)
    units = [
        unit for i in range(3) for unit in H264Encoder(live).encode(np.zeros((HEIGHT, WIDTH, 3), np.uint8), i)
    ]
    assert [unit.key for unit in units] == [True] * 3
    assert H264Config.file(width=WIDTH, height=HEIGHT, fps=FPS).speed == "veryfast"


def test_planes_come_out_as_the_rgb_that_they_stand_for() -> None:
    """As a GPU hands frames over: converted already."""
    frames = moving_hills(3)
    pixels_THWC = torch.from_numpy(np.stack(frames)).float() / 255
    encoder, units = encode_live(list(pack(pixels_THWC, layout="yuv420p").numpy()))
    stream = io.BytesIO(b"".join(unit.data for unit in units))
    shown = decoded(stream, "h264")
    assert shown[0].colorspace == 1  # BT.709
    for frame, before in zip(shown, frames, strict=True):
        assert psnr(rgb(frame), before) > 35
    with pytest.raises(ValueError, match="224x128"):
        encoder.encode(np.zeros((3, 2), np.uint8), 3)


def test_each_frame_comes_out_as_it_goes_in_and_looks_the_same() -> None:
    frames = moving_hills(8)
    _, units = encode_live(frames)
    assert [unit.index for unit in units] == list(range(8))
    pictures = decoded(io.BytesIO(b"".join(unit.data for unit in units)), "h264")
    assert len(pictures) == 8
    assert min(psnr(rgb(picture), frame) for picture, frame in zip(pictures, frames, strict=True)) > 35
    assert {int(picture.colorspace) for picture in pictures} == {1}


def test_keyframes_come_where_they_are_asked_for_and_carry_their_parameter_sets() -> None:
    encoder, units = encode_live(moving_hills(8), keys=(0, 5))
    assert [unit.index for unit in units if unit.key] == [0, 5]
    for unit in units:
        kinds = [nal_type(nal) for nal in nal_units(unit.data)]
        assert (kinds[:2] == [NAL_SPS, NAL_PPS] and NAL_IDR in kinds) == unit.key
    assert encoder.parameter_sets.codec.startswith("avc1.64" if cores() >= ENOUGH_CORES else "avc1.42c0")
    assert nal_units(units[5].data)[0] == encoder.parameter_sets.sps


def test_decoding_can_start_at_a_later_keyframe() -> None:
    frames = moving_hills(8)
    _, units = encode_live(frames, keys=(0, 5))
    pictures = decoded(io.BytesIO(b"".join(unit.data for unit in units[5:])), "h264")
    assert psnr(rgb(pictures[0]), frames[5]) > 35


def test_fragments_open_as_mp4_with_exact_times() -> None:
    frames = moving_hills(6)
    encoder, units = encode_live(frames, keys=(0, 3))
    stream = init_segment(track(encoder))
    for unit in units:
        stream += fragment(unit.data, index=unit.index, sequence=unit.index + 1, key=unit.key)
    pictures = decoded(io.BytesIO(stream), "mp4")
    assert [float(picture.pts * picture.time_base) for picture in pictures] == [i / FPS for i in range(6)]
    assert min(psnr(rgb(picture), frame) for picture, frame in zip(pictures, frames, strict=True)) > 35


def test_a_file_has_every_frame_at_its_time_and_can_be_played_while_it_loads(tmp_path: Path) -> None:
    frames = moving_hills(40)
    encoder = H264Encoder(H264Config.file(width=WIDTH, height=HEIGHT, fps=FPS))
    target = tmp_path / "out.mp4"
    with Mp4Writer(target, track(encoder)) as writer:
        for index, frame in enumerate(frames):
            for unit in encoder.encode(frame, index):
                writer.write(unit)
            assert not target.exists()
        for unit in encoder.flush():
            writer.write(unit)
    assert [entry.name for entry in tmp_path.iterdir()] == ["out.mp4"]
    data = target.read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")
    with av.open(str(target)) as container:
        video = container.streams.video[0]
        assert (video.width, video.height, video.average_rate, video.frames) == (WIDTH, HEIGHT, FPS, 40)
        assert container.duration == 40 * 1_000_000 // FPS
        pictures = list(container.decode(video))
    assert [float(picture.pts * picture.time_base) for picture in pictures] == [i / FPS for i in range(40)]
    assert min(psnr(rgb(picture), frame) for picture, frame in zip(pictures, frames, strict=True)) > 35
    assert sum(picture.key_frame for picture in pictures) == 2


def test_a_failed_file_leaves_nothing_behind_and_keeps_the_old_one(tmp_path: Path) -> None:
    target = tmp_path / "out.mp4"
    target.write_bytes(b"old")
    encoder, units = encode_live(moving_hills(2))

    def interrupted() -> None:
        with Mp4Writer(target, track(encoder)) as writer:
            writer.write(units[0])
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert target.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["out.mp4"]


def test_the_bitrate_can_be_lowered_without_a_keyframe_and_raised_with_one() -> None:
    noise = np.random.default_rng(7)
    encoder = H264Encoder(H264Config.live(width=WIDTH, height=HEIGHT, fps=FPS, bitrate=2_000_000))
    sizes, keys = [], []
    for index, frame in enumerate(moving_hills(72)):
        if index in (24, 48):
            encoder.set_bitrate(300_000 if index == 24 else 3_000_000)
        grain = noise.integers(-40, 40, frame.shape)
        (unit,) = encoder.encode((frame + grain).clip(0, 255).astype(np.uint8), index, key=index == 0)
        sizes.append(len(unit.data))
        keys += [index] * unit.key
    first, lowered, raised = (sum(sizes[start + 8 : start + 24]) for start in (0, 24, 48))
    assert lowered < first / 3
    assert raised > first
    assert keys == [0, 48]


@pytest.mark.parametrize("size", [(223, 128), (224, 0), (8, 8)])
def test_sizes_that_h264_cannot_hold_are_refused(size: tuple[int, int]) -> None:
    with pytest.raises(BadConfig, match="even"):
        H264Config.live(width=size[0], height=size[1], fps=FPS)


def test_a_frame_of_another_size_is_refused() -> None:
    encoder = H264Encoder(H264Config.live(width=WIDTH, height=HEIGHT, fps=FPS))
    with pytest.raises(ValueError, match="was expected"):
        encoder.encode(np.zeros((64, 64, 3), np.uint8), 0)


def test_byte_streams_split_at_short_and_long_start_codes() -> None:
    units = [b"\x67\x01\x02", b"\x68\x00\x03", b"\x65" + b"\x11" * 9]
    assert nal_units(to_annexb(units)) == units
    assert nal_units(b"\x00\x00\x01" + units[0] + b"\x00\x00\x00\x00\x01" + units[1]) == units[:2]
    assert nal_units(b"") == []
