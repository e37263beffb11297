"""The cascade: prompt -> low-resolution latents -> upsampler -> super-resolution -> pixels, group by group.

Shapes: B batch (1), C channels, F latent frames, T pixel frames, H W rows and columns.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ultraflash.kernels.pixels import PixelLayout
from ultraflash.models.base_stage import BaseStage
from ultraflash.models.block_generator import BlockGenerator
from ultraflash.models.checkpoints.lora import LiveLora
from ultraflash.models.compilation import compile_blocks, compiled_only, compiling
from ultraflash.models.device import best_device, fastest_dtype
from ultraflash.models.device_memory import free_bytes, gpu_memory
from ultraflash.models.dit import CausalDiT
from ultraflash.models.errors import NotEnoughMemory, StreamOffloaded
from ultraflash.models.fingerprint import identity_of
from ultraflash.models.loading import Decoder, Networks, channels_last, load_networks
from ultraflash.models.memory_plan import MemoryPlan, check_memory, memory_plan
from ultraflash.models.noise import check_seed
from ultraflash.models.overlap import ahead_set_aside
from ultraflash.models.patch_autoencoder import PATCH_FRAMES, UNTRIMMED_FRAMES, PatchConfig
from ultraflash.models.picture_stage import PictureStage
from ultraflash.models.precision import check_precision, choose_linears, lower_linears
from ultraflash.models.preset import Preset, Size, load_preset
from ultraflash.models.prompt_change import blend_between
from ultraflash.models.prompt_encoder import PromptEncoder
from ultraflash.models.reference import ReferenceEncoder, ReferenceFormat
from ultraflash.models.snapshot import Snapshot, capture, fill
from ultraflash.models.sr_share import check_share, sr_shares
from ultraflash.models.stage_clock import StageClock
from ultraflash.models.stream_state import PromptContext, StreamState
from ultraflash.models.streaming_attention import window_cache
from ultraflash.models.text_encoder import TextEncoder
from ultraflash.models.transition import PromptChangeConfig, Transition
from ultraflash.models.upsampler import LatentUpsampler
from ultraflash.models.window_latents import WindowLatents

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_log = logging.getLogger(__name__)

_GROUPS_OF_ALL_SHAPES = 2
"""A stream's first group differs: super-resolution sees all of it at once, and a first block may be shorter."""


def video_layout(preset: Preset, device: torch.device) -> PixelLayout:
    """How a video encoder had best get frames of a preset from a device.

    As the planes that it takes: from a GPU they are half the bytes to copy to the host, which then has nothing to
    convert, and a linear decoder makes them in half the time. From another decoder on a CPU as RGB: FFmpeg converts
    faster there than PyTorch.
    """
    linear = isinstance(preset.decoder, PatchConfig) and preset.decoder.linear
    return "yuv420p" if linear or device.type == "cuda" else "rgb"


class Cascade:
    """The networks of a preset and the steps that run a stream through them.

    It holds weights only, so one cascade serves any number of streams. Not to be called by two threads at once.
    """

    def __init__(
        self,
        preset: Preset,
        *,
        text: TextEncoder,
        base: CausalDiT,
        upsamplers: dict[int, LatentUpsampler],
        sr: Mapping[str, CausalDiT],
        decoder: Decoder,
        device: torch.device,
        dtype: torch.dtype,
        lora: LiveLora | None = None,
        layout: PixelLayout = "rgb",
    ) -> None:
        """Take the networks over: they are cast to ``dtype``, moved to ``device`` and put into the preset's number
        types in place. ``upsamplers`` are by factor, ``sr`` by part.

        Raises:
            BadConfig: the preset's transformers want another text encoder.
            UnsupportedPrecision, MissingExtra: of the preset's number types, see :mod:`ultraflash.models.precision`.
        """
        self.preset = preset
        self._device = device
        self._dtype = dtype
        self._prompts = PromptEncoder(preset=preset, text=text, base=base, sr=sr, device=device)
        self._prompts.check_widths()
        self._networks = Networks(
            text=text,
            base=base.cast(dtype).to(device).eval(),
            upsamplers={
                factor: channels_last(net.to(device, dtype)).eval() for factor, net in upsamplers.items()
            },
            sr={part: net.cast(dtype).to(device).eval() for part, net in sr.items()},
            decoder=channels_last(decoder.to(device, dtype)).eval(),
            lora=lora,
        )
        # Of the weights as they came: in eight bits they have no tensors that could be compared.
        self._identity = identity_of(preset, self._networks, dtype)
        transformers = [base, *sr.values()]
        for net in transformers:
            lower_linears(net, preset.precision.linears, dtype=dtype)
        if preset.execution.compile:
            compile_blocks(*transformers)
        self._base = BaseStage(
            preset=preset,
            blocks=BlockGenerator(net=base, config=preset.base, device=device),
            prompts=self._prompts,
        )
        self._pictures = PictureStage(
            preset=preset,
            upsamplers=self._networks.upsamplers,
            sr=sr,
            decoder=self._networks.decoder,
            device=device,
            dtype=dtype,
            layout=layout,
        )
        self._plans: dict[str, MemoryPlan] = {}

    @classmethod
    def load(
        cls,
        preset: str | Path | Preset = "mini",
        *,
        size: str | None = None,
        device: str | None = None,
        dtype: torch.dtype | None = None,
        layout: PixelLayout = "rgb",
    ) -> Cascade:
        """Load a preset and its weights.

        Args:
            preset: a name, the path of a TOML file, or a preset.
            size: the largest that streams will have, for which there must be memory; the default size if None.
            device: torch device; by default a GPU where there is one, else the CPU.
            dtype: of the matrix products; by default bfloat16 where the device computes in it, else float32. The
                preset's ``auto`` linears are in this type too where it is given.
            layout: of the bytes of frames, see :mod:`ultraflash.kernels.pixels`.

        Raises:
            UnknownPreset, BadConfig, UnknownSize, MissingWeights.
            NotEnoughMemory, UnsupportedPrecision, MissingExtra: nothing was loaded.
        """
        chosen = preset if isinstance(preset, Preset) else load_preset(preset)
        where = best_device() if device is None else torch.device(device)
        kind = dtype or fastest_dtype(where)
        if dtype is None and not chosen.needs_float_linears:
            chosen = replace(chosen, precision=choose_linears(chosen.precision, where))
        check_precision(chosen.precision.linears, device=where, dtype=kind)
        if (free := free_bytes(where)) is not None:
            check_memory(chosen, memory_plan(chosen, size, dtype=kind), free_bytes=free, dtype=kind)
        networks = load_networks(chosen, device=where, dtype=kind)
        cascade = cls(
            chosen,
            text=networks.text,
            base=networks.base,
            upsamplers=networks.upsamplers,
            sr=networks.sr,
            decoder=networks.decoder,
            device=where,
            dtype=kind,
            lora=networks.lora,
            layout=layout,
        )
        cascade.warm_up()
        return cascade

    @classmethod
    def load_for_video(
        cls, preset: str | Path | Preset = "mini", *, size: str | None = None, device: str | None = None
    ) -> Cascade:
        """:meth:`load` for frames that go to a video encoder and nowhere else, see :func:`video_layout`."""
        chosen = preset if isinstance(preset, Preset) else load_preset(preset)
        where = best_device() if device is None else torch.device(device)
        return cls.load(chosen, size=size, device=str(where), layout=video_layout(chosen, where))

    @property
    def networks(self) -> Networks:
        """The networks that it runs, as they are on the device."""
        return self._networks

    def gpu_memory(self) -> dict[str, tuple[int, int]]:
        """Bytes in use, by anybody, and in total of the GPU that it runs on, by its name; nothing on a CPU."""
        return gpu_memory(self._device)

    def warm_up(self) -> None:
        """Compile the networks for every size that there is memory for, where the preset wants them compiled at all.

        :meth:`load` does it; streams of a cascade that never did run as if nothing were to be compiled.

        Raises:
            CompilationFailed: there is no compiler, or it fails.
        """
        if not self.preset.execution.compile:
            return
        for size in self.preset.sizes:
            try:
                stream = self.open("warming up", size=size.name)
            except NotEnoughMemory as error:
                _log.warning("%s is not compiled: %s", size.name, error.message)
                continue
            with compiling():
                for _ in range(_GROUPS_OF_ALL_SHAPES):
                    self._next_group(stream)
            _log.info("compiled %s at %s", self.preset.name, size.name)

    @property
    def pictures(self) -> PictureStage:
        """The stages behind the base, for latents that come from elsewhere."""
        return self._pictures

    def check_prompt(self, prompt: str) -> str:
        """Return the prompt as it will be used, or raise EmptyPrompt or PromptTooLong."""
        return self._prompts.check(prompt)

    @torch.inference_mode()
    def open(self, prompt: str, *, size: str | None = None, seed: int = 0) -> StreamState:
        """Start a stream. Its caches are allocated here, the one-frame memories with the first group.

        Args:
            prompt: what to show.
            size: a size of the preset, by name or ``WIDTHxHEIGHT``; its default size if None.
            seed: 0 .. 2**63 - 1; the same seed, prompt and size give the same frames.

        Raises:
            EmptyPrompt, PromptTooLong, UnknownSize, InvalidSeed.
            NotEnoughMemory: the device has no room for one more stream of that size.
        """
        chosen = self.preset.size(size or self.preset.default_size)
        self._check_room(chosen)
        base = self.preset.base
        return StreamState(
            seed=check_seed(seed),
            prompt_context=self.encode_prompt(prompt),
            base_cache=window_cache(base, batch=1, dtype=self._dtype, device=self._device),
            window=WindowLatents(
                (base.dit.out_channels, base.rows, base.cols),
                frames=base.window_frames,
                sink_frames=base.sink_frames,
                device=self._device,
            ),
            picture=self._pictures.open(chosen),
            next_size=chosen,
            dynamic_cache=self.preset.dynamic_cache,
            clock=StageClock(self._device),
        )

    @torch.inference_mode()
    def set_prompt(
        self, state: StreamState, prompt: str, *, transition: Transition | None = None, groups: int = 1
    ) -> None:
        """Show something else from the next group on.

        Args:
            state: the stream.
            prompt: what to show.
            transition: see :mod:`ultraflash.models.transition`; what the preset says if None.
            groups: over which a fade or a blend is spread; 1 for the others, not read for None.

        Raises:
            EmptyPrompt, PromptTooLong, BadTransition: nothing has changed then.
        """
        given = PromptChangeConfig(transition=transition, groups=groups) if transition else None
        change = given or self.preset.prompt_change
        context = self.encode_prompt(prompt)
        self._base.forget_ahead(state)
        blends = change.transition == "blend"
        old = state.prompt_context
        state.blend = blend_between(old.states_1XW, context.states_1XW, change.groups) if blends else None
        state.prompt_context = replace(old, prompt=context.prompt) if blends else context
        state.recompute_window = change.recomputes
        state.spread = state.spread.scene_changes()
        if change.recomputes:
            state.picture.fade.begin(change.fade_groups * self.preset.group_frames * PATCH_FRAMES)

    def set_size(self, state: StreamState, size: str) -> None:
        """Make another size from the next group on, of the same base latents. Raises UnknownSize."""
        state.next_size = self.preset.size(size)

    def sr_shares(self, size: str) -> tuple[float, ...]:
        """What :meth:`set_sr_share` is good for at a size, all of it first. Raises UnknownSize."""
        return sr_shares(self.preset, size)

    def set_sr_share(self, state: StreamState, share: float) -> None:
        """Keep only this share of super-resolution's pairs from the next group on; see :func:`check_share`."""
        state.sr_share = check_share(share)

    def reference_format(self) -> ReferenceFormat:
        """Which frames :meth:`start_from` takes. Raises what that does for want of an encoder, which is loaded here."""
        return self._encoder.format

    @torch.inference_mode()
    def start_from(self, state: StreamState, frames_THWC: NDArray[np.uint8]) -> None:
        """Let a stream that has made nothing yet go on from frames: it shows them, then what follows.

        Args:
            state: the stream.
            frames_THWC: RGB, of the size in :meth:`reference_format`. A single frame is held for a block; of many,
                the newest that fill whole blocks are used.

        Raises:
            MissingExtra, MissingWeights: there is no encoder.
            NotEnoughMemory: the device has no room for it.
            ValueError: frames of another size, or a stream that has begun.
        """
        if state.groups:
            raise ValueError("only a stream without a group can start from frames")
        state.reference_BCFHW = self._encoder.encode(torch.from_numpy(frames_THWC))

    def next_group(self, state: StreamState) -> Tensor:
        """Make the next group of frames. A stream that raised here is to be given up: its parts are out of step.

        Returns:
            uint8 (T, H, W, 3), RGB, or as ``layout`` was given, contiguous, on the CPU; T is 4 per latent frame, less
            3 in a stream's first group.

        Raises:
            StreamOffloaded: it rests in host memory; nothing has changed.
        """
        if state.offloaded:
            raise StreamOffloaded("the stream rests in host memory; Cascade.resume brings it back")
        with compiled_only() if self.preset.execution.compile else nullcontext():
            return self._next_group(state)

    @torch.inference_mode()
    def _next_group(self, state: StreamState) -> Tensor:
        if state.next_size != state.picture.size:
            with state.clock.measure("resize"):
                self._resize(state)
        latents = self._base.latents(state)
        frames = self._show(state, latents)
        if state.latent_frames == 0:
            frames = frames[UNTRIMMED_FRAMES:]
        state.last_latents_BCFHW = latents
        state.groups += 1
        state.latent_frames += latents.shape[2]
        state.frames_emitted += frames.shape[0]
        state.stage_seconds = state.clock.read()
        return frames.contiguous()

    def _show(self, state: StreamState, latents: Tensor) -> Tensor:
        """Frames of a group, and where the preset overlaps, the next group's latents meanwhile.

        A stream's first group goes without, so that it is seen as soon as can be.
        """
        show = partial(self._pictures.show, state, latents, state.latent_frames, state.clock)
        if not self.preset.execution.overlap or state.groups == 0:
            return show()
        return self._base.beside(state, latents, show)

    def pause(self, state: StreamState) -> None:
        """Move a stream to host memory, so that it takes none of the device's while it makes no frames."""
        self._base.forget_ahead(state)
        state.to(torch.device("cpu"))
        state.offloaded = True

    def resume(self, state: StreamState) -> None:
        """Bring a paused stream back; it goes on bit for bit as if it had never been away."""
        state.to(self._device)
        state.offloaded = False

    @torch.inference_mode()
    def snapshot(self, state: StreamState, *, max_bytes: int | None = None) -> Snapshot:
        """Copy everything that a stream carries, between two groups, to host memory; its latents alone where that is
        more than ``max_bytes``."""
        with ahead_set_aside(state):
            return capture(state, self._identity, max_bytes=max_bytes)

    @torch.inference_mode()
    def restore(self, snapshot: Snapshot) -> StreamState:
        """Make the stream of a snapshot, which goes on without a seam, and bit for bit unless it is a compact one.

        Raises:
            ForeignSnapshot: it is of another preset, other weights or another number type.
            BadSnapshot: it is no whole snapshot.
            NotEnoughMemory: the device has no room for the stream.
        """
        self._identity.check(snapshot.identity)
        state = self.open(snapshot.prompt, size=snapshot.size, seed=snapshot.seed)
        state.next_size = self.preset.size(snapshot.next_size)
        fill(state, snapshot, self._device)
        if state.blend is not None:
            state.prompt_context = self._prompts.context(state.prompt, state.blend.states_1XW)
        if snapshot.compact:
            self._base.blocks.recompute_window(state)
            self._show_newest_again(state)
            state.picture.fade.begin(snapshot.fields.get("fade_to_come", 0))
        return state

    def save_stream(self, state: StreamState, max_bytes: int | None = None) -> bytes:
        """A stream as bytes for :meth:`load_stream` of this or another process; see :meth:`snapshot`."""
        return self.snapshot(state, max_bytes=max_bytes).to_bytes()

    def load_stream(self, data: bytes) -> StreamState:
        """The stream that :meth:`save_stream` made bytes of. Raises what :meth:`restore` does."""
        return self.restore(Snapshot.from_bytes(data))

    @cached_property
    def _encoder(self) -> ReferenceEncoder:
        return ReferenceEncoder.load(self.preset, self._device)

    def _check_room(self, size: Size) -> None:
        free = free_bytes(self._device)
        if free is None:
            return
        if size.name not in self._plans:
            self._plans[size.name] = memory_plan(self.preset, size.name, dtype=self._dtype)
        plan = self._plans[size.name]
        check_memory(self.preset, plan, free_bytes=free, dtype=self._dtype, loaded=True)

    @torch.inference_mode()
    def encode_prompt(self, prompt: str) -> PromptContext:
        """A prompt as the transformers take it. Raises EmptyPrompt, PromptTooLong."""
        return self._prompts.encode(prompt)

    def _resize(self, state: StreamState) -> None:
        """Change the size without a seam: the new memories first see the newest group once more."""
        fade, state.picture = state.picture.fade, self._pictures.open(state.next_size)
        self._show_newest_again(state)
        state.picture.fade.go_on_from(fade, self._pictures.layout)

    def _show_newest_again(self, state: StreamState) -> None:
        if state.last_latents_BCFHW is not None:
            start = state.latent_frames - state.last_latents_BCFHW.shape[2]
            self._pictures.show(state, state.last_latents_BCFHW, start, StageClock(self._device))
