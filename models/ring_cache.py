"""Caches of keys and values that a stream carries from block to block.

Shapes: B batch, L tokens, N heads, D head size, S tokens per latent frame.

Buffers are allocated once. Keys are stored after RoPE, so their order in the buffer has no meaning and a full cache
overwrites its oldest frames in place; callers only ever see what is valid.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ultraflash.models.errors import BadConfig


class RingCache:
    """Keys and values of the last frames of a stream, for all layers of one network.

    Frames come in blocks. Passes over the same block (denoising steps, then the clean one) overwrite each other until
    :meth:`commit`; the next block then takes fresh places. When the cache is full, the oldest frames after the first
    ``sink_frames`` make room.

    Args:
        layers, batch, heads, head_dim: shape of what is stored.
        frame_tokens: S.
        frames: how many latent frames fit, the block in work included.
        sink_frames: how many of the first frames are never evicted.
        dtype, device: of the stored tensors.
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
    ) -> None:
        if not 0 <= sink_frames < frames:
            raise BadConfig(f"a window of {frames} frames cannot keep {sink_frames} sink frames")
        shape = (layers, batch, frames * frame_tokens, heads, head_dim)
        self._keys = torch.zeros(shape, dtype=dtype, device=device)
        self._values = torch.zeros(shape, dtype=dtype, device=device)
        self._frame_tokens = frame_tokens
        self._frames = frames
        self._sink = sink_frames
        self.reset()

    def reset(self) -> None:
        """Forget everything; buffers stay allocated."""
        self._filled = 0  # frames in use
        self._next = 0  # frame place that the next block starts at
        self._open: list[
            tuple[int, int, int]
        ] = []  # (place, offset in block, frames) runs of the block in work

    @property
    def frames(self) -> int:
        """Latent frames that :meth:`view` shows."""
        return self._filled

    @property
    def nbytes(self) -> int:
        """Bytes of both buffers."""
        return 2 * self._keys.numel() * self._keys.element_size()

    def append(self, layer: int, k_BLND: Tensor, v_BLND: Tensor) -> None:
        """Write one layer's keys and values of the block in work, opening the block when none is."""
        if not self._open:
            self._open_block(k_BLND.shape[1] // self._frame_tokens)
        size = self._frame_tokens
        for place, offset, count in self._open:
            target = slice(place * size, (place + count) * size)
            source = slice(offset * size, (offset + count) * size)
            self._keys[layer, :, target] = k_BLND[:, source]
            self._values[layer, :, target] = v_BLND[:, source]

    def _open_block(self, count: int) -> None:
        if count > self._frames - self._sink:
            raise BadConfig(f"a block of {count} frames does not fit {self._frames - self._sink} free frames")
        done = 0
        while done < count:
            if self._next == self._frames:
                self._next = self._sink
            run = min(count - done, self._frames - self._next)
            self._open.append((self._next, done, run))
            self._next += run
            done += run
        self._filled = min(self._frames, self._filled + count)

    def view(self, layer: int) -> tuple[Tensor, Tensor]:
        """Keys and values (B, filled * S, N, D) that the block in work may see, itself included. No copy."""
        end = self._filled * self._frame_tokens
        return self._keys[layer, :, :end], self._values[layer, :, :end]

    def commit(self) -> None:
        """Close the block in work: what was written last stays."""
        self._open = []


class BlockCache:
    """The last ``frame_blocks`` temporal blocks of keys and values in block layout, for all layers of one network.

    Args:
        layers, batch, heads, head_dim: shape of what is stored.
        frame_blocks: how many temporal blocks are kept; 0 keeps none.
        spatial_blocks: blocks in one temporal block.
        block_tokens: tokens in a block.
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
    ) -> None:
        self._spatial = spatial_blocks
        shape = (layers, batch, frame_blocks * spatial_blocks, block_tokens, heads, head_dim)
        self._keys = torch.zeros(shape, dtype=dtype, device=device)
        self._values = torch.zeros(shape, dtype=dtype, device=device)
        self._capacity = frame_blocks
        self.reset()

    def reset(self) -> None:
        """Forget everything; buffers stay allocated."""
        self._filled = 0
        self._pending = 0

    @property
    def frame_blocks(self) -> int:
        """Temporal blocks that :meth:`view` shows."""
        return self._filled

    @property
    def nbytes(self) -> int:
        """Bytes of both buffers."""
        return 2 * self._keys.numel() * self._keys.element_size()

    def view(self, layer: int) -> tuple[Tensor, Tensor]:
        """Cached keys and values (B, filled * spatial_blocks, block_tokens, N, D), oldest temporal block first."""
        end = self._filled * self._spatial
        return self._keys[layer, :, :end], self._values[layer, :, :end]

    def append(self, layer: int, k_BKTND: Tensor, v_BKTND: Tensor) -> None:
        """Keep the last blocks of (cached + new) for one layer; :meth:`commit` makes them visible for all layers."""
        new = k_BKTND.shape[1] // self._spatial
        kept = min(self._capacity, self._filled + new)
        from_new = min(kept, new)
        from_old = kept - from_new
        for buffer, fresh in ((self._keys[layer], k_BKTND), (self._values[layer], v_BKTND)):
            if from_old and self._filled > from_old:
                start = (self._filled - from_old) * self._spatial
                buffer[:, : from_old * self._spatial] = buffer[
                    :, start : self._filled * self._spatial
                ].clone()
            target = slice(from_old * self._spatial, kept * self._spatial)
            buffer[:, target] = fresh[:, (new - from_new) * self._spatial :]
        self._pending = kept

    def commit(self) -> None:
        """Close the call: what was appended becomes visible."""
        self._filled = self._pending
