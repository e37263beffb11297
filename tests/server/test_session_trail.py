"""A prompt can be followed from the page to the packet, by logs and by traces; neither tells a secret."""

from __future__ import annotations

import asyncio
import json
import urllib.request
from dataclasses import dataclass
from typing import Any

import pytest
from key_holders import Holder, make_key
from live_server import LiveServer
from videos_client import ask, wait_for

PROMPT, SECOND = "a valley that nobody may know of", "a summit that nobody may know of"


@dataclass(frozen=True)
class Evening:
    """What is left of a server that somebody used."""

    holder: Holder
    started: dict[str, Any]
    job: str
    text: str
    ticket: str
    files: dict[str, bytes]
    spans: list[dict[str, Any]]

    @property
    def secrets(self) -> list[str]:
        """Whatever opens something."""
        recording = self.started["recording"].partition("token=")[2].partition("&")[0]
        return [
            self.holder.secret,
            self.ticket,
            self.started["viewer_token"],
            self.started["resume_token"],
            recording,
        ]

    @property
    def lines(self) -> list[dict[str, Any]]:
        """The log; the line with the address is for people."""
        return [json.loads(line) for line in self.text.splitlines() if line.startswith("{")]


@pytest.fixture(scope="module")
def evening(tmp_path_factory: pytest.TempPathFactory) -> Evening:
    folder = tmp_path_factory.mktemp("evening")
    server = LiveServer(
        folder,
        *("--auth", "required", "--log-format", "json", "--log-level", "debug"),
        traces__exporter="file",
        traces__folder=folder / "traces",
    )
    with server:
        server.wait_until_ready()
        holder = make_key(server, "ann")
        started = asyncio.run(use(server, holder))
        made = ask(server, "POST", "/v1/videos", {"prompt": PROMPT, "seconds": "1"}, holder.headers)
        wait_for(server, made.json["id"], headers=holder.headers)
        path = {"path": f"/v1/videos/{made.json['id']}/content"}
        ticket = ask(server, "POST", "/v1/tickets", path, holder.headers).json["url"]
        assert ask(server, "GET", ticket).status == 200
    text = server.output()
    assert text
    spans = [
        json.loads(line)
        for name in ("web", "worker")
        for file in (folder / "traces").glob(f"{name}-*.jsonl")
        for line in file.read_text().splitlines()
    ]
    files = {str(path): path.read_bytes() for path in server.data.rglob("*") if path.is_file()}
    return Evening(holder, started, made.json["id"], text, ticket.partition("ticket=")[2], files, spans)


async def use(server: LiveServer, holder: Holder) -> dict[str, Any]:
    """A session with a second prompt, a viewer, a recording, and mistakes."""
    async with server.client() as stranger:
        await stranger.send("session.authenticate", key=holder.secret[:-1] + "?")
        await stranger.until_closed()
    async with server.client() as client:
        await client.send("session.authenticate", key=holder.secret)
        started = await client.start(PROMPT, record=True)
        await client.until_frame(5)
        async with server.viewer(started) as viewer:
            await viewer.until("session.started")
        async with server.viewer(started, token=started["viewer_token"] + "x") as viewer:
            await viewer.until_closed()
        await client.send("prompt.update", event_id="second", prompt=SECOND)
        applied = await client.until("prompt.applied")
        await client.until_pts(applied["first_pts_us"])
        await client.send("session.authenticate", key=["not", "a", "key", holder.secret])
        await client.until("error")
        await client.send("session.stop")
        done = await client.until("session.done")
    with urllib.request.urlopen(f"http://{server.address}{done['recording'][0]}", timeout=60) as response:
        assert response.status == 200
    return {**started, "recording": done["recording"][0]}


def test_no_key_token_or_prompt_is_in_the_log_of_a_talkative_server(evening: Evening) -> None:
    assert any(line["level"] == "debug" for line in evening.lines)
    for secret in (*evening.secrets, PROMPT, SECOND):
        assert len(secret) > 20
        assert secret not in evening.text
        assert secret not in json.dumps(evening.spans)
    assert "Authorization" not in evening.text


def test_no_key_or_token_is_in_the_data_folder(evening: Evening) -> None:
    assert any(PROMPT.encode() in content for content in evening.files.values())
    for secret in evening.secrets:
        found = [path for path, content in evening.files.items() if secret.encode() in content]
        assert found == []


def test_every_line_of_both_processes_is_json_with_the_same_fields(evening: Evening) -> None:
    others = [line for line in evening.text.splitlines() if not line.startswith("{")]
    assert [line for line in others if "ultraflash serves" not in line] == []
    assert {line["process"] for line in evening.lines} == {"web", "worker"}
    for line in evening.lines:
        assert {"time", "level", "process", "logger", "message"} <= set(line)


def test_a_prompt_is_followed_by_its_ids_through_both_processes(evening: Evening) -> None:
    session = evening.started["session_id"]
    of_it = [line for line in evening.lines if line.get("session") == session]
    told = [(line["process"], line["message"]) for line in of_it]
    assert told[0] == ("web", "session asked for")
    assert ("worker", "stream opened") in told
    assert ("web", "session over") in told
    assert of_it[0]["key"] == evening.holder.id
    prompt = [line for line in of_it if line.get("event") == "second"]
    steps = sorted(prompt, key=lambda line: str(line["time"]))
    assert [line["message"] for line in steps] == [
        "prompt asked for",
        "change shown from this group on",
        "first packet of a prompt",
    ]
    assert steps[1]["group"] >= 1
    assert steps[2]["seq"] > 0


def test_a_job_and_its_request_are_found_by_their_ids(evening: Evening) -> None:
    asked, *later = [line for line in evening.lines if line.get("job") == evening.job]
    assert (asked["message"], asked["key"]) == ("video asked for", evening.holder.id)
    assert "job started" in {line["message"] for line in later if line["process"] == "worker"}
    (request,) = [
        line
        for line in evening.lines
        if line.get("request") == asked["request"] and line["message"] == "request"
    ]
    assert (request["method"], request["path"], request["status"]) == ("POST", "/v1/videos", 200)


def test_one_trace_holds_the_session_its_prompt_its_groups_and_their_stages(evening: Evening) -> None:
    assert len({span["context"]["trace_id"] for span in evening.spans}) == 1
    by_id = {span["context"]["span_id"]: span for span in evening.spans}
    (session,) = [span for span in evening.spans if span["name"] == "session"]
    (prompt,) = [span for span in evening.spans if span["name"] == "prompt change"]
    groups = [span for span in evening.spans if span["name"] == "group"]
    assert session["parent_id"] is None
    assert by_id[prompt["parent_id"]] is session
    assert prompt["attributes"]["ultraflash.event"] == "second"
    assert len(groups) >= 2
    assert {by_id[group["parent_id"]]["name"] for group in groups} == {"session", "prompt change"}
    for group in groups:
        below = [span["name"] for span in evening.spans if span["parent_id"] == group["context"]["span_id"]]
        assert {"base", "sr"} <= set(below)
        assert group["attributes"]["ultraflash.session"] == evening.started["session_id"]
    assert "encode" in {span["name"] for span in evening.spans}
    processes = {span["resource"]["attributes"]["ultraflash.process"] for span in evening.spans}
    assert processes == {"web", "worker"}
