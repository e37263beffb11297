"""The REST surface beside the stream."""

from __future__ import annotations

import subprocess
import sys
import urllib.request
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from live_server import LiveServer


def test_health_and_readiness(server: LiveServer) -> None:
    assert server.get("/healthz") == (200, {"status": "ok"})
    assert server.get("/readyz") == (200, {"ready": True})


def test_models_and_capabilities_say_what_can_be_asked_for(server: LiveServer) -> None:
    status, models = server.get("/v1/models")
    assert (status, models["object"], [model["id"] for model in models["data"]]) == (200, "list", ["pattern"])
    status, able = server.get("/v1/capabilities")
    assert status == 200
    assert able["presets"] == [
        {
            "name": "pattern",
            "fps": 16,
            "sizes": [
                {"name": "0.5K", "width": 224, "height": 128},
                {"name": "1K", "width": 416, "height": 240},
            ],
            "default_size": "0.5K",
            "max_prompt_chars": 1000,
        }
    ]
    assert (able["default_preset"], able["max_ahead_ms"]) == ("pattern", 1500)
    assert able["transports"] == ["webcodecs", "fmp4"]


def test_the_schema_of_the_stream_is_served(server: LiveServer) -> None:
    status, schema = server.get("/v1/stream/schema")
    assert (status, schema["version"]) == (200, 1)


def test_metrics_are_prometheus_text(server: LiveServer) -> None:
    status, text = server.get("/metrics")
    assert status == 200
    assert "# TYPE ultraflash_first_frame_seconds histogram" in text
    assert "ultraflash_ready 1.0" in text
    for process in ("web", "worker"):
        line = next(
            line for line in text.splitlines() if f'ultraflash_resident_bytes{{process="{process}"}}' in line
        )
        assert float(line.split()[-1]) > 2**20


def test_the_page_comes_with_a_strict_policy_and_is_revalidated(server: LiveServer) -> None:
    for path, kind in (
        ("/", "text/html"),
        ("/assets/app.js", "text/javascript"),
        ("/assets/style.css", "text/css"),
    ):
        with urllib.request.urlopen(f"http://{server.address}{path}", timeout=10) as response:
            headers = response.headers
        assert headers["Content-Type"].startswith(kind)
        assert headers["Cache-Control"] == "no-cache"
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert "script-src 'self';" in headers["Content-Security-Policy"]


def test_what_does_not_exist_is_an_error_of_the_one_shape(server: LiveServer) -> None:
    outside = ("..", "%2e%2e", "..%2f..", "%2e%2e%2f%2e%2e", "..%5c..", "./..", "//etc/passwd%00", "%2fetc")
    paths = [f"/{folder}/{way}/app.py" for folder in ("assets", "v1/videos") for way in outside]
    for path in ("/v1/nothing", "/assets/nothing.js", *paths):
        status, body = server.get(path)
        assert status == 404
        assert body["error"]["code"] == "not_found"
        assert set(body["error"]) == {"code", "message", "param", "type"}


def test_the_web_process_never_loads_torch() -> None:
    code = "import sys, ultraflash.server.app; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd="/")
