import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ultraflash.models.errors import BadConfig
from ultraflash.models.kv_store import KvStorage
from ultraflash.models.ring_cache import BlockCache, RingCache

CPU = torch.device("cpu")


def ring(frames: int, sink: int = 0) -> RingCache:
    return RingCache(
        layers=1, batch=1, frames=frames, sink_frames=sink, frame_tokens=2, heads=1, head_dim=1,
        dtype=torch.float32, device=CPU,
    )  # fmt: skip


def frame_block(first: int, count: int) -> torch.Tensor:
    """Keys whose value is the number of the frame they belong to."""
    return torch.arange(first, first + count).repeat_interleave(2).float().view(1, -1, 1, 1)


def held(cache: RingCache) -> list[int]:
    keys, values = cache.view(0)
    assert torch.equal(keys, values)
    return sorted({int(x) for x in keys.flatten()})


def push(cache: RingCache, first: int, count: int) -> None:
    block = frame_block(first, count)
    cache.append(0, block, block)
    cache.commit()


def test_passes_over_one_block_overwrite_each_other() -> None:
    cache = ring(6)
    for value in (1.0, 2.0):
        block = torch.full((1, 6, 1, 1), value)
        cache.append(0, block, block)
    assert cache.frames == 3
    assert cache.view(0)[0].unique().tolist() == [2.0]


@pytest.mark.parametrize(("frames", "sink"), [(5, 1), (6, 0), (7, 3), (4, 0), (12, 3)])
def test_window_keeps_the_sink_and_the_newest_frames(frames: int, sink: int) -> None:
    cache = ring(frames, sink)
    seen: list[int] = []
    for block in range(12):
        push(cache, 3 * block, 3)
        seen += range(3 * block, 3 * block + 3)
        rest = seen[sink:]
        kept = seen[:sink] + rest[max(0, len(rest) - (frames - sink)) :]
        assert held(cache) == kept


@pytest.mark.parametrize(
    ("frames", "sink", "pushed"), [(6, 0, 0), (6, 0, 1), (6, 0, 5), (7, 2, 4), (8, 1, 3)]
)
def test_the_past_is_what_the_next_block_sees_beside_itself(frames: int, sink: int, pushed: int) -> None:
    cache = ring(frames, sink)
    for i in range(pushed):
        push(cache, 2 * i, 2)
    keys, values = cache.past(0, 2)
    push(cache, 2 * pushed, 2)
    assert torch.equal(keys, values)
    assert sorted({int(x) for x in keys.flatten()}) == held(cache)[:-2]


def test_a_block_in_work_is_no_past() -> None:
    cache = ring(6)
    cache.append(0, frame_block(0, 2), frame_block(0, 2))
    with pytest.raises(ValueError, match="commit"):
        cache.past(0, 2)


def test_single_first_frame_may_come_before_longer_blocks() -> None:
    cache = ring(6, 1)
    push(cache, 0, 1)
    push(cache, 1, 3)
    push(cache, 4, 3)
    assert held(cache) == [0, 2, 3, 4, 5, 6]


def test_a_full_cache_allocates_nothing_more() -> None:
    cache = ring(6)
    push(cache, 0, 3)
    before = cache.view(0)[0].data_ptr(), cache.nbytes
    for block in range(1, 9):
        push(cache, 3 * block, 3)
    assert (cache.view(0)[0].data_ptr(), cache.nbytes) == before


def test_reset_forgets_everything() -> None:
    cache = ring(6)
    push(cache, 0, 3)
    cache.reset()
    assert cache.frames == 0
    push(cache, 7, 3)
    assert held(cache) == [7, 8, 9]


def test_block_that_cannot_fit_is_refused() -> None:
    with pytest.raises(BadConfig, match="does not fit"):
        push(ring(4, 2), 0, 3)
    with pytest.raises(BadConfig, match="sink"):
        ring(3, 3)


@pytest.mark.parametrize("shape", [(1, 5, 1, 1), (1, 1, 1, 1), (1, 0, 1, 1), (2, 6, 1, 1), (1, 6, 2, 1)])
def test_keys_of_another_shape_are_refused_rather_than_spread(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="cannot hold"):
        ring(6).append(0, torch.zeros(shape), torch.zeros(shape))


def test_a_pass_over_a_block_has_as_many_frames_as_the_one_before() -> None:
    cache = ring(6)
    cache.append(0, frame_block(0, 3), frame_block(0, 3))
    with pytest.raises(ValueError, match="another block"):
        cache.append(0, frame_block(0, 2), frame_block(0, 2))


def test_part_of_a_temporal_block_is_refused() -> None:
    cache = BlockCache(
        layers=1, batch=2, frame_blocks=2, spatial_blocks=2, block_tokens=1, heads=1, head_dim=1,
        dtype=torch.float32, device=CPU,
    )  # fmt: skip
    for shape in ((2, 3, 1, 1, 1), (1, 2, 1, 1, 1), (2, 0, 1, 1, 1)):
        with pytest.raises(ValueError, match="cannot hold"):
            cache.append(0, torch.zeros(shape), torch.zeros(shape))


@pytest.mark.parametrize("capacity", [0, 1, 2, 3, 5])
@pytest.mark.parametrize("new", [1, 2, 3])
def test_block_cache_keeps_the_last_temporal_blocks_in_order(capacity: int, new: int) -> None:
    cache = BlockCache(
        layers=2, batch=1, frame_blocks=capacity, spatial_blocks=2, block_tokens=1, heads=1, head_dim=1,
        dtype=torch.float32, device=CPU,
    )  # fmt: skip
    seen: list[int] = []
    for call in range(4):
        fresh = list(range(call * new, (call + 1) * new))
        keys = torch.tensor(fresh).repeat_interleave(2).float().view(1, -1, 1, 1, 1)
        for layer in range(2):
            cache.append(layer, keys, keys)
            visible = cache.view(layer).dense(torch.float32)[0].flatten().tolist()
            assert len(visible) == 2 * len(seen[max(0, len(seen) - capacity) :])
        cache.commit()
        seen += fresh
        expected = [float(x) for x in seen[max(0, len(seen) - capacity) :] for _ in range(2)]
        for layer in range(2):
            assert cache.view(layer).dense(torch.float32)[0].flatten().tolist() == expected


def block_cache(capacity: int, storage: KvStorage = "model") -> BlockCache:
    return BlockCache(
        layers=1, batch=1, frame_blocks=capacity, spatial_blocks=2, block_tokens=1, heads=1, head_dim=1,
        dtype=torch.float32, device=CPU, storage=storage,
    )  # fmt: skip


@pytest.mark.parametrize("storage", ["model", "bf16", "int8"])
@given(
    capacity=st.integers(0, 5),
    calls=st.lists(st.tuples(st.integers(1, 7), st.integers(0, 5), st.booleans()), max_size=12),
)
def test_any_stream_of_calls_and_windows_shows_the_last_temporal_blocks(
    storage: KvStorage, capacity: int, calls: list[tuple[int, int, bool]]
) -> None:
    """Against a plain list; now and then the stream moves on to another cache, as it does by a snapshot."""
    cache, kept, number, window = block_cache(capacity, storage), [0.0][:0], 0, capacity
    for new, limit, moves in calls:
        window = min(limit, capacity)
        cache.limit(window)
        fresh = [float(number + i) for i in range(new)]
        keys = torch.tensor(fresh).repeat_interleave(2).view(1, -1, 1, 1, 1)
        cache.append(0, keys, -keys)
        cache.commit()
        number += new
        kept = [*kept, *fresh][len(kept) + new - min(window, len(kept) + new) :]
        if moves:
            other = block_cache(capacity, storage)
            tensors, fields = cache.capture()
            other.restore({name: part.clone() for name, part in tensors.items()}, fields)
            cache = other
        shown, values = cache.view(0).dense(torch.float32)
        assert shown.flatten().tolist() == pytest.approx([x for x in kept for _ in range(2)])
        assert torch.equal(values, -shown)


@pytest.mark.parametrize("storage", ["model", "bf16", "int8"])
def test_what_is_shown_is_the_buffer_itself_however_it_is_kept(storage: KvStorage) -> None:
    cache = block_cache(3, storage)
    keys = torch.ones(1, 4, 1, 1, 1)
    cache.append(0, keys, keys)
    cache.commit()
    once, again = cache.view(0), cache.view(0)
    assert once.k_BRTND.data_ptr() == again.k_BRTND.data_ptr()
    assert once.v_BRTND.data_ptr() == again.v_BRTND.data_ptr()


def test_what_is_kept_stays_where_it_is() -> None:
    cache, places = block_cache(3), []
    for call in range(7):
        keys = torch.full((1, 2, 1, 1, 1), float(call + 1))
        before = cache.view(0).k_BRTND.clone()
        cache.append(0, keys, keys)
        cache.commit()
        changed = (cache.view(0).k_BRTND != before).flatten().nonzero().flatten().tolist()
        places.append(changed)
    assert places == [[0, 1], [2, 3], [4, 5], [0, 1], [2, 3], [4, 5], [0, 1]]


@pytest.mark.parametrize(("before", "sink"), [(0, 0), (3, 0), (6, 0), (12, 0), (3, 1), (12, 1)])
@pytest.mark.parametrize("frames", [3, 9])
def test_a_cache_that_is_taken_back_is_as_it_was_noted(before: int, sink: int, frames: int) -> None:
    cache = ring(7, sink)
    for start in range(0, before, 3):
        push(cache, start, 3)
    noted, wanted = cache.spare(frames), held(cache)
    cache.mark(frames, noted)
    for start in range(before, before + frames, 3):
        push(cache, start, 3)
    ahead = held(cache)
    assert ahead != wanted
    cache.trade(noted)
    assert held(cache) == wanted
    cache.trade(noted)
    assert held(cache) == ahead
    cache.rewind(noted)
    assert held(cache) == wanted
    other = ring(7, sink)
    for start in range(0, before + 3, 3):
        push(other, start, 3)
    push(cache, before, 3)
    assert held(cache) == held(other)


def test_a_cache_with_a_block_in_work_is_not_noted() -> None:
    cache = ring(6)
    cache.append(0, frame_block(0, 3), frame_block(0, 3))
    with pytest.raises(ValueError, match="in work"):
        cache.mark(3, cache.spare(3))
