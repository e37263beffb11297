"""Reading attributes from pictures: a small classifier of latents, and the way from frames to it.

The encoder is linear in the pixels, so what the classifier learns from latents of rendered clips it can read in any
frames that are encoded alike.

Shapes: B batch, C latent channels, E features, T pixel frames, F latent frames, H W rows and columns.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from ultraflash.models.errors import BadConfig
from ultraflash.models.loading import part_folder
from ultraflash.models.patch_autoencoder import PATCH_FRAMES, UNTRIMMED_FRAMES, PatchConfig
from ultraflash.models.preset import Preset
from ultraflash.models.weights import load_file, sha256_of
from ultraflash.training.patches import load_encoder, to_pixels
from ultraflash.training.vista.scene import BIOMES, COLORS, OBJECTS, TIMES, WEATHERS

NOTHING = "nothing"
"""What the classifier calls a scene without an object."""

KINDS: dict[str, tuple[str, ...]] = {
    "biome": BIOMES,
    "time": TIMES,
    "weather": WEATHERS,
    "object": (NOTHING, *OBJECTS),
    "object_color": COLORS,
}
"""What each attribute can be, in the order of the classifier's outputs."""

CLASSIFIER_FILE = "classifier.safetensors"
_PIXELS = 16


class LatentClassifier(nn.Module):
    """Convolutions over one latent frame, one linear head per attribute.

    Objects are small and stand anywhere, so their heads read the strongest response of each feature; the others read
    means over quarters of the picture.
    """

    def __init__(self, latent_channels: int, channels: int) -> None:
        super().__init__()
        self.trunk = nn.Sequential(
            nn.Conv2d(latent_channels, channels, 3, padding=1),
            nn.GELU(),
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.GELU(),
            nn.Conv2d(channels, 2 * channels, 3, stride=2, padding=1),
            nn.GELU(),
            nn.Conv2d(2 * channels, 2 * channels, 3, padding=1),
            nn.GELU(),
        )
        self.dropout = nn.Dropout(0.2)
        self.heads = nn.ModuleDict(
            {name: nn.Linear(10 * channels, len(kinds)) for name, kinds in KINDS.items()}
        )

    def features(self, latent_BCHW: Tensor) -> Tensor:
        """Means of the last features over the picture, (B, E): what distributions are compared by."""
        features: Tensor = self.trunk(latent_BCHW).mean(dim=(2, 3))
        return features

    def forward(self, latent_BCHW: Tensor) -> dict[str, Tensor]:
        """Logits (B, kinds) by attribute."""
        maps = self.trunk(latent_BCHW)
        means = functional.adaptive_avg_pool2d(maps, (2, 2)).flatten(1)
        pooled = self.dropout(torch.cat((means, maps.amax(dim=(2, 3))), dim=1))
        return {name: head(pooled) for name, head in self.heads.items()}


def channels_of(path: Path, name: str) -> int:
    """Rows of tensor ``name`` in a safetensors file."""
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        return int(file.get_slice(name).get_shape()[0])


class FrameReader:
    """Encoder and classifier: reads attributes from frames of any size of the preset.

    Attributes:
        sha256: of the classifier's file, which belongs to the latents of one encoder.
    """

    def __init__(self, folder: Path, patch: PatchConfig, *, rows: int, cols: int) -> None:
        """Load both from ``folder``.

        Args:
            folder: weights with encoder and classifier.
            patch: shape of the encoder.
            rows, cols: latent rows and columns that the classifier was trained at.

        Raises:
            MissingWeights: a file is not there.
        """
        self._encoder = load_encoder(patch, folder)
        path = folder / CLASSIFIER_FILE
        channels = channels_of(path, "trunk.0.weight") if path.is_file() else 1
        self._classifier = LatentClassifier(patch.latent_channels, channels)
        load_file(self._classifier, path)
        self._classifier.eval()
        self.sha256 = sha256_of(path)
        self._size = (rows * _PIXELS, cols * _PIXELS)

    @classmethod
    def of(cls, preset: Preset, folder: Path | None = None) -> FrameReader:
        """The reader for frames of a preset whose decoder is a patch decoder.

        Args:
            preset: whose shapes it has.
            folder: weights with encoder and classifier; those of the preset's decoder by default.

        Raises:
            BadConfig: the preset has another decoder, for which there is no classifier.
            MissingWeights: a file is not there.
        """
        if not isinstance(preset.decoder, PatchConfig):
            raise BadConfig(
                f"no classifier reads the latents of {preset.name}; evaluate one like mini", param="preset"
            )
        return cls(
            folder or part_folder(preset, "decoder"),
            preset.decoder,
            rows=preset.base.rows,
            cols=preset.base.cols,
        )

    @torch.no_grad()
    def latents(self, frames_THWC: Tensor) -> Tensor:
        """Latents (F, C, h, w) of uint8 frames, shrunk by area to what the classifier knows; T = 4F - 3 or 4F.

        Raises:
            BadConfig: another number of frames.
        """
        pixels_TCHW = functional.interpolate(to_pixels(frames_THWC), size=self._size, mode="area")
        if (pixels_TCHW.shape[0] + UNTRIMMED_FRAMES) % PATCH_FRAMES == 0:
            return self._encoder.encode_clip(pixels_TCHW[None])[0]
        if pixels_TCHW.shape[0] % PATCH_FRAMES:
            raise BadConfig(f"{pixels_TCHW.shape[0]} frames are neither 4n nor 4n - 3")
        latents: Tensor = self._encoder(pixels_TCHW[None])[0]
        return latents

    @torch.no_grad()
    def read(self, frames_THWC: Tensor) -> dict[str, str]:
        """The kind of every attribute that the frames show, by the mean of the logits of their latent frames."""
        logits = self._classifier(self.latents(frames_THWC))
        return {name: KINDS[name][int(scores.mean(0).argmax())] for name, scores in logits.items()}

    @torch.no_grad()
    def features(self, frames_THWC: Tensor) -> Tensor:
        """Features (F, E) of the frames."""
        return self._classifier.features(self.latents(frames_THWC))
