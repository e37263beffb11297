"""Tokens that open one thing of one session for a while. Only their digests are kept."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from dataclasses import dataclass

from ultraflash.server.errors import BadToken

TOKEN_BYTES = 24


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """The server's half of a token.

    Attributes:
        digest: SHA-256 of the token, hexadecimal.
        expires_at: Unix time in seconds.
    """

    digest: str
    expires_at: float

    @classmethod
    def issue(cls, lifetime_s: float) -> tuple[str, Grant]:
        """A new random token, and the grant that recognizes it."""
        token = secrets.token_urlsafe(TOKEN_BYTES)
        return token, cls(digest=_digest(token), expires_at=time.time() + lifetime_s)

    def check(self, token: str) -> None:
        """Raises ``BadToken`` unless this is the token, and in time."""
        if time.time() >= self.expires_at or not hmac.compare_digest(_digest(token), self.digest):
            raise BadToken("This token is wrong, or has expired, or is for something else.", param="token")
