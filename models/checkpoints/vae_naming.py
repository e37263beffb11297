"""Names of the tensors of Wan's VAE: from those of its own file to those of diffusers. A pure function of names.

In Wan's file the parts of a network are numbered as they follow one another; diffusers groups those of its decoder by
resolution. How many make a resolution follows from where the first one that enlarges stands.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from ultraflash.models.checkpoints.naming import renamed

_PARTS = {
    "residual.0.": "norm1.",
    "residual.2.": "conv1.",
    "residual.3.": "norm2.",
    "residual.6.": "conv2.",
    "shortcut.": "conv_shortcut.",
}
"""Of a residual block; between these stand layers without weights."""

_WHOLE = {"conv1.": "quant_conv.", "conv2.": "post_quant_conv."}
_HALF = {
    "conv1.": "conv_in.",
    "middle.0.": "mid_block.resnets.0.",
    "middle.1.": "mid_block.attentions.0.",
    "middle.2.": "mid_block.resnets.1.",
    "head.0.": "norm_out.",
    "head.2.": "conv_out.",
}
"""Of encoder and decoder alike."""

_ENLARGES = re.compile(r"decoder\.upsamples\.(\d+)\.resample\.")


def wan_vae_names(tensors: Mapping[str, Tensor], *, source: str) -> dict[str, Tensor]:
    """The tensors of Wan's VAE under diffusers' names; other names stay as they are.

    Raises:
        MissingWeights: two tensors would have the same name.
    """
    enlarging = [int(found.group(1)) for key in tensors if (found := _ENLARGES.match(key))]
    # Without one there is a single resolution.
    stage = min(enlarging) + 1 if enlarging else len(tensors)
    return renamed(tensors, lambda key: _vae_name(key, stage), source=source)


def _vae_name(key: str, stage: int) -> str:
    """Diffusers' name of a tensor; ``stage`` is how many parts of the decoder make a resolution."""
    half, _, rest = key.partition(".")
    if half not in ("encoder", "decoder"):
        return _prefixed(key, _WHOLE)
    kind, _, numbered = rest.partition(".")
    if kind == "downsamples":
        rest = f"down_blocks.{numbered}"
    elif kind == "upsamples":
        number, _, inner = numbered.partition(".")
        resolution, place = divmod(int(number), stage)
        within = "upsamplers.0" if place == stage - 1 else f"resnets.{place}"
        rest = f"up_blocks.{resolution}.{within}.{inner}"
    else:
        rest = _prefixed(rest, _HALF)
    for part, name in _PARTS.items():
        rest = rest.replace(f".{part}", f".{name}")
    return f"{half}.{rest}"


def _prefixed(key: str, prefixes: Mapping[str, str]) -> str:
    for prefix, name in prefixes.items():
        if key.startswith(prefix):
            return name + key.removeprefix(prefix)
    return key
