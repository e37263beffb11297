from pathlib import Path

import pytest
import torch
from tiny_official import WORDS, wan_text_tensors, write_tokenizer
from transformers import UMT5EncoderModel

from ultraflash.models.checkpoints.naming import umt5_names
from ultraflash.models.errors import MissingWeights, PromptTooLong
from ultraflash.models.text_encoder import TextConfig
from ultraflash.models.umt5 import UMT5Encoder, clean_prompt, load_tokenizer, umt5_config

CPU = torch.device("cpu")
CONFIG = TextConfig(kind="umt5", tokens=16, width=32)


def encoder(folder: Path, config: TextConfig = CONFIG) -> UMT5Encoder:
    write_tokenizer(folder / "tokenizer.json")
    tensors = umt5_names(wan_text_tensors(32), source="x")
    return UMT5Encoder.of_tensors(tensors, folder / "tokenizer.json", config, device=CPU, dtype=torch.float32)


def test_states_are_those_of_transformers_with_padding_masked_and_then_zeroed(tmp_path: Path) -> None:
    ours = encoder(tmp_path)
    tensors = umt5_names(wan_text_tensors(32), source="x")
    theirs = UMT5EncoderModel(umt5_config(tensors)).eval()
    theirs.load_state_dict({**tensors, "encoder.embed_tokens.weight": tensors["shared.weight"]})
    ids = [WORDS.index(word) for word in ("a", "calm", "sea", "</s>")]
    padded = torch.tensor([ids + [0] * (16 - len(ids))])
    with torch.no_grad():
        expected = theirs(input_ids=padded, attention_mask=padded.ne(0).long()).last_hidden_state[0]
    expected[len(ids) :] = 0
    states = ours.encode("a calm sea")
    assert states.shape == (16, 32) and states.dtype == torch.float32
    assert states[:4].std() > 0.1
    assert states[4:].eq(0).all()
    torch.testing.assert_close(states, expected, atol=1e-5, rtol=1e-5)


def test_a_prompt_is_remembered_and_what_is_handed_out_may_be_changed(tmp_path: Path) -> None:
    text = encoder(tmp_path)
    first = text.encode("a desert at noon")
    kept = first.clone()
    first.zero_()
    assert torch.equal(text.encode("a desert at noon"), kept)


def test_a_prompt_of_more_tokens_than_are_read_is_refused(tmp_path: Path) -> None:
    text = encoder(tmp_path)
    text.check("a " * 15)
    with pytest.raises(PromptTooLong, match="17 tokens; 16 are read"):
        text.check("a " * 16)


def test_spaces_and_entities_of_a_prompt_do_not_matter(tmp_path: Path) -> None:
    assert clean_prompt("  a\n calm &amp;amp; wide   sea ") == "a calm & wide sea"
    text = encoder(tmp_path)
    assert torch.equal(text.encode("a calm sea"), text.encode(" a  calm\nsea"))


def test_tensors_of_something_else_are_refused(tmp_path: Path) -> None:
    with pytest.raises(MissingWeights, match="lack"):
        umt5_config({"a": torch.ones(1)})
    with pytest.raises(MissingWeights, match="states of width 32, not 48"):
        encoder(tmp_path, TextConfig(kind="umt5", tokens=16, width=48))
    with pytest.raises(MissingWeights, match="no tokenizer"):
        load_tokenizer(tmp_path / "absent.json")
