"""What `mini` must reach, and whether one evaluation is worse than another."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """One line of the table.

    Args:
        title: what it is called.
        path: where its number stands in the measures.
        least, most: what it has to reach or must not exceed; one of them or both.
    """

    title: str
    path: tuple[str, ...]
    least: float | None = None
    most: float | None = None

    def is_met(self, value: float) -> bool:
        """Whether ``value`` is good enough."""
        return (self.least is None or value >= self.least) and (self.most is None or value <= self.most)

    @property
    def wanted(self) -> str:
        """The bar as people read it."""
        if self.least is not None and self.most is not None:
            return f"{self.least:g} to {self.most:g}"
        return f">= {self.least:g}" if self.least is not None else f"<= {self.most:g}"


BARS = (
    Bar(title="autoencoder, PSNR in dB", path=("pictures", "autoencoder"), least=32.0),
    Bar(title="super-resolution above bicubic, PSNR in dB", path=("pictures", "sr_gain"), least=1.5),
    Bar(title="classifier on rendered frames, biome", path=("classifier", "biome"), least=0.97),
    # Where the classifier misreads rendered pairs, it would fail a generator that draws them well.
    Bar(
        title="classifier on rendered held-out pairs, both halves",
        path=("classifier_held_out", "pair"),
        least=0.95,
    ),
    Bar(title="adherence, seen pairs, all attributes", path=("adherence", "all"), least=0.90),
    Bar(title="adherence, seen pairs, biome", path=("adherence", "biome"), least=0.90),
    Bar(title="adherence, seen pairs, time of day", path=("adherence", "time"), least=0.90),
    Bar(title="adherence, seen pairs, weather", path=("adherence", "weather"), least=0.90),
    Bar(title="adherence, seen pairs, object", path=("adherence", "object"), least=0.90),
    Bar(title="adherence, seen pairs, colour of the object", path=("adherence", "object_color"), least=0.90),
    Bar(title="both halves of held-out pairs", path=("held_out", "pair"), least=0.70),
    Bar(title="pans go where the prompt says", path=("camera",), least=0.90),
    Bar(title="motion, as a multiple of rendered clips", path=("motion_ratio",), least=0.5, most=1.5),
    Bar(title="Frechet distance, as a multiple of rendered to rendered", path=("realism_ratio",), most=3.0),
    Bar(title="adherence 3 s after a change of prompt", path=("switch_adherence", "all"), least=0.80),
    Bar(title="changes of prompt without a jump", path=("switch_without_jump",), least=0.80),
    Bar(title="adherence lost over long streams", path=("drift_adherence_lost",), most=0.05),
    Bar(title="brightness of long streams wanders by", path=("drift_brightness",), most=0.10),
    Bar(title="contrast of long streams wanders by", path=("drift_contrast",), most=0.10),
)


def number_at(measures: Mapping[str, Any], path: tuple[str, ...]) -> Any:
    """What stands at ``path``: a number, a measure as a table with its interval, or None."""
    value: Any = measures
    for name in path:
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def value_of(found: Any) -> float | None:
    """The number of what `number_at` found."""
    if isinstance(found, Mapping):
        return float(found["value"])
    return None if found is None else float(found)


def regressions(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[str]:
    """Lines on every bar that ``after`` is surely further from: its interval lies wholly on the worse side of the
    value before."""
    for bar in BARS:
        old, new = value_of(number_at(before, bar.path)), number_at(after, bar.path)
        if old is None or new is None:
            continue
        low, high = (new["low"], new["high"]) if isinstance(new, Mapping) else (float(new), float(new))
        worse = (bar.least is not None and high < min(old, bar.least)) or (
            bar.most is not None and low > max(old, bar.most)
        )
        if worse:
            yield f"{bar.title}: {old:.3g} before, {value_of(new):.3g} now (wanted {bar.wanted})"
