"""Make, show and revoke API keys.

For example: ultraflash keys create studio --expires 90d, ultraflash keys list, ultraflash keys revoke studio

With a key in the database the server wants one from everybody. It may run meanwhile: it sees new and revoked keys at
once. A key is shown when it is made and never again.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ultraflash.server.errors import BadOption

if TYPE_CHECKING:
    from ultraflash.server.keys.records import ApiKey, KeyLimits
    from ultraflash.server.keys.store import KeyStore

UNITS_S = {"h": 3600, "d": 86_400, "w": 7 * 86_400}
MAX_NAME = 128
LIMITS = {
    "max_sessions": "live sessions at a time",
    "max_jobs": "videos that are queued or in progress",
    "max_pixels_per_s": "width x height x fps of its sessions, and of its unfinished videos",
    "max_prompt_chars": "characters of a prompt",
    "max_body_bytes": "bytes of a request",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options."""
    parser.add_argument("--config", type=Path, metavar="FILE", help="settings of the server as TOML")
    verbs = parser.add_subparsers(title="verbs", dest="verb", metavar="VERB", required=True)
    create = verbs.add_parser("create", help="make a key and print it")
    create.add_argument("name", help="what it is for")
    create.add_argument("--expires", metavar="TIME", help="such as 12h, 90d or 4w (default: never)")
    for name, meaning in LIMITS.items():
        option = f"--{name.replace('_', '-')}"
        create.add_argument(option, type=int, metavar="N", help=f"{meaning} (default: the server's setting)")
    shown = verbs.add_parser("list", help="show all keys, and never their text")
    shown.add_argument("--json", action="store_true", help="one JSON object a line")
    revoke = verbs.add_parser("revoke", help="end a key for good")
    revoke.add_argument("key", help="its name or id")


def run(args: argparse.Namespace) -> int:
    """Runs the verb. Raises DataUnusable, KeyNameTaken, UnknownKey or BadOption."""
    from ultraflash.server.keys.store import KeyStore
    from ultraflash.server.settings import load_settings

    store = KeyStore.open(load_settings(args.config, {}).data.database_url)
    try:
        if args.verb == "create":
            _create(store, args)
        elif args.verb == "list":
            _list(store, as_json=args.json)
        else:
            key = store.revoke(args.key)
            print(f"{key.id} {key.name} is revoked; its live sessions end within seconds")
    finally:
        store.close()
    return 0


def lifetime_s(text: str) -> int:
    """Seconds of a time such as ``90d``. Raises ``BadOption``."""
    match = re.fullmatch(r"([1-9][0-9]{0,5})([hdw])", text)
    if match is None:
        raise BadOption(
            f"--expires is a number with h, d or w, such as 90d, unlike {text!r}.", param="expires"
        )
    return int(match[1]) * UNITS_S[match[2]]


def _create(store: KeyStore, args: argparse.Namespace) -> None:
    """Only the key itself goes to stdout, so that it can be piped to where it is kept."""
    if not args.name.isprintable() or not 0 < len(args.name) <= MAX_NAME:
        raise BadOption(f"A name has 1 to {MAX_NAME} printable characters.", param="name")
    expires_at = None if args.expires is None else time.time() + lifetime_s(args.expires)
    secret, key = store.create(args.name, expires_at=expires_at, limits=_limits(args))
    until = "until it is revoked" if expires_at is None else f"until {_moment(expires_at)}"
    print(f"{key.id} {key.name} is good {until}. It is shown only now:", file=sys.stderr)
    print(secret)


def _limits(args: argparse.Namespace) -> KeyLimits:
    from ultraflash.server.keys.records import KeyLimits

    given = {name: getattr(args, name) for name in LIMITS}
    for name, value in given.items():
        if value is not None and value < 0:
            raise BadOption(f"--{name.replace('_', '-')} must be 0 or more, unlike {value}.", param=name)
    return KeyLimits(**given)


def _list(store: KeyStore, *, as_json: bool) -> None:
    now = time.time()
    keys = store.all_keys()
    if as_json:
        for key in keys:
            print(json.dumps(_described(key, now)))
        return
    if not keys:
        print("There are no keys; the server lets everybody in who can reach it, on 127.0.0.1.")
    for key in keys:
        limits = ", ".join(
            f"{name} {value}" for name, value in asdict(key.limits).items() if value is not None
        )
        expiry = "never expires" if key.expires_at is None else f"expires {_moment(key.expires_at)}"
        row = [key.id, f"{key.state(now):<8}", key.name, f"made {_moment(key.created_at)}", expiry, limits]
        print("  ".join(filter(None, row)))


def _described(key: ApiKey, now: float) -> dict[str, Any]:
    described = {**asdict(key), "state": key.state(now)}
    del described["digest"]
    return described


def _moment(unix_s: float) -> str:
    return datetime.fromtimestamp(unix_s).astimezone().isoformat(timespec="minutes")
