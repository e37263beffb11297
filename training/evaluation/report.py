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
from ultraflash.training.evaluation.contact_sheet import caption_lines, moment_words
from ultraflash.training.evaluation.long_streams import LongStream
from ultraflash.training.evaluation.measures import Clip
from ultraflash.training.evaluation.streams import shrunk
from ultraflash.training.sample_sheet import encode_png

_MOMENTS = 4

_STYLE = """
html { color-scheme: light dark }
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 70rem; padding: 0 1rem }
.scroll { overflow-x: auto }
table { border-collapse: collapse } td, th { padding: .25rem .8rem; text-align: left; border-bottom: 1px solid #8884 }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap }
.met, .missed { white-space: nowrap }
.met { color: light-dark(#1d7a2d, #6fd184) } .missed { color: light-dark(#b03024, #ff8f80) }
figure { margin: 0 0 2rem } figcaption { font-weight: 600 } .what { opacity: .8; font-size: .9em }
.row { display: grid; grid-template-columns: repeat(auto-fit, minmax(13rem, 1fr)); gap: .3rem; margin-bottom: .4rem }
.row div { font-size: .85em } img { width: 100%; display: block }
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
    long_streams: Sequence[LongStream],
) -> None:
    """Write the page.

    Args:
        path: of the HTML file.
        title: of the page.
        measures: of this evaluation, as plain data.
        before: of an earlier one to stand beside it.
        clips, held_out_clips: the first of each are shown.
        drawn_clips: the scenes of ``clips`` as the program that made the training data draws them.
        long_streams: what is kept of long streams.
    """
    parts = [f"<h1>{html.escape(title)}</h1>", _table(measures, before)]
    if clips:
        parts.append("<h2>Seen pairs</h2>")
    for clip, drawn in list(zip(clips, drawn_clips, strict=True))[:16]:
        rows = {
            "made by the networks": _moments(clip),
            "the same scene, drawn by the program": _moments(drawn),
        }
        parts.append(_figure(clip.prompt.text, rows))
    if held_out_clips:
        parts.append("<h2>Held-out pairs</h2>")
    parts += [
        _figure(clip.prompt.text, {"made by the networks": _moments(clip)}) for clip in held_out_clips[:8]
    ]
    if long_streams:
        parts.append("<h2>Long streams</h2>")
    for stream in long_streams:
        *told, wandered = caption_lines(stream)
        shown = [(moment_words(seconds, frame), frame) for seconds, frame in stream.moments]
        parts.append(_figure(" ".join(told), {wandered: shown}))
    page = (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{html.escape(title)}</title>'
        '<meta name="viewport" content="width=device-width">'
        f"<style>{_STYLE}</style><body>{''.join(parts)}</body></html>\n"
    )
    write_atomically(path, page.encode())


def _table(measures: Mapping[str, Any], before: Mapping[str, Any] | None) -> str:
    number = '<th class="number">'
    names = ["wanted", *(["before"] if before else []), "now", "95%", "n"]
    head = "".join(f"{number}{name}</th>" for name in names)
    rows = [f"<tr><th>measure</th>{head}<th>on a scale</th><th></th></tr>"]
    for bar in BARS:
        found = number_at(measures, bar.path)
        value = value_of(found)
        if value is None:
            continue
        old = f'<td class="number">{_shown(value_of(number_at(before, bar.path)))}</td>' if before else ""
        interval, count = "", ""
        if isinstance(found, Mapping):
            interval, count = f"{found['low']:.2f} to {found['high']:.2f}", str(found["count"])
        verdict, kind = ("met", "met") if bar.is_met(value) else ("not met", "missed")
        rows.append(
            f'<tr><td>{html.escape(bar.title)}</td><td class="number">{html.escape(bar.wanted)}</td>{old}'
            f'<td class="number">{_shown(value)}</td><td class="number">{interval}</td><td class="number">{count}</td>'
            f'<td>{_plot(bar, found)}</td><td class="{kind}">{verdict}</td></tr>'
        )
    return f'<div class="scroll"><table>{"".join(rows)}</table></div>'


def _shown(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"


def _plot(bar: Bar, found: Any) -> str:
    """The interval as a line, the value as a dot, what is wanted as ticks, on a scale that holds them all, 0 and 1."""
    value = value_of(found) or 0.0
    low, high = (found["low"], found["high"]) if isinstance(found, Mapping) else (value, value)
    ticks = [tick for tick in (bar.least, bar.most) if tick is not None]
    left, right = min(0.0, low), max(1.0, high, 1.1 * max(ticks))
    at = {x: f"{5 + 150 * (x - left) / (right - left):.1f}" for x in (low, value, high, *ticks)}
    marks = "".join(
        f'<line x1="{at[tick]}" x2="{at[tick]}" y1="1" y2="13" stroke="#d9534f"/>' for tick in ticks
    )
    return (
        f'<svg width="160" height="14" role="img" aria-label="{value:.3g}, wanted {html.escape(bar.wanted)}">'
        f'<line x1="{at[low]}" x2="{at[high]}" y1="7" y2="7" stroke="currentColor"/>'
        f'<circle cx="{at[value]}" cy="7" r="3" fill="currentColor"/>{marks}</svg>'
    )


def _moments(clip: Clip) -> list[tuple[str, Tensor]]:
    """Frames at equal distances, which need no words."""
    picked = torch.linspace(0, clip.frames_THWC.shape[0] - 1, _MOMENTS).round().long().tolist()
    return [("", clip.frames_THWC[i]) for i in picked]


def _figure(text: str, rows: Mapping[str, Sequence[tuple[str, Tensor]]]) -> str:
    """Rows of frames below the prompt, each under what it is; frames have words of their own where they need some."""
    parts = []
    for what, frames in rows.items():
        parts.append(f'<div class="what">{html.escape(what)}</div><div class="row">')
        parts += [_picture(frame, f"{what}: {text}", words) for words, frame in frames]
        parts.append("</div>")
    return f"<figure><figcaption>{html.escape(text)}</figcaption>{''.join(parts)}</figure>"


def _picture(frame_HWC: Tensor, alternative: str, words: str) -> str:
    data = base64.b64encode(encode_png(shrunk(frame_HWC[None])[0])).decode()
    image = f'<img alt="{html.escape(alternative)}" src="data:image/png;base64,{data}">'
    return f"<div>{image}{html.escape(words)}</div>"
