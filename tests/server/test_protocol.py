"""The protocol as documented, as schema and on the wire are one and the same."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import ultraflash.server.errors as errors
from ultraflash.models.errors import MissingExtra, MissingWeights
from ultraflash.server import protocol
from ultraflash.server.errors import InvalidField, ProtocolError
from ultraflash.server.protocol import (
    CLIENT_EVENTS,
    HEADER_BYTES,
    SERVER_EVENTS,
    ErrorEvent,
    MediaFlags,
    MediaHeader,
    SessionStart,
    dump_event,
    json_schema,
    parse_client_event,
)

PAGE = (Path(protocol.__file__).parent / "PROTOCOL.md").read_text()


def documented(heading: str) -> dict[str, list[str]]:
    """Fields by event as the table below a heading lists them; ``?`` marks optional ones."""
    section = PAGE.split(f"## {heading}\n")[1].split("\n## ")[0]
    rows = re.findall(r"^\| `([a-z]+\.?[a-z]*)` \|([^|]*)\|", section, re.MULTILINE)
    return {name: re.findall(r"`([a-z_]+\??)`", fields) for name, fields in rows}


def declared(events: object) -> dict[str, list[str]]:
    assert isinstance(events, dict)
    return {
        name: [
            field + ("" if info.is_required() else "?")
            for field, info in cls.model_fields.items()
            if field != "type"
        ]
        for name, cls in events.items()
    }


def test_the_page_lists_every_event_with_its_fields() -> None:
    assert documented("Client") == declared(CLIENT_EVENTS)
    assert documented("Server") == declared(SERVER_EVENTS)


NOT_OF_THE_STREAM = (
    "bad_option",
    "unsafe_binding",
    "connection_lost",
    "refused",
    "unknown_key",
    "key_name_taken",
)
"""Errors of options and of the client, of the place for videos, and of ``ultraflash keys``."""


def test_the_page_lists_every_error_of_the_stream() -> None:
    section = PAGE.split("## Errors and the connection\n")[1]
    for cls in vars(errors).values():
        if (
            isinstance(cls, type)
            and cls.__module__ == errors.__name__
            and cls.__name__ not in ("ProtocolError",)
        ):
            if issubclass(cls, errors.RestError) or cls.code in NOT_OF_THE_STREAM:
                continue
            assert f"`{cls.code}`" in section, cls


OF_A_PICTURE = (
    errors.QueueFull,
    errors.VideoGone,
    errors.DataUnusable,
    errors.EngineFault,
    MissingExtra,
    MissingWeights,
)
"""What a start with one can be answered with, beside what the worker says of the picture itself."""


def test_the_page_lists_every_error_of_a_picture_to_start_from() -> None:
    section = PAGE.split("## Errors and the connection\n")[1]
    about_pictures = PAGE.split("## Pictures\n")[1].split("\n## ")[0]
    for code in ("bad_reference", "reference_too_large", *(cls.code for cls in OF_A_PICTURE)):
        assert f"`{code}`" in section, code
        assert f"`{code}`" in about_pictures, code


def closes_in_the_code() -> set[int]:
    """Values of all constants of the server that are codes of closes; 1000 is also a number like others."""
    found = {1000}
    for file in Path(protocol.__file__).parent.rglob("*.py"):
        for node in ast.parse(file.read_text()).body:
            if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant):
                value = node.value.value
                if isinstance(value, int) and 1001 <= value <= 1015:
                    found.add(value)
    return found


def test_the_page_lists_every_close() -> None:
    table = PAGE.split("| close | when |\n")[1]
    assert {int(code) for code in re.findall(r"^\| (\d{4}) \|", table, re.MULTILINE)} == closes_in_the_code()


def test_the_schema_tells_events_apart_by_type_and_forbids_other_fields() -> None:
    schema = json_schema()
    for side, events in (("client", CLIENT_EVENTS), ("server", SERVER_EVENTS)):
        assert set(schema[side]["discriminator"]["mapping"]) == set(events)
        for definition in schema[side]["$defs"].values():
            assert definition["additionalProperties"] is False
    json.dumps(schema)


def test_a_start_needs_only_a_prompt() -> None:
    event = parse_client_event('{"type": "session.start", "prompt": "a hill"}')
    assert event == SessionStart(prompt="a hill")
    assert (event.size, event.transport, event.seed) == ("auto", "webcodecs", None)


def test_an_error_repeats_the_event_id_of_what_it_refuses() -> None:
    with pytest.raises(ProtocolError) as caught:
        parse_client_event('{"type": "prompt.update", "prompt": "x", "event_id": "e7", "wipe": 1}')
    assert caught.value.code == "unknown_field"
    assert caught.value.event_id == "e7"
    assert "transition" in caught.value.message


def test_fields_without_a_value_are_left_out_of_server_events() -> None:
    event = ErrorEvent(code="busy", message="later", retryable=True)
    assert json.loads(dump_event(event)) == {
        "type": "error",
        "code": "busy",
        "message": "later",
        "retryable": True,
    }


@given(st.text())
def test_no_text_gets_past_the_parser_untyped(text: str) -> None:
    with pytest.raises(ProtocolError):
        parse_client_event(text)


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
field_names = sorted({field for cls in CLIENT_EVENTS.values() for field in cls.model_fields})


@given(st.sampled_from(sorted(CLIENT_EVENTS)), st.dictionaries(st.sampled_from(field_names), json_values))
def test_any_values_in_known_events_are_taken_or_refused_by_name(
    kind: str, fields: dict[str, object]
) -> None:
    try:
        event = parse_client_event(json.dumps({**fields, "type": kind}))
    except ProtocolError as error:
        refused = error
    else:
        assert event.type == kind
        return
    assert refused.code in ("unknown_field", "missing_field", "invalid_field")
    assert kind in refused.message
    assert len(refused.message) < 600


@given(
    flags=st.integers(0, 7),
    generation=st.integers(0, 2**16 - 1),
    seq=st.integers(0, 2**32 - 1),
    pts_us=st.floats(allow_nan=False),
    capture_ms=st.floats(allow_nan=False),
)
def test_a_media_header_survives_the_wire(
    flags: int, generation: int, seq: int, pts_us: float, capture_ms: float
) -> None:
    header = MediaHeader(
        flags=MediaFlags(flags), generation=generation, seq=seq, pts_us=pts_us, capture_ms=capture_ms
    )
    data = header.pack()
    assert len(data) == HEADER_BYTES == 24
    assert MediaHeader.unpack(data + b"payload") == header


def test_the_media_header_is_laid_out_as_documented() -> None:
    header = MediaHeader(flags=MediaFlags.KEY, generation=0x0203, seq=0x04050607, pts_us=1.0, capture_ms=2.0)
    expected = (
        bytes([1, 1, 3, 2, 7, 6, 5, 4])
        + bytes.fromhex("000000000000f03f")
        + bytes.fromhex("0000000000000040")
    )
    assert header.pack() == expected


@pytest.mark.parametrize("data", [b"", b"\x01" * 23, b"\x02" + b"\x00" * 23])
def test_a_header_of_another_kind_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidField):
        MediaHeader.unpack(data)
