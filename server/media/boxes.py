"""ISO base media boxes that a one-track H.264 file or stream needs.

Source: ISO/IEC 14496-12 (boxes), 14496-15 (avcC). Numbers are big-endian.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from ultraflash.server.media.annexb import (
    NAL_PPS,
    NAL_SPS,
    ParameterSets,
    nal_type,
    nal_units,
    to_length_prefixed,
)

TICKS_PER_FRAME = 1000
TRACK_ID = 1
SYNC_SAMPLE = 0x02000000
OTHER_SAMPLE = 0x01010000
BT709 = 1
_LANGUAGE_UNDETERMINED = 0x55C4
_UNITY_MATRIX = struct.pack(">9I", 0x10000, 0, 0, 0, 0x10000, 0, 0, 0, 0x40000000)


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoTrack:
    """What the boxes say about the one video track.

    Time runs in ``fps * 1000`` ticks a second, so that a frame lasts exactly 1000 ticks at any whole rate.
    """

    width: int
    height: int
    fps: int
    parameter_sets: ParameterSets

    @property
    def timescale(self) -> int:
        """Ticks per second."""
        return self.fps * TICKS_PER_FRAME


def box(kind: bytes, *parts: bytes) -> bytes:
    """A box: its size, its four-letter type, its content."""
    size = 8 + sum(len(part) for part in parts)
    return struct.pack(">I4s", size, kind) + b"".join(parts)


def full_box(kind: bytes, version: int, flags: int, *parts: bytes) -> bytes:
    """A box that begins with a version and flags."""
    return box(kind, struct.pack(">I", version << 24 | flags), *parts)


def movie_header(track: VideoTrack, duration: int) -> bytes:
    """``mvhd``; the duration is in ticks, 0 where it is not known."""
    times = struct.pack(">QQIQ", 0, 0, track.timescale, duration)
    rest = (
        struct.pack(">IH10x", 0x10000, 0x0100) + _UNITY_MATRIX + bytes(24) + struct.pack(">I", TRACK_ID + 1)
    )
    return full_box(b"mvhd", 1, 0, times, rest)


def track_box(track: VideoTrack, duration: int, sample_tables: bytes) -> bytes:
    """``trak`` of the video around the given sample tables."""
    enabled_in_movie = 3
    header = struct.pack(">QQIIQ", 0, 0, TRACK_ID, 0, duration) + bytes(16) + _UNITY_MATRIX
    header += struct.pack(">II", track.width << 16, track.height << 16)
    media_header = struct.pack(">QQIQHH", 0, 0, track.timescale, duration, _LANGUAGE_UNDETERMINED, 0)
    handler = struct.pack(">I4s12x", 0, b"vide") + b"video\x00"
    data_here = box(b"dinf", full_box(b"dref", 0, 0, struct.pack(">I", 1), full_box(b"url ", 0, 1)))
    info = box(
        b"minf",
        full_box(b"vmhd", 0, 1, bytes(8)),
        data_here,
        box(b"stbl", sample_entry(track), sample_tables),
    )
    media = box(b"mdia", full_box(b"mdhd", 1, 0, media_header), full_box(b"hdlr", 0, 0, handler), info)
    return box(b"trak", full_box(b"tkhd", 1, enabled_in_movie, header), media)


def sample_entry(track: VideoTrack) -> bytes:
    """``stsd`` with one ``avc1`` entry: size, decoder configuration, BT.709 colours, square pixels."""
    sps, pps = track.parameter_sets.sps, track.parameter_sets.pps
    four_byte_lengths, one_sps = 0xFF, 0xE1
    avcc = struct.pack(">B3sBBH", 1, sps[1:4], four_byte_lengths, one_sps, len(sps)) + sps
    avcc += struct.pack(">BH", 1, len(pps)) + pps
    if sps[1] not in (66, 77, 88):
        chroma_420, eight_bits = 0xFC | 1, 0xF8
        avcc += bytes((chroma_420, eight_bits, eight_bits, 0))
    colours = struct.pack(">4sHHHB", b"nclx", BT709, BT709, BT709, 0)
    dots_per_inch = 72 << 16
    entry = struct.pack(">6xH16xHHIIIH", 1, track.width, track.height, dots_per_inch, dots_per_inch, 0, 1)
    entry += bytes(32) + struct.pack(">Hh", 24, -1)
    entry += box(b"avcC", avcc) + box(b"colr", colours) + box(b"pasp", struct.pack(">II", 1, 1))
    return full_box(b"stsd", 0, 0, struct.pack(">I", 1), box(b"avc1", entry))


def sample(access_unit: bytes) -> bytes:
    """An Annex-B access unit as an MP4 sample, without the parameter sets, which the sample entry holds."""
    return to_length_prefixed(
        unit for unit in nal_units(access_unit) if nal_type(unit) not in (NAL_SPS, NAL_PPS)
    )
