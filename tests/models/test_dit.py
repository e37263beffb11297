import pytest
import torch
from torch import Tensor

from ultraflash.kernels.attention import dense_attention
from ultraflash.kernels.heads import apply_rope
from ultraflash.models.dit import CausalDiT, DiTConfig, sinusoidal_embedding
from ultraflash.models.errors import BadConfig
from ultraflash.models.ring_cache import RingCache
from ultraflash.models.rope import axis_pairs, rope_table
from ultraflash.models.streaming_attention import WindowAttention

CONFIG = DiTConfig(
    in_channels=4,
    out_channels=4,
    dim=24,
    ffn_dim=48,
    layers=2,
    heads=2,
    text_tokens=6,
    text_dim=8,
    freq_dim=16,
)
ROWS, COLS, BLOCK = 4, 6, 2


@pytest.fixture
def net() -> CausalDiT:
    torch.manual_seed(0)
    return CausalDiT(CONFIG).eval()


def cache(batch: int, dtype: torch.dtype) -> RingCache:
    return RingCache(
        layers=CONFIG.layers, batch=batch, frames=8, sink_frames=0, frame_tokens=6, heads=CONFIG.heads,
        head_dim=CONFIG.head_dim, dtype=dtype, device=torch.device("cpu"),
    )  # fmt: skip


@torch.no_grad()
def stream(net: CausalDiT, latents: list[Tensor], text: Tensor) -> list[Tensor]:
    held = cache(latents[0].shape[0], net.head.head.weight.dtype)
    context, flows = net.encode_text(text), []
    for i, latent in enumerate(latents):
        positions = torch.arange(i * BLOCK, (i + 1) * BLOCK)
        flows.append(net(latent, torch.full((1, BLOCK), 500.0), context, positions, WindowAttention(held)))
        held.commit()
    return flows


def block(batch: int = 1) -> Tensor:
    return torch.randn(batch, CONFIG.in_channels, BLOCK, ROWS, COLS)


def test_a_block_does_not_see_what_comes_after_it(net: CausalDiT) -> None:
    first, second, other = block(), block(), block()
    text = torch.randn(1, 6, 8)
    assert torch.equal(stream(net, [first, second], text)[0], stream(net, [first, other], text)[0])


def test_a_block_sees_what_came_before_it(net: CausalDiT) -> None:
    first, second, other = block(), block(), block()
    text = torch.randn(1, 6, 8)
    assert not torch.allclose(stream(net, [first, second], text)[1], stream(net, [other, second], text)[1])


def test_blocks_over_a_cache_equal_one_pass_with_a_causal_mask(net: CausalDiT) -> None:
    latents, text = [block() for _ in range(3)], torch.randn(1, 6, 8)
    size = BLOCK * 6

    def masked(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        outs = [
            dense_attention(q[:, i * size : (i + 1) * size], k[:, : (i + 1) * size], v[:, : (i + 1) * size])
            for i in range(3)
        ]
        return torch.cat(outs, dim=1)

    with torch.no_grad():
        whole = net(
            torch.cat(latents, 2),
            torch.full((1, 3 * BLOCK), 500.0),
            net.encode_text(text),
            torch.arange(6),
            masked,
        )
    assert torch.allclose(torch.cat(stream(net, latents, text), 2), whole, atol=1e-5)


def test_samples_of_a_batch_do_not_see_each_other(net: CausalDiT) -> None:
    latent, text = block(2), torch.randn(2, 6, 8)
    together = stream(net, [latent], text)[0]
    for i in range(2):
        assert torch.allclose(
            together[i : i + 1], stream(net, [latent[i : i + 1]], text[i : i + 1])[0], atol=1e-5
        )


def test_missing_text_rows_count_as_zeros(net: CausalDiT) -> None:
    short = torch.randn(1, 3, 8)
    padded = torch.cat((short, torch.zeros(1, 3, 8)), 1)
    for a, b in zip(net.encode_text(short).keys, net.encode_text(padded).keys, strict=True):
        assert torch.equal(a, b)
    with pytest.raises(BadConfig, match="7 text tokens"):
        net.encode_text(torch.randn(1, 7, 8))


def test_bfloat16_products_stay_close_to_float32(net: CausalDiT) -> None:
    latents, text = [block(), block()], torch.randn(1, 6, 8)
    exact = torch.cat(stream(net, latents, text), 2)
    net.cast(torch.bfloat16)
    assert net.blocks[0].modulation.dtype == torch.float32
    assert net.blocks[0].ffn[0].weight.dtype == torch.bfloat16
    assert (torch.cat(stream(net, latents, text), 2) - exact).abs().mean() < 0.03


def test_rotation_depends_on_relative_positions_alone() -> None:
    q, k = torch.randn(1, 1, 1, 12), torch.randn(1, 1, 1, 12)

    def score(query_at: int, key_at: int) -> float:
        rotated = [
            apply_rope(x, rope_table(torch.tensor([at]), 1, 1, 12)) for x, at in ((q, query_at), (k, key_at))
        ]
        return float((rotated[0] * rotated[1]).sum())

    assert score(5, 3) == pytest.approx(score(105, 103), abs=1e-5)
    assert score(5, 3) != pytest.approx(score(5, 4), abs=1e-3)


def test_rotation_pairs_are_split_as_in_wan() -> None:
    assert axis_pairs(128) == (22, 21, 21)
    assert axis_pairs(64) == (12, 10, 10)


def test_time_embedding_has_cosines_first() -> None:
    embedded = sinusoidal_embedding(torch.tensor([[0.0, 1000.0]]), 8)
    assert embedded.shape == (1, 2, 8)
    assert embedded[0, 0].tolist() == [1, 1, 1, 1, 0, 0, 0, 0]
    assert embedded[0, 1, 0].item() == pytest.approx(torch.tensor(1000.0).double().cos().item(), abs=1e-6)


@pytest.mark.parametrize("change", [{"heads": 5}, {"patch": (2, 2, 2)}, {"freq_dim": 7}])
def test_impossible_sizes_are_refused(change: dict[str, object]) -> None:
    values = {name: getattr(CONFIG, name) for name in DiTConfig.__dataclass_fields__}
    with pytest.raises(BadConfig):
        DiTConfig(**{**values, **change})  # type: ignore[arg-type]


def test_latents_that_do_not_divide_into_patches_are_refused() -> None:
    with pytest.raises(BadConfig, match="5x6"):
        CONFIG.token_grid(5, 6)
