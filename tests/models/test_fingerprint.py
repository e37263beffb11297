"""Which streams may go on under which preset."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import pytest

from ultraflash.models.fingerprint import preset_digest
from ultraflash.models.preset import BaseConfig, Preset, available_presets, load_preset


@dataclass(frozen=True, slots=True, kw_only=True)
class LaterBase(BaseConfig):
    """The base of a later version, which has one more switch."""

    switch: float | None = None


def with_switch(preset: Preset, value: float | None) -> Preset:
    fields = {field.name: getattr(preset.base, field.name) for field in dataclasses.fields(preset.base)}
    return dataclasses.replace(preset, base=LaterBase(**fields, switch=value))


@pytest.mark.parametrize("name", available_presets())
def test_a_new_switch_that_is_off_leaves_older_streams_what_they_are(name: str) -> None:
    preset = load_preset(name)
    assert preset_digest(with_switch(preset, None)) == preset_digest(preset)
    assert preset_digest(with_switch(preset, 0.5)) != preset_digest(preset)


def test_a_switch_that_a_preset_does_not_set_leaves_its_older_streams_what_they_are() -> None:
    # Of the preset before super-resolution could have several networks.
    assert preset_digest(load_preset("ultraflash-1k")).startswith("51c1d66dd3375c11")


def test_what_shapes_a_stream_counts_and_what_is_for_people_does_not() -> None:
    preset = load_preset("mini")
    digest = preset_digest(preset)
    assert preset_digest(dataclasses.replace(preset, description="another")) == digest
    for factor, config in preset.upsampler.items():
        other = {**preset.upsampler, factor: dataclasses.replace(config, blocks=config.blocks + 1)}
        assert preset_digest(dataclasses.replace(preset, upsampler=other)) != digest
    assert preset_digest(load_preset("mini-fast")) != digest
