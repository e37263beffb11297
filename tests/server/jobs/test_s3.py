"""Videos of a real server in a bucket of S3: made, listed, read in ranges, and removed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from live_server import LiveServer
from videos_client import ask, download, make, numbers, pictures, wait_for

if TYPE_CHECKING:
    from s3_server import Bucket

boto3 = pytest.importorskip("boto3")


def client(bucket: Bucket) -> Any:
    environment = bucket.environment
    return boto3.client(
        "s3",
        endpoint_url=environment["AWS_ENDPOINT_URL"],
        aws_access_key_id=environment["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=environment["AWS_SECRET_ACCESS_KEY"],
        region_name=environment["AWS_DEFAULT_REGION"],
    )


def keys(bucket: Bucket) -> list[str]:
    return [entry["Key"] for entry in client(bucket).list_objects_v2(Bucket="films").get("Contents", [])]


@pytest.fixture
def server(start_server: Any, bucket: Bucket) -> LiveServer:
    running: LiveServer = start_server(data__artifacts=bucket.url, **bucket.environment)
    running.wait_until_ready()
    return running


def test_a_video_goes_to_the_bucket_and_comes_from_it_in_ranges(server: LiveServer, bucket: Bucket) -> None:
    video = make(server, num_frames=33)
    assert wait_for(server, video["id"])["status"] == "completed"
    assert [key for key in keys(bucket) if video["id"] in key] == [f"of/tests/{video['id']}.mp4"]
    assert not list((server.data / "videos").glob("*"))
    whole = download(server, video["id"])
    assert numbers(pictures(whole)) == list(range(33))
    path = f"/v1/videos/{video['id']}/content"
    part = ask(server, "GET", path, headers={"Range": "bytes=100-299"})
    assert (part.status, part.body) == (206, whole[100:300])
    assert part.headers["Content-Range"] == f"bytes 100-299/{len(whole)}"
    tail = ask(server, "GET", path, headers={"Range": "bytes=-50"})
    assert (tail.status, tail.body) == (206, whole[-50:])
    ticket = ask(server, "POST", "/v1/tickets", {"path": path}).json
    assert ask(server, "GET", ticket["url"]).body == whole
    assert ask(server, "DELETE", f"/v1/videos/{video['id']}").status == 200
    assert not [key for key in keys(bucket) if video["id"] in key]


def test_an_object_that_somebody_else_removed_is_gone_and_said_to_be(
    server: LiveServer, bucket: Bucket
) -> None:
    video = make(server, num_frames=9)
    wait_for(server, video["id"])
    client(bucket).delete_object(Bucket="films", Key=f"of/tests/{video['id']}.mp4")
    answer = ask(server, "GET", f"/v1/videos/{video['id']}/content")
    assert (answer.status, answer.code) == (410, "video_expired")
