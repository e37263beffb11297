"""What a client says of how far it has seen is believed within reason."""

import pytest

from ultraflash.server.stream_position import MOST_UNSTORED_S, StreamPosition


def position() -> StreamPosition:
    return StreamPosition(
        prompt="a hill", asked_size="0.5K", size="0.5K", seed=1, fps=16, max_frames=None, next_index=100
    )


@pytest.mark.parametrize(
    ("seconds", "next_index"), [(None, 100), (5.0, 81), (10.0, 161), (1e8, 100), (-1.0, 100)]
)
def test_a_frame_that_cannot_have_been_sent_moves_nothing(seconds: float | None, next_index: int) -> None:
    at = position()
    at.went_on_to(None if seconds is None else seconds * 1e6)
    assert at.next_index == next_index


def test_the_limit_is_what_can_have_been_made_since_it_was_stored() -> None:
    at = position()
    at.went_on_to((100 + 16 * MOST_UNSTORED_S) * 1e6 / 16)
    assert at.next_index == 100
