"""Modules of the page that decide without seeing a picture, called in the browser."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="module")
def evaluate(server, browser):
    """Runs an async JavaScript function body with the module in ``m`` and an argument in ``a``."""
    page = browser.new_page()
    page.goto(server.url)

    def run(module: str, body: str, argument: object = None) -> object:
        return page.evaluate(
            f"async (a) => {{ const m = await import('/assets/{module}.js'); {body} }}", argument
        )

    yield run
    page.close()


@pytest.mark.parametrize(
    ("prompt", "group", "phrase", "expected"),
    [
        ("the sea at dusk, fog", "Time", "at night", "the sea at night, fog"),
        ("the sea", "Time", "at dawn", "the sea, at dawn"),
        ("", "Place", "a lake", "a lake"),
        ("snowy mountains, snow falling", "Weather", "rain falling", "snowy mountains, rain falling"),
        ("snowy mountains, snow falling", "Place", "desert", "desert, snow falling"),
        (
            "a city in the rain, camera pans left",
            "Camera",
            "still camera",
            "a city in the rain, still camera",
        ),
        ("fog, a lake, rain", "Weather", "clear sky", "clear sky, a lake"),
        ("a lighthouse by the sea at night", "Place", "a city", "a lighthouse by a city at night"),
    ],
)
def test_word_takes_the_place_of_its_kind(evaluate, prompt, group, phrase, expected):
    body = "return m.steerPrompt(a[0], m.WORD_GROUPS.find((g) => g.name === a[1]), a[2])"
    assert evaluate("prompt_words", body, [prompt, group, phrase]) == expected


def test_every_word_is_found_again_in_the_prompt_that_it_made(evaluate):
    body = """
      const missed = [];
      for (const group of m.WORD_GROUPS) {
        for (const { phrase } of group.words) {
          const made = m.steerPrompt(m.EXAMPLES[0], group, phrase);
          const pressed = group.words.filter((word) => m.promptHas(made, word.phrase));
          if (pressed.length !== 1 || pressed[0].phrase !== phrase) missed.push(made);
        }
      }
      return missed;"""
    assert evaluate("prompt_words", body) == []


def test_media_header_is_read_as_the_protocol_lays_it_out(evaluate):
    body = """
      const bytes = new Uint8Array(26);
      const view = new DataView(bytes.buffer);
      view.setUint8(0, 1); view.setUint8(1, 5); view.setUint16(2, 513, true); view.setUint32(4, 70000, true);
      view.setFloat64(8, 62500.5, true); view.setFloat64(16, 1234.25, true); bytes[24] = 9; bytes[25] = 8;
      const { payload, ...header } = m.parseMediaFrame(bytes.buffer);
      return { ...header, payload: [...payload] };"""
    assert evaluate("media_frame", body) == {
        "key": True,
        "init": False,
        "discontinuity": True,
        "generation": 513,
        "seq": 70000,
        "ptsUs": 62500.5,
        "captureMs": 1234.25,
        "payload": [9, 8],
    }


@pytest.mark.parametrize("make", ["new ArrayBuffer(23)", "new ArrayBuffer(30)"])
def test_media_of_another_version_or_too_short_is_refused(evaluate, make):
    body = f"try {{ m.parseMediaFrame({make}); return 'read'; }} catch (error) {{ return error.name; }}"
    assert evaluate("media_frame", body) == "RangeError"


SIMULATE = """
  const clock = new m.PlayoutClock();
  const frameUs = 62500;
  const end = { shown: 0, stalls: 0, phase: null };
  let made = 0, doneMs = null, group = 9;
  for (let t = 0; t < a.seconds * 1000; t += 1000 / 60) {
    if (doneMs === null && (made + group - end.shown) * frameUs <= 1.5e6) doneMs = t + (group * 62.5) / a.capability;
    if (doneMs !== null && t >= doneMs) {
      for (let i = 0; i < group; i += 1) clock.receive(made++ * frameUs, frameUs);
      clock.setCapability(a.capability);
      [group, doneMs] = [12, null];
    }
    const before = clock.phase;
    const positionUs = clock.advance(t);
    if (before === m.RUNNING && clock.phase === m.WAITING) end.stalls += 1;
    while (positionUs !== null && end.shown < made && end.shown * frameUs <= positionUs) end.shown += 1;
  }
  end.speed = clock.speed;
  return end;"""


def test_fast_server_is_shown_in_real_time_without_a_stall(evaluate):
    end = evaluate("playout_clock", SIMULATE, {"capability": 1.5, "seconds": 20})
    assert end["stalls"] == 0
    assert end["speed"] == pytest.approx(1, abs=0.01)
    assert end["shown"] > 16 * 18


def test_slow_server_is_shown_slower_rather_than_in_jerks(evaluate):
    end = evaluate("playout_clock", SIMULATE, {"capability": 0.6, "seconds": 60})
    assert end["stalls"] <= 4
    assert end["shown"] > 16 * 60 * 0.6 * 0.8


def test_clock_waits_for_late_media_and_shows_every_frame(evaluate):
    body = """
      const clock = new m.PlayoutClock();
      const seen = [];
      for (let i = 0; i < 8; i += 1) clock.receive(i * 62500, 62500);
      for (let t = 0; t < 4000; t += 10) {
        if (t === 2000) for (let i = 8; i < 20; i += 1) clock.receive(i * 62500, 62500);
        seen.push(clock.advance(t));
      }
      const steps = seen.every((at, i) => i === 0 || at - seen[i - 1] <= 10001);
      return { phase: clock.phase, atLate: seen[199], steps };"""
    assert evaluate("playout_clock", body) == {"phase": "waiting", "atLate": 500_000, "steps": True}


def test_finished_stream_is_played_to_its_end(evaluate):
    body = """
      const clock = new m.PlayoutClock();
      clock.receive(0, 62500);
      clock.finish();
      for (let t = 0; t < 200; t += 10) clock.advance(t);
      return clock.phase;"""
    assert evaluate("playout_clock", body) == "finished"


def test_link_for_watching_is_read_as_it_was_made_and_keeps_its_token_behind_the_hash(evaluate):
    body = """
      const link = m.makeWatchLink("https://host", a);
      return [link, m.readWatchLink(new URL(link).hash), m.readWatchLink("#prompt"), m.readWatchLink("")];"""
    target = {"sessionId": "session_0a", "token": "a+b/c=&d"}
    link, read, *others = evaluate("watch_link", body, target)
    assert link.startswith("https://host/#watch=session_0a&token=")
    assert read == target
    assert others == [None, None]


ARRIVE = """
  const rate = new m.ArrivalRate();
  a.forEach(([ptsMs, nowMs]) => rate.add(ptsMs * 1000, nowMs));
  return rate.value;"""


def test_speed_of_a_watched_stream_is_that_at_which_it_arrives(evaluate):
    assert evaluate("arrival_rate", ARRIVE, [[0, 0], [1000, 2000]]) is None
    assert evaluate("arrival_rate", ARRIVE, [[250 * i, 500 * i] for i in range(20)]) == 0.5


def test_pause_of_the_owner_does_not_count_as_slow(evaluate):
    before = [[500 * i, 500 * i] for i in range(8)]
    after = [[4000 + 500 * i, 60_000 + 500 * i] for i in range(8)]
    assert evaluate("arrival_rate", ARRIVE, before + after) == 1


@pytest.mark.parametrize(
    ("event", "words"),
    [
        ({"size": "1K", "reason": "requested"}, "Size 1K"),
        ({"size": "0.5K", "reason": "overload"}, "Size 0.5K: the machine is busy"),
        ({"size": "1K", "reason": "phase_of_the_moon"}, "Size 1K: phase of the moon"),
        (
            {"size": "1K", "reason": "connection", "bitrate_share": 0.49},
            "A coarser picture: the connection carries no more",
        ),
        ({"size": "1K", "reason": "connection"}, "The full picture again: the connection carries it"),
        (
            {"size": "1K", "reason": "overload", "sr_share": 0.5},
            "Size 1K with less detail: the machine is busy",
        ),
    ],
)
def test_change_of_quality_is_said_with_its_reason(evaluate, event, words):
    assert evaluate("event_words", "return m.qualityWords(a)", event) == words


@pytest.mark.parametrize(
    ("job", "words"),
    [
        ({"status": "queued", "queue_position": 0, "eta_s": 8}, "Next in line, ready in about 8 s"),
        (
            {"status": "queued", "queue_position": 2, "eta_s": 150},
            "Waiting behind 2 others, ready in about 3 min",
        ),
        ({"status": "queued", "queue_position": None, "eta_s": None}, "Waiting"),
        ({"status": "in_progress", "progress": 40, "eta_s": 5}, "Being made: 40%, ready in about 5 s"),
        ({"status": "failed", "error": {"message": "the disk is full"}}, "Failed: the disk is full"),
    ],
)
def test_state_of_a_video_is_said_in_words(evaluate, job, words):
    assert evaluate("video_words", "return m.statusWords(a)", job) == words


def test_recordings_are_forgotten_when_asked_or_when_their_tokens_have_expired(evaluate):
    body = """
      const kept = new Map();
      const storage = { getItem: (key) => kept.get(key) ?? null, setItem: (key, value) => kept.set(key, value) };
      const recordings = new m.Recordings(storage);
      const day = 24 * 3600 * 1000;
      for (const [id, age] of [["old", day + 1], ["one", 5], ["two", 0]]) {
        recordings.add({ id, endedAt: Date.now() - age });
      }
      const before = recordings.all.map(({ id }) => id);
      recordings.forget("two");
      return [before, new m.Recordings(storage).all.map(({ id }) => id)];"""
    assert evaluate("recordings", body) == [["two", "one"], ["one"]]
