"""How much memory a preset takes, part by part, before anything of it is loaded.

Weights, caches and memories are built on the meta device, where tensors have shapes and no content, so their bytes
are exact. What a pass allocates on top, and the text encoder, are estimates and marked as such.

Shapes: B batch (1), C channels, F latent frames, H W rows and columns, X text tokens, W text width.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor, nn

from ultraflash.kernels.block_sparse import BlockGrid
from ultraflash.kernels.block_sparse.gather import GATHERED
from ultraflash.models.activation_peak import activation_peak
from ultraflash.models.dit import CausalDiT, DiTConfig, TextContext
from ultraflash.models.errors import NotEnoughMemory
from ultraflash.models.frame_memory import FrameMemory
from ultraflash.models.loading import Decoder, build_decoder
from ultraflash.models.precision import LinearPrecision, large_linears, linear_bytes
from ultraflash.models.preset import Preset, Size, available_presets, load_preset
from ultraflash.models.refinement import SuperResolutionConfig
from ultraflash.models.streaming_attention import block_cache, sr_grid, window_cache
from ultraflash.models.text_encoder import TextConfig
from ultraflash.models.upsampler import LatentUpsampler
from ultraflash.models.window_latents import WindowLatents

META = torch.device("meta")
GIB = 1 << 30

_Networks = Mapping[str, nn.Module]

# The int8 network of `minilm` with onnxruntime's working memory.
_MINILM_BYTES = 60 << 20
# Of UMT5, whose sizes differ in their width: words, layers, heads, buckets of distances, and the MLP's width over
# the model's. With width 4096 this is what UMT5-XXL's encoder has.
_UMT5_WORDS, _UMT5_LAYERS, _UMT5_HEADS, _UMT5_BUCKETS, _UMT5_MLP = 256_384, 24, 64, 32, 2.5


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryPlan:
    """Bytes of a preset at a size.

    What the encoder takes that a stream from pictures needs besides is asked of
    :func:`ultraflash.models.reference.reference_bytes`, when the first such stream comes.

    Attributes:
        preset, size: names.
        weights: exact, by network; those of all sizes of the preset, which are loaded together. Linear layers in
            eight bits count what their values need, to which packing may add a little.
        stream: exact, by what one stream holds.
        estimates: ``text`` (the text encoder) and ``activations`` (what the largest pass allocates and frees).
    """

    preset: str
    size: str
    weights: Mapping[str, int]
    stream: Mapping[str, int]
    estimates: Mapping[str, int]

    @property
    def loaded_bytes(self) -> int:
        """What the networks take, before there is a stream."""
        return sum(self.weights.values()) + self.estimates["text"]

    @property
    def stream_bytes(self) -> int:
        """What one more stream takes: its state. Passes run one after the other, so their peak is not part of it."""
        return sum(self.stream.values())

    @property
    def total_bytes(self) -> int:
        """Networks, one stream and the largest pass."""
        return self.loaded_bytes + self.stream_bytes + self.estimates["activations"]

    def table(self) -> list[tuple[str, int, str]]:
        """(part, bytes, ``exact`` or ``estimate``) of every part, largest kind first."""
        rows = [(f"weights.{name}", size, "exact") for name, size in self.weights.items()]
        rows += [(f"stream.{name}", size, "exact") for name, size in self.stream.items()]
        return rows + [(name, size, "estimate") for name, size in self.estimates.items()]


def memory_plan(
    preset: Preset, size: str | None = None, *, dtype: torch.dtype = torch.bfloat16
) -> MemoryPlan:
    """Plan one stream of a preset at a size, its default size if None; ``dtype`` is that of the matrix products.

    Raises:
        UnknownSize: the preset does not make it.
    """
    chosen = preset.size(size or preset.default_size)
    # Parameters cannot be cast in inference mode, in which a stream is opened.
    with META, torch.inference_mode(False), torch.no_grad():
        nets = _networks(preset, dtype)
        return MemoryPlan(
            preset=preset.name,
            size=chosen.name,
            weights={name: _weight_bytes(net, preset.precision.linears) for name, net in nets.items()},
            stream=_stream_bytes(preset, chosen, dtype, nets),
            estimates={
                "text": _text_bytes(preset.text, dtype),
                "activations": _activation_bytes(preset, chosen, dtype, nets),
            },
        )


def largest_that_fits(preset: Preset, free_bytes: int, *, dtype: torch.dtype) -> MemoryPlan | None:
    """The plan of the largest size of ``preset`` that fits, else that of another preset that ships, else None."""
    best = _largest_size(preset, free_bytes, dtype)
    if best is not None:
        return best
    shipped = [load_preset(name) for name in available_presets() if name != preset.name]
    fitting = [plan for other in shipped if (plan := _largest_size(other, free_bytes, dtype)) is not None]
    return max(fitting, key=lambda plan: plan.total_bytes, default=None)


def _largest_size(preset: Preset, free_bytes: int, dtype: torch.dtype) -> MemoryPlan | None:
    plans = (memory_plan(preset, size.name, dtype=dtype) for size in reversed(preset.sizes))
    return next((plan for plan in plans if plan.total_bytes <= free_bytes), None)


def check_memory(
    preset: Preset, plan: MemoryPlan, *, free_bytes: int, dtype: torch.dtype, loaded: bool = False
) -> None:
    """Refuse what does not fit.

    Args:
        preset, dtype: what ``plan`` was made of.
        plan: what is wanted.
        free_bytes: what the device has.
        loaded: whether the networks are in memory already, so that only the stream and its passes count.

    Raises:
        NotEnoughMemory: it does not fit; the message says what would.
    """
    there = plan.loaded_bytes if loaded else 0
    needed = plan.total_bytes - there
    if needed <= free_bytes:
        return
    best = largest_that_fits(preset, free_bytes + there, dtype=dtype)
    advice = (
        "nothing that ships with the package does"
        if best is None
        else f"{best.preset} at {best.size} does, with {best.total_bytes / GIB:.2f} GiB in all"
    )
    what = "one more stream of " if loaded else ""
    raise NotEnoughMemory(
        f"{what}{plan.preset} at {plan.size} needs {needed / GIB:.2f} GiB ({needed} bytes), and "
        f"{free_bytes / GIB:.2f} GiB ({free_bytes} bytes) are free, which is not enough; {advice}",
        needed_bytes=needed,
        free_bytes=free_bytes,
    )


def _networks(preset: Preset, dtype: torch.dtype) -> _Networks:
    nets: dict[str, nn.Module] = {"base": CausalDiT(preset.base.dit).cast(dtype)}
    if preset.sr is not None:
        nets |= {part: CausalDiT(preset.sr.dit).cast(dtype) for part in preset.sr_parts}
    for factor, config in preset.upsampler.items():
        nets[f"upsampler_x{factor}"] = LatentUpsampler(config).to(dtype)
    nets["decoder"] = build_decoder(preset).to(dtype)
    return nets


def _text_bytes(text: TextConfig, dtype: torch.dtype) -> int:
    if text.kind == "minilm":
        return _MINILM_BYTES
    width = text.width
    matrices = (4 + 3 * _UMT5_MLP) * width**2
    layer = matrices + _UMT5_HEADS * _UMT5_BUCKETS + 2 * width
    return round(_UMT5_WORDS * width + _UMT5_LAYERS * layer + width) * dtype.itemsize


def _weight_bytes(net: nn.Module, linears: LinearPrecision) -> int:
    total = sum(tensor.numel() * tensor.element_size() for tensor in net.state_dict().values())
    if isinstance(net, CausalDiT):
        for name in large_linears(net):
            layer = cast(nn.Linear, net.get_submodule(name))
            total += linear_bytes(layer, linears) - linear_bytes(layer, "native")
    return total


def _stream_bytes(preset: Preset, size: Size, dtype: torch.dtype, nets: _Networks) -> dict[str, int]:
    base = preset.base
    frame = (base.dit.out_channels, base.rows, base.cols)
    window = WindowLatents(frame, frames=base.window_frames, sink_frames=base.sink_frames, device=META)
    parts = {
        "base_cache": window_cache(base, batch=1, dtype=dtype, device=META).nbytes,
        "window_latents": window.nbytes,
        "last_latents": preset.group_frames * math.prod(frame) * torch.float32.itemsize,
        "prompt": _prompt_bytes(preset, dtype),
        "decoder_memory": _decode(preset, size, nets, frames=1).nbytes,
        # In host memory, for a fade to begin from; planes take half of it, and a fade in progress once more.
        "newest_frame": 3 * size.height * size.width,
    }
    if base.spread_limit is not None:
        parts["spread"] = base.dit.out_channels * torch.float32.itemsize
    if preset.execution.overlap:
        # The next group's latents, and what the window is taken back with should they not be wanted.
        rewritten = min(preset.group_frames, base.window_frames - base.sink_frames)
        kept = parts["base_cache"] * rewritten // base.window_frames
        parts["base_ahead"] = kept + window.nbytes + parts["last_latents"]
    if size.refine and preset.sr is not None:
        grid = sr_grid(preset.sr, size, frames=preset.group_frames)
        parts["sr_cache"] = block_cache(preset.sr, grid, dtype=dtype, device=META).nbytes
        parts["upsampler_memory"] = _upsample(size, nets, frames=1).nbytes
    return parts


def _prompt_bytes(preset: Preset, dtype: torch.dtype) -> int:
    """Text states and, for every transformer, cross-attention keys and values and what the text states sum up to."""
    total = preset.text.tokens * preset.text.width * torch.float32.itemsize
    refining = [] if preset.sr is None else [preset.sr.dit] * len(preset.sr_parts)
    for dit in (preset.base.dit, *refining):
        total += 2 * dit.layers * dit.text_tokens * dit.dim * dtype.itemsize
        total += dit.dim * torch.float32.itemsize if dit.text_summary else 0
    return total


def _upsample(size: Size, nets: _Networks, *, frames: int) -> FrameMemory:
    """Run the upsampler over a stream's first frames; returns its memory."""
    net = cast(LatentUpsampler, nets[f"upsampler_x{size.factor}"])
    memory = net.init_memory()
    net(torch.empty(1, frames, net.config.channels, size.rows, size.cols), memory)
    return memory


def _decode(preset: Preset, size: Size, nets: _Networks, *, frames: int) -> FrameMemory:
    """Run the decoder over a stream's first frames; returns its memory."""
    net = cast(Decoder, nets["decoder"])
    memory = net.init_memory()
    rows, cols = size.rows * size.factor, size.cols * size.factor
    net.decode_uint8(torch.empty(1, frames, preset.decoder.latent_channels, rows, cols), memory)
    return memory


def _activation_bytes(preset: Preset, size: Size, dtype: torch.dtype, nets: _Networks) -> int:
    """The largest of the stages' peaks: they run one after the other, but for a base that runs beside the rest."""
    base, frames = preset.base, preset.group_frames
    tokens = math.prod(base.dit.token_grid(base.rows, base.cols))
    read = 0 if base.kv == "model" else 2 * base.window_frames * tokens * base.dit.dim * dtype.itemsize
    peaks = [
        read + _dit_peak(base.dit, (base.block_frames, base.rows, base.cols), dtype),
        activation_peak(lambda: _decode(preset, size, nets, frames=frames)),
    ]
    if size.refine and preset.sr is not None:
        rows, cols = size.rows * size.factor, size.cols * size.factor
        gathered = _sparse_bytes(preset.sr, sr_grid(preset.sr, size, frames=frames), dtype)
        peaks.append(gathered + _dit_peak(preset.sr.dit, (frames, rows, cols), dtype))
        peaks.append(activation_peak(lambda: _upsample(size, nets, frames=frames)))
    return peaks[0] + max(peaks[1:]) if preset.execution.overlap else max(peaks)


def _dit_peak(config: DiTConfig, shape_FHW: tuple[int, int, int], dtype: torch.dtype) -> int:
    """Of one layer, which is that of all: nothing of a layer outlives it but the residual stream."""
    net = CausalDiT(replace(config, layers=1)).cast(dtype)
    keys = (torch.empty(1, config.text_tokens, config.heads, config.head_dim, dtype=dtype),)
    summary = torch.empty(1, 1, config.dim) if config.text_summary else None
    frames = shape_FHW[0]

    def run() -> Tensor:
        latents = torch.empty(1, config.in_channels, *shape_FHW)
        timestep, positions = torch.empty(1, frames), torch.empty(frames, dtype=torch.int64)
        return net(latents, timestep, TextContext(keys, keys, summary), positions, _no_attention)

    return activation_peak(run)


def _no_attention(layer: int, q_BLND: Tensor, k_BLND: Tensor, v_BLND: Tensor) -> Tensor:
    return torch.empty_like(q_BLND)


def _sparse_bytes(sr: SuperResolutionConfig, grid: BlockGrid, dtype: torch.dtype) -> int:
    """What block-sparse attention gathers: queries, keys and values by block, cached ones included, twice where they
    are kept in another type, and a copy of the keys and values of some selected pairs at a time."""
    queries = grid.frame_blocks * grid.spatial_blocks
    cached = sr.cached_blocks * grid.spatial_blocks
    keys, widened = queries + cached, 0 if sr.kv == "model" else cached
    block = grid.block_tokens * sr.dit.dim
    pairs = sr.rule.pairs(grid) * grid.frame_blocks * block
    gathered = min(pairs, max(GATHERED, keys * grid.block_tokens * sr.dit.head_dim))
    return 2 * ((queries + keys + widened) * block + gathered) * dtype.itemsize
