import torch

from ultraflash.training.latents import object_shares


def test_a_latent_is_covered_by_what_any_of_its_pictures_shows() -> None:
    object_THW = torch.zeros(5, 32, 32)
    object_THW[0, :16, :8] = 1.0
    object_THW[2, 16:, 16:] = 0.5
    object_THW[4, :, 16:] = 0.01
    shares_FHW = object_shares(object_THW, 16)
    assert shares_FHW.dtype == torch.uint8
    assert shares_FHW.tolist() == [[[128, 0], [0, 0]], [[0, 0], [0, 255]]]
