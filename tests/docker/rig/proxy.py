"""Real proxies on the loopback, on the configurations that docker/ ships as examples."""

from __future__ import annotations

import re
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

NAME = "video.example.com"
PATIENCE_S = 60.0


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


def make_certificate(folder: Path) -> tuple[Path, Path]:
    """A certificate of ``NAME`` signed by itself, and its key."""
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    subject = ["-subj", f"/CN={NAME}", "-addext", f"subjectAltName=DNS:{NAME}"]
    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command = ["openssl", "req", "-x509", *curve, "-keyout", str(key), "-out", str(certificate), *subject]
    subprocess.run(command, check=True, capture_output=True)
    return certificate, key


def replaced(text: str, changes: dict[str, str]) -> str:
    """The text with each key replaced, which must be there: an example that changed must not go untested."""
    for old, new in changes.items():
        if old not in text:
            raise AssertionError(f"the example no longer has {old!r}")
        text = text.replace(old, new)
    return text


@dataclass
class Proxy:
    """A proxy that runs while the context is open.

    Attributes:
        command: starts it in the foreground.
        port: where it speaks TLS.
        plain_port: where it only redirects.
        certificate: to trust.
    """

    command: list[str]
    folder: Path
    port: int
    plain_port: int
    certificate: Path

    def __enter__(self) -> Proxy:
        self._log = (self.folder / "output.log").open("wb")
        self._process = subprocess.Popen(
            self.command,
            cwd=self.folder,
            env={"HOME": str(self.folder), "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
            stdout=self._log,
            stderr=self._log,
        )
        deadline = time.monotonic() + PATIENCE_S
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError((self.folder / "output.log").read_text())
            time.sleep(0.05)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.terminate()
        self._process.wait(PATIENCE_S)
        self._log.close()

    def _answers(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
        except OSError:
            return False
        return True


def nginx(example: Path, folder: Path, upstream: str) -> Proxy:
    """nginx on the example, with ports and paths of its own."""
    certificate, key = make_certificate(folder)
    port, plain_port = free_port(), free_port()
    places = "".join(
        f"    {name}_temp_path {folder}/{name};\n"
        for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    text = replaced(
        example.read_text(),
        {
            "user www-data;": "user root;",
            "worker_processes auto;": "worker_processes 1; daemon off;",
            "/run/nginx.pid": str(folder / "nginx.pid"),
            "/var/log/nginx/error.log": str(folder / "error.log"),
            "/var/log/nginx/access.log": str(folder / "access.log"),
            "http {\n": f"http {{\n{places}",
            "server 127.0.0.1:8000;": f"server {upstream};",
            "listen 80 ": f"listen 127.0.0.1:{plain_port} ",
            "listen 443 ": f"listen 127.0.0.1:{port} ",
            "/etc/nginx/tls/fullchain.pem": str(certificate),
            "/etc/nginx/tls/privkey.pem": str(key),
        },
    )
    configuration = folder / "nginx.conf"
    configuration.write_text(text)
    command = ["nginx", "-p", str(folder), "-c", str(configuration), "-e", str(folder / "error.log")]
    return Proxy(command, folder, port, plain_port, certificate)


def caddy(example: Path, folder: Path, upstream: str) -> Proxy:
    """Caddy on the example, with ports of its own and a certificate that needs nobody else."""
    certificate, key = make_certificate(folder)
    port, plain_port = free_port(), free_port()
    own = f"{{\n\tadmin off\n\tauto_https disable_certs\n\thttp_port {plain_port}\n\thttps_port {port}\n"
    text = replaced(
        re.sub(r"(?m)^#.*\n", "", example.read_text()),
        {
            "{\n\tservers {": f"{own}\tservers {{",
            "\nvideo.example.com {\n": f"\nvideo.example.com {{\n\tbind 127.0.0.1\n\ttls {certificate} {key}\n",
            "127.0.0.1:8000": upstream,
            "/var/log/caddy/access.log": str(folder / "access.log"),
        },
    )
    configuration = folder / "Caddyfile"
    configuration.write_text(text)
    command = ["caddy", "run", "--config", str(configuration), "--adapter", "caddyfile"]
    return Proxy(command, folder, port, plain_port, certificate)
