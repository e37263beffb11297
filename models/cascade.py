"""The cascade: prompt -> low-resolution latents -> upsampler -> super-resolution -> pixels, group by group.

Shapes: B batch (1), C channels, F latent frames, T pixel frames, H W rows and columns.
"""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from ultraflash.kernels.block_sparse import BlockGrid
from ultraflash.models.checkpoints.lora import LiveLora
from ultraflash.models.dit import CausalDiT, TextContext
from ultraflash.models.errors import BadConfig
from ultraflash.models.frame_memory import FrameMemory
from ultraflash.models.loading import Decoder, Networks, load_networks
from ultraflash.models.noise import check_seed, counter_noise
from ultraflash.models.patch_autoencoder import UNTRIMMED_FRAMES
from ultraflash.models.prediction import clean_estimate
from ultraflash.models.preset import Preset, Size, load_preset
from ultraflash.models.ring_cache import BlockCache
from ultraflash.models.schedule import TRAIN_STEPS, add_noise
from ultraflash.models.stream_state import Picture, PromptContext, StageSeconds, StreamState
from ultraflash.models.streaming_attention import SparseAttention, WindowAttention, window_cache
from ultraflash.models.text_encoder import TextEncoder
from ultraflash.models.upsampler import LatentUpsampler

NetT = TypeVar("NetT", bound=nn.Module)


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
        sr: CausalDiT | None,
        decoder: Decoder,
        device: torch.device,
        dtype: torch.dtype,
        lora: LiveLora | None = None,
    ) -> None:
        """Take the networks over: they are cast to ``dtype`` and moved to ``device`` in place.

        Raises:
            BadConfig: the preset's transformers want another text encoder.
        """
        wanted = [("base", preset.base.dit)] + ([("sr", preset.sr.dit)] if preset.sr else [])
        for part, dit in wanted:
            if (dit.text_tokens, dit.text_dim) != (text.tokens, text.width):
                raise BadConfig(
                    f"{part} takes {dit.text_tokens} text tokens of width {dit.text_dim}, "
                    f"but the encoder makes {text.tokens} of width {text.width}",
                    param=f"{part}.dit.text_tokens",
                )
        self.preset = preset
        self._text = text
        self._device = device
        self._dtype = dtype
        self._base = base.cast(dtype).to(device).eval()
        self._sr = None if sr is None else sr.cast(dtype).to(device).eval()
        self._upsamplers = {
            factor: _channels_last(net.to(device, dtype)).eval() for factor, net in upsamplers.items()
        }
        self._decoder = _channels_last(decoder.to(device, dtype)).eval()
        self._lora = lora

    @classmethod
    def load(
        cls, preset: str | Path | Preset = "mini", *, device: str = "cpu", dtype: torch.dtype | None = None
    ) -> Cascade:
        """Load a preset and its weights.

        Args:
            preset: a name, the path of a TOML file, or a preset.
            device: torch device.
            dtype: of the matrix products; by default bfloat16 where the device computes in it, else float32.

        Raises:
            UnknownPreset, BadConfig, MissingWeights.
        """
        chosen = preset if isinstance(preset, Preset) else load_preset(preset)
        where = torch.device(device)
        kind = dtype or fastest_dtype(where)
        networks = load_networks(chosen, device=where, dtype=kind)
        return cls(
            chosen,
            text=networks.text,
            base=networks.base,
            upsamplers=networks.upsamplers,
            sr=networks.sr,
            decoder=networks.decoder,
            device=where,
            dtype=kind,
            lora=networks.lora,
        )

    @property
    def networks(self) -> Networks:
        """The networks that it runs, as they are on the device."""
        return Networks(
            text=self._text,
            base=self._base,
            upsamplers=self._upsamplers,
            sr=self._sr,
            decoder=self._decoder,
            lora=self._lora,
        )

    def check_prompt(self, prompt: str) -> str:
        """Return the prompt as it will be used, or raise EmptyPrompt or PromptTooLong."""
        checked = self.preset.check_prompt(prompt)
        self._text.check(checked)
        return checked

    @torch.inference_mode()
    def open(self, prompt: str, *, size: str | None = None, seed: int = 0) -> StreamState:
        """Start a stream. Its caches are allocated here, the one-frame memories with the first group.

        Args:
            prompt: what to show.
            size: a size of the preset, by name or ``WIDTHxHEIGHT``; its default size if None.
            seed: 0 .. 2**63 - 1; the same seed, prompt and size give the same frames.

        Raises:
            EmptyPrompt, PromptTooLong, UnknownSize, InvalidSeed.
        """
        chosen = self.preset.size(size or self.preset.default_size)
        return StreamState(
            seed=check_seed(seed),
            prompt_context=self._encode(prompt),
            base_cache=window_cache(self.preset.base, batch=1, dtype=self._dtype, device=self._device),
            picture=self._new_picture(chosen),
            next_size=chosen,
        )

    @torch.inference_mode()
    def set_prompt(self, state: StreamState, prompt: str) -> None:
        """Show something else from the next group on. Raises EmptyPrompt or PromptTooLong and changes nothing then."""
        state.prompt_context = self._encode(prompt)

    def set_size(self, state: StreamState, size: str) -> None:
        """Make another size from the next group on, of the same base latents. Raises UnknownSize."""
        state.next_size = self.preset.size(size)

    @torch.inference_mode()
    def next_group(self, state: StreamState) -> Tensor:
        """Make the next group of frames. A stream that raised here is to be given up: its parts are out of step.

        Returns:
            uint8 (T, H, W, 3), RGB, contiguous, on the CPU; T is 4 per latent frame, less 3 in a stream's first group.
        """
        clock = StageSeconds()
        if state.next_size != state.picture.size:
            with clock.measure("resize"):
                self._resize(state)
        with clock.measure("base"):
            latents = self._generate(state)
        frames = self._show(state, latents, state.latent_frames, clock)
        if state.latent_frames == 0:
            frames = frames[UNTRIMMED_FRAMES:]
        state.last_latents_BCFHW = latents
        state.latent_frames += latents.shape[2]
        state.frames_emitted += frames.shape[0]
        state.stage_seconds = clock.seconds
        return frames.contiguous()

    def _encode(self, prompt: str) -> PromptContext:
        checked = self.check_prompt(prompt)
        states = self._text.encode(checked).to(self._device)[None]
        sr = TextContext((), ()) if self._sr is None else self._sr.encode_text(states)
        return PromptContext(prompt=checked, base=self._base.encode_text(states), sr=sr)

    def _new_picture(self, size: Size) -> Picture:
        upsampler = self._upsamplers[size.factor].init_memory() if size.refine else FrameMemory(0, "zeros")
        return Picture(
            size=size, upsampler=upsampler, decoder=self._decoder.init_memory(), sr=self._new_sr_cache(size)
        )

    def _new_sr_cache(self, size: Size) -> BlockCache:
        """The empty cache of super-resolution; one that holds nothing for a size that goes without."""
        sr = self.preset.sr if size.refine else None
        grid = None if sr is None else self._sr_grid(size, self.preset.group_frames)
        return BlockCache(
            layers=sr.dit.layers if sr else 0,
            batch=1,
            frame_blocks=sr.cached_blocks if sr else 0,
            spatial_blocks=grid.spatial_blocks if grid else 1,
            block_tokens=grid.block_tokens if grid else 1,
            heads=sr.dit.heads if sr else 1,
            head_dim=sr.dit.head_dim if sr else 1,
            dtype=self._dtype,
            device=self._device,
        )

    def _sr_grid(self, size: Size, frames: int) -> BlockGrid:
        sr = self.preset.sr
        assert sr is not None  # a preset without super-resolution has no size that refines
        rows, cols = sr.dit.token_grid(size.rows * size.factor, size.cols * size.factor)
        return BlockGrid(frames=frames, rows=rows, cols=cols, block=sr.block)

    def _resize(self, state: StreamState) -> None:
        """Change the size without a seam: the new memories first see the newest group once more."""
        state.picture = self._new_picture(state.next_size)
        if state.last_latents_BCFHW is not None:
            start = state.latent_frames - state.last_latents_BCFHW.shape[2]
            self._show(state, state.last_latents_BCFHW, start, StageSeconds())

    def _generate(self, state: StreamState) -> Tensor:
        """Clean base latents (1, C, F, H, W) of the next group."""
        start, blocks = state.latent_frames, []
        for frames in self.preset.group_at(start):
            blocks.append(self._denoise(state, start, frames))
            start += frames
        return torch.cat(blocks, dim=2)

    def _denoise(self, state: StreamState, start: int, frames: int) -> Tensor:
        """Denoise ``frames`` latent frames from ``start`` on and leave their clean keys and values in the cache."""
        base = self.preset.base
        shape = (1, base.dit.out_channels, frames, base.rows, base.cols)
        sigmas = base.schedule.sigmas
        clean = noisy = self._noise(state, shape, "base.step0", start)
        for step, (sigma, timestep) in enumerate(zip(sigmas, base.schedule.timesteps, strict=True)):
            if step:
                noisy = add_noise(clean, self._noise(state, shape, f"base.step{step}", start), sigma)
            output = self._run_base(state, noisy, timestep, start)
            clean = clean_estimate(output, prediction=base.prediction, noisy=noisy, sigma=sigma)
        self._run_base(state, clean, 0.0, start)
        state.base_cache.commit()
        return clean

    def _run_base(self, state: StreamState, latent_BCFHW: Tensor, timestep: float, start: int) -> Tensor:
        frames = latent_BCFHW.shape[2]
        return self._base(
            latent_BCFHW,
            torch.full((1, frames), timestep, device=self._device),
            state.prompt_context.base,
            torch.arange(start, start + frames, device=self._device),
            WindowAttention(state.base_cache),
        )

    def _show(self, state: StreamState, latents_BCFHW: Tensor, start: int, clock: StageSeconds) -> Tensor:
        """Upsample, refine and decode base latents whose first frame is ``start``; uint8 (T, H, W, 3)."""
        picture = state.picture
        size = picture.size
        cropped = _centre(latents_BCFHW, size.rows, size.cols).to(self._dtype)
        if not size.refine:
            with clock.measure("decode"):
                return self._decoder.decode_uint8(cropped.transpose(1, 2), picture.decoder)[0].cpu()
        with clock.measure("upsample"):
            upsampler = self._upsamplers[size.factor]
            condition = upsampler(cropped.transpose(1, 2), picture.upsampler).transpose(1, 2).float()
        with clock.measure("sr"):
            refined = self._refine(state, condition, start)
        with clock.measure("decode"):
            return self._decoder.decode_uint8(refined.transpose(1, 2), picture.decoder)[0].cpu()

    def _refine(self, state: StreamState, condition_BCFHW: Tensor, start: int) -> Tensor:
        """One step of super-resolution on upsampled latents: a stream's first group at once, later ones in calls."""
        picture, sr = state.picture, self.preset.sr
        assert sr is not None
        noise = self._noise(state, tuple(condition_BCFHW.shape), f"sr.{picture.size.name}", start)
        frames = condition_BCFHW.shape[2]
        call = frames if sr.call_frames is None or picture.sr.frame_blocks == 0 else sr.call_frames
        parts = zip(noise.split(call, dim=2), condition_BCFHW.split(call, dim=2), strict=True)
        refined = [self._run_sr(state, *part, start + i * call) for i, part in enumerate(parts)]
        return torch.cat(refined, dim=2)

    def _run_sr(self, state: StreamState, noise: Tensor, condition_BCFHW: Tensor, start: int) -> Tensor:
        picture, sr = state.picture, self.preset.sr
        assert sr is not None and self._sr is not None
        frames = condition_BCFHW.shape[2]
        output = self._sr(
            torch.cat((noise, condition_BCFHW), dim=1),
            torch.full((1, 1), sr.timestep, device=self._device),
            state.prompt_context.sr,
            torch.arange(start, start + frames, device=self._device),
            SparseAttention(picture.sr, self._sr_grid(picture.size, frames), sr.rule),
        )
        picture.sr.commit()
        sigma = sr.timestep / TRAIN_STEPS
        return clean_estimate(
            output, prediction=sr.prediction, noisy=noise, sigma=sigma, condition=condition_BCFHW
        )

    def _noise(self, state: StreamState, shape: tuple[int, ...], role: str, index: int) -> Tensor:
        return counter_noise(shape, seed=state.seed, role=role, index=index).to(self._device)


def _channels_last(net: NetT) -> NetT:
    """Lay convolution weights out as the frames are: several times faster on a CPU."""
    return net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def _centre(latents_BCFHW: Tensor, rows: int, cols: int) -> Tensor:
    top = (latents_BCFHW.shape[3] - rows) // 2
    left = (latents_BCFHW.shape[4] - cols) // 2
    return latents_BCFHW[..., top : top + rows, left : left + cols]


def fastest_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 where matrix products run faster in it, else float32."""
    if device.type == "cpu":
        # Builds without oneDNN, such as those for Apple's processors, don't even have the question.
        fast = torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()
        return torch.bfloat16 if fast else torch.float32
    return torch.bfloat16
