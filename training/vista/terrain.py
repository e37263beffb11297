"""Land in sheets: peaks and dunes, hills, conifers, buildings. Each function paints one sheet.

Shapes: R rows from the sheet's top to the bottom of the window, S sheet columns.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from ultraflash.training.vista.layers import Sheet, Track
from ultraflash.training.vista.noise import fbm, fbm_line, smoothstep, table
from ultraflash.training.vista.palette import Color, Palette, column, mix
from ultraflash.training.vista.view import View

_TABLE = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """Where a sheet of land stands, how far away, and of what."""

    seed: int
    base: float
    height: float
    haze: float
    material: Color
    sun_right: bool = True


def _rows(view: View, top: float, bottom: float = 1.1) -> tuple[int, int, Tensor]:
    first = view.row_of(top)
    last = max(first, view.row_of(bottom))
    return first, last, view.y(first, last)


def _cells(seed: int, x_S: Tensor, spacing: float, residue: int, modulus: int) -> tuple[Tensor, Tensor]:
    """Per column: table index and jittered world x of the nearest cell whose number is `residue` modulo `modulus`.

    Painting one residue after the other keeps the order of overlapping cells the same in all columns.
    """
    number_S = torch.round((x_S / spacing - 0.5 - residue) / modulus) * modulus + residue
    index_S = number_S.long() % _TABLE
    jitter_S = (table(seed, _TABLE)[index_S] - 0.5) * 0.7
    return index_S, ((number_S + 0.5 + jitter_S) * spacing).float()


def peaks(
    track: Track, palette: Palette, ground: Ground, *, spacing: float, slope: float, snow: float = 0.0,
    smooth: bool = False, bottom: float = 1.1,
) -> Sheet:  # fmt: skip
    """Mountains with a sunlit and a shaded face, or dunes (`smooth`); `snow` is the share of a peak that is white."""
    view, seed, x_S = track.view, ground.seed, track.x()
    first, _, y_R = _rows(view, ground.base - ground.height * 1.15, bottom)
    y = y_R.float().unsqueeze(1)
    rough_RS = fbm(seed + 1, x_S, y_R, freq=(7.0, 5.0), octaves=6, gain=0.62, ppu=view.ppu)
    wide_S = fbm_line(seed + 2, x_S, freq=6.0, octaves=2 if smooth else 6, gain=0.55, ppu=view.ppu)
    crease_R = fbm_line(seed + 3, y_R, freq=5.0, octaves=2 if smooth else 5, ppu=view.ppu)
    x = x_S.float()
    rgb = torch.zeros(3, y_R.numel(), x_S.numel())
    alpha = torch.zeros(y_R.numel(), x_S.numel())
    lit_color, shade_color = (
        palette.lit(ground.material, ground.haze),
        palette.shaded(ground.material, ground.haze),
    )
    white: Color = (0.97, 0.98, 1.0)
    snow_lit, snow_shade = palette.lit(white, ground.haze * 0.8), palette.shaded(white, ground.haze * 0.8)
    foot = mix(lit_color, palette.haze, 0.55)
    texture = 0.0 if smooth else 1.0
    modulus = 4 if smooth else 3
    for residue in range(modulus):
        index_S, centre_S = _cells(seed, x_S, spacing, residue, modulus)
        apex_S = ground.base - ground.height * (0.55 + 0.45 * table(seed + 5, _TABLE)[index_S])
        slope_S = slope * (0.8 + 0.4 * table(seed + 6, _TABLE)[index_S])
        side_S = x - centre_S
        away_S = side_S.abs()
        rounded_S = torch.sqrt(away_S * away_S + 2e-3) - 0.03 if smooth else away_S
        edge_S = (
            apex_S
            + slope_S * rounded_S
            + wide_S * (0.008 if smooth else 0.05) * (away_S * 8.0).clamp(max=1.0)
        )
        cover_RS = ((y - edge_S) * view.ppu / (1.0 + slope_S * 0.6) + 0.5).clamp_(0.0, 1.0)
        below_RS = (y - apex_S).clamp_(min=0.0)
        crease_RS = (0.5 if smooth else 0.42) * crease_R.unsqueeze(
            1
        ) * below_RS / slope + 0.035 * texture * rough_RS
        turn_RS = side_S - crease_RS if ground.sun_right else crease_RS - side_S
        lit_RS = (turn_RS * (12.0 if smooth else 45.0) + 0.5).clamp_(0.0, 1.0)
        face = torch.lerp(column(shade_color), column(lit_color), lit_RS.unsqueeze(0))
        if snow > 0.0:
            line_RS = ground.height * snow + 0.045 * rough_RS + 0.02 * wide_S - below_RS
            white_RS = (line_RS * 60.0 + 0.5).clamp_(0.0, 1.0).unsqueeze(0)
            face = torch.lerp(
                face, torch.lerp(column(snow_shade), column(snow_lit), lit_RS.unsqueeze(0)), white_RS
            )
        face = face * (1.0 + (0.16 if texture else 0.03) * (1.0 - ground.haze) * rough_RS)
        mist_RS = smoothstep(0.35, 1.25, below_RS / ground.height) * 0.6
        face = torch.lerp(face, column(foot), mist_RS.unsqueeze(0))
        rgb.lerp_(face, cover_RS.unsqueeze(0).expand_as(face))
        alpha = torch.maximum(alpha, cover_RS)
    solid_RS = smoothstep(ground.base - 0.02, ground.base + 0.01, y).expand_as(alpha)
    rgb = torch.where(alpha.unsqueeze(0) > 0.02, rgb / alpha.clamp(min=0.02), rgb)
    rgb = torch.lerp(rgb, column(foot).expand_as(rgb), (solid_RS * (1.0 - alpha)).unsqueeze(0))
    return Sheet(track, rgb, torch.maximum(alpha, solid_RS), first)


def hill(
    track: Track, palette: Palette, ground: Ground, *, freq: float, flowers: bool = False, ripples: bool = False,
    bottom: float = 1.1,
) -> Sheet:  # fmt: skip
    """Rolling ground to the bottom of the picture, with grass or sand texture, and flowers close by."""
    view, seed, x_S = track.view, ground.seed, track.x()
    first, _, y_R = _rows(view, ground.base - ground.height * 1.3, bottom)
    y = y_R.float().unsqueeze(1)
    edge_S = ground.base - ground.height * 0.7 * fbm_line(
        seed, x_S, freq=freq, octaves=3, gain=0.35, ppu=view.ppu
    )
    below_RS = y - edge_S
    cover_RS = (below_RS * view.ppu + 0.5).clamp(0.0, 1.0)
    depth_RS = smoothstep(0.0, 0.38, below_RS)
    broad_RS = fbm(seed + 1, x_S, y_R, freq=(2.5, 9.0), octaves=4, ppu=view.ppu)
    fine_RS = fbm(seed + 2, x_S, y_R, freq=(60.0, 26.0), octaves=4, gain=0.8, ppu=view.ppu)
    lit, shade = palette.lit(ground.material, ground.haze), palette.shaded(ground.material, ground.haze)
    tone_RS = (0.92 - 0.75 * depth_RS + 0.22 * broad_RS).clamp_(0.0, 1.0)
    rgb = torch.lerp(column(shade), column(lit), tone_RS.unsqueeze(0))
    rgb = rgb * (1.0 + 0.13 * (1.0 - ground.haze) * fine_RS)
    if ripples:
        wave_RS = torch.sin((below_RS * (190.0 - 120.0 * depth_RS)) + 5.0 * broad_RS)
        rgb = rgb * (1.0 + 0.06 * wave_RS)
    if flowers:
        _flowers(rgb, seed, x_S.float(), y, below_RS, view, palette)
    return Sheet(track, rgb, cover_RS, first)


def _flowers(
    rgb: Tensor, seed: int, x_S: Tensor, y: Tensor, below_RS: Tensor, view: View, palette: Palette
) -> None:
    for number, color in enumerate(((1.0, 0.95, 0.9), (1.0, 0.8, 0.2), (0.9, 0.35, 0.45))):
        size = 0.034
        row_R1 = torch.floor(y / size)
        shift_R1 = table(seed + 20 + number, _TABLE)[row_R1.long() % _TABLE]
        column_RS = torch.floor(x_S / size + shift_R1)
        index_RS = ((column_RS * 57.0 + row_R1 * 131.0).long()) % _TABLE
        dice = table(seed + 30 + number, _TABLE, 3)[index_RS]
        dx = (x_S / size + shift_R1 - column_RS - 0.25 - 0.5 * dice[..., 0]) * size
        dy = (y / size - row_R1 - 0.25 - 0.5 * dice[..., 1]) * size
        radius_RS = 0.0035 + 0.006 * (below_RS.clamp(0.0, 0.35))
        spot_RS = ((radius_RS - torch.sqrt(dx * dx + dy * dy * 2.0)) * view.ppu + 0.5).clamp_(0.0, 1.0)
        spot_RS = spot_RS * (dice[..., 2] < 0.28) * smoothstep(0.01, 0.05, below_RS)
        rgb.lerp_(column(palette.lit(color, 0.0)).expand_as(rgb), spot_RS.unsqueeze(0).expand_as(rgb))


def conifers(
    track: Track, palette: Palette, ground: Ground, *, spacing: float, snow: float = 0.0, bottom: float = 1.1
) -> Sheet:
    """A row of fir trees that merge into ground of their own colour below; `snow` whitens their branches."""
    view, seed, x_S = track.view, ground.seed, track.x()
    first, _, y_R = _rows(view, ground.base - ground.height * 1.25, bottom)
    y, x = y_R.float().unsqueeze(1), x_S.float()
    lit, shade = palette.lit(ground.material, ground.haze), palette.shaded(ground.material, ground.haze)
    needles_RS = fbm(seed + 9, x_S, y_R, freq=(70.0, 45.0), octaves=3, gain=0.8, ppu=view.ppu)
    floor_S = ground.base + 0.018 * fbm_line(seed + 4, x_S, freq=2.0, octaves=3, ppu=view.ppu)
    alpha = ((y - floor_S) * view.ppu + 0.5).clamp(0.0, 1.0)
    soil = mix(mix(shade, lit, 0.3), palette.lit((0.90, 0.93, 1.0), ground.haze), 0.85 * snow)
    rgb = column(soil).expand(3, y_R.numel(), x_S.numel()) * (1.0 + 0.10 * needles_RS)
    for residue in range(3):
        index_S, centre_S = _cells(seed, x_S, spacing, residue, 3)
        tall_S = ground.height * (0.6 + 0.55 * table(seed + 6, _TABLE)[index_S])
        foot_S = ground.base + 0.012 + 0.02 * table(seed + 7, _TABLE)[index_S]
        u_RS = (y - (foot_S - tall_S)) / tall_S
        tier_RS = u_RS * 6.0 - torch.floor(u_RS * 6.0)
        side_S = x - centre_S
        half_RS = tall_S * (0.16 * u_RS + 0.085 * tier_RS * (0.35 + u_RS)) * (1.0 + 0.22 * needles_RS)
        cover_RS = ((half_RS - side_S.abs()) * view.ppu * 0.8 + 0.5).clamp_(0.0, 1.0)
        cover_RS = cover_RS * ((u_RS > 0.0) & (u_RS < 1.0))
        toward_S = side_S if ground.sun_right else -side_S
        tone_RS = (0.42 + toward_S / (0.2 * tall_S) * 0.6 - 0.35 * tier_RS + 0.25).clamp_(0.0, 1.0)
        tree = torch.lerp(column(shade), column(lit), tone_RS.unsqueeze(0)) * (1.0 + 0.12 * needles_RS)
        if snow > 0.0:
            cap_RS = smoothstep(0.15, 0.6, tier_RS + 0.3 * needles_RS) * snow
            tree = torch.lerp(tree, column(palette.lit((0.95, 0.97, 1.0), ground.haze)), cap_RS.unsqueeze(0))
        rgb = torch.lerp(rgb, tree, cover_RS.unsqueeze(0))
        alpha = torch.maximum(alpha, cover_RS)
    return Sheet(track, rgb, alpha, first)


def buildings(
    track: Track, palette: Palette, ground: Ground, *, spacing: float, bottom: float = 1.1
) -> Sheet:
    """A row of houses with windows, most of them lit at night and at dusk."""
    view, seed, x_S = track.view, ground.seed, track.x()
    first, _, y_R = _rows(view, ground.base - ground.height * 1.1, bottom)
    y = y_R.float().unsqueeze(1)
    cell_S = torch.floor(x_S / spacing)
    index_S = cell_S.long() % _TABLE
    inside_S = (x_S / spacing - cell_S).float()
    dice = table(seed, _TABLE, 4)[index_S]
    wide_S = 0.80 + 0.20 * dice[:, 0]
    step_S = (inside_S - wide_S / 2).abs() > wide_S * 0.28
    roof_S = (
        ground.base - ground.height * (0.30 + 0.70 * dice[:, 1] ** 1.3) + 0.022 * step_S * (dice[:, 3] > 0.5)
    )
    across_S = torch.minimum(inside_S, wide_S - inside_S) * spacing
    cover_RS = (across_S * view.ppu + 0.5).clamp(0.0, 1.0) * ((y - roof_S) * view.ppu + 0.5).clamp(0.0, 1.0)
    lit, shade = palette.lit(ground.material, ground.haze), palette.shaded(ground.material, ground.haze)
    toward_S = inside_S if ground.sun_right else 1.0 - inside_S
    tone_S = (0.15 + 0.55 * dice[:, 2] + 0.3 * (toward_S > 0.55)).clamp(0.0, 1.0)
    rgb = (
        torch.lerp(column(shade), column(lit), tone_S.view(1, 1, -1)).expand(3, y_R.numel(), -1).contiguous()
    )
    pitch_x, pitch_y = 0.0205, 0.027
    u_S = inside_S * spacing / pitch_x
    v_RS = (y - roof_S - 0.008) / pitch_y
    iu_S, iv_RS = torch.floor(u_S), torch.floor(v_RS)
    in_x = ((0.29 - (u_S - iu_S - 0.5).abs()) * pitch_x * view.ppu + 0.5).clamp_(0.0, 1.0)
    in_y = ((0.31 - (v_RS - iv_RS - 0.5).abs()) * pitch_y * view.ppu + 0.5).clamp_(0.0, 1.0)
    key_RS = (iu_S * 37.0 + iv_RS * 101.0 + index_S * 61.0).long() % _TABLE
    glow_RS = table(seed + 8, _TABLE)[key_RS]
    window_RS = in_x * in_y * (across_S > 0.006) * (v_RS > 0.0)
    share, dark = {True: (0.55, 0.25), False: (0.0, 0.0)}[palette.night]
    if palette.sun[2] < 0.5:
        share, dark = 0.35, 0.2
    on_RS = (glow_RS < share).float()
    warm = mix((1.0, 0.78, 0.36), palette.haze, palette.amount(ground.haze * 0.5) * 0.8)
    glass = mix(mix(palette.middle, palette.shade, 0.55), palette.haze, palette.amount(ground.haze))
    pane = torch.lerp(column(glass) * (0.75 + 0.5 * glow_RS) * (1.0 - dark), column(warm), on_RS.unsqueeze(0))
    rgb = torch.lerp(rgb, pane, window_RS.unsqueeze(0))
    return Sheet(track, rgb, cover_RS, first)
