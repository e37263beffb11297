"""Differences of latents seen as pixels are those that the decoder would show."""

from pathlib import Path

import torch

from ultraflash.models.patch_autoencoder import PatchConfig, PatchDecoder
from ultraflash.training.linear_pixels import LinearPixels
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


def test_a_squared_error_of_latents_is_that_of_their_pixels(tmp_path: Path) -> None:
    decoder = saved_decoder(tmp_path)
    torch.nn.init.orthogonal_(decoder.unembed.weight)
    export(decoder, tmp_path / "decoder.safetensors")
    pixels = LinearPixels(CONFIG, tmp_path)
    error_BCFHW, unit_BCFHW = torch.randn(2, CONFIG.latent_channels, 2, 3, 5), torch.ones(1, 32, 1, 1, 1)
    of_error, of_unit = (pixels.difference(each).square().mean() for each in (error_BCFHW, unit_BCFHW))
    torch.testing.assert_close(pixels.squared_error(error_BCFHW), of_error / of_unit, rtol=1e-3, atol=0)
    torch.testing.assert_close(pixels.squared_error(unit_BCFHW), torch.ones(()), rtol=1e-3, atol=0)
