"""The text of a key, what is kept of it, and what a log may show."""

from __future__ import annotations

import hashlib

import pytest

from ultraflash.server.keys.secret import digest_of, hide_secrets, looks_like_secret, new_secret


def test_keys_are_256_random_bits_that_scanners_can_know() -> None:
    keys = {new_secret() for _ in range(100)}
    assert len(keys) == 100
    assert all(key.startswith("uf_") and len(key) == 46 and looks_like_secret(key) for key in keys)


def test_what_is_kept_is_the_sha_256() -> None:
    assert digest_of("uf_x") == hashlib.sha256(b"uf_x").hexdigest()


@pytest.mark.parametrize(
    "text", ["", "uf_", "uf_" + "a" * 42, "uf_" + "a" * 44, "sk-" + "a" * 43, "uf_" + "ä" * 43]
)
def test_what_has_not_the_shape_of_a_key_need_not_be_looked_up(text: str) -> None:
    assert not looks_like_secret(text)


def test_logs_show_neither_keys_nor_tokens() -> None:
    key, token = new_secret(), "B3xkq9wq-0_dkwuw9102kdkw"
    for line in (
        f"Bearer {key}",
        f"GET /x?token={token}&part=0",
        f'{{"resume_token": "{token}"}}',
        f"?ticket={token}",
    ):
        hidden = hide_secrets(line)
        assert key not in hidden
        assert token not in hidden
        assert "…" in hidden
    assert (
        hide_secrets("session_0123456789abcdef01234567 token=short")
        == "session_0123456789abcdef01234567 token=short"
    )
