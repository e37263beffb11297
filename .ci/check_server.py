"""Fails unless a server becomes ready and serves its page."""

from __future__ import annotations

import sys
import time
import urllib.error
import urllib.request

PATIENCE_SECONDS = 900.0


def main() -> int:
    address = sys.argv[1]
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            with urllib.request.urlopen(f"{address}/readyz", timeout=30) as answer:
                print(f"{address}/readyz: {answer.status}")
                break
        except (urllib.error.URLError, ConnectionError, TimeoutError) as error:
            if time.monotonic() > deadline:
                print(f"not ready after {PATIENCE_SECONDS:.0f} s: {error}", file=sys.stderr)
                return 1
            time.sleep(0.5)
    with urllib.request.urlopen(address, timeout=30) as page:
        body = page.read()
    print(f"{address}/: {len(body)} bytes")
    return 0 if b"<html" in body else 1


if __name__ == "__main__":
    sys.exit(main())
