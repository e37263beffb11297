"""An S3 server in this process, with an empty bucket, where moto is installed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import pytest


@dataclass(frozen=True)
class Bucket:
    """Where videos go, and the environment that finds it."""

    url: str
    environment: Mapping[str, str]


def running_s3() -> Iterator[Bucket]:
    """A bucket on a free port; skips the test where moto or s3fs is not installed."""
    moto = pytest.importorskip("moto.server")
    boto3 = pytest.importorskip("boto3")
    pytest.importorskip("s3fs")
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    environment = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "tester",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    client = boto3.client(
        "s3",
        endpoint_url=environment["AWS_ENDPOINT_URL"],
        aws_access_key_id="tester",
        aws_secret_access_key="secret",
        region_name="us-east-1",
    )
    client.create_bucket(Bucket="films")
    try:
        yield Bucket(url="s3://films/of/tests", environment=environment)
    finally:
        server.stop()
