"""Settings that a front and its replicas share, and what they need before any of them starts."""

from __future__ import annotations

import secrets

from ultraflash.server.database import open_database
from ultraflash.server.settings import Settings
from ultraflash.server.tables import TABLES

_SECRET_BYTES = 24


def shared_settings(settings: Settings) -> Settings:
    """The settings with a secret that opens the doors of replicas, made up where none is set.

    The database is laid here, once, before several lay it at a time. Raises ``DataUnusable``.
    """
    open_database(settings.data.database_url, *TABLES).dispose()
    secret = settings.replicas.secret or secrets.token_urlsafe(_SECRET_BYTES)
    return settings.model_copy(update={"replicas": settings.replicas.model_copy(update={"secret": secret})})


def replica_settings(settings: Settings, number: int) -> Settings:
    """Those of one replica, which knows its number."""
    replicas = settings.replicas.model_copy(update={"number": number})
    return settings.model_copy(update={"replicas": replicas})
