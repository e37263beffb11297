"""Draws a scene: sheets that are painted once, moving parts that are drawn each frame, all in float32 on the CPU."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ultraflash.training.vista.biomes import compose
from ultraflash.training.vista.scene import Scene
from ultraflash.training.vista.thing import Thing
from ultraflash.training.vista.view import Clock, View

_ZOOM_DENSITY = 1.25
_PAN = {"pan left": -1.0, "pan right": 1.0}


def render(
    scene: Scene,
    *,
    frames: int,
    height: int,
    width: int,
    fps: float = 16.0,
    start_s: float = 0.0,
    crop: tuple[int, int, int, int] | None = None,
    object_THW: Tensor | None = None,
) -> Tensor:
    """Draw a clip: uint8 (frames, height, width, 3), RGB.

    `crop` is (top, left, height, width) in pixels of the whole picture; only that window is painted and returned.
    `object_THW`, float32 (frames, height, width), is overwritten by what `render_parts` tells of the object, if given.
    The same scene at another size is the same picture, with finer detail where there are more pixels.
    Deterministic in its arguments; keeps no state, so that threads may call it at once. Raises ValueError for a
    size, a crop or a rate that can't be drawn.
    """
    top, left, rows, cols = crop if crop is not None else (0, 0, height, width)
    if frames < 1 or height < 1 or width < 1 or fps <= 0.0:
        raise ValueError(f"nothing to draw: frames {frames}, size {height}x{width}, fps {fps}")
    if rows < 1 or cols < 1 or top < 0 or left < 0 or top + rows > height or left + cols > width:
        raise ValueError(f"crop {crop} does not lie in a picture of {height}x{width}")
    times = tuple(start_s + frame / fps for frame in range(frames))
    clock = Clock(times=times, pan_speed=_PAN.get(scene.camera, 0.0) * scene.pan_speed)
    window = View(ppu=float(height), aspect=width / height, top=top, left=left, rows=rows, cols=cols)
    zooms = [_zoom(scene, time) for time in times]
    view = window if scene.camera != "zoom in" else _source_view(scene, window, zooms)
    painted = _with_mirrored_rows(scene, view)
    skipped = view.top - painted.top
    layers = compose(scene, painted, clock)
    out = torch.empty(frames, rows, cols, 3, dtype=torch.uint8)
    frame_3HW = torch.empty(3, painted.rows, painted.cols)
    if object_THW is not None:
        object_THW.zero_()
    for number, time in enumerate(times):
        zoom = zooms[number]
        for layer in layers:
            before_3HW = frame_3HW.clone() if object_THW is not None and isinstance(layer, Thing) else None
            layer.draw(frame_3HW, time)
            if object_THW is not None and before_3HW is not None:
                changed_1HW = (frame_3HW - before_3HW).abs().amax(dim=0, keepdim=True)
                object_THW[number] = _seen(changed_1HW, view, window, skipped, scene, zoom)[0].clamp(0.0, 1.0)
        seen_3HW = _seen(frame_3HW, view, window, skipped, scene, zoom)
        out[number] = (seen_3HW * 255.0).round_().clamp_(0.0, 255.0).to(torch.uint8).permute(1, 2, 0)
    return out


def render_parts(
    scene: Scene, *, frames: int, height: int, width: int, fps: float = 16.0, start_s: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Draw a clip as `render` does, and where its object is: float32 (frames, height, width), how much of a pixel's
    colour the object has changed, in [0, 1], before anything is drawn over it; a train comes with its track."""
    object_THW = torch.empty(max(0, frames), max(0, height), max(0, width))
    frames_THW3 = render(
        scene, frames=frames, height=height, width=width, fps=fps, start_s=start_s, object_THW=object_THW
    )
    return frames_THW3, object_THW


def _seen(painted_CHW: Tensor, view: View, window: View, skipped: int, scene: Scene, zoom: float) -> Tensor:
    """What the window shows of what was painted from `skipped` rows above the view on."""
    part_CHW = painted_CHW[:, skipped : skipped + view.rows]
    return part_CHW if view is window else _magnify(part_CHW, view, window, scene, zoom)


def _zoom(scene: Scene, time: float) -> float:
    """Magnification: grows by about a tenth in the first second and stays below 1.6."""
    return 1.0 if scene.camera != "zoom in" else 1.0 + 0.6 * (1.0 - math.exp(-0.2 * max(0.0, time)))


def _centre(scene: Scene) -> tuple[float, float]:
    return 0.0, scene.horizon - 0.08


def _source_view(scene: Scene, window: View, zooms: list[float]) -> View:
    """The denser window that all magnified frames of `window` are taken from."""
    centre_x, centre_y = _centre(scene)
    ppu = window.ppu * _ZOOM_DENSITY
    x, y = window.x(), window.y()
    xs = [centre_x + (float(edge) - centre_x) / zoom for zoom in zooms for edge in (x[0], x[-1])]
    ys = [centre_y + (float(edge) - centre_y) / zoom for zoom in zooms for edge in (y[0], y[-1])]
    top = max(0, math.floor(min(ys) * ppu - 0.5))
    left = math.floor((min(xs) + window.aspect / 2.0) * ppu - 0.5)
    bottom = math.floor(max(ys) * ppu - 0.5) + 2
    right = math.floor((max(xs) + window.aspect / 2.0) * ppu - 0.5) + 2
    return View(ppu=ppu, aspect=window.aspect, top=top, left=left, rows=bottom - top, cols=right - left)


def _with_mirrored_rows(scene: Scene, view: View) -> View:
    """A lake mirrors rows above its horizon: a window without them is painted from further up."""
    if scene.biome != "lake" or view.top == 0:
        return view
    bottom = view.top + view.rows
    mirrored = int((2.0 * scene.horizon - 0.06) * view.ppu) - bottom - 2
    top = min(view.top, max(0, mirrored))
    return View(ppu=view.ppu, aspect=view.aspect, top=top, left=view.left, rows=bottom - top, cols=view.cols)


def _magnify(source_3HW: Tensor, view: View, window: View, scene: Scene, zoom: float) -> Tensor:
    centre_x, centre_y = _centre(scene)
    x_W = centre_x + (window.x() - centre_x) / zoom
    y_H = centre_y + (window.y() - centre_y) / zoom
    column_W = (x_W + view.aspect / 2.0) * view.ppu - 0.5 - view.left
    row_H = y_H * view.ppu - 0.5 - view.top
    grid_x = (column_W * (2.0 / max(1, view.cols - 1)) - 1.0).float().expand(window.rows, -1)
    grid_y = (row_H * (2.0 / max(1, view.rows - 1)) - 1.0).float().unsqueeze(1).expand(-1, window.cols)
    grid = torch.stack([grid_x, grid_y], dim=-1).unsqueeze(0)
    return F.grid_sample(source_3HW.unsqueeze(0), grid, align_corners=True, padding_mode="border")[0]
