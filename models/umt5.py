"""Wan's text encoder, UMT5-XXL, by transformers.

Shape legend: X tokens, W width of a token's state, R rows of them that the prompt has.
"""

from __future__ import annotations

import html
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional

from ultraflash.models.errors import MissingExtra, MissingWeights, PromptTooLong
from ultraflash.models.text_encoder import TextConfig
from ultraflash.models.weights import assign_strict

if TYPE_CHECKING:
    from transformers import UMT5Config

_EMBEDDING = "shared.weight"
_TIED = "encoder.embed_tokens.weight"
_BIAS = "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
_GATE = "encoder.block.0.layer.1.DenseReluDense.wi_0.weight"
_QUERY = "encoder.block.0.layer.0.SelfAttention.q.weight"


class UMT5Encoder:
    """Turns prompts into token states, and remembers the newest ones.

    A prompt goes through the network alone, so that padding takes no time; the rows behind it are zero, as the
    transformers were trained with.
    """

    def __init__(
        self, net: nn.Module, tokenizer: Tokenizer, config: TextConfig, *, remembered: int = 32
    ) -> None:
        """Take network and tokenizer over.

        Args:
            net: transformers' ``UMT5EncoderModel``, on its device.
            tokenizer: whose post-processor ends a prompt as the network expects.
            config: rows and columns of an encoded prompt.
            remembered: number of prompts whose states are kept, 8 MiB each at full size.
        """
        self._net = net.eval().requires_grad_(False)
        self._tokenizer = tokenizer
        self._config = config
        self._remembered = remembered
        self._states: OrderedDict[str, Tensor] = OrderedDict()

    @classmethod
    def of_tensors(
        cls,
        tensors: Mapping[str, Tensor],
        tokenizer: Path,
        config: TextConfig,
        *,
        device: torch.device,
        dtype: torch.dtype,
    ) -> UMT5Encoder:
        """Build the network whose tensors these are.

        Args:
            tensors: under transformers' names, see :func:`~ultraflash.models.checkpoints.naming.umt5_names`.
            tokenizer: path of a ``tokenizer.json``.
            config: rows and columns of an encoded prompt.
            device, dtype: of the network.

        Raises:
            MissingExtra: transformers is not installed.
            MissingWeights: the tensors make no encoder of that width, or there is no tokenizer.
        """
        try:
            from transformers import UMT5EncoderModel
        except ImportError as error:
            raise MissingExtra(
                "the UMT5 text encoder wants transformers; install it with: pip install 'ultraflash[official]'"
            ) from error
        shapes = umt5_config(tensors)
        if shapes.d_model != config.width:
            raise MissingWeights(
                f"the text encoder makes states of width {shapes.d_model}, not {config.width}",
                param="weights",
            )
        with torch.device("meta"):
            net: nn.Module = UMT5EncoderModel(shapes)
        named = {key: tensor.to(device, dtype) for key, tensor in tensors.items()}
        if _TIED in net.state_dict():
            named[_TIED] = named[_EMBEDDING]
        assign_strict(net, named, source="the text encoder's weights")
        return cls(net, load_tokenizer(tokenizer), config)

    @property
    def tokens(self) -> int:
        """Rows of an encoded prompt."""
        return self._config.tokens

    @property
    def width(self) -> int:
        """Columns of an encoded prompt."""
        return self._config.width

    def state_dict(self) -> dict[str, Tensor]:
        """The network's tensors, as :meth:`of_tensors` takes them."""
        return {key: tensor for key, tensor in self._net.state_dict().items() if key != _TIED}

    def write_tokenizer(self, path: Path) -> None:
        """Write the tokenizer as :meth:`of_tensors` reads it."""
        self._tokenizer.save(str(path))

    def check(self, prompt: str) -> None:
        """Raise PromptTooLong for a prompt of more tokens than are read."""
        self._ids(prompt)

    @torch.no_grad()
    def encode(self, prompt: str) -> Tensor:
        """Encode a prompt.

        Args:
            prompt: any text of at most ``tokens`` tokens, the end mark counted.

        Returns:
            float32 (X, W) on the CPU, rows past the prompt's last token zero.

        Raises:
            PromptTooLong: the prompt has more tokens.
        """
        states_RW = self._states.get(prompt)
        if states_RW is None:
            ids = torch.tensor([self._ids(prompt)], device=next(self._net.parameters()).device)
            output: Any = self._net(input_ids=ids, attention_mask=torch.ones_like(ids))
            states_RW = output.last_hidden_state[0].float().cpu()
            self._states[prompt] = states_RW
            if len(self._states) > self._remembered:
                self._states.popitem(last=False)
        else:
            self._states.move_to_end(prompt)
        return functional.pad(states_RW, (0, 0, 0, self.tokens - states_RW.shape[0]))

    def _ids(self, prompt: str) -> list[int]:
        ids: list[int] = self._tokenizer.encode(clean_prompt(prompt)).ids
        if len(ids) > self.tokens:
            raise PromptTooLong(
                f"the prompt has {len(ids)} tokens; {self.tokens} are read, about {self.tokens * 3 // 4} words",
                param="prompt",
            )
        return ids


def clean_prompt(prompt: str) -> str:
    """A prompt as Wan's encoder was trained to see it: entities of HTML as characters, single spaces between words."""
    return " ".join(html.unescape(html.unescape(prompt)).split())


def load_tokenizer(path: Path) -> Tokenizer:
    """Read a ``tokenizer.json`` and switch off what it may say about padding and cutting. Raises MissingWeights."""
    if not path.is_file():
        raise MissingWeights(
            f"no tokenizer at {path}; fetch it with: ultraflash models pull", param="weights"
        )
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def umt5_config(tensors: Mapping[str, Tensor]) -> UMT5Config:
    """The configuration of an encoder, from the shapes of its tensors.

    Raises:
        MissingWeights: they are not those of a UMT5 encoder.
    """
    from transformers import UMT5Config

    missing = [key for key in (_EMBEDDING, _BIAS, _GATE, _QUERY) if key not in tensors]
    if missing:
        raise MissingWeights(f"the text encoder's weights lack {missing}", param="weights")
    buckets, heads = tensors[_BIAS].shape
    vocabulary, width = tensors[_EMBEDDING].shape
    layers = {key.split(".")[2] for key in tensors if key.startswith("encoder.block.")}
    return UMT5Config(
        vocab_size=vocabulary,
        d_model=width,
        d_kv=tensors[_QUERY].shape[0] // heads,
        d_ff=tensors[_GATE].shape[0],
        num_layers=len(layers),
        num_heads=heads,
        relative_attention_num_buckets=buckets,
    )
