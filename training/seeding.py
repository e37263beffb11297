"""Counter-based seeds: what is random at a step depends on the step alone, never on what ran before it."""

from __future__ import annotations

import hashlib

import torch


def counter_seed(seed: int, *counters: int | str) -> int:
    """Mix a run's seed with counters (step, worker, a stream's name) into a seed in 0 .. 2**63 - 1."""
    text = "/".join(str(part) for part in (seed, *counters))
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def counter_generator(seed: int, *counters: int | str) -> torch.Generator:
    """A fresh CPU generator whose stream is a function of the arguments alone."""
    return torch.Generator().manual_seed(counter_seed(seed, *counters))
