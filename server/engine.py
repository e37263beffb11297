"""What the server needs of an engine: the verbs of ``ultraflash.models.cascade.Cascade``.

A factory is named by its dotted path, ``module:attribute``, so that the worker process can build its own engine
and a test of supervision can bring one that needs no weights.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol, cast, runtime_checkable

from ultraflash.server.errors import BadOption, Unsupported

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

CASCADE = "ultraflash.models.cascade:Cascade.load_for_video"
PLAIN = "mini"

EngineTransition = Literal["recompute", "fade", "blend"]
"""How an engine changes a prompt, see `Engine.set_prompt`."""

"""The preset whose weights are in the package."""


class PictureSize(Protocol):
    """A picture size that a preset can make."""

    @property
    def name(self) -> str:
        """Name that people use, such as ``1K``; ``WxH`` where it has none."""

    @property
    def width(self) -> int:
        """Columns of pixels."""

    @property
    def height(self) -> int:
        """Rows of pixels."""


class EnginePreset(Protocol):
    """What a preset promises."""

    @property
    def name(self) -> str:
        """Name of the model as clients see it."""

    @property
    def fps(self) -> int:
        """Native playback rate."""

    @property
    def sizes(self) -> Sequence[PictureSize]:
        """All named sizes, small to large."""

    @property
    def default_size(self) -> str:
        """Name of the size of a stream that asks for none."""

    @property
    def max_prompt_chars(self) -> int:
        """Longest prompt."""

    def size(self, text: str) -> PictureSize:
        """The size called ``text``, a name or ``WxH``. Raises ``UnknownSize``."""


class CacheUse(Protocol):
    """What a stream has left out so far, and how full its caches are."""

    @property
    def steps_saved(self) -> int:
        """Denoising passes left out."""

    @property
    def refreshes_skipped(self) -> int:
        """Passes that only refresh a cache, left out."""

    @property
    def occupancy(self) -> Mapping[str, float]:
        """By cache, the part of it that the next block can see, 0 to 1."""


class EngineState(Protocol):
    """State of one stream, opaque but for what it reports."""

    @property
    def stage_seconds(self) -> Mapping[str, float]:
        """Seconds of the newest group by stage."""

    @property
    def cache_use(self) -> CacheUse:
        """Work left out, and caches."""


class Engine(Protocol):
    """Makes frames, one group of one stream at a time; used from one thread.

    A state goes back only to the engine that made it, hence the ``Any`` where one is taken.
    """

    @property
    def preset(self) -> EnginePreset:
        """What it can make."""

    def check_prompt(self, prompt: str) -> str:
        """The prompt as it will be used. Raises ``EmptyPrompt`` or ``PromptTooLong``."""

    def open(self, prompt: str, *, size: str, seed: int) -> EngineState:
        """State of a new stream."""

    def next_group(self, state: Any) -> torch.Tensor:
        """Next frames, contiguous, on the CPU: uint8 (T, H, W, 3) RGB, or (T, 3H/2, W), the planes of yuv420p."""

    def set_prompt(self, state: Any, prompt: str, *, transition: EngineTransition, groups: int) -> None:
        """Changes the prompt from the next group on: at once, with the past seen under the new prompt too
        (``recompute``), so too but with the frames faded over ``groups`` groups (``fade``), or with the prompt's text
        blended over them (``blend``)."""

    def set_size(self, state: Any, size: str) -> None:
        """Changes the size from the next group on."""


def engine_transition(transition: str) -> EngineTransition:
    """What clients call a cut, a fade or a blend, as engines do it.

    A cut sees the past under the new prompt: the base is trained on windows whose prompt is that of their last block,
    and what was kept from under the old one would go on pulling towards it.
    """
    return "fade" if transition == "fade" else "blend" if transition == "blend" else "recompute"


@runtime_checkable
class StreamKeeper(Protocol):
    """An engine whose streams can be kept between two groups and gone on with later, by another process too."""

    def save_stream(self, state: Any, max_bytes: int | None = None) -> bytes:
        """A stream as bytes, with less in it where it would be more than ``max_bytes``."""

    def load_stream(self, data: bytes) -> EngineState:
        """The stream of ``save_stream``, which goes on with the same frames, or nearly so where less was in it.

        Raises an ``UltraflashError`` for one that this engine cannot go on with.
        """


@runtime_checkable
class GpuUser(Protocol):
    """An engine that may run on GPUs."""

    def gpu_memory(self) -> Mapping[str, tuple[int, int]]:
        """Bytes in use and in total of those that it runs on, by their names."""


@runtime_checkable
class DetailChooser(Protocol):
    """An engine that can make a size more cheaply, with sparser attention in super-resolution."""

    def sr_shares(self, size: str) -> Sequence[float]:
        """Shares of the attention that a size can be made with, 1, which is all of it, first."""

    def set_sr_share(self, state: Any, share: float) -> None:
        """Keeps only this share from the next group on."""


class ReferenceFormat(Protocol):
    """Which frames a stream can start from: at most so many, of so many pixels, at so many a second."""

    @property
    def frames(self) -> int:
        """The most that are of use."""

    @property
    def height(self) -> int:
        """Rows of pixels."""

    @property
    def width(self) -> int:
        """Columns of pixels."""

    @property
    def fps(self) -> int:
        """Frames a second of a clip."""


@runtime_checkable
class ReferenceTaker(Protocol):
    """An engine whose streams can start from a picture or a clip."""

    def reference_format(self) -> ReferenceFormat:
        """What ``start_from`` takes. Raises an ``UltraflashError`` where something is missing for it."""

    def start_from(self, state: Any, frames_THWC: NDArray[np.uint8]) -> None:
        """Lets a stream without a group go on from frames, uint8 RGB, which it shows first."""


def reference_format(engine: Engine) -> ReferenceFormat:
    """What streams of an engine can start from. Raises ``Unsupported``, or what the engine lacks for it."""
    if not isinstance(engine, ReferenceTaker):
        raise Unsupported(
            f"{engine.preset.name} cannot start from a picture: leave it out.", param="input_reference"
        )
    return engine.reference_format()


def chosen_preset(factory: str, preset: str | None, size: str | None, say: Callable[[str], None]) -> str:
    """The preset that was named, or else the best that this machine has weights and memory for.

    Which that is, and why, is told to ``say``. Only the cascade has a choice: other engines are given ``mini``.
    """
    if preset is not None:
        return preset
    if factory != CASCADE:
        return PLAIN
    from ultraflash.models.preset_choice import best_preset

    choice = best_preset(size)
    say(f"preset {choice.preset}: {choice.reason}")
    return choice.preset


def load_engine(factory: str, preset: str, size: str | None) -> Engine:
    """Builds the engine that ``factory`` (``module:attribute``) makes of a preset's name or path.

    ``size`` is that of streams that ask for none, for which there must be memory; None is the preset's own.

    Raises ``BadOption`` when there is no such factory, and whatever loading raises.
    """
    module_name, _, path = factory.partition(":")
    if not module_name or not path:
        raise BadOption(f"An engine factory is named module:attribute, unlike {factory!r}.", param="engine")
    try:
        target: Any = importlib.import_module(module_name)
        for part in path.split("."):
            target = getattr(target, part)
    except (ModuleNotFoundError, AttributeError) as error:
        if isinstance(error, ModuleNotFoundError) and not module_name.startswith(error.name or "?"):
            raise
        raise BadOption(f"No engine factory {factory!r}: {error}.", param="engine") from error
    return cast(Engine, target(preset, size=size))
