"""``ultraflash keys``: made and shown once, listed without their text, revoked for good."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ultraflash.server.cli import main
from ultraflash.server.commands.keys import LIMITS, lifetime_s
from ultraflash.server.errors import BadOption
from ultraflash.server.keys.records import limit_names
from ultraflash.server.keys.secret import looks_like_secret
from ultraflash.server.keys.store import KeyStore


@pytest.fixture(autouse=True)
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ULTRAFLASH_DATA__FOLDER", str(tmp_path))
    return tmp_path


def test_a_key_is_shown_when_it_is_made_and_never_again(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["keys", "create", "studio", "--expires", "90d", "--max-sessions", "1"]) == 0
    secret = capsys.readouterr().out.strip()
    assert looks_like_secret(secret)
    store = KeyStore.open(f"sqlite:///{data / 'ultraflash.db'}")
    found = store.find(secret)
    store.close()
    assert found is not None
    assert (found.name, found.limits.max_sessions, found.expires_at - found.created_at) == (
        "studio",
        1,
        pytest.approx(90 * 86_400, abs=60),
    )
    for options in ([], ["--json"]):
        assert main(["keys", "list", *options]) == 0
        listed = capsys.readouterr().out
        assert found.id in listed
        assert secret not in listed
        assert found.digest not in listed
    assert json.loads(listed)["state"] == "active"


def test_a_revoked_key_is_listed_as_such(capsys: pytest.CaptureFixture[str]) -> None:
    main(["keys", "create", "studio"])
    assert main(["keys", "revoke", "studio"]) == 0
    main(["keys", "list"])
    assert "revoked" in capsys.readouterr().out
    assert main(["keys", "revoke", "studio"]) == 2
    assert "no active key 'studio'" in capsys.readouterr().err


def test_mistakes_are_said_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    main(["keys", "create", "studio"])
    for options, told in (
        (["studio"], "There is a key 'studio' already"),
        (["x", "--expires", "soon"], "such as 90d"),
        (["x", "--max-jobs", "-1"], "--max-jobs must be 0 or more"),
        (["a\nb"], "printable"),
    ):
        assert main(["keys", "create", *options]) == 2
        assert told in capsys.readouterr().err


def test_every_limit_has_its_option() -> None:
    assert list(LIMITS) == limit_names()


@pytest.mark.parametrize(("text", "seconds"), [("12h", 43_200), ("90d", 7_776_000), ("4w", 2_419_200)])
def test_times_are_hours_days_and_weeks(text: str, seconds: int) -> None:
    assert lifetime_s(text) == seconds


@pytest.mark.parametrize("text", ["", "0d", "-1d", "1", "1y", "1.5d", "9999999d"])
def test_other_times_are_refused(text: str) -> None:
    with pytest.raises(BadOption, match="such as 90d"):
        lifetime_s(text)
