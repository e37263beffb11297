import torch

from ultraflash.kernels.attention import dense_attention


def test_dense_attention_is_softmax_of_scaled_products() -> None:
    generator = torch.Generator().manual_seed(0)
    q_BLND = torch.randn(2, 5, 3, 8, generator=generator)
    k_BMND, v_BMND = (torch.randn(2, 7, 3, 8, generator=generator) for _ in range(2))
    weights_BNLM = (torch.einsum("blnd,bmnd->bnlm", q_BLND, k_BMND) / 8**0.5).softmax(dim=-1)
    expected_BLND = torch.einsum("bnlm,bmnd->blnd", weights_BNLM, v_BMND)
    torch.testing.assert_close(dense_attention(q_BLND, k_BMND, v_BMND), expected_BLND, atol=1e-5, rtol=0)
