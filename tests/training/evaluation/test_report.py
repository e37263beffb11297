from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import torch
from torch import Tensor

from ultraflash.training.evaluation.contact_sheet import contact_sheet
from ultraflash.training.evaluation.long_streams import LongStream
from ultraflash.training.evaluation.measures import Clip
from ultraflash.training.evaluation.report import write_report
from ultraflash.training.evaluation.streams import TestPrompt, make_prompts

PROMPTS = make_prompts(2, split="test", seed=0)
MEASURES = {
    "pictures": {"sr_gain": {"value": -0.5, "low": -0.9, "high": -0.1, "count": 3}},
    "camera": {"value": 0.95, "low": 0.8, "high": 1.0, "count": 20},
    "motion_ratio": 1.7,
}


def frames(grey: int, count: int) -> Tensor:
    return torch.full((count, 32, 56, 3), grey, dtype=torch.uint8)


def clip(prompt: TestPrompt, grey: int) -> Clip:
    return Clip(prompt=prompt, frames_THWC=frames(grey, 9))


def a_long_stream() -> LongStream:
    return LongStream(
        prompts=tuple(PROMPTS),
        seconds=40.0,
        start=frames(100, 8),
        end=frames(60, 8),
        stays=(clip(PROMPTS[0], 90), clip(PROMPTS[1], 60)),
        moments=((0.0, frames(100, 1)[0]), (20.0, frames(80, 1)[0]), (40.0, frames(60, 1)[0])),
    )


class Page(HTMLParser):
    """Rows of the table, and the alternative texts of pictures."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.pictures: list[str] = []
        self.lines: list[float] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag == "tr":
            self.rows.append([])
        elif tag == "img":
            self.pictures.append(given["alt"] or "")
        elif tag == "line":
            self.lines += [float(given[name] or "nan") for name in ("x1", "x2")]

    def handle_data(self, data: str) -> None:
        if self.rows and self.lasttag in ("td", "th"):
            self.rows[-1].append(data)


def page_of(path: Path, **changes: object) -> Page:
    given: dict[str, object] = {
        "title": "a & b",
        "measures": MEASURES,
        "before": None,
        "clips": [clip(PROMPTS[0], 90)],
        "held_out_clips": [],
        "drawn_clips": [clip(PROMPTS[0], 200)],
        "long_streams": [a_long_stream()],
    }
    write_report(path, **{**given, **changes})  # type: ignore[arg-type]
    return Page(path.read_text(encoding="utf-8"))


def text_of_moments(text: str) -> list[str]:
    return re.findall(r">(\d+ s: mean \d+), contrast 0</div>", text)


def test_a_row_says_what_was_wanted_and_whether_it_was_met(tmp_path: Path) -> None:
    rows = {row[0]: row for row in page_of(tmp_path / "report.html").rows[1:]}
    assert rows["pans go where the prompt says"][1:] == [">= 0.9", "0.95", "0.80 to 1.00", "20", "met"]
    motion = rows["motion, as a multiple of rendered clips"]
    assert (motion[1], motion[2], motion[-1]) == ("0.5 to 1.5", "1.7", "not met")


def test_what_lies_below_nothing_and_beyond_the_bar_stays_on_the_scale(tmp_path: Path) -> None:
    lines = page_of(tmp_path / "report.html").lines
    assert len(lines) == 2 * (2 + 2 + 3)
    assert 0 <= min(lines) < max(lines) <= 160


def test_every_picture_says_who_made_it(tmp_path: Path) -> None:
    pictures = page_of(tmp_path / "report.html", long_streams=[]).pictures
    made = [text for text in pictures if text.startswith("made by the networks")]
    drawn = [text for text in pictures if text.startswith("the same scene, drawn by the program")]
    assert (len(made), len(drawn), len(pictures)) == (4, 4, 8)


def test_long_streams_can_stand_alone(tmp_path: Path) -> None:
    page = page_of(tmp_path / "report.html", clips=[], drawn_clips=[])
    assert len(page.pictures) == 3
    assert "mean 100 to 60, contrast 0 to 0 grey levels" in page.pictures[0]
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert text_of_moments(text) == ["0 s: mean 100", "20 s: mean 80", "40 s: mean 60"]
    assert "Seen pairs" not in text and "Held-out pairs" not in text
    assert f"0 s: {PROMPTS[0].text} / 20 s: {PROMPTS[1].text}" in text


def test_a_sheet_holds_every_stream_in_order() -> None:
    sheet = contact_sheet([a_long_stream(), a_long_stream()])
    pixels = torch.frombuffer(bytearray(sheet.tobytes()), dtype=torch.uint8).view(
        sheet.height, sheet.width, 3
    )
    middle = pixels[90, [100, 330, 560]].float().mean(1).tolist()
    assert middle == [100, 80, 60]
    assert sheet.height > 2 * 128
