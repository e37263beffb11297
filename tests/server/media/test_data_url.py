"""Files that come as text."""

from __future__ import annotations

import pytest

from ultraflash.server.errors import InvalidField
from ultraflash.server.media.data_url import bytes_of


@pytest.mark.parametrize("text", ["aGk=", "data:image/png;base64,aGk=", "data:;base64,aGk="])
def test_a_file_is_base64_with_or_without_the_head_of_a_data_url(text: str) -> None:
    assert bytes_of(text, "image") == b"hi"


@pytest.mark.parametrize(
    "text", ["data:image/png,hi", "data:image/png;base64", "a", "aGk=!", "data:;base64,é", "é"]
)
def test_what_is_neither_is_refused_by_the_name_of_its_field(text: str) -> None:
    with pytest.raises(InvalidField, match="picture is no") as caught:
        bytes_of(text, "picture")
    assert caught.value.param == "picture"
