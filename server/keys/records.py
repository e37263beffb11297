"""What is kept of an API key, and who a request comes from."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

from sqlalchemy import BigInteger, Column, Float, Integer, RowMapping, String, Table

from ultraflash.server.database import METADATA

API_KEYS = Table(
    "api_keys",
    METADATA,
    Column("id", String(32), primary_key=True),
    Column("name", String(128), nullable=False),
    Column("digest", String(64), nullable=False, unique=True),
    Column("created_at", Float, nullable=False),
    Column("expires_at", Float),
    Column("revoked_at", Float),
    Column("max_sessions", Integer),
    Column("max_jobs", Integer),
    Column("max_pixels_per_s", BigInteger),
    Column("max_prompt_chars", Integer),
    Column("max_body_bytes", BigInteger),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyLimits:
    """How much one key may use at a time; None means no limit, or in a stored key the default of the settings.

    Attributes:
        max_sessions: live sessions, of this server.
        max_jobs: videos that are queued or in progress.
        max_pixels_per_s: width x height x fps, of its live sessions together and of its unfinished videos together.
        max_prompt_chars: longest prompt, where the engine's own limit is not below it.
        max_body_bytes: longest body of a request.
    """

    max_sessions: int | None = None
    max_jobs: int | None = None
    max_pixels_per_s: int | None = None
    max_prompt_chars: int | None = None
    max_body_bytes: int | None = None

    def over(self, defaults: KeyLimits) -> KeyLimits:
        """These limits, and the defaults where there is none."""
        given = {name: value for name in limit_names() if (value := getattr(self, name)) is not None}
        return replace(defaults, **given)


def limit_names() -> list[str]:
    """Names of all limits."""
    return [field.name for field in fields(KeyLimits)]


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiKey:
    """A key as it is kept; times are Unix seconds.

    Attributes:
        id: what logs and the owners of jobs name it by.
        digest: of its text, which is kept nowhere.
    """

    id: str
    name: str
    digest: str
    created_at: float
    expires_at: float | None
    revoked_at: float | None
    limits: KeyLimits

    def state(self, now: float) -> str:
        """``active``, ``expired`` or ``revoked``."""
        if self.revoked_at is not None:
            return "revoked"
        return "expired" if self.expires_at is not None and self.expires_at <= now else "active"


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Who a request comes from: the holder of a key, or, where none is needed, anybody."""

    key_id: str | None
    limits: KeyLimits


ANYBODY = Caller(key_id=None, limits=KeyLimits())


def key_of(row: RowMapping) -> ApiKey:
    """A stored row as a key."""
    return ApiKey(
        id=row["id"],
        name=row["name"],
        digest=row["digest"],
        created_at=row["created_at"],
        expires_at=row["expires_at"],
        revoked_at=row["revoked_at"],
        limits=KeyLimits(**{name: row[name] for name in limit_names()}),
    )
