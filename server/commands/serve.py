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
    parser.add_argument("--log-format", choices=("text", "json"), help="form of log lines (default text)")
    parser.add_argument("--log-level", choices=("debug", "info", "warning", "error"), help="(default info)")


def run(args: argparse.Namespace) -> int:
    """Serves until stopped. Returns 0, or 2 when the engine cannot be loaded."""
    import uvicorn

    from ultraflash.server.app import create_app
    from ultraflash.server.keys.first_key import make_first_key
    from ultraflash.server.keys.store import any_keys
    from ultraflash.server.listen import address_of, listening_socket
    from ultraflash.server.logs import set_up_logging
    from ultraflash.server.settings import check_binding, load_settings

    settings = load_settings(args.config, _options(args))
    file = None if settings.http.allow_unauthenticated else settings.keys.first_file
    if file is not None and make_first_key(settings.data.database_url, file):
        print(f"ultraflash has made its first API key, which it wants from now on: {file}", flush=True)
    check_binding(settings.http, has_keys=any_keys(settings.data.database_url, settings.data.database_file))
    set_up_logging("web", level=settings.log_level, form=settings.log_format)
    listener = listening_socket(settings.http.host, settings.http.port)

    def stop() -> None:
        server.should_exit = True

    app = create_app(settings, on_worker_failed=stop)
    config = uvicorn.Config(
        app,
        ws_per_message_deflate=False,
        ws_max_size=settings.http.max_message_bytes,
        timeout_graceful_shutdown=3,
        server_header=False,
        access_log=False,
        log_config=None,
        lifespan="on",
    )
    server = uvicorn.Server(config)
    served = settings.preset or "the best preset for this machine"
    print(f"ultraflash serves {served} at {address_of(listener)} (Ctrl-C stops it)", flush=True)
    try:
        server.run(sockets=[listener])
    except KeyboardInterrupt:
        return 0
    status = app.state.server.supervisor.status
    if status.state == "failed":
        print(f"ultraflash: {status.message}", flush=True)
        return 2
    return 0


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
    }
    return {name: value for name, value in named.items() if value is not None}
