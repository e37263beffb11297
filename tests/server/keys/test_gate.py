"""REST of a server that wants keys: who comes in, what is whose, and how much one key may have."""

from __future__ import annotations

import asyncio
import http.client
import json
from typing import TYPE_CHECKING, Any

import pytest
from key_holders import make_key, revoke_key
from videos_client import ask, wait_for

from ultraflash.server.keys.records import KeyLimits
from ultraflash.server.keys.secret import new_secret

if TYPE_CHECKING:
    from key_holders import Holder
    from live_server import LiveServer

OPEN = {"/", "/healthz", "/readyz"}
TOKEN_GUARDED = {
    "/v1/sessions/{session_id}/recording",
    "/v1/stream/{session_id}/live.mp4",
    "/v1/stream/{session_id}/live.ts",
}
VERBS = {"get", "post", "put", "patch", "delete"}


def routes(server: LiveServer, holder: Holder) -> list[tuple[str, str]]:
    """Method and path of everything that the server's description lists."""
    paths = ask(server, "GET", "/v1/openapi.json", headers=holder.headers).json["paths"]
    return [(verb.upper(), path) for path, item in paths.items() for verb in item if verb in VERBS]


def order(server: LiveServer, holder: Holder, **fields: Any) -> Any:
    wish = {"prompt": "a hill", "seconds": "1", "seed": 7, **fields}
    return ask(server, "POST", "/v1/videos", wish, holder.headers)


@pytest.fixture(scope="module")
def anns_video(guarded: LiveServer, ann: Holder) -> str:
    """The id of a video that is done."""
    video_id = str(order(guarded, ann).json["id"])
    wait_for(guarded, video_id, headers=ann.headers)
    return video_id


def test_every_route_but_the_page_and_health_wants_a_key(guarded: LiveServer, ann: Holder) -> None:
    listed = routes(guarded, ann)
    assert len(listed) > 15
    for method, path in [*listed, ("GET", "/v1/openapi.json"), ("GET", "/metrics"), ("GET", "/nothing")]:
        if path in OPEN:
            assert ask(guarded, method, path).status == 200
        elif path not in TOKEN_GUARDED:
            answer = ask(guarded, method, path)
            assert (answer.status, answer.code) == (401, "unauthorized"), (method, path)
            assert answer.headers["WWW-Authenticate"] == "Bearer"
    for path in ("/", "/assets/app.js"):
        assert ask(guarded, "GET", path).status == 200


def test_what_a_token_guards_wants_the_token(guarded: LiveServer) -> None:
    for path in TOKEN_GUARDED:
        answer = ask(guarded, "GET", path.replace("{session_id}", "session_00") + "?token=wrong")
        assert answer.status in (403, 404)


@pytest.mark.parametrize(
    "header",
    ["", "Bearer", "Bearer ", "Basic YTpi", f"Bearer {new_secret()}", "Bearer uf_' OR 1=1 --", "uf_x"],
)
def test_a_wrong_key_is_as_good_as_none(guarded: LiveServer, header: str) -> None:
    answer = ask(guarded, "GET", "/v1/videos", headers={"Authorization": header})
    assert (answer.status, answer.code) == (401, "unauthorized")


def test_a_key_in_an_address_opens_nothing(guarded: LiveServer, bob: Holder) -> None:
    for name in ("key", "api_key", "token", "ticket", "access_token"):
        assert ask(guarded, "GET", f"/v1/videos?{name}={bob.secret}").status == 401


def test_a_revoked_key_is_refused_at_once(guarded: LiveServer) -> None:
    holder = make_key(guarded, "short-lived")
    assert ask(guarded, "GET", "/v1/videos", headers=holder.headers).status == 200
    revoke_key(guarded, holder)
    assert ask(guarded, "GET", "/v1/videos", headers=holder.headers).status == 401


def test_a_video_of_another_key_is_not_there_on_any_route(
    guarded: LiveServer, ann: Holder, bob: Holder, anns_video: str
) -> None:
    with_video = [(method, path) for method, path in routes(guarded, ann) if "{video_id}" in path]
    assert len(with_video) >= 6
    for method, path in with_video:
        answer = ask(guarded, method, path.replace("{video_id}", anns_video), {"prompt": "x"}, bob.headers)
        assert (answer.status, answer.code) == (404, "video_not_found"), (method, path)
    assert ask(guarded, "GET", f"/v1/videos/{anns_video}", headers=ann.headers).status == 200


def test_lists_extensions_and_uploads_reach_only_ones_own_videos(
    guarded: LiveServer, ann: Holder, bob: Holder, anns_video: str
) -> None:
    listed = ask(guarded, "GET", "/v1/videos", headers=bob.headers).json["data"]
    assert anns_video not in {video["id"] for video in listed}
    answer = ask(guarded, "GET", f"/v1/videos?after={anns_video}", headers=bob.headers)
    assert (answer.status, answer.code) == (404, "video_not_found")
    wish = {"prompt": "a hill", "seconds": "1", "video": {"id": anns_video}}
    answer = ask(guarded, "POST", "/v1/videos/extensions", wish, bob.headers)
    assert (answer.status, answer.code) == (404, "video_not_found")
    file = ask(guarded, "GET", f"/v1/videos/{anns_video}/content", headers=ann.headers).body
    form = {"Content-Type": "multipart/form-data; boundary=cut", **bob.headers}
    parts = [b'--cut\r\nContent-Disposition: form-data; name="prompt"\r\n\r\na hill\r\n']
    parts += [b'--cut\r\nContent-Disposition: form-data; name="seconds"\r\n\r\n1\r\n']
    parts += [b'--cut\r\nContent-Disposition: form-data; name="video"; filename="a.mp4"\r\n\r\n', file]
    answer = ask(guarded, "POST", "/v1/videos/extensions", b"".join([*parts, b"\r\n--cut--\r\n"]), form)
    assert (answer.status, answer.code) == (400, "unsupported")


def test_a_session_of_another_key_is_not_there_though_it_is_over(guarded: LiveServer, bob: Holder) -> None:
    other = make_key(guarded, "curious")
    session_id, token = asyncio.run(ended_session(guarded, bob))

    def seen(holder: Holder) -> tuple[int, list[str]]:
        status, _ = guarded.get(f"/v1/sessions/{session_id}?token={token}", **holder.headers)
        listed = guarded.get("/v1/sessions?state=ended", **holder.headers)[1]["data"]
        return status, [session["id"] for session in listed]

    guarded.wait_for(lambda: session_id in seen(bob)[1], "the stored session")
    assert seen(bob)[0] == 200
    assert seen(other) == (404, [])


async def ended_session(server: LiveServer, holder: Holder) -> tuple[str, str]:
    """Id and resume token of a session that has been stopped."""
    async with server.client(additional_headers=holder.headers) as client:
        started = await client.start()
        await client.until_frame(5)
        await client.send("session.stop")
        await client.until("session.done")
    return started["session_id"], started["resume_token"]


def test_the_same_idempotency_key_of_two_keys_makes_two_videos(guarded: LiveServer, bob: Holder) -> None:
    other = make_key(guarded, "other")
    made = []
    for holder in (bob, other, bob):
        wish = {"prompt": "a hill", "seconds": "1", "seed": 1}
        answer = ask(guarded, "POST", "/v1/videos", wish, {**holder.headers, "Idempotency-Key": "once"})
        made.append(answer.json["id"])
    assert made[0] == made[2] != made[1]


def test_a_key_has_so_many_videos_in_the_queue(guarded: LiveServer) -> None:
    holder = make_key(guarded, "busy", KeyLimits(max_jobs=1))
    assert order(guarded, holder, seconds="60").status == 200
    answer = order(guarded, holder)
    assert (answer.status, answer.code) == (429, "limit_reached")
    assert "1 is its limit" in answer.json["error"]["message"]
    assert int(answer.headers["Retry-After"]) > 0
    video_id = ask(guarded, "GET", "/v1/videos", headers=holder.headers).json["data"][0]["id"]
    assert ask(guarded, "DELETE", f"/v1/videos/{video_id}", headers=holder.headers).status == 200
    assert order(guarded, holder).status == 200


def test_pixels_a_second_and_prompts_have_limits_that_are_said(guarded: LiveServer, ann: Holder) -> None:
    answer = order(guarded, ann, size="1K", fps=17)
    assert (answer.status, answer.code) == (400, "over_limit")
    assert str(416 * 240 * 16) in answer.json["error"]["message"]
    answer = order(guarded, ann, prompt="a hill " * 8)
    assert (answer.status, answer.code) == (400, "prompt_too_long")
    assert "may send 40" in answer.json["error"]["message"]


def test_a_body_that_is_too_long_is_not_read(guarded: LiveServer, ann: Holder) -> None:
    long = {"prompt": "a hill", "padding": "x" * 5000}
    answer = ask(guarded, "POST", "/v1/videos", long, ann.headers)
    assert (answer.status, answer.code) == (413, "body_too_large")
    assert "4096 bytes" in answer.json["error"]["message"]
    # What does not say its length is counted while it comes.
    connection = http.client.HTTPConnection(guarded.address, timeout=60)
    headers = {"Content-Type": "application/json", **ann.headers}
    pieces = iter([json.dumps(long).encode()] * 3)
    connection.request("POST", "/v1/videos", pieces, headers, encode_chunked=True)
    assert connection.getresponse().status == 413
    connection.close()


def test_a_ticket_opens_one_address_for_a_while(
    guarded: LiveServer, ann: Holder, bob: Holder, anns_video: str
) -> None:
    path = f"/v1/videos/{anns_video}/content"
    url = ask(guarded, "POST", "/v1/tickets", {"path": path}, ann.headers).json["url"]
    assert ask(guarded, "GET", url).status == 200
    assert ask(guarded, "GET", url, headers={"Range": "bytes=0-9"}).status == 206
    ticket = url.partition("?ticket=")[2]
    assert ann.secret not in url
    for other in (f"/v1/videos/{anns_video}", f"/v1/videos/{anns_video}/events", "/v1/videos"):
        assert ask(guarded, "GET", f"{other}?ticket={ticket}").status == 401
    assert ask(guarded, "DELETE", f"/v1/videos/{anns_video}?ticket={ticket}").status == 401
    assert ask(guarded, "GET", f"{path}?ticket={ticket[:-1]}").status == 401
    theirs = ask(guarded, "POST", "/v1/tickets", {"path": path}, bob.headers).json["url"]
    assert ask(guarded, "GET", theirs).status == 404
    assert ask(guarded, "POST", "/v1/tickets", {"path": "/v1/videos"}, ann.headers).status == 400


def test_the_ticket_of_a_revoked_key_opens_nothing(guarded: LiveServer) -> None:
    holder = make_key(guarded, "fleeting")
    video_id = order(guarded, holder).json["id"]
    path = f"/v1/videos/{video_id}/events"
    url = ask(guarded, "POST", "/v1/tickets", {"path": path}, holder.headers).json["url"]
    assert ask(guarded, "GET", url).status == 200
    revoke_key(guarded, holder)
    assert ask(guarded, "GET", url).status == 401
