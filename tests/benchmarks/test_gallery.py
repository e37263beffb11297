from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path

import pytest
from PIL import Image

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


def test_every_prompt_is_drawn_and_made_and_both_say_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.delitem(sys.modules, "gallery", raising=False)
    gallery = importlib.import_module("gallery")
    gallery.main(
        ["-o", str(tmp_path), "--prompts", "1", "--held-out", "1", "--seconds", "0.5", "--width", "64"]
    )
    page = (tmp_path / "index.html").read_text(encoding="utf-8")
    shown = re.findall(r'<figure class="(\w+)"><figcaption>([^<]+)</figcaption><img [^>]*src="([^"]+)"', page)
    assert [(maker, file) for maker, _, file in shown] == [
        (maker, f"{kind}-00-{maker}.webp") for kind in ("seen", "held-out") for maker in ("made", "drawn")
    ]
    assert all(words.lower().startswith(maker) for maker, words, _ in shown)
    for maker, _, file in shown:
        picture = Image.open(tmp_path / file).convert("RGB")
        red, _, blue = picture.getpixel((picture.width - 4, picture.height - 4))  # type: ignore[misc]
        assert (red > blue) == (maker == "drawn")
