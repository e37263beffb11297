"""The evaluation as one HTML page: the table against the bars, and pictures to look at. No script, no network."""

from __future__ import annotations

import base64
import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ultraflash.training.checkpoint import write_atomically
from ultraflash.training.evaluation.bars import BARS, Bar, number_at, value_of
from ultraflash.training.evaluation.measures import Clip
from ultraflash.training.evaluation.streams import shrunk
from ultraflash.training.sample_sheet import encode_png, tile

_MOMENTS = 4

_STYLE = """
html { color-scheme: light dark }
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 70rem; padding: 0 1rem }
table { border-collapse: collapse } td, th { padding: .25rem .8rem; text-align: left; border-bottom: 1px solid #8884 }
td.number { text-align: right; font-variant-numeric: tabular-nums }
.met::before { content: "met"; color: #2a8a3a } .missed::before { content: "not met"; color: #c0392b }
figure { margin: 1rem 0 } img { max-width: 100%; image-rendering: auto } figcaption { opacity: .8 }
svg { vertical-align: middle }
"""


def write_report(
    path: Path,
    *,
    title: str,
    measures: Mapping[str, Any],
    before: Mapping[str, Any] | None,
    clips: Sequence[Clip],
    held_out_clips: Sequence[Clip],
    drawn_clips: Sequence[Clip],
    long_frames: Mapping[int, Sequence[tuple[float, Tensor]]],
) -> None:
    """Write the page.

    Args:
        path: of the HTML file.
        title: of the page.
        measures: of this evaluation, as plain data.
        before: of an earlier one to stand beside it.
        clips, held_out_clips: the first of each are shown.
        drawn_clips: the scenes of ``clips`` as the program that made the training data draws them.
        long_frames: by stream, (seconds, frame (H, W, 3)) of long streams.
    """
    parts = [f"<h1>{html.escape(title)}</h1>", _table(measures, before)]
    parts.append(
        "<h2>Seen pairs</h2><p>Above: made by the networks. Below: the same scene drawn by the program.</p>"
    )
    for clip, drawn in list(zip(clips, drawn_clips, strict=True))[:16]:
        parts.append(_figure([_moments(each.frames_THWC) for each in (clip, drawn)], clip.prompt.text))
    parts.append("<h2>Held-out pairs</h2>")
    parts += [_figure([_moments(clip.frames_THWC)], clip.prompt.text) for clip in held_out_clips[:8]]
    if long_frames:
        parts.append("<h2>Long streams, a frame every ten seconds</h2>")
    for stream, frames in sorted(long_frames.items()):
        text = f"stream {stream}: " + ", ".join(f"{seconds:.0f} s" for seconds, _ in frames)
        parts.append(_figure([[frame for _, frame in frames]], text))
    page = (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f"<style>{_STYLE}</style><body>{''.join(parts)}</body></html>\n"
    )
    write_atomically(path, page.encode())


def _table(measures: Mapping[str, Any], before: Mapping[str, Any] | None) -> str:
    head = "<tr><th>measure</th><th>wanted</th>" + ("<th>before</th>" if before is not None else "")
    rows = [head + "<th>now</th><th>95%</th><th>n</th><th></th><th></th></tr>"]
    for bar in BARS:
        found = number_at(measures, bar.path)
        value = value_of(found)
        if value is None:
            continue
        old = f'<td class="number">{_shown(value_of(number_at(before, bar.path)))}</td>' if before else ""
        interval, count = "", ""
        if isinstance(found, Mapping):
            interval, count = f"{found['low']:.2f} to {found['high']:.2f}", str(found["count"])
        rows.append(
            f'<tr><td>{html.escape(bar.title)}</td><td class="number">{html.escape(bar.wanted)}</td>{old}'
            f'<td class="number">{_shown(value)}</td><td class="number">{interval}</td><td class="number">{count}</td>'
            f'<td>{_plot(bar, found)}</td><td class="{"met" if bar.is_met(value) else "missed"}"></td></tr>'
        )
    return f"<table>{''.join(rows)}</table>"


def _shown(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"


def _plot(bar: Bar, found: Any) -> str:
    """The interval as a line, the value as a dot, the bar as a tick, on a scale from 0 to 1 or past the bar."""
    value = value_of(found) or 0.0
    low, high = (found["low"], found["high"]) if isinstance(found, Mapping) else (value, value)
    target = bar.least if bar.least is not None else bar.most or 0.0
    scale = 150 / max(1.0 if target <= 1 else 2 * target, high)
    return (
        f'<svg width="160" height="14" role="img" aria-label="{value:.3g}, wanted {html.escape(bar.wanted)}">'
        f'<line x1="{low * scale:.1f}" x2="{high * scale:.1f}" y1="7" y2="7" stroke="currentColor"/>'
        f'<circle cx="{value * scale:.1f}" cy="7" r="3" fill="currentColor"/>'
        f'<line x1="{target * scale:.1f}" x2="{target * scale:.1f}" y1="1" y2="13" stroke="#c0392b"/></svg>'
    )


def _moments(frames_THWC: Tensor) -> list[Tensor]:
    picked = torch.linspace(0, frames_THWC.shape[0] - 1, _MOMENTS).round().long().tolist()
    return [frames_THWC[i] for i in picked]


def _figure(rows: Sequence[Sequence[Tensor]], text: str) -> str:
    sheet = tile([list(shrunk(torch.stack(list(frames)))) for frames in rows])
    data = base64.b64encode(encode_png(sheet)).decode()
    caption = html.escape(text)
    image = f'<img alt="{caption}" src="data:image/png;base64,{data}">'
    return f"<figure>{image}<figcaption>{caption}</figcaption></figure>"
