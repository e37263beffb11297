"""H.264 byte streams: splitting Annex-B into NAL units, and what the parameter sets say.

Source of the syntax: ITU-T H.264, Annex B (byte stream) and clause 7.4.1 (NAL unit types).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

_START_CODE = re.compile(b"\x00*\x00\x00\x01")
START_CODE = b"\x00\x00\x00\x01"

NAL_IDR = 5
NAL_SEI = 6
NAL_SPS = 7
NAL_PPS = 8
NAL_DELIMITER = 9


def nal_units(data: bytes) -> list[bytes]:
    """NAL units of an Annex-B stream, start codes and trailing zeros removed.

    A unit ends with a set stop bit, so zeros before a start code never belong to it.
    """
    starts = list(_START_CODE.finditer(data))
    ends = [start.start() for start in starts[1:]] + [len(data)] * bool(starts)
    return [data[start.end() : end].rstrip(b"\x00") for start, end in zip(starts, ends, strict=True)]


def nal_type(unit: bytes) -> int:
    """Type of a NAL unit, 0 to 31."""
    return unit[0] & 31


def to_annexb(units: Iterable[bytes]) -> bytes:
    """The units, each behind a four-byte start code."""
    return b"".join(START_CODE + unit for unit in units)


def to_length_prefixed(units: Iterable[bytes]) -> bytes:
    """The units as an MP4 sample: each behind its length in four bytes, big-endian."""
    return b"".join(len(unit).to_bytes(4, "big") + unit for unit in units)


@dataclass(frozen=True, slots=True, kw_only=True)
class ParameterSets:
    """Sequence and picture parameter set of one H.264 stream, without start codes."""

    sps: bytes
    pps: bytes

    @property
    def codec(self) -> str:
        """Codec string after RFC 6381, such as ``avc1.640028``."""
        return f"avc1.{self.sps[1:4].hex()}"

    @classmethod
    def find(cls, data: bytes) -> ParameterSets:
        """The parameter sets in an Annex-B stream. Raises ``ValueError`` where one is missing."""
        found = {nal_type(unit): unit for unit in nal_units(data) if unit}
        if NAL_SPS not in found or NAL_PPS not in found:
            raise ValueError("An H.264 stream without parameter sets.")
        return cls(sps=found[NAL_SPS], pps=found[NAL_PPS])
