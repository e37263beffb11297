"""The text of an API key, and the digest that is kept of it.

A key is 256 random bits, so nobody can try them all, and a plain SHA-256 is as good a lock as a slow password hash:
those make guessing dear where a secret can be guessed. The same digest is what a key is looked up by, at the cost of
microseconds a request. A pepper would add a secret that every server of a database has to share, and protect nothing
more: who reads the digests cannot turn them into keys.
"""

from __future__ import annotations

import hashlib
import re
import secrets

PREFIX = "uf_"
_RANDOM_BYTES = 32
_SHAPE = re.compile(r"uf_[A-Za-z0-9_-]{43}")
_ANYWHERE = re.compile(r"uf_[A-Za-z0-9_-]{20,}")
_TOKEN_PARAMETER = re.compile(r"((?:token|ticket)(?:\"|')?\s*[=:]\s*(?:\"|')?)[A-Za-z0-9_.-]{16,}")


def new_secret() -> str:
    """A new key: ``uf_`` and 43 characters of URL-safe base64, so that scanners for leaked secrets can know it."""
    return PREFIX + secrets.token_urlsafe(_RANDOM_BYTES)


def looks_like_secret(text: str) -> bool:
    """Whether a text has the shape of a key; anything else need not be looked up."""
    return _SHAPE.fullmatch(text) is not None


def digest_of(secret: str) -> str:
    """SHA-256 of a key, hexadecimal."""
    return hashlib.sha256(secret.encode()).hexdigest()


def hide_secrets(text: str) -> str:
    """A text for a log, without any keys and viewer tokens that have found their way into it."""
    return _TOKEN_PARAMETER.sub(r"\1…", _ANYWHERE.sub(f"{PREFIX}…", text))
