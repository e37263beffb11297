"""Where the weights of a preset come from, and where they lie on this machine.

Every network has a folder of its own under :func:`models_home`, so that presets that share one share its files.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from ultraflash.models.errors import BadConfig

HOME_VARIABLE = "ULTRAFLASH_MODELS"
"""Environment variable that moves :func:`models_home`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """The official files of one network.

    Args:
        part: which network: ``base``, ``sr`` (or ``sr_x`` and the first factor of a network that serves some alone),
            ``decoder``, ``text``, ``vae`` (Wan's, for streams that start from pictures), or ``upsampler_x`` and the
            factor.
        store: name of its folder on this machine.
        repo: repository on the Hugging Face hub.
        files: names in that repository, or patterns of names; of the latent upsampler the file that fits is taken.
        lora: file of low-rank weights that belong on top, or empty.
        lora_alpha: what the product of their two matrices is multiplied with, over their rank.
        lora_scale: further factor of it, 1 as trained.
        lora_live: keep them beside the network, so that the scale can change while it runs, rather than add them in.
    """

    part: str
    store: str
    repo: str
    files: tuple[str, ...]
    lora: str = ""
    lora_alpha: float = 256.0
    lora_scale: float = 1.0
    lora_live: bool = False

    def __post_init__(self) -> None:
        known = ("base", "sr", "decoder", "text", "vae")
        if self.part not in known and not re.fullmatch(r"(sr|upsampler)_x[1-9]\d*", self.part):
            raise BadConfig(
                f"a source is of {', '.join(known)}, sr_x2 or upsampler_x2, not {self.part!r}",
                param="sources",
            )
        if not self.store or Path(self.store).name != self.store:
            raise BadConfig(f"store is the name of a folder, not {self.store!r}", param="sources")
        if not self.repo or not self.files:
            raise BadConfig(f"the source of {self.part} names a repo and files", param="sources")
        if any(Path(name).is_absolute() or ".." in Path(name).parts for name in (*self.files, self.lora)):
            raise BadConfig(f"files of {self.repo} are named as they are in it", param="sources")

    @property
    def factor(self) -> int | None:
        """How far the upsampler of this source enlarges; None where it is of another network."""
        name, _, factor = self.part.partition("_x")
        return int(factor) if name == "upsampler" and factor.isdecimal() else None

    @property
    def told(self) -> str:
        """Its files and where they are from, for a message."""
        names = ", ".join((*self.files, *([self.lora] if self.lora else [])))
        of_factor = "" if self.factor is None else f" (that of factor {self.factor})"
        return f"{names}{of_factor} of https://huggingface.co/{self.repo}"

    @property
    def folder(self) -> Path:
        """Where the files lie on this machine once fetched."""
        return models_home() / self.store


def models_home() -> Path:
    """Folder of fetched weights: ``$ULTRAFLASH_MODELS``, else ``ultraflash`` in the user's cache folder."""
    if named := os.environ.get(HOME_VARIABLE):
        return Path(named).expanduser()
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(cache).expanduser() / "ultraflash"
