"""Stream generated video to browsers and programs.

Serves the page and the WebSocket on http://127.0.0.1:8000/ until it is stopped.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options."""
    parser.add_argument("--config", type=Path, metavar="FILE", help="settings as TOML; options win over it")
    parser.add_argument("--host", help="address to listen on (default 127.0.0.1)")
    parser.add_argument("--port", type=int, help="port to listen on, 0 for a free one (default 8000)")
    parser.add_argument(
        "--preset", help="name of a preset, or path of a TOML file (default: the best that fits)"
    )
    parser.add_argument("--size", help="largest size of streams that ask for none, a name or WxH")
    parser.add_argument("--max-streams", type=int, help="live streams at a time, at most (default 8)")
    parser.add_argument(
        "--allow-unauthenticated",
        action="store_true",
        default=None,
        help="let others reach the server although there are no API keys",
    )
    parser.add_argument(
        "--auth",
        choices=("auto", "required"),
        help="whether requests need an API key: as soon as there is one (auto, the default), or always",
    )
    parser.add_argument("--replicas", type=int, metavar="N", help="servers behind this address (default 1)")
    parser.add_argument("--min-replicas", type=int, metavar="N", help="never fewer (default: --replicas)")
    parser.add_argument(
        "--max-replicas", type=int, metavar="N", help="as many while the queue is long (default: --replicas)"
    )
    parser.add_argument("--log-format", choices=("text", "json"), help="form of log lines (default text)")
    parser.add_argument("--log-level", choices=("debug", "info", "warning", "error"), help="(default info)")


def run(args: argparse.Namespace) -> int:
    """Serves until stopped. Returns 0, or 2 when the engine cannot be loaded."""
    from ultraflash.server.keys.first_key import make_first_key
    from ultraflash.server.keys.store import any_keys
    from ultraflash.server.listen import address_of, listening_socket
    from ultraflash.server.logs import set_up_logging
    from ultraflash.server.replicas.front_process import run_front
    from ultraflash.server.serving import Serving
    from ultraflash.server.settings import check_binding, load_settings

    settings = load_settings(args.config, _options(args))
    file = None if settings.http.allow_unauthenticated else settings.keys.first_file
    if file is not None and make_first_key(settings.data.database_url, file):
        print(f"ultraflash has made its first API key, which it wants from now on: {file}", flush=True)
    check_binding(settings.http, has_keys=any_keys(settings.data.database_url, settings.data.database_file))
    several = settings.replicas.with_front
    set_up_logging("front" if several else "web", level=settings.log_level, form=settings.log_format)
    listener = listening_socket(settings.http.host, settings.http.port)
    serving = None if several else Serving(settings)
    served = settings.preset or "the best preset for this machine"
    replicas = f", {settings.replicas.count} times" if several else ""
    print(f"ultraflash serves {served}{replicas} at {address_of(listener)} (Ctrl-C stops it)", flush=True)
    return run_front(settings, listener) if serving is None else serving.run(listener)


def _options(args: argparse.Namespace) -> dict[str, Any]:
    named = {
        "preset": args.preset,
        "size": args.size,
        "http.host": args.host,
        "http.port": args.port,
        "http.allow_unauthenticated": args.allow_unauthenticated,
        "http.auth": args.auth,
        "log_format": args.log_format,
        "log_level": args.log_level,
        "stream.max_streams": args.max_streams,
        "replicas.count": args.replicas,
        "replicas.min": args.min_replicas,
        "replicas.max": args.max_replicas,
    }
    return {name: value for name, value in named.items() if value is not None}
