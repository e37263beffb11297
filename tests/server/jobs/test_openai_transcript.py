"""All that the ``openai`` client knows of videos, against a real server, as a transcript of its requests."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from itertools import groupby
from typing import Any

import httpx
import openai
import pytest
from live_server import PATIENCE_S, LiveServer
from uploads import RED, picture
from videos_client import numbers, pictures, shows, wait_for

pytestmark = pytest.mark.filterwarnings("ignore:The Sora API:DeprecationWarning")
OPENING = {"seed": 7, "num_frames": 20}


@pytest.fixture
def requests_made() -> list[str]:
    return []


@pytest.fixture
def client(server: LiveServer, requests_made: list[str]) -> Iterator[openai.OpenAI]:
    """A client that writes down each request and its status, ids by the order in which they came."""
    names: dict[str, str] = {}

    def note(response: httpx.Response) -> None:
        url = re.sub(
            r"video_[0-9a-f]{24}",
            lambda found: names.setdefault(found.group(), f"<video {len(names) + 1}>"),
            response.request.url.raw_path.decode(),
        )
        requests_made.append(f"{response.request.method} {url} {response.status_code}")

    http = openai.DefaultHttpxClient(event_hooks={"response": [note]})
    with openai.OpenAI(
        base_url=f"http://{server.address}/v1",
        api_key="none",
        max_retries=0,
        timeout=PATIENCE_S,
        http_client=http,
    ) as client:
        yield client


def test_the_openai_client_runs_all_that_it_knows(
    client: openai.OpenAI,
    server: LiveServer,
    requests_made: list[str],
    record_property: Callable[[str, object], None],
) -> None:
    first = client.videos.create_and_poll(prompt="a hill", extra_body=OPENING, poll_interval_ms=200)
    assert first.status == "completed"
    sent: dict[str, Any] = {"input_reference": ("a.png", picture(RED), "image/png"), "extra_body": OPENING}
    second = client.videos.create(prompt="a sea", **sent)
    early = [error for error in [_content_error(client, second.id)] if error is not None]
    assert all((error.status_code, error.code) == (409, "video_not_ready") for error in early)
    wait_for(server, second.id)
    assert client.videos.retrieve(second.id).status == "completed"
    third = client.videos.remix(first.id, prompt="a lake")
    file = client.videos.download_content(first.id).read()
    extended: dict[str, Any] = {"seconds": "1", "video": ("out.mp4", file, "video/mp4")}
    fourth = client.videos.extend(prompt="a town", **extended)
    wait_for(server, third.id)
    wait_for(server, fourth.id)
    pages = client.videos.list(limit=3)
    assert [video.id for video in pages.data] == [fourth.id, third.id, second.id]
    assert pages.has_next_page()
    assert pages.get_next_page().data[0].id == first.id
    longer = pictures(client.videos.download_content(fourth.id).read())
    assert numbers(longer) == list(range(36))
    assert shows(longer[0], "a hill") and shows(longer[-1], "a town")
    for video in (first, second, third, fourth):
        assert client.videos.delete(video.id).deleted
    with pytest.raises(openai.NotFoundError):
        client.videos.retrieve(first.id)
    transcript = [line for line, _ in groupby(requests_made)]
    record_property("openai_transcript", json.dumps(transcript))
    assert transcript[0] == "POST /v1/videos 200"
    tail = transcript[transcript.index("GET /v1/videos/<video 1> 200") + 1 :]
    assert tail == [
        "POST /v1/videos 200",
        f"GET /v1/videos/<video 2>/content {409 if early else 200}",
        "GET /v1/videos/<video 2> 200",
        "POST /v1/videos/<video 1>/remix 200",
        "GET /v1/videos/<video 1>/content 200",
        "POST /v1/videos/extensions 200",
        "GET /v1/videos?limit=3 200",
        "GET /v1/videos?limit=3&after=<video 2> 200",
        "GET /v1/videos/<video 3>/content 200",
        "DELETE /v1/videos/<video 1> 200",
        "DELETE /v1/videos/<video 2> 200",
        "DELETE /v1/videos/<video 4> 200",
        "DELETE /v1/videos/<video 3> 200",
        "GET /v1/videos/<video 1> 404",
    ]


def _content_error(client: openai.OpenAI, video_id: str) -> openai.APIStatusError | None:
    """What a client hears that wants a video before it is there; None if it was quick enough to be there."""
    try:
        client.videos.download_content(video_id).read()
    except openai.APIStatusError as error:
        return error
    return None
