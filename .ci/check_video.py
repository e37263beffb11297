"""Fails unless a video file has the frames that were asked for, and they move."""

from __future__ import annotations

import argparse
import sys

import av


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("path")
    parser.add_argument("--size", required=True, help="WIDTHxHEIGHT")
    parser.add_argument("--seconds", type=float, required=True)
    args = parser.parse_args()
    width, height = map(int, args.size.split("x"))
    with av.open(args.path) as video:
        stream = video.streams.video[0]
        expected = round(args.seconds * float(stream.average_rate or 0))
        frames = [frame.to_ndarray(format="rgb24") for frame in video.decode(stream)]
    problems = []
    if {frame.shape for frame in frames} != {(height, width, 3)}:
        problems.append(f"shapes {sorted({frame.shape for frame in frames})}")
    if len(frames) != expected:
        problems.append(f"{len(frames)} frames, not {expected}")
    if any(frame.std() < 2 for frame in frames):
        problems.append("a blank frame")
    if all((frame == frames[0]).all() for frame in frames):
        problems.append("nothing moves")
    print(f"{args.path}: {'; '.join(problems) or f'{len(frames)} frames of {args.size}'}")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
