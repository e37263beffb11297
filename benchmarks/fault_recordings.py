"""What a killed server has recorded of a stream, held against what it sent of it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import av

from ultraflash.server.media.annexb import NAL_PPS, NAL_SPS, nal_type, nal_units


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """Frames in the parts of one recording, those of them that were not sent so, and the parts that are torn."""

    frames: int
    different: int
    torn: list[str]


def compare_recording(folder: Path, sent: Mapping[int, bytes]) -> Recorded:
    """Every frame of a session's recording with the access unit of its number. Raises ``OSError`` without one."""
    frames = different = 0
    torn = []
    for part in json.loads((folder / "session.json").read_text(encoding="utf-8"))["parts"]:
        seq = int(part["first_seq"])
        try:
            for units in _recorded_units(folder / part["file"]):
                different += seq in sent and units != _picture_units(sent[seq])
                seq += 1
        except av.error.FFmpegError:
            torn.append(f"{folder.name}/{part['file']}")
        if seq - part["first_seq"] != part["frames"]:
            torn.append(f"{folder.name}/{part['file']} of {part['frames']} frames")
        frames += seq - int(part["first_seq"])
    return Recorded(frames=frames, different=different, torn=torn)


def _picture_units(data: bytes) -> list[bytes]:
    """Units of an access unit without parameter sets, which an MP4 has in its header."""
    return [unit for unit in nal_units(data) if nal_type(unit) not in (NAL_SPS, NAL_PPS)]


def _recorded_units(file: Path) -> Iterator[list[bytes]]:
    """Units of each sample of an MP4. Raises ``av.error.FFmpegError`` for one that cannot be decoded."""
    with av.open(str(file)) as container:
        for packet in container.demux(video=0):
            packet.decode()
            data, units = bytes(packet), []
            while data:
                size = int.from_bytes(data[:4], "big")
                units.append(data[4 : 4 + size])
                data = data[4 + size :]
            if units:
                yield units
