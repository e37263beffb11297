"""Presets: a cascade as data. A preset is a TOML file; users can write their own."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ultraflash.kernels.block_sparse import SelectionRule
from ultraflash.models.dit import DiTConfig
from ultraflash.models.dynamic_cache import DynamicCacheConfig
from ultraflash.models.errors import BadConfig, BadTransition, UnknownPreset, UnknownSize
from ultraflash.models.execution import ExecutionConfig
from ultraflash.models.kv_store import KvStorage, check_storage
from ultraflash.models.patch_autoencoder import PATCH_FRAMES, PatchConfig
from ultraflash.models.precision import PrecisionConfig
from ultraflash.models.prediction import Prediction
from ultraflash.models.prompt_text import plain_prompt
from ultraflash.models.refinement import SuperResolutionConfig
from ultraflash.models.schedule import FlowSchedule
from ultraflash.models.sources import Source
from ultraflash.models.text_encoder import TextConfig
from ultraflash.models.tiny_decoder import ULTRA_DECODER_V3, DecoderConfig
from ultraflash.models.toml_table import build, dump, laid_over, take, to_table
from ultraflash.models.transition import PromptChangeConfig
from ultraflash.models.upsampler import UpsamplerConfig

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PRESETS = Path(__file__).parent / "presets"

HERE = "."
"""What ``weights`` says when they lie beside the preset's file, wherever that is."""

DecoderShape = PatchConfig | DecoderConfig
"""What a preset's decoder may be: that of `mini`, or one in the layout of the official files."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """A picture that a preset can make.

    Args:
        name: what people call it, e.g. ``"1K"``.
        rows, cols: the central part of the base latents that is shown.
        factor: how far the upsampler enlarges it.
        spatial: pixels of a latent's side after upsampling.
        refine: whether the latents go through upsampler and SR; if not, the decoder shows them as the base made them.
    """

    name: str
    rows: int
    cols: int
    factor: int
    spatial: int
    refine: bool = True

    def __post_init__(self) -> None:
        if min(self.rows, self.cols, self.factor, self.spatial) < 1:
            raise BadConfig(f"size {self.name}: rows, cols and factor start at 1", param="sizes")
        if not self.refine and self.factor != 1:
            raise BadConfig(f"size {self.name}: factor {self.factor} takes an upsampler", param="sizes")

    @property
    def height(self) -> int:
        """Pixel rows."""
        return self.rows * self.factor * self.spatial

    @property
    def width(self) -> int:
        """Pixel columns."""
        return self.cols * self.factor * self.spatial

    @property
    def pixels(self) -> str:
        """``WIDTHxHEIGHT``."""
        return f"{self.width}x{self.height}"


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseConfig:
    """The generator at low resolution.

    Args:
        dit: the network.
        block_frames: latent frames denoised together.
        rows, cols: latent grid.
        window_frames: latent frames in the cache, the block in work included.
        sink_frames: first frames that are never evicted.
        schedule: denoising steps.
        prediction: what the network's output means, see :mod:`ultraflash.models.prediction`.
        kv: how the cache keeps keys and values, see :mod:`ultraflash.models.kv_store`.
        independent_first_frame: whether a stream's first block is a single frame.
        spread_limit: how many times as far as in the first blocks of a scene the values of a channel may spread, from 1
            on; None for no limit. See :mod:`ultraflash.models.spread_limit`.
    """

    dit: DiTConfig
    block_frames: int
    rows: int
    cols: int
    window_frames: int
    sink_frames: int
    schedule: FlowSchedule
    prediction: Prediction = "flow"
    kv: KvStorage = "model"
    independent_first_frame: bool = False
    spread_limit: float | None = None

    def __post_init__(self) -> None:
        check_storage(self.kv)
        if self.spread_limit is not None and not 1 <= self.spread_limit < math.inf:
            raise BadConfig(f"spread_limit starts at 1, not at {self.spread_limit}", param="spread_limit")
        if min(self.block_frames, self.rows, self.cols) < 1 or self.sink_frames < 0:
            raise BadConfig("block_frames, rows and cols start at 1, sink_frames at 0")
        if self.block_frames > self.window_frames - self.sink_frames:
            raise BadConfig(
                f"a block of {self.block_frames} frames does not fit a window of {self.window_frames} "
                f"with {self.sink_frames} sink frames"
            )
        self.dit.token_grid(self.rows, self.cols)
        if self.prediction not in ("flow", "clean"):
            raise BadConfig(f"the base predicts flow or clean, not {self.prediction!r}", param="prediction")


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    """Everything that defines a cascade, weights aside.

    Args:
        weights: name of a folder of shipped weights, or a path, ``"."`` in a file being the file's own folder; empty
            when ``sources`` tell where they lie.
        fps: playback rate.
        upsampler: of every factor, the factor aside.
        sr: super-resolution; None when the decoder shows base latents.
        sizes: what can be made, smallest first.
        text: the text encoder.
        dynamic_cache: what streams leave out for speed.
        precision: number types of the networks.
        prompt_change: how prompts change where nobody says otherwise.
        execution: how they are run.
        sources: where the networks come from that do not ship with the package.
    """

    name: str
    description: str
    fps: int
    max_prompt_chars: int
    default_size: str
    base: BaseConfig
    decoder: DecoderShape
    sizes: tuple[Size, ...]
    weights: str = ""
    upsampler: Mapping[int, UpsamplerConfig] = field(default_factory=dict)
    sr: SuperResolutionConfig | None = None
    text: TextConfig = field(default_factory=TextConfig)
    dynamic_cache: DynamicCacheConfig = field(default_factory=DynamicCacheConfig)
    precision: PrecisionConfig = field(default_factory=PrecisionConfig)
    prompt_change: PromptChangeConfig = field(default_factory=PromptChangeConfig)
    execution: ExecutionConfig = field(default_factory=ExecutionConfig)
    sources: tuple[Source, ...] = ()

    def __post_init__(self) -> None:
        if self.fps < 1 or self.max_prompt_chars < 1 or not self.sizes:
            raise BadConfig("fps and max_prompt_chars start at 1, and there is at least one size")
        if len({size.name.lower() for size in self.sizes}) != len(self.sizes):
            raise BadConfig("two sizes have the same name", param="sizes")
        if not self.weights and not self.sources:
            raise BadConfig("the preset lacks 'weights', and names no sources", param="weights")
        self.dynamic_cache.check(self.base.schedule)
        self.execution.check(self.precision)
        self._check_channels()
        self._check_precision()
        self._check_decoder()
        for size in self.sizes:
            self._check_size(size)
        self.size(self.default_size)

    def _check_channels(self) -> None:
        """Latents pass from part to part, so all must mean the same channels."""
        channels = self.decoder.latent_channels
        found = {
            "base.dit.in_channels": (self.base.dit.in_channels, channels),
            "base.dit.out_channels": (self.base.dit.out_channels, channels),
            **{
                f"upsampler.channels (x{factor})": (config.channels, channels)
                for factor, config in self.upsampler.items()
            },
        }
        if self.sr is not None:
            found["sr.dit.in_channels"] = (self.sr.dit.in_channels, (1 + self.sr.noise) * channels)
            found["sr.dit.out_channels"] = (self.sr.dit.out_channels, channels)
        for name, (value, wanted) in found.items():
            if value != wanted:
                raise BadConfig(
                    f"{name} is {value}, but must be {wanted} beside decoder.latent_channels = {channels}",
                    param=name,
                )

    def _check_precision(self) -> None:
        dits = {"base": self.base.dit} | ({} if self.sr is None else {"sr": self.sr.dit})
        for part, dit in dits.items():
            self.precision.check_widths(part, dit.dim, dit.ffn_dim)
        if self.precision.linears in ("int8", "fp8") and any(source.lora_live for source in self.sources):
            raise BadConfig(
                f"lora_live keeps low-rank weights beside linears that are not {self.precision.linears}; "
                "leave lora_live out, and they are added in when they are loaded",
                param="precision.linears",
            )

    def _check_decoder(self) -> None:
        """A latent frame is 4 pixel frames of three colours throughout, whatever decodes it."""
        decoder = self.decoder
        if isinstance(decoder, DecoderConfig):
            colours = decoder.out_channels / decoder.tail_shuffle**2
            if decoder.frames_per_latent != PATCH_FRAMES or colours != 3:
                raise BadConfig(
                    f"the decoder makes {decoder.frames_per_latent} frames of {colours:g} colours of a latent frame, "
                    f"not {PATCH_FRAMES} of 3",
                    param="decoder",
                )

    def _check_size(self, size: Size) -> None:
        if size.rows > self.base.rows or size.cols > self.base.cols:
            raise BadConfig(
                f"size {size.name} shows {size.rows}x{size.cols} latents, more than the base makes"
            )
        if not size.refine:
            return
        if self.sr is None:
            raise BadConfig(f"size {size.name} wants super-resolution, but there is none", param="sr")
        if size.factor not in self.upsampler:
            raise BadConfig(f"size {size.name} wants an upsampler of factor {size.factor}", param="upsampler")
        if self.sr.part(size.factor) is None:
            raise BadConfig(
                f"size {size.name} wants a network of super-resolution for factor {size.factor}",
                param="sr.networks",
            )
        self.sr.dit.token_grid(size.rows * size.factor, size.cols * size.factor)

    @property
    def needs_float_linears(self) -> bool:
        """Whether something else that it asks for works on linear layers of floating numbers alone."""
        return self.execution.compile or any(source.lora_live for source in self.sources)

    @property
    def sr_parts(self) -> tuple[str, ...]:
        """Names of the networks of super-resolution that its sizes want, smallest size first."""
        if self.sr is None:
            return ()
        named = (self.sr.part(size.factor) for size in self.sizes if size.refine)
        return tuple(dict.fromkeys(name for name in named if name is not None))

    @property
    def group_blocks(self) -> int:
        """Base blocks of one call of the cascade."""
        return 1 if self.sr is None else self.sr.group_blocks

    @property
    def group_frames(self) -> int:
        """Latent frames of one call of the cascade; a first group with an independent first frame has fewer."""
        return self.base.block_frames * self.group_blocks

    def group_at(self, latent_frames: int) -> tuple[int, ...]:
        """Latent frames of every block of the group that follows ``latent_frames`` frames."""
        blocks = [self.base.block_frames] * self.group_blocks
        if latent_frames == 0 and self.base.independent_first_frame:
            blocks[0] = 1
        return tuple(blocks)

    def source(self, part: str) -> Source | None:
        """Where a network comes from; None for one of ``weights``."""
        return next((source for source in self.sources if source.part == part), None)

    def size(self, text: str) -> Size:
        """The size called ``text``, by name or as ``WIDTHxHEIGHT``; UnknownSize lists what can be made."""
        wanted = text.strip().lower()
        for size in self.sizes:
            if wanted in (size.name.lower(), size.pixels):
                return size
        choices = ", ".join(f"{size.name} ({size.pixels})" for size in self.sizes)
        raise UnknownSize(f"{self.name} cannot make size {text!r}; it makes {choices}", param="size")

    def check_prompt(self, prompt: str) -> str:
        """Return ``prompt`` without outer white space, or raise EmptyPrompt or PromptTooLong."""
        return plain_prompt(prompt, model=self.name, max_chars=self.max_prompt_chars)


def available_presets() -> tuple[str, ...]:
    """Names of the presets that come with the package."""
    return tuple(sorted(path.stem for path in PRESETS.glob("*.toml")))


def load_preset(name: str | Path) -> Preset:
    """Read a preset by name or from the path of a TOML file.

    With ``extends``, the name of another one or a path from its own folder on, a file says only in what it differs:
    tables are laid over those of the other key by key, everything else takes the place of what was there.

    Raises:
        UnknownPreset: neither a name nor a file.
        BadConfig: a key that is absent, unknown or impossible.
        UnknownSize: its default size is none of its sizes.
    """
    path = _file_of(name, folder=Path())
    try:
        preset = _parse(_read_table(path))
    except (TypeError, ValueError) as error:  # a value of another type than its key wants
        raise BadConfig(f"{path}: {error}") from error
    except BadTransition as error:
        raise BadConfig(f"{path}: {error.message}", param=f"prompt_change.{error.param}") from error
    return preset


def _file_of(name: str | Path, *, folder: Path) -> Path:
    """The file that a preset's name, or a path from a folder on, stands for."""
    if str(name) in available_presets():
        return PRESETS / f"{name}.toml"
    path = folder / name
    if not path.is_file():
        names = ", ".join(available_presets())
        raise UnknownPreset(f"no preset {str(name)!r}; there are {names}, or give the path of a TOML file")
    return path


def _read_table(path: Path, *, extending: tuple[Path, ...] = ()) -> dict[str, Any]:
    """What a file says, with what the files say that it extends; weights beside a file by the path of its folder."""
    if path.resolve() in extending:
        raise BadConfig(f"{path} extends itself", param="extends")
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadConfig(f"{path} is no valid TOML: {error}") from error
    if table.get("weights") == HERE:
        # In full, since a path such as "." or "mini" is also one of a folder in the package.
        table["weights"] = str(path.parent.resolve())
    extended = table.pop("extends", None)
    if extended is None:
        return table
    if not isinstance(extended, str):
        raise BadConfig(f"{path}: extends takes a preset's name or a path, not {extended!r}", param="extends")
    try:
        below = _file_of(extended, folder=path.parent)
    except UnknownPreset as error:
        raise UnknownPreset(f"{path} extends what is not there: {error.message}") from error
    return laid_over(_read_table(below, extending=(*extending, path.resolve())), table)


def dump_preset(preset: Preset) -> str:
    """TOML of a preset, which :func:`load_preset` reads back equal."""
    table = to_table(preset)
    schedule = table["base"].pop("schedule")
    table["base"] = {"steps": schedule["nominal_steps"], "shift": schedule["shift"], **table["base"]}
    table["upsampler"] = _dump_upsamplers(preset.upsampler)
    kind = "patch" if isinstance(preset.decoder, PatchConfig) else "tiny"
    table["decoder"] = {"kind": kind, **table["decoder"]}
    for size in table["sizes"]:
        del size["spatial"]
    return dump({key: value for key, value in table.items() if value not in ((), {})})


def _dump_upsamplers(upsamplers: Mapping[int, UpsamplerConfig]) -> dict[str, Any]:
    """The one table that all factors are made of."""
    shared = next(iter(upsamplers.values()), None)
    if shared is None:
        return {}
    if any(replace(config, factor=shared.factor) != shared for config in upsamplers.values()):
        raise BadConfig("upsamplers that differ in more than their factor have no place in a file")
    return {key: value for key, value in to_table(shared).items() if key != "factor"}


def _parse(table: dict[str, Any]) -> Preset:
    """Build a preset of the tables of its file. Takes the tables apart."""
    base = take(table, "base")
    sr = table.pop("sr", None)
    decoder = _parse_decoder(take(table, "decoder"))
    upsampler = take(table, "upsampler") if sr is not None else take(table, "upsampler", {})
    spatial = decoder.patch if isinstance(decoder, PatchConfig) else decoder.space_factor
    sizes = tuple(
        build(Size, {"refine": sr is not None, **entry, "spatial": spatial}) for entry in take(table, "sizes")
    )
    schedule = FlowSchedule(nominal_steps=tuple(take(base, "steps")), shift=take(base, "shift"))
    return build(
        Preset,
        {
            **table,
            "base": build(
                BaseConfig, {**base, "dit": build(DiTConfig, take(base, "dit")), "schedule": schedule}
            ),
            "upsampler": {
                factor: build(UpsamplerConfig, {**upsampler, "factor": factor})
                for factor in sorted({size.factor for size in sizes if size.refine})
            },
            "sr": None if sr is None else _parse_sr(sr),
            "decoder": decoder,
            "sizes": sizes,
            "text": build(TextConfig, table.get("text", {})),
            "dynamic_cache": build(DynamicCacheConfig, table.get("dynamic_cache", {})),
            "precision": build(PrecisionConfig, table.get("precision", {})),
            "prompt_change": build(PromptChangeConfig, table.get("prompt_change", {})),
            "execution": build(ExecutionConfig, table.get("execution", {})),
            "sources": tuple(build(Source, entry) for entry in table.get("sources", ())),
        },
    )


def _parse_sr(sr: dict[str, Any]) -> SuperResolutionConfig:
    rule = build(SelectionRule, take(sr, "rule"))
    return build(SuperResolutionConfig, {**sr, "dit": build(DiTConfig, take(sr, "dit")), "rule": rule})


def _parse_decoder(table: dict[str, Any]) -> DecoderShape:
    """The decoder's ``kind`` names what its other keys change: ``patch``, ``tiny`` or ``v3``."""
    kind = take(table, "kind", "patch")
    if kind == "patch":
        return build(PatchConfig, table)
    if kind == "tiny":
        return build(DecoderConfig, table)
    if kind == "v3":
        return build(DecoderConfig, {**to_table(ULTRA_DECODER_V3), **table})
    raise BadConfig(f"a decoder is patch, tiny or v3, not {kind!r}", param="decoder")
