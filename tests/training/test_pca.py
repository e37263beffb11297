import pytest
import torch

from ultraflash.training.pca import PatchStatistics, latent_scale


def _patches() -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    mixing = torch.randn(4, 12, generator=generator)
    return torch.randn(500, 4, generator=generator) @ mixing + torch.linspace(0, 1, 12)


def test_streamed_components_are_those_of_all_patches_at_once() -> None:
    patches_NP = _patches()
    statistics = PatchStatistics(12, centre=0.5)
    for part_NP in patches_NP.split(130):
        statistics.add(part_NP)
    basis, kept = statistics.basis(3)
    centred_NP = patches_NP.double() - patches_NP.double().mean(0)
    _, singular_P, rows_PP = torch.linalg.svd(centred_NP, full_matrices=False)
    torch.testing.assert_close(basis.mean_P, patches_NP.mean(0), atol=1e-5, rtol=0)
    torch.testing.assert_close(basis.sigma_C.double(), singular_P[:3] / 500**0.5, rtol=1e-4, atol=0)
    agreement_C = (basis.components_CP.double() * rows_PP[:3]).sum(1).abs()
    torch.testing.assert_close(agreement_C, torch.ones(3, dtype=torch.float64), atol=1e-5, rtol=0)
    assert kept == pytest.approx(float(singular_P[:3].square().sum() / singular_P.square().sum()), rel=1e-5)


def test_components_are_orthonormal_with_fixed_signs() -> None:
    statistics = PatchStatistics(12)
    statistics.add(_patches())
    basis, _ = statistics.basis(4)
    torch.testing.assert_close(basis.components_CP @ basis.components_CP.T, torch.eye(4), atol=1e-5, rtol=0)
    assert (basis.components_CP.sum(1) >= 0).all()


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
def test_scaled_channels_have_unit_mean_square_and_the_asked_spectrum(power: float) -> None:
    sigma_C = torch.tensor([10.0, 2.0, 0.5])
    deviation_C = sigma_C * latent_scale(sigma_C, power=power)
    assert float(deviation_C.square().mean()) == pytest.approx(1.0, rel=1e-5)
    torch.testing.assert_close(deviation_C / deviation_C[0], (sigma_C / sigma_C[0]) ** power)
