from __future__ import annotations

import torch

from ultraflash.training.evaluation.measures import Clip, changes_by_seam
from ultraflash.training.evaluation.streams import make_prompts

PROMPT = make_prompts(1, split="test", seed=0)[0]


def test_a_change_is_counted_where_its_two_frames_lie() -> None:
    # Seven latent frames, the first of one picture: it jumps by 1 within a latent frame, by 10 between two of a group
    # of three, and by 30 between two groups.
    levels = [0]
    for later in range(1, 4 * 7 - 3):
        latent, within = divmod(later + 3, 4)
        levels.append(levels[-1] + (1 if within else 10 if latent % 3 else 30))
    frames = torch.tensor(levels, dtype=torch.uint8)[:, None, None, None].expand(-1, 8, 8, 3)
    clip = Clip(prompt=PROMPT, frames_THWC=frames)
    assert changes_by_seam([clip, clip], group_frames=3) == {"within": 1.0, "latents": 10.0, "groups": 30.0}
