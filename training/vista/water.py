"""Sea and lake: a sum of travelling waves in perspective, with glitter below the sun and reflections.

Shapes: R rows below the horizon, W window columns, K waves.
"""

import math

import torch
from torch import Tensor

from ultraflash.training.vista.noise import smoothstep, table
from ultraflash.training.vista.palette import Palette, column, mix, times
from ultraflash.training.vista.scene import Scene
from ultraflash.training.vista.view import Clock, View

_NEAR = 0.12
_WAVES = 14


class Water:
    """Opaque water below `scene.horizon`; a lake is calm and mirrors what was drawn before it."""

    def __init__(self, scene: Scene, view: View, clock: Clock, palette: Palette, *, mirror: bool) -> None:
        """Precompute the sine and cosine of each wave's phase at time 0."""
        self.view, self.clock, self.mirror = view, clock, mirror
        self.first = view.row_of(scene.horizon)
        y_R = view.y(self.first, view.rows).float()
        below_R = (y_R - scene.horizon).clamp(min=0.0) + 0.012
        self.depth_R1 = (_NEAR / below_R).unsqueeze(1)
        self.x_W = view.x().float()
        self._waves(scene)
        self._colors(scene, palette, below_R)
        across_RW = (self.x_W - scene.sun_x) / (0.05 + 0.30 * below_R.unsqueeze(1))
        path_RW = torch.exp(-(across_RW**2)) * (0.35 + 0.65 * torch.exp(-4.0 * below_R)).unsqueeze(1)
        strength = palette.sun_strength * (0.75 if palette.night else 1.0)
        self.glitter_RW = path_RW * strength
        self.sun = column(mix(palette.sun, palette.low, 0.2))
        self.crest = column(times(mix(palette.low, (1.0, 1.0, 1.0), 0.3), (0.34, 0.36, 0.38)))

    def _waves(self, scene: Scene) -> None:
        dice = table(scene.seed + 40, _WAVES, 3)
        number_K = torch.arange(_WAVES).float()
        self.k_K = 16.0 * 1.33**number_K
        angle_K = (dice[:, 0] - 0.5) * 1.5
        self.kx_K = self.k_K * angle_K.sin() * 1.1
        kz_K = self.k_K * angle_K.cos()
        speed = 1.5 if self.mirror else 2.4
        self.omega_K = speed * (self.k_K / 16.0) ** 0.5 * (0.9 + 0.2 * dice[:, 1])
        steep_R1 = self.depth_R1**2 / _NEAR / self.view.ppu
        basis, weights = [], []
        for wave in range(_WAVES):
            phase_RW = self.depth_R1 * (kz_K[wave] + self.kx_K[wave] * self.x_W) + 6.283 * dice[wave, 2]
            shown_R1 = (1.6 - steep_R1 * kz_K[wave] * 1.1).clamp(0.0, 1.0)
            weight = 1.0 / (1.0 + 0.16 * wave)
            basis += [phase_RW.sin() * shown_R1 * weight, phase_RW.cos() * shown_R1 * weight]
            weights.append(weight)
        self.basis_KP = torch.stack(basis).flatten(1)
        self.norm = math.sqrt(sum(weight * weight for weight in weights) / 2.0)

    def _colors(self, scene: Scene, palette: Palette, below_R: Tensor) -> None:
        deep = mix(times((0.10, 0.36, 0.46), palette.light), times(palette.top, (0.75, 0.8, 0.85)), 0.45)
        far = mix(palette.low, palette.haze, 0.4)
        ramp_R = smoothstep(0.0, 0.30, below_R)
        haze = palette.haze_gain * 0.6
        near = mix(deep, palette.haze, haze * 0.6)
        self.base_3R1 = torch.lerp(
            column(mix(times(far, (0.86, 0.9, 0.95)), deep, 0.15)), column(near), ramp_R.view(1, -1, 1)
        )

    def draw(self, frame_3HW: Tensor, time: float) -> None:
        """Paint the water over the frame."""
        cols = self.view.cols
        turn_K = self.kx_K * (self.clock.pan(time) * _NEAR / 0.43) - self.omega_K * time
        mixed_2K = torch.stack([turn_K.cos(), turn_K.sin()], dim=1).flatten()
        wave_RW = (mixed_2K @ self.basis_KP).view(self.view.rows - self.first, cols) / self.norm
        part = frame_3HW[:, self.first :]
        if self.mirror:
            part.copy_(self._reflection(frame_3HW, wave_RW))
            part.add_(self.crest * (wave_RW * 0.22).clamp_(-0.12, 0.5))
        else:
            part.copy_(self.base_3R1.expand_as(part))
            part.add_(self.crest * (wave_RW * 0.27).clamp_(-0.30, 0.8))
        spark_RW = ((wave_RW - 0.15) * 2.2).clamp_(0.0, 1.0).mul_(self.glitter_RW)
        part.add_((self.sun - part).mul_(spark_RW))

    def _reflection(self, frame_3HW: Tensor, wave_RW: Tensor) -> Tensor:
        rows = wave_RW.shape[0]
        down_R1 = torch.arange(rows).unsqueeze(1)
        amount = self.view.ppu * 0.014
        ripple_RW = wave_RW * amount * (down_R1 / self.view.ppu * 5.0 + 0.25).clamp(max=1.0)
        row_RW = (self.first - 1 - down_R1 - ripple_RW.round().long()).clamp_(0, max(0, self.first - 1))
        seen = torch.gather(frame_3HW, 1, row_RW.unsqueeze(0).expand(3, -1, -1))
        fade_R1 = (down_R1 / self.view.ppu * 1.1).clamp(max=0.40) + 0.16
        return torch.lerp(seen, self.base_3R1.expand_as(seen), fade_R1.unsqueeze(0))
