"""Tables of a TOML file to and from frozen dataclasses, strictly: every key is known, and none is missing."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any, TypeVar

from ultraflash.models.errors import BadConfig

T = TypeVar("T")


def take(table: Any, key: str, default: Any = None) -> Any:
    """Remove and return an entry of a table; raises BadConfig when it is absent and there is no default."""
    if not isinstance(table, dict):
        raise BadConfig(f"a table with {key!r} is wanted, not {table!r}", param=key)
    value = table.pop(key, default)
    if value is None:
        raise BadConfig(f"the preset lacks {key!r}", param=key)
    return value


def laid_over(below: Mapping[str, Any], table: Mapping[str, Any]) -> dict[str, Any]:
    """One table with another one over it: tables in both key by key, any other value from the upper one."""
    merged = dict(below)
    for key, value in table.items():
        lower = below.get(key)
        merged[key] = (
            laid_over(lower, value) if isinstance(lower, Mapping) and isinstance(value, Mapping) else value
        )
    return merged


def build(kind: type[T], values: Mapping[str, Any]) -> T:
    """Make a dataclass of a table; unknown and absent keys are errors that name them."""
    if not isinstance(values, Mapping):
        raise BadConfig(f"{kind.__name__}: a table is wanted, not {values!r}")
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
        return kind(**{name: _frozen(value) for name, value in values.items()})
    except (TypeError, ValueError) as error:
        raise BadConfig(f"{kind.__name__}: {error}") from error


def _frozen(value: Any) -> Any:
    return tuple(_frozen(entry) for entry in value) if isinstance(value, list) else value


def to_table(config: Any) -> dict[str, Any]:
    """A dataclass, and those in it, as tables; without what is None, for which TOML has no word."""
    return {
        field.name: _plain(value)
        for field in dataclasses.fields(config)
        if (value := getattr(config, field.name)) is not None
    }


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(_plain(entry) for entry in value)
    return to_table(value) if dataclasses.is_dataclass(value) else value


def dump(table: Mapping[str, Any], path: tuple[str, ...] = ()) -> str:
    """TOML of a table of strings, numbers, booleans, lists of these, tables and lists of tables."""
    lines = [
        f"{key} = {_value(value)}\n"
        for key, value in table.items()
        if not isinstance(value, Mapping) and not _is_list_of_tables(value)
    ]
    for key, value in table.items():
        name = ".".join((*path, key))
        if isinstance(value, Mapping):
            lines += [f"\n[{name}]\n", dump(value, (*path, key))]
        elif _is_list_of_tables(value):
            lines += [f"\n[[{name}]]\n" + dump(entry, (*path, key)) for entry in value]
    return "".join(lines)


def _is_list_of_tables(value: Any) -> bool:
    return isinstance(value, list | tuple) and bool(value) and all(isinstance(v, Mapping) for v in value)


def _value(value: Any) -> str:
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_value(entry) for entry in value) + "]"
    # What JSON writes for strings, numbers and booleans is TOML too.
    return json.dumps(value, ensure_ascii=False)
