"""Fragmented MP4, one fragment a frame and none held back, which FFmpeg's own muxer cannot do."""

from __future__ import annotations

import struct

from ultraflash.server.media.boxes import (
    OTHER_SAMPLE,
    SYNC_SAMPLE,
    TICKS_PER_FRAME,
    TRACK_ID,
    VideoTrack,
    box,
    full_box,
    movie_header,
    sample,
    track_box,
)

_BASE_IS_MOOF = 0x020000
_DATA_OFFSET = 0x1
_DURATION_SIZE_FLAGS = 0x100 | 0x200 | 0x400


def init_segment(track: VideoTrack) -> bytes:
    """``ftyp`` and ``moov`` that a decoder needs before the first fragment."""
    none = struct.pack(">I", 0)
    tables = full_box(b"stts", 0, 0, none) + full_box(b"stsc", 0, 0, none)
    tables += full_box(b"stsz", 0, 0, none, none) + full_box(b"stco", 0, 0, none)
    defaults = struct.pack(">IIIII", TRACK_ID, 1, TICKS_PER_FRAME, 0, OTHER_SAMPLE)
    extends = box(b"mvex", full_box(b"trex", 0, 0, defaults))
    file_type = box(b"ftyp", b"iso6", struct.pack(">I", 1), b"iso6", b"avc1", b"mp41")
    return file_type + box(b"moov", movie_header(track, 0), track_box(track, 0, tables), extends)


def fragment(access_unit: bytes, *, index: int, sequence: int, key: bool) -> bytes:
    """``moof`` and ``mdat`` of one frame.

    Args:
        access_unit: Annex-B.
        index: number of the frame in the stream; its decode time is ``index * 1000`` ticks.
        sequence: number of the fragment, from 1.
        key: whether decoding can start here.
    """
    data = sample(access_unit)
    flags = SYNC_SAMPLE if key else OTHER_SAMPLE
    header = full_box(b"mfhd", 0, 0, struct.pack(">I", sequence))
    base = full_box(b"tfhd", 0, _BASE_IS_MOOF, struct.pack(">I", TRACK_ID))
    time = full_box(b"tfdt", 1, 0, struct.pack(">Q", index * TICKS_PER_FRAME))

    def movie_fragment(offset: int) -> bytes:
        run = struct.pack(">IiIII", 1, offset, TICKS_PER_FRAME, len(data), flags)
        boxes = base + time + full_box(b"trun", 0, _DATA_OFFSET | _DURATION_SIZE_FLAGS, run)
        return box(b"moof", header, box(b"traf", boxes))

    mdat_header_bytes = 8
    return movie_fragment(len(movie_fragment(0)) + mdat_header_bytes) + box(b"mdat", data)
