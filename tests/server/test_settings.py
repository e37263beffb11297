"""Settings: options before environment before file before defaults, and nothing is guessed."""

from __future__ import annotations

from pathlib import Path

import pytest

from ultraflash.models.errors import BadConfig
from ultraflash.server.errors import UnsafeBinding
from ultraflash.server.settings import HttpSettings, check_binding, load_settings


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ULTRAFLASH_ENGINE", "ULTRAFLASH_PRESET", "ULTRAFLASH_SIZE", "ULTRAFLASH_DATA__FOLDER"):
        monkeypatch.delenv(name, raising=False)


def test_the_defaults_are_private_and_modest() -> None:
    settings = load_settings(None, {})
    assert (settings.http.host, settings.http.port) == ("127.0.0.1", 8000)
    assert (settings.preset, settings.stream.max_streams, settings.stream.ahead_ms) == (None, 8, 1500)


def test_options_win_over_the_environment_and_that_over_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "server.toml"
    file.write_text(
        'preset = "file"\nsize = "1K"\n[http]\nport = 1\nhost = "::1"\n[stream]\nmax_streams = 7\n'
    )
    monkeypatch.setenv("ULTRAFLASH_PRESET", "environment")
    monkeypatch.setenv("ULTRAFLASH_HTTP__PORT", "2")
    settings = load_settings(file, {"http.port": 3})
    assert settings.preset == "environment"
    assert settings.size == "1K"
    assert (settings.http.host, settings.http.port) == ("::1", 3)
    assert settings.stream.max_streams == 7


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("prset = 'x'", "no setting 'prset'"),
        ("[http]\nprot = 1", "no setting 'http.prot'"),
        ("[http]\nport = 70000", "http.port"),
        ("[stream]\nack_pause_s = 90", "ack_pause_s"),
        ("[jobs]\nmax_seconds = 0", "jobs.max_seconds"),
        ("[data]\nfoldr = 'x'", "no setting 'data.foldr'"),
        ("[[", "cannot be read"),
    ],
)
def test_a_mistake_in_the_file_is_named(tmp_path: Path, text: str, told: str) -> None:
    file = tmp_path / "server.toml"
    file.write_text(text)
    with pytest.raises(BadConfig, match=told):
        load_settings(file, {})


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadConfig, match=r"nothing\.toml"):
        load_settings(tmp_path / "nothing.toml", {})


def test_listening_beyond_this_machine_has_to_be_meant() -> None:
    check_binding(HttpSettings(host="::1"), has_keys=False)
    for told in ("ultraflash keys create", "--allow-unauthenticated", "127.0.0.1"):
        with pytest.raises(UnsafeBinding, match=told):
            check_binding(HttpSettings(host="0.0.0.0"), has_keys=False)
    with pytest.raises(UnsafeBinding, match=r"http\.allowed_hosts"):
        check_binding(HttpSettings(allowed_hosts=("127.0.0.1", "video.example.com")), has_keys=False)
    check_binding(HttpSettings(allowed_hosts=("127.0.0.1", "localhost")), has_keys=False)
    check_binding(HttpSettings(host="0.0.0.0", allow_unauthenticated=True), has_keys=False)
    check_binding(HttpSettings(host="0.0.0.0", auth="required"), has_keys=False)
    check_binding(HttpSettings(host="0.0.0.0"), has_keys=True)


def test_a_server_that_others_reach_wants_a_key_unless_it_is_told_not_to() -> None:
    assert not HttpSettings().key_required
    assert HttpSettings(auth="required").key_required
    assert HttpSettings(host="0.0.0.0").key_required
    assert HttpSettings(allowed_hosts=("video.example.com",)).key_required
    assert not HttpSettings(host="0.0.0.0", allow_unauthenticated=True).key_required


def test_data_is_in_one_folder_unless_it_is_placed_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", "/home/user/data")
    assert load_settings(None, {}).data.folder == Path("/home/user/data/ultraflash")
    data = load_settings(None, {"data.folder": "/srv/videos"}).data
    assert data.database_url == "sqlite:////srv/videos/ultraflash.db"
    assert (data.artifacts_url, data.work_folder) == ("/srv/videos/videos", Path("/srv/videos/work"))
    placed = {"data.database": "postgresql+psycopg://user@host/name", "data.artifacts": "s3://bucket/videos"}
    data = load_settings(None, placed).data
    assert (data.database_url, data.artifacts_url) == tuple(placed.values())
