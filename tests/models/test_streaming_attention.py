import pytest
import torch
from torch import Tensor

from ultraflash.kernels import heads, residual_norm
from ultraflash.kernels.backends import has_triton
from ultraflash.kernels.block_sparse import BlockGrid, SelectionRule
from ultraflash.models.dit import CausalDiT, DiTConfig
from ultraflash.models.kv_store import KvStorage, KvStore
from ultraflash.models.ring_cache import BlockCache, RingCache
from ultraflash.models.streaming_attention import SparseAttention, WindowAttention

CONFIG = DiTConfig(
    in_channels=4, out_channels=4, dim=24, ffn_dim=48, layers=2, heads=2, text_tokens=6, text_dim=8, freq_dim=16
)  # fmt: skip
ROWS, COLS = 6, 10
EVERYTHING = SelectionRule(chunk_frames=1, local_range=9, ratio=1.0, top_k=10**6)
SPARSE = SelectionRule(chunk_frames=1, local_range=3, ratio=0.4)


@pytest.fixture(scope="module")
def net() -> CausalDiT:
    torch.manual_seed(0)
    return CausalDiT(CONFIG).eval()


def latents(frames: int = 6, seed: int = 1) -> Tensor:
    return torch.randn(1, 4, frames, ROWS, COLS, generator=torch.Generator().manual_seed(seed))


class Stream:
    """Super-resolution group by group; frames of 3x5 tokens that blocks of 2x2 don't divide."""

    def __init__(
        self,
        net: CausalDiT,
        *,
        kept: int,
        rule: SelectionRule,
        backend: str = "auto",
        storage: KvStorage = "model",
    ) -> None:
        self.net, self.rule, self.start, self.backend = net, rule, 0, backend
        self.cache = BlockCache(
            layers=2, batch=1, frame_blocks=kept, spatial_blocks=6, block_tokens=4, heads=2, head_dim=12,
            dtype=torch.float32, device=torch.device("cpu"), storage=storage,
        )  # fmt: skip
        self.text = net.encode_text(torch.randn(1, 6, 8, generator=torch.Generator().manual_seed(9)))

    @torch.no_grad()
    def __call__(self, group_BCFHW: Tensor) -> Tensor:
        frames = group_BCFHW.shape[2]
        grid = BlockGrid(frames=frames, rows=3, cols=5, block=(1, 2, 2))
        positions = torch.arange(self.start, self.start + frames)
        attend = SparseAttention(self.cache, grid, self.rule, self.backend)
        made = self.net(group_BCFHW, torch.full((1, 1), 1000.0), self.text, positions, attend)
        self.cache.commit()
        self.start += frames
        return made


@pytest.mark.parametrize("parts", [[2, 2, 2], [1, 3, 2], [1, 1, 4]])
def test_groups_over_a_cache_equal_the_whole_clip_where_all_is_seen(net: CausalDiT, parts: list[int]) -> None:
    whole = Stream(net, kept=0, rule=EVERYTHING)(latents())
    stream = Stream(net, kept=5, rule=EVERYTHING)
    made = torch.cat([stream(part) for part in latents().split(parts, dim=2)], dim=2)
    torch.testing.assert_close(made, whole, atol=1e-5, rtol=0)


def test_a_group_sees_the_past_in_its_cache_and_nothing_else(net: CausalDiT) -> None:
    first, other, second = latents(2, 1), latents(2, 2), latents(2, 3)
    for kept, differs in ((2, True), (0, False)):
        streams = [Stream(net, kept=kept, rule=EVERYTHING) for _ in range(2)]
        streams[0](first)
        streams[1](other)
        assert torch.equal(streams[0](second), streams[1](second)) != differs


def test_interleaved_streams_equal_separate_ones_bit_for_bit(net: CausalDiT) -> None:
    clips = [latents(seed=1), latents(seed=2)]
    mixed = [Stream(net, kept=1, rule=SPARSE) for _ in clips]
    groups = [
        [stream(clip[:, :, i : i + 2]) for stream, clip in zip(mixed, clips, strict=True)] for i in (0, 2, 4)
    ]
    for number, clip in enumerate(clips):
        stream = Stream(net, kept=1, rule=SPARSE)
        for i, group in enumerate(groups):
            assert torch.equal(stream(clip[:, :, 2 * i : 2 * i + 2]), group[number])


@pytest.mark.parametrize("storage", ["model", "bf16", "int8"])
@pytest.mark.parametrize("backend", ["gather", "reference", "interpreter"])
def test_a_ring_of_blocks_gives_bit_for_bit_what_a_cache_that_lies_in_order_gives(
    net: CausalDiT, backend: str, storage: KvStorage
) -> None:
    if backend == "interpreter" and not has_triton():
        pytest.skip("Triton is not installed")
    ring, straight = (Stream(net, kept=2, rule=SPARSE, backend=backend, storage=storage) for _ in range(2))
    turned = []
    for group in latents(4).split(1, dim=2):
        made = ring(group), straight(group)
        assert torch.equal(*made)
        turned.append(ring.cache.view(0).span != straight.cache.view(0).span)
        tensors, fields = straight.cache.capture()
        straight.cache.restore({name: part.clone() for name, part in tensors.items()}, fields)
    assert any(turned)


@pytest.mark.skipif(not has_triton(), reason="Triton is not installed")
def test_the_network_over_triton_kernels_equals_the_one_over_the_reference(net: CausalDiT) -> None:
    """In Triton's interpreter: choice of blocks, attention over the cache, several groups."""
    streams = [Stream(net, kept=1, rule=SPARSE, backend=name) for name in ("reference", "interpreter")]
    for seed in (1, 2):
        wanted, made = (stream(latents(2, seed)) for stream in streams)
        torch.testing.assert_close(made, wanted, atol=1e-4, rtol=0)


@pytest.mark.skipif(not has_triton(), reason="Triton is not installed")
def test_the_network_over_fused_small_operators_equals_the_one_over_the_reference(
    net: CausalDiT, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In Triton's interpreter, on a grid that blocks don't divide."""
    wanted = Stream(net, kept=1, rule=EVERYTHING, backend="gather")(latents(2, 1))
    ran: list[str] = []

    def interpret(operator: str, *_: object) -> str:
        ran.append(operator)
        return "interpreter"

    for package in (heads, residual_norm):
        monkeypatch.setattr(package, "fused_backend", interpret)
    made = Stream(net, kept=1, rule=EVERYTHING, backend="gather")(latents(2, 1))
    torch.testing.assert_close(made, wanted, atol=1e-4, rtol=0)
    assert ran.count(residual_norm.OPERATOR) == 4 * CONFIG.layers + 1
    assert ran.count(heads.OPERATOR) == 2 * CONFIG.layers + 4 * CONFIG.layers


@pytest.mark.skipif(not has_triton(), reason="Triton is not installed")
@pytest.mark.parametrize("storage", ["model", "bf16", "int8"])
def test_the_window_over_the_triton_kernel_equals_the_one_over_sdpa(
    storage: KvStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither of them is handed a wider copy of what the cache keeps; SDPA makes one of its own."""
    monkeypatch.setattr(KvStore, "read", None)
    outs = []
    for backend in ("sdpa", "interpreter"):
        cache = RingCache(
            layers=1, batch=1, frames=3, sink_frames=1, frame_tokens=5, heads=2, head_dim=12,
            dtype=torch.float32, device=torch.device("cpu"), storage=storage,
        )  # fmt: skip
        generator = torch.Generator().manual_seed(0)
        for _ in range(4):
            q, k, v = (torch.randn(1, 5, 2, 12, generator=generator) for _ in range(3))
            out = WindowAttention(cache, backend)(0, q, k, v)
            cache.commit()
        outs.append(out)
    torch.testing.assert_close(*outs, atol=1e-5, rtol=0)
