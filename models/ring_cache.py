"""Caches of keys and values that a stream carries from block to block.

Shapes: B batch, L tokens, N heads, D head size, S tokens per latent frame, K blocks, R blocks that fit, T tokens of a
block.

Buffers are allocated once. Keys are stored after RoPE, so their order in the buffer has no meaning to attention, and a
full cache overwrites its oldest frames in place; callers only ever see what is valid.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ultraflash.kernels.block_sparse import PastBlocks, RingSpan
from ultraflash.models.errors import BadConfig
from ultraflash.models.kv_store import KvStorage, KvStore


@dataclass(slots=True, kw_only=True)
class RingMark:
    """Where a ring cache stood, and what has been overwritten since.

    Attributes:
        kept: buffers of the overwritten frames, allocated once, written at every :meth:`RingCache.mark`.
        filled, next: frames in use then, and the place of the next one.
        runs: (place, offset in ``kept``, frames) of what was in use and is overwritten.
    """

    kept: dict[str, Tensor]
    filled: int = 0
    next: int = 0
    runs: tuple[tuple[int, int, int], ...] = ()


class RingCache:
    """Keys and values of the last frames of a stream, for all layers of one network.

    Frames come in blocks. Passes over the same block (denoising steps, then the clean one) overwrite each other until
    :meth:`commit`; the next block then takes fresh places. When the cache is full, the oldest frames after the first
    ``sink_frames`` make room.

    Args:
        layers, batch: of the network, and streams in step.
        heads, head_dim: N and D.
        frame_tokens: S.
        frames: how many latent frames fit, the block in work included.
        sink_frames: how many of the first frames are never evicted.
        dtype, device: of the keys and values.
        storage: how they are kept.
    """

    def __init__(
        self,
        *,
        layers: int,
        batch: int,
        frames: int,
        sink_frames: int,
        frame_tokens: int,
        heads: int,
        head_dim: int,
        dtype: torch.dtype,
        device: torch.device,
        storage: KvStorage = "model",
    ) -> None:
        if not 0 <= sink_frames < frames:
            raise BadConfig(f"a window of {frames} frames cannot keep {sink_frames} sink frames")
        shape = (layers, batch, frames * frame_tokens, heads, head_dim)
        self._store = KvStore(shape, storage=storage, dtype=dtype, device=device)
        self._frame_tokens = frame_tokens
        self._frames = frames
        self._sink = sink_frames
        self.reset()

    def reset(self) -> None:
        """Forget everything; buffers stay allocated."""
        self._filled = 0  # frames in use
        self._next = 0  # frame place that the next block starts at
        # Runs of the block in work, each (place, offset in the block, frames).
        self._open: list[tuple[int, int, int]] = []

    @property
    def frames(self) -> int:
        """Latent frames that :meth:`view` shows."""
        return self._filled

    @property
    def occupancy(self) -> float:
        """Part of the frames that are in use, 0 to 1."""
        return self._filled / self._frames

    @property
    def nbytes(self) -> int:
        """Bytes of the buffers."""
        return self._store.nbytes

    def append(self, layer: int, k_BLND: Tensor, v_BLND: Tensor) -> None:
        """Write one layer's keys and values of the block in work, opening the block when none is.

        Raises:
            ValueError: not whole frames of this cache's shape, or not as many as the passes before had.
            BadConfig: more frames than fit.
        """
        frames = k_BLND.shape[1] // self._frame_tokens
        shape = self._store.shape
        wanted = (shape[1], frames * self._frame_tokens, *shape[3:])
        if frames == 0 or k_BLND.shape != wanted or v_BLND.shape != wanted:
            raise ValueError(
                f"a cache of {wanted[0]} streams, {self._frame_tokens} tokens a frame and heads {tuple(wanted[2:])} "
                f"cannot hold {tuple(k_BLND.shape)} and {tuple(v_BLND.shape)}"
            )
        if not self._open:
            self._open_block(frames)
        elif frames != sum(count for _, _, count in self._open):
            raise ValueError(f"{frames} frames in a pass over another block; commit() closes a block")
        size = self._frame_tokens
        for place, offset, count in self._open:
            source = slice(offset * size, (offset + count) * size)
            self._store.write(layer, place * size, k_BLND[:, source], v_BLND[:, source])

    def _open_block(self, count: int) -> None:
        self._open, self._next = self._places(count)
        self._filled = min(self._frames, self._filled + count)

    def _places(self, count: int) -> tuple[list[tuple[int, int, int]], int]:
        """The runs that a block of ``count`` frames takes, and the place after it."""
        if count > self._frames - self._sink:
            raise BadConfig(f"a block of {count} frames does not fit {self._frames - self._sink} free frames")
        runs, place, done = [], self._next, 0
        while done < count:
            if place == self._frames:
                place = self._sink
            run = min(count - done, self._frames - place)
            runs.append((place, done, run))
            place += run
            done += run
        return runs, place

    def view(self, layer: int) -> tuple[Tensor, Tensor]:
        """Keys and values (B, filled * S, N, D) that the block in work may see, itself included."""
        return self._store.read(layer, 0, self._filled * self._frame_tokens)

    def kept(self, layer: int) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor] | None]:
        """What :meth:`view` shows as it is kept, without a copy: keys, values, and of int8 scales (B, places, N)."""
        return self._store.kept(layer, self._filled * self._frame_tokens)

    def past(self, layer: int, count: int) -> tuple[Tensor, Tensor]:
        """Copies of what a next block of ``count`` frames will see beside itself: all but what makes room for it.

        Raises:
            ValueError: a block is in work.
            BadConfig: more frames than fit.
        """
        if self._open:
            raise ValueError("a block is in work; commit() closes it")
        # Pieces by their bounds: a list of places would have to be copied to a GPU, which waits for it.
        kept: list[slice] = []
        start = 0
        for place, _, run in sorted(self._places(count)[0]):
            kept.append(slice(start, min(place, self._filled)))
            start = place + run
        kept.append(slice(start, max(start, self._filled)))
        size = self._frame_tokens
        keys, values = (
            torch.cat([x[:, part.start * size : part.stop * size] for part in kept], 1)
            for x in self.view(layer)
        )
        return keys, values

    def commit(self) -> None:
        """Close the block in work: what was written last stays."""
        self._open = []

    def capture(self) -> tuple[dict[str, Tensor], dict[str, int]]:
        """What a stream would miss: the filled part of the buffers, without a copy, and where it stands.

        Raises:
            ValueError: a block is in work.
        """
        if self._open:
            raise ValueError("a block is in work; commit() closes it")
        fields = {"filled": self._filled, "next": self._next}
        return self._store.tensors(slice(0, self._filled * self._frame_tokens)), fields

    def restore(self, tensors: dict[str, Tensor], fields: dict[str, int]) -> None:
        """Go on where :meth:`capture` was called."""
        self.reset()
        self._filled, self._next = fields["filled"], fields["next"]
        self._store.restore(tensors, self._filled * self._frame_tokens)

    def spare(self, frames: int) -> RingMark:
        """Room for :meth:`mark` to note ``frames`` more frames, to be used again and again."""
        return RingMark(kept=self._store.spare(self._overwritten(frames) * self._frame_tokens))

    def mark(self, frames: int, into: RingMark) -> None:
        """Note where it stands, with copies of what ``frames`` more frames will overwrite.

        Args:
            frames: as :meth:`spare` was given.
            into: what :meth:`spare` gave; what it held is lost.

        Raises:
            ValueError: a block is in work.
        """
        if self._open:
            raise ValueError("a block is in work; commit() closes it")
        runs, _ = self._places(self._overwritten(frames))
        into.filled, into.next = self._filled, self._next
        into.runs = tuple(run for run in runs if run[0] < self._filled)
        self._with_kept(self._store.keep, into)

    def rewind(self, mark: RingMark) -> None:
        """Be again as :meth:`mark` found it, whether or not all those frames have come since."""
        self._open = []
        self._filled, self._next = mark.filled, mark.next
        self._with_kept(self._store.paste, mark)

    def trade(self, mark: RingMark) -> None:
        """Rewind to ``mark``, which then takes it back to where it stands now."""
        self._filled, mark.filled = mark.filled, self._filled
        self._next, mark.next = mark.next, self._next
        self._with_kept(self._store.swap, mark)

    def _overwritten(self, frames: int) -> int:
        """Places that ``frames`` more frames take: more than fit come round to those that the first have taken."""
        return min(frames, self._frames - self._sink)

    def _with_kept(self, move: Callable[[int, int, dict[str, Tensor], int], None], mark: RingMark) -> None:
        size = self._frame_tokens
        for place, offset, count in mark.runs:
            move(place * size, (place + count) * size, mark.kept, offset * size)

    def to(self, device: torch.device) -> None:
        """Move the buffers."""
        self._store.to(device)


class BlockCache:
    """The last ``frame_blocks`` temporal blocks of keys and values in block layout, for all layers of one network.

    A ring of temporal blocks: what is new takes the places of what is oldest, and nothing else is moved.

    Args:
        layers, batch: of the network, and streams in step.
        frame_blocks: how many temporal blocks are kept; 0 keeps none.
        spatial_blocks: blocks in one temporal block.
        block_tokens: tokens in a block.
        heads, head_dim: N and D.
        dtype, device: of the keys and values.
        storage: how they are kept.
    """

    def __init__(
        self,
        *,
        layers: int,
        batch: int,
        frame_blocks: int,
        spatial_blocks: int,
        block_tokens: int,
        heads: int,
        head_dim: int,
        dtype: torch.dtype,
        device: torch.device,
        storage: KvStorage = "model",
    ) -> None:
        self._spatial = spatial_blocks
        shape = (layers, batch, frame_blocks * spatial_blocks, block_tokens, heads, head_dim)
        self._store = KvStore(shape, storage=storage, dtype=dtype, device=device)
        self._capacity = self._window = frame_blocks
        self.reset()

    def reset(self) -> None:
        """Forget everything; buffers stay allocated."""
        self._filled = 0
        self._next = 0  # place of the temporal block that comes next
        self._pending = (0, 0)  # both, once the call is over

    def limit(self, frame_blocks: int) -> None:
        """Show and keep at most ``frame_blocks`` temporal blocks from now on, which may be fewer than fit.

        Raises:
            ValueError: more than fit.
        """
        if not 0 <= frame_blocks <= self._capacity:
            raise ValueError(f"the cache holds {self._capacity} temporal blocks, not {frame_blocks}")
        self._window = frame_blocks

    @property
    def frame_blocks(self) -> int:
        """Temporal blocks that :meth:`view` shows."""
        return min(self._filled, self._window)

    @property
    def occupancy(self) -> float:
        """Temporal blocks that are shown, as a part of those that fit, 0 to 1."""
        return self.frame_blocks / self._capacity if self._capacity else 0.0

    @property
    def nbytes(self) -> int:
        """Bytes of the buffers."""
        return self._store.nbytes

    def view(self, layer: int) -> PastBlocks:
        """Cached keys and values (B, R, T, N, D) as they are kept, and which of their blocks are shown; no copy."""
        keys, values, scales = self._store.kept(layer)
        return PastBlocks(
            k_BRTND=keys,
            v_BRTND=values,
            k_scale_BRTN=None if scales is None else scales[0],
            v_scale_BRTN=None if scales is None else scales[1],
            span=self._last(self.frame_blocks),
        )

    def _last(self, frame_blocks: int) -> RingSpan:
        first = (self._next - frame_blocks) % max(self._capacity, 1)
        return RingSpan(first=first * self._spatial, count=frame_blocks * self._spatial)

    def append(self, layer: int, k_BKTND: Tensor, v_BKTND: Tensor) -> None:
        """Keep the last blocks of (cached + new) for one layer; :meth:`commit` makes them visible for all layers.

        Until then a layer that has been written no longer holds what :meth:`view` shows of it.

        Raises:
            ValueError: not whole temporal blocks of this cache's shape.
        """
        new = k_BKTND.shape[1] // self._spatial
        shape = self._store.shape
        wanted = (shape[1], new * self._spatial, *shape[3:])
        if new == 0 or k_BKTND.shape != wanted or v_BKTND.shape != wanted:
            raise ValueError(
                f"a cache of {wanted[0]} streams, {self._spatial} blocks a temporal block and blocks of "
                f"{tuple(wanted[2:])} cannot hold {tuple(k_BKTND.shape)} and {tuple(v_BKTND.shape)}"
            )
        filled = min(self._window, self._filled + new)
        kept = min(filled, new)
        source = new - kept
        for run in RingSpan(first=self._next, count=kept).runs(self._capacity):
            count = run.stop - run.start
            fresh = slice(source * self._spatial, (source + count) * self._spatial)
            self._store.write(layer, run.start * self._spatial, k_BKTND[:, fresh], v_BKTND[:, fresh])
            source += count
        self._pending = filled, (self._next + kept) % max(self._capacity, 1)

    def commit(self) -> None:
        """Close the call: what was appended becomes visible."""
        self._filled, self._next = self._pending

    def capture(self) -> tuple[dict[str, Tensor], dict[str, int]]:
        """What a stream would miss, oldest first, and how much that is; a copy where it goes round the ring's end."""
        fields = {"filled": self._filled, "window": self._window}
        return self._store.tensors(*self._last(self._filled).runs(self._store.shape[2])), fields

    def restore(self, tensors: dict[str, Tensor], fields: dict[str, int]) -> None:
        """Go on where :meth:`capture` was called."""
        self.limit(fields["window"])
        self._filled = fields["filled"]
        self._next = self._filled % max(self._capacity, 1)
        self._pending = self._filled, self._next
        self._store.restore(tensors, self._filled * self._spatial)

    def to(self, device: torch.device) -> None:
        """Move the buffers."""
        self._store.to(device)
