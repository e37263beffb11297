"""All tables of a server's database."""

from __future__ import annotations

from ultraflash.server.jobs.records import JOB_TABLES
from ultraflash.server.keys.records import API_KEYS
from ultraflash.server.session_store import SESSION_TABLES

TABLES = (*JOB_TABLES, *SESSION_TABLES, API_KEYS)
