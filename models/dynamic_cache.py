"""Work that a stream may leave out: denoising steps, commit passes, and old temporal blocks of super-resolution.

All three are approximations, off by default, chosen per preset in ``[dynamic_cache]`` and carried by each stream.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ultraflash.models.errors import BadConfig
from ultraflash.models.schedule import FlowSchedule


@dataclass(frozen=True, slots=True, kw_only=True)
class DynamicCacheConfig:
    """The three switches.

    Args:
        later_steps: denoising steps of every block after a stream's first, spread over the schedule's steps; None
            takes all of them.
        skip_commit_above: when :func:`agreement` of a block is above it, its last denoising pass leaves the block's
            keys and values and the pass over the clean block is left out; None never leaves it out. In (-inf, 1).
        shrink_sr_window: whether super-resolution sees one cached temporal block less with every group from
            ``warmup_groups`` on.
        warmup_groups: groups with the full window.
        min_sr_blocks: what the window shrinks to.
    """

    later_steps: int | None = None
    skip_commit_above: float | None = None
    shrink_sr_window: bool = False
    warmup_groups: int = 2
    min_sr_blocks: int = 1

    def __post_init__(self) -> None:
        if self.later_steps is not None and self.later_steps < 1:
            raise BadConfig(f"later_steps starts at 1, not {self.later_steps}", param="dynamic_cache")
        if self.skip_commit_above is not None and not self.skip_commit_above < 1:
            raise BadConfig(
                f"skip_commit_above is below 1, which no block exceeds, not {self.skip_commit_above}",
                param="dynamic_cache",
            )
        if min(self.warmup_groups, self.min_sr_blocks) < 0:
            raise BadConfig("warmup_groups and min_sr_blocks start at 0", param="dynamic_cache")

    def check(self, schedule: FlowSchedule) -> None:
        """Raise BadConfig when more steps are asked for than the schedule has."""
        steps = len(schedule.nominal_steps)
        if self.later_steps is not None and self.later_steps > steps:
            raise BadConfig(
                f"later_steps is {self.later_steps}, but the schedule has {steps} steps",
                param="dynamic_cache",
            )

    def steps(self, total: int, *, first_block: bool) -> tuple[int, ...]:
        """Which of a schedule's ``total`` steps a block runs: all, or ``later_steps`` of them.

        Those are ``linspace(0, total - 1, later_steps)``, rounded half to even: the first and the last step always,
        except that a single one is the first.
        """
        if first_block or self.later_steps is None or self.later_steps >= total:
            return tuple(range(total))
        if self.later_steps == 1:
            return (0,)
        apart = (total - 1) / (self.later_steps - 1)
        return tuple(round(i * apart) for i in range(self.later_steps))

    def sr_window(self, cached_blocks: int, groups: int) -> int:
        """Cached temporal blocks that super-resolution sees in the group after ``groups`` groups."""
        if not self.shrink_sr_window:
            return cached_blocks
        shrunk = cached_blocks - max(0, groups - self.warmup_groups + 1)
        return max(min(self.min_sr_blocks, cached_blocks), shrunk)


def agreement(before: Tensor, last: Tensor) -> float:
    """How well a block's last two clean estimates agree: ``1 - rms(last - before) / rms(last)``, at most 1.

    A block on which the network has made up its mind changes little in its last step, and then its keys and values
    at that step's noise level are near those of the clean block. It costs two sums over the latents and, on a GPU,
    one wait for their result per block.
    """
    change = torch.linalg.vector_norm((last - before).float())
    size = torch.linalg.vector_norm(last.float())
    return float(1 - change / size.clamp_min(torch.finfo(torch.float32).tiny))


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheUse:
    """What a stream has left out so far, and how full its caches are.

    Attributes:
        steps_saved: denoising passes left out.
        refreshes_skipped: commit passes left out.
        occupancy: by cache (``base``, ``sr``), the part of its places that the next block can see, 0 to 1.
    """

    steps_saved: int = 0
    refreshes_skipped: int = 0
    occupancy: Mapping[str, float] = field(default_factory=dict)
