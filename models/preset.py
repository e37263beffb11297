"""Presets: a cascade as data. A preset is a TOML file; users can write their own."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from ultraflash.kernels.block_sparse import SelectionRule
from ultraflash.models.dit import DiTConfig
from ultraflash.models.errors import BadConfig, EmptyPrompt, PromptTooLong, UnknownPreset, UnknownSize
from ultraflash.models.kv_store import KvStorage, check_storage
from ultraflash.models.patch_autoencoder import PatchConfig
from ultraflash.models.prediction import Prediction
from ultraflash.models.schedule import TRAIN_STEPS, FlowSchedule
from ultraflash.models.upsampler import UpsamplerConfig

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PRESETS = Path(__file__).parent / "presets"

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """A picture that a preset can make.

    Args:
        name: what people call it, e.g. ``"1K"``.
        rows, cols: the central part of the base latents that is shown.
        factor: how far the upsampler enlarges it.
        spatial: pixels of a latent's side after upsampling.
    """

    name: str
    rows: int
    cols: int
    factor: int
    spatial: int

    def __post_init__(self) -> None:
        if min(self.rows, self.cols, self.factor, self.spatial) < 1:
            raise BadConfig(f"size {self.name}: rows, cols and factor start at 1", param="sizes")

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

    def __post_init__(self) -> None:
        check_storage(self.kv)
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
class SuperResolutionConfig:
    """The one-step super-resolution network.

    Args:
        dit: the network; its input is noise and condition together.
        group_blocks: base blocks refined in one call.
        timestep: the one noise level, in (0, 1000].
        block: latent frames, token rows and token columns of an attention block.
        cached_blocks: temporal blocks kept from earlier calls.
        rule: which key blocks a query block sees.
        prediction: what the network's output means, see :mod:`ultraflash.models.prediction`.
        kv: how the cache keeps keys and values, see :mod:`ultraflash.models.kv_store`.
    """

    dit: DiTConfig
    group_blocks: int
    timestep: float
    block: tuple[int, int, int]
    cached_blocks: int
    rule: SelectionRule
    prediction: Prediction = "flow"
    kv: KvStorage = "model"

    def __post_init__(self) -> None:
        check_storage(self.kv)
        if self.group_blocks < 1 or self.cached_blocks < 0:
            raise BadConfig("group_blocks starts at 1, cached_blocks at 0")
        if len(self.block) != 3 or min(self.block) < 1:
            raise BadConfig(f"block is three positive numbers, not {list(self.block)}", param="block")
        if not 0 < self.timestep <= TRAIN_STEPS:
            raise BadConfig(f"timestep lies in (0, {TRAIN_STEPS}], not {self.timestep}", param="timestep")
        if self.prediction not in ("flow", "change"):
            raise BadConfig(
                f"super-resolution predicts flow or change, not {self.prediction!r}", param="prediction"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    """Everything that defines a cascade, weights aside.

    Args:
        weights: name of a folder of shipped weights, or a path.
        fps: playback rate.
        upsampler: of every factor, the factor aside.
        sizes: what can be made, smallest first.
    """

    name: str
    description: str
    weights: str
    fps: int
    max_prompt_chars: int
    default_size: str
    base: BaseConfig
    upsampler: Mapping[int, UpsamplerConfig]
    sr: SuperResolutionConfig
    decoder: PatchConfig
    sizes: tuple[Size, ...]

    def __post_init__(self) -> None:
        if self.fps < 1 or self.max_prompt_chars < 1 or not self.sizes:
            raise BadConfig("fps and max_prompt_chars start at 1, and there is at least one size")
        if len({size.name.lower() for size in self.sizes}) != len(self.sizes):
            raise BadConfig("two sizes have the same name", param="sizes")
        self._check_channels()
        for size in self.sizes:
            if size.factor not in self.upsampler:
                raise BadConfig(
                    f"size {size.name} wants an upsampler of factor {size.factor}", param="upsampler"
                )
            if size.rows > self.base.rows or size.cols > self.base.cols:
                raise BadConfig(
                    f"size {size.name} shows {size.rows}x{size.cols} latents, more than the base makes"
                )
            self.sr.dit.token_grid(size.rows * size.factor, size.cols * size.factor)
        self.size(self.default_size)

    def _check_channels(self) -> None:
        """Latents pass from part to part, so all must mean the same channels."""
        channels = self.decoder.latent_channels
        found = {
            "base.dit.in_channels": (self.base.dit.in_channels, channels),
            "base.dit.out_channels": (self.base.dit.out_channels, channels),
            "sr.dit.in_channels": (self.sr.dit.in_channels, 2 * channels),
            "sr.dit.out_channels": (self.sr.dit.out_channels, channels),
            **{
                f"upsampler.channels (x{factor})": (config.channels, channels)
                for factor, config in self.upsampler.items()
            },
        }
        for name, (value, wanted) in found.items():
            if value != wanted:
                raise BadConfig(
                    f"{name} is {value}, but must be {wanted} beside decoder.latent_channels = {channels}",
                    param=name,
                )

    @property
    def group_frames(self) -> int:
        """Latent frames of one call of the cascade."""
        return self.base.block_frames * self.sr.group_blocks

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
        stripped = prompt.strip()
        if not stripped:
            raise EmptyPrompt("the prompt is empty; describe what to show", param="prompt")
        if len(stripped) > self.max_prompt_chars:
            raise PromptTooLong(
                f"the prompt has {len(stripped)} characters; {self.name} accepts {self.max_prompt_chars}",
                param="prompt",
            )
        return stripped


def available_presets() -> tuple[str, ...]:
    """Names of the presets that come with the package."""
    return tuple(sorted(path.stem for path in PRESETS.glob("*.toml")))


def load_preset(name: str | Path) -> Preset:
    """Read a preset by name or from the path of a TOML file.

    Raises:
        UnknownPreset: neither a name nor a file.
        BadConfig: a key that is absent, unknown or impossible.
        UnknownSize: its default size is none of its sizes.
    """
    path = Path(name)
    if str(name) in available_presets():
        path = PRESETS / f"{name}.toml"
    elif not path.is_file():
        names = ", ".join(available_presets())
        raise UnknownPreset(f"no preset {str(name)!r}; there are {names}, or give the path of a TOML file")
    try:
        return _parse(tomllib.loads(path.read_text(encoding="utf-8")))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadConfig(f"{path} is no valid TOML: {error}") from error
    except (TypeError, ValueError) as error:  # a value of another type than its key wants
        raise BadConfig(f"{path}: {error}") from error


def _parse(table: dict[str, Any]) -> Preset:
    """Build a preset of the tables of its file. Takes the tables apart."""
    base = _take(table, "base")
    sr = _take(table, "sr")
    decoder = _build(PatchConfig, _take(table, "decoder"))
    upsampler = _take(table, "upsampler")
    sizes = tuple(_build(Size, {**entry, "spatial": decoder.patch}) for entry in _take(table, "sizes"))
    schedule = FlowSchedule(nominal_steps=tuple(_take(base, "steps")), shift=_take(base, "shift"))
    rule = _build(SelectionRule, _take(sr, "rule"))
    return _build(
        Preset,
        {
            **table,
            "base": _build(
                BaseConfig, {**base, "dit": _build(DiTConfig, _take(base, "dit")), "schedule": schedule}
            ),
            "upsampler": {
                factor: _build(UpsamplerConfig, {**upsampler, "factor": factor})
                for factor in sorted({size.factor for size in sizes})
            },
            "sr": _build(
                SuperResolutionConfig,
                {
                    **sr,
                    "dit": _build(DiTConfig, _take(sr, "dit")),
                    "rule": rule,
                },
            ),
            "decoder": decoder,
            "sizes": sizes,
        },
    )


def _take(table: Any, key: str) -> Any:
    """Remove and return an entry of a TOML table."""
    if not isinstance(table, dict):
        raise BadConfig(f"a table with {key!r} is wanted, not {table!r}", param=key)
    value = table.pop(key, None)
    if value is None:
        raise BadConfig(f"the preset lacks {key!r}", param=key)
    return value


def _build(kind: type[T], values: Mapping[str, Any]) -> T:
    """Make a dataclass of a TOML table; unknown and absent keys are errors that name them."""
    fields = {field.name: field for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    unknown = sorted(values.keys() - fields.keys())
    absent = sorted(
        name
        for name, field in fields.items()
        if name not in values
        and field.default is dataclasses.MISSING
        and field.default_factory is dataclasses.MISSING
    )
    if unknown or absent:
        raise BadConfig(
            f"{kind.__name__}: unknown keys {unknown}, absent keys {absent}; known are {sorted(fields)}"
        )
    try:
        return kind(**{name: tuple(v) if isinstance(v, list) else v for name, v in values.items()})
    except (TypeError, ValueError) as error:
        raise BadConfig(f"{kind.__name__}: {error}") from error
