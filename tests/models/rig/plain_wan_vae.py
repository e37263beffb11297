"""Wan's VAE over whole clips, in the layout of its own file: no caches, no pieces, nothing shared with diffusers.

Shapes: B batch, C channels, T frames, H W rows and columns.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional


class Causal(nn.Conv3d):
    """Sees its own frame and those before; the edges of a picture are zeros, and so is what was before a clip."""

    def forward(self, x: Tensor) -> Tensor:
        time, rows, cols = self.kernel_size
        edges = (cols // 2, cols // 2, rows // 2, rows // 2)
        return functional.conv3d(functional.pad(x, (*edges, time - 1, 0)), self.weight, self.bias)


class Norm(nn.Module):
    """To unit length over the channels, times a learned scale."""

    def __init__(self, dim: int, axes: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(dim, *[1] * axes))

    def forward(self, x: Tensor) -> Tensor:
        return functional.normalize(x, dim=1) * len(self.gamma) ** 0.5 * self.gamma


class Residual(nn.Module):
    def __init__(self, into: int, out: int) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            Norm(into, 3),
            nn.SiLU(),
            Causal(into, out, 3),
            Norm(out, 3),
            nn.SiLU(),
            nn.Identity(),
            Causal(out, out, 3),
        )
        self.shortcut = Causal(into, out, 1) if into != out else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.residual(x) + self.shortcut(x)


def by_frame(net: nn.Module, x_BCTHW: Tensor) -> Tensor:
    """Run a network of pictures over every frame."""
    batch = x_BCTHW.shape[0]
    return net(x_BCTHW.transpose(1, 2).flatten(0, 1)).unflatten(0, (batch, -1)).transpose(1, 2)


class Attention(nn.Module):
    """One head over the places of a frame."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = Norm(dim, 2)
        self.to_qkv = nn.Conv2d(dim, 3 * dim, 1)
        self.proj = nn.Conv2d(dim, dim, 1)

    def _picture(self, x: Tensor) -> Tensor:
        q, k, v = self.to_qkv(self.norm(x)).flatten(2).transpose(1, 2).chunk(3, dim=-1)
        weights = (q @ k.transpose(1, 2) / q.shape[-1] ** 0.5).softmax(dim=-1)
        return self.proj((weights @ v).transpose(1, 2).unflatten(2, x.shape[2:]))

    def forward(self, x: Tensor) -> Tensor:
        return x + by_frame(self._picture, x)


class Shrink(nn.Module):
    """Half the rows and columns, and of every two frames after the first one."""

    def __init__(self, dim: int, *, time: bool) -> None:
        super().__init__()
        self.resample = nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(dim, dim, 3, stride=2))
        if time:
            self.time_conv = nn.Conv3d(dim, dim, (3, 1, 1), stride=(2, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = by_frame(self.resample, x)
        if not hasattr(self, "time_conv") or x.shape[2] < 3:
            return x
        return torch.cat((x[:, :, :1], self.time_conv(x)), dim=2)


class Grow(nn.Module):
    """Twice the rows and columns, and two frames for every one after the first, which is as if nothing were before."""

    def __init__(self, dim: int, *, time: bool) -> None:
        super().__init__()
        self.resample = nn.Sequential(
            nn.Upsample(scale_factor=2.0, mode="nearest-exact"), nn.Conv2d(dim, dim // 2, 3, padding=1)
        )
        if time:
            self.time_conv = Causal(dim, 2 * dim, (3, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        if hasattr(self, "time_conv") and x.shape[2] > 1:
            pairs = self.time_conv(x[:, :, 1:]).unflatten(1, (2, -1))
            x = torch.cat((x[:, :, :1], pairs.permute(0, 2, 3, 1, 4, 5).flatten(2, 3)), dim=2)
        return by_frame(self.resample, x)


def middle(dim: int) -> nn.Sequential:
    return nn.Sequential(Residual(dim, dim), Attention(dim), Residual(dim, dim))


class Encoder(nn.Module):
    def __init__(self, blocks: Sequence[nn.Module], low: int, high: int, z_dim: int) -> None:
        super().__init__()
        self.conv1 = Causal(3, low, 3)
        self.downsamples = nn.Sequential(*blocks)
        self.middle = middle(high)
        self.head = nn.Sequential(Norm(high, 3), nn.SiLU(), Causal(high, 2 * z_dim, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.middle(self.downsamples(self.conv1(x))))


class Decoder(nn.Module):
    def __init__(self, blocks: Sequence[nn.Module], low: int, high: int, z_dim: int) -> None:
        super().__init__()
        self.conv1 = Causal(z_dim, high, 3)
        self.middle = middle(high)
        self.upsamples = nn.Sequential(*blocks)
        self.head = nn.Sequential(Norm(low, 3), nn.SiLU(), Causal(low, 3, 3))

    def forward(self, z: Tensor) -> Tensor:
        return self.head(self.upsamples(self.middle(self.conv1(z))))


class PlainWanVae(nn.Module):
    """The whole network; arguments as diffusers' ``AutoencoderKLWan`` names them, with Wan 2.1's as defaults."""

    def __init__(
        self,
        base_dim: int = 96,
        z_dim: int = 16,
        dim_mult: Sequence[int] = (1, 2, 4, 4),
        num_res_blocks: int = 2,
        temperal_downsample: Sequence[bool] = (False, True, True),
    ) -> None:
        super().__init__()
        widths = [base_dim * times for times in dim_mult]
        down: list[nn.Module] = []
        into = widths[0]
        for level, width in enumerate(widths):
            for _ in range(num_res_blocks):
                down.append(Residual(into, width))
                into = width
            if level < len(temperal_downsample):
                down.append(Shrink(width, time=temperal_downsample[level]))
        up: list[nn.Module] = []
        growth = list(reversed(temperal_downsample))
        for level, width in enumerate(reversed(widths)):
            for _ in range(num_res_blocks + 1):
                up.append(Residual(into, width))
                into = width
            if level < len(growth):
                up.append(Grow(width, time=growth[level]))
                into = width // 2
        low, high = widths[0], widths[-1]
        self.encoder = Encoder(down, low, high, z_dim)
        self.decoder = Decoder(up, low, high, z_dim)
        self.conv1 = Causal(2 * z_dim, 2 * z_dim, 1)
        self.conv2 = Causal(z_dim, z_dim, 1)

    def encode(self, x_BCTHW: Tensor) -> Tensor:
        """Means of the posterior of 4n-3 frames in [-1, 1]."""
        return self.conv1(self.encoder(x_BCTHW)).chunk(2, dim=1)[0]

    def decode(self, z_BCTHW: Tensor) -> Tensor:
        """Frames in [-1, 1], clamped."""
        return self.decoder(self.conv2(z_BCTHW)).clamp(-1, 1)
