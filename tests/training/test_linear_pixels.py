"""Differences of latents seen as pixels are those that the decoder would show."""

from pathlib import Path

import torch

from ultraflash.models.patch_autoencoder import PatchConfig, PatchDecoder
from ultraflash.training.linear_pixels import LinearPixels, seen_error
from ultraflash.training.patches import export

CONFIG = PatchConfig(encoder_channels=())


def saved_decoder(folder: Path) -> PatchDecoder:
    """A random decoder whose weights lie in ``folder``; its residual is zero as the PCA leaves it."""
    torch.manual_seed(0)
    decoder = PatchDecoder(CONFIG)
    decoder.latent_scale_C.copy_(torch.linspace(0.3, 2.0, CONFIG.latent_channels))
    export(decoder, folder / "decoder.safetensors")
    return decoder


@torch.no_grad()
def test_they_are_what_the_decoder_makes_of_both_latents(tmp_path: Path) -> None:
    decoder = saved_decoder(tmp_path)
    one, other = torch.randn(2, 1, CONFIG.latent_channels, 2, 3, 5)
    shown = [decoder(latent.transpose(1, 2), decoder.init_memory()) for latent in (one, other)]
    difference = LinearPixels(CONFIG, tmp_path).difference(one - other)
    torch.testing.assert_close(difference, (shown[0] - shown[1]).permute(0, 1, 3, 4, 2), atol=2e-3, rtol=2e-3)


def test_a_grid_is_seen_more_than_an_offset_of_the_same_size() -> None:
    offset = torch.full((1, 4, 32, 32, 3), 0.1)
    grid = offset * (torch.arange(32) // 16 * 2 - 1).view(1, 1, 1, 32, 1)
    (of_offset, same), (of_grid, also) = seen_error(offset, edges=1.0), seen_error(grid, edges=1.0)
    assert same == also
    assert of_grid > of_offset == same
