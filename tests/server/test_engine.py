"""Engines by name, and the preset of a command that names none."""

from __future__ import annotations

import pytest
import torch

from ultraflash.server.engine import CASCADE, chosen_preset


def test_a_preset_that_is_named_is_taken_without_a_word() -> None:
    said: list[str] = []
    assert chosen_preset(CASCADE, "ultraflash-2k", None, said.append) == "ultraflash-2k"
    assert said == []


@pytest.mark.skipif(torch.cuda.is_available(), reason="of a machine without a GPU")
def test_without_one_the_best_of_this_machine_is_named_with_its_reason() -> None:
    said: list[str] = []
    assert chosen_preset(CASCADE, None, None, said.append) == "mini"
    assert said == ["preset mini: there is no GPU, and the others want one"]


def test_an_engine_that_is_no_cascade_is_asked_for_the_plain_preset() -> None:
    said: list[str] = []
    assert chosen_preset("pattern_engine:PatternEngine.load", None, None, said.append) == "mini"
    assert said == []
