"""Compose, Prometheus and Grafana agree with each other, with the image and with the metrics that there are."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import dockerfile
import pytest
import yaml

from ultraflash.server.metrics import Metrics
from ultraflash.server.settings import Settings, load_settings

# Labels that Prometheus sets.
OWN_LABELS = {"instance", "job", "le"}
# A front has them beside those of its replicas; a server alone has not, nor the dashboard.
OF_A_FRONT = {"ultraflash_replicas", "ultraflash_replica_restarts_total"}
SERVICES = ("ultraflash", "prometheus", "grafana")


@pytest.fixture(scope="module")
def compose(docker_dir: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((docker_dir / "compose.yaml").read_text())
    return loaded


@pytest.fixture(scope="module")
def dashboard(docker_dir: Path) -> dict[str, Any]:
    path = docker_dir / "monitoring" / "grafana" / "dashboards" / "ultraflash.json"
    loaded: dict[str, Any] = json.loads(path.read_text())
    return loaded


@pytest.fixture(scope="module")
def alerts(docker_dir: Path) -> list[dict[str, Any]]:
    groups = yaml.safe_load((docker_dir / "monitoring" / "alerts.yml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def known_series() -> set[str]:
    """Names of all series that a server can expose."""
    found = set()
    for family in Metrics().registry.collect():
        if family.type == "histogram":
            found |= {f"{family.name}_{end}" for end in ("bucket", "sum", "count")}
        else:
            found.add(f"{family.name}_total" if family.type == "counter" else family.name)
    return found


def known_labels() -> set[str]:
    labels: set[str] = set()
    for metric in vars(Metrics()).values():
        labels |= set(getattr(metric, "_labelnames", ()))
    return labels | OWN_LABELS | {"state"}


def expressions(dashboard: dict[str, Any]) -> list[str]:
    return [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]


def test_every_metric_of_dashboard_and_alerts_exists(
    dashboard: dict[str, Any], alerts: list[dict[str, Any]]
) -> None:
    asked = [*expressions(dashboard), *(rule["expr"] for rule in alerts)]
    asked += [variable["definition"] for variable in dashboard["templating"]["list"]]
    names = {name for text in asked for name in re.findall(r"\bultraflash_\w+", text)}
    assert names <= known_series() | OF_A_FRONT
    assert all("ultraflash_" in text or text.startswith("up{") for text in asked)


def test_every_metric_is_on_the_dashboard(dashboard: dict[str, Any]) -> None:
    shown = " ".join(expressions(dashboard))
    families = {re.sub(r"_(bucket|sum|count)$", "", name) for name in known_series()}
    assert {name for name in families if name not in shown} == set()


def test_every_label_of_dashboard_and_alerts_exists(
    dashboard: dict[str, Any], alerts: list[dict[str, Any]]
) -> None:
    asked = [*expressions(dashboard), *(rule["expr"] for rule in alerts)]
    for text in asked:
        grouped = {
            label.strip() for found in re.findall(r"by \(([^)]*)\)", text) for label in found.split(",")
        }
        selected = set(re.findall(r"(\w+)(?:=~|!~|!=|=)\"", text))
        assert grouped | selected <= known_labels(), text
    legends = [target["legendFormat"] for panel in dashboard["panels"] for target in panel["targets"]]
    assert {label for text in legends for label in re.findall(r"{{(\w+)}}", text)} <= known_labels()


def test_panels_have_their_own_ids_and_places_and_the_provisioned_source(
    dashboard: dict[str, Any], docker_dir: Path
) -> None:
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    cells = [
        (x, y)
        for place in (panel["gridPos"] for panel in panels)
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(set(cells)) == len(cells)
    assert max(x for x, _ in cells) < 24
    provisioning = docker_dir / "monitoring" / "grafana" / "provisioning"
    (source,) = yaml.safe_load((provisioning / "datasources" / "prometheus.yaml").read_text())["datasources"]
    assert {panel["datasource"]["uid"] for panel in panels} == {source["uid"]}
    assert all(panel["description"] for panel in panels)


def test_prometheus_itself_accepts_configuration_rules_and_expressions(
    docker_dir: Path, dashboard: dict[str, Any], tmp_path: Path
) -> None:
    if shutil.which("promtool") is None:
        pytest.skip("no promtool here; Debian's package prometheus has it")
    folder = docker_dir / "monitoring"
    rules = [
        {"record": f"panel:{number}", "expr": text.replace("$__rate_interval", "1m")}
        for number, text in enumerate(expressions(dashboard))
    ]
    panels = tmp_path / "panels.yml"
    panels.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))
    for words in (["config", str(folder / "prometheus.yml")], ["rules", str(panels)]):
        done = subprocess.run(["promtool", "check", *words], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr


def test_a_replica_that_loads_is_no_outage_and_one_that_is_missing_is_told(
    docker_dir: Path, tmp_path: Path
) -> None:
    if shutil.which("promtool") is None:
        pytest.skip("no promtool here; Debian's package prometheus has it")
    first, second = (f'ultraflash_ready{{instance="a", replica="{number}"}}' for number in range(2))
    one_loads, none_ready = {first: "0x60", second: "1x60"}, {first: "0x60", second: "0x60"}
    missing = {**one_loads, 'ultraflash_replicas{instance="a", state="missing"}': "1x60"}
    cases = [
        (one_loads, "ServerNotReady", False),
        (none_ready, "ServerNotReady", True),
        (one_loads, "ReplicaMissing", False),
        (missing, "ReplicaMissing", True),
    ]
    for number, (series, alert, fires) in enumerate(cases):
        expected = [{"labels": f'{{alertname="{alert}"}}', "value": 1}] if fires else []
        test = {
            "interval": "1m",
            "input_series": [{"series": name, "values": values} for name, values in series.items()],
            "promql_expr_test": [
                {
                    "expr": f'count by (alertname) (ALERTS{{alertname="{alert}", alertstate="firing"}})',
                    "eval_time": "30m",
                    "exp_samples": expected,
                }
            ],
        }
        rules = str(docker_dir / "monitoring" / "alerts.yml")
        file = tmp_path / f"{number}.yml"
        file.write_text(yaml.safe_dump({"rule_files": [rules], "evaluation_interval": "1m", "tests": [test]}))
        done = subprocess.run(["promtool", "test", "rules", str(file)], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr


def test_the_service_runs_as_the_images_user_with_its_volumes_and_port(
    compose: dict[str, Any], docker_dir: Path
) -> None:
    service = compose["services"]["ultraflash"]
    last = dockerfile.stages((docker_dir / "Dockerfile.cpu").read_text())[-1]
    user, volumes, port = (last.last(name) for name in ("USER", "VOLUME", "EXPOSE"))
    assert user is not None
    assert volumes is not None
    assert port is not None
    assert service["user"] == user.text
    mounted = dict(volume.split(":")[:2] for volume in service["volumes"])
    assert sorted(mounted.values()) == volumes.words()
    assert set(mounted) <= set(compose["volumes"])
    assert service["ports"] == [f"127.0.0.1:{port.text}:{port.text}"]
    assert service["read_only"]
    assert any(place.startswith("/tmp") for place in service["tmpfs"])


@pytest.mark.parametrize("name", SERVICES)
def test_services_are_confined_pinned_and_reached_from_this_machine_alone(
    compose: dict[str, Any], name: str
) -> None:
    service = compose["services"][name]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert not service["user"].startswith("0:")
    assert all(port.startswith("127.0.0.1:") for port in service["ports"])
    assert service["image"].startswith("ultraflash:") or re.search(r":v?\d+\.\d+\.\d+$", service["image"])
    assert service.get("profiles", []) == ([] if name == "ultraflash" else ["monitoring"])


def test_what_compose_mounts_from_the_repository_exists(compose: dict[str, Any], docker_dir: Path) -> None:
    for service in compose["services"].values():
        for volume in service["volumes"]:
            source = volume.split(":")[0]
            assert not source.startswith(".") or (docker_dir / source).exists(), source
    for name in ("compose.yaml", "compose.gpu.yaml"):
        build = yaml.safe_load((docker_dir / name).read_text())["services"]["ultraflash"]["build"]
        assert (docker_dir / build.get("context", "..") / build["dockerfile"]).is_file()


def settings_in_compose(compose: dict[str, Any], monkeypatch: pytest.MonkeyPatch, **outside: str) -> Settings:
    """Settings of the server under the image's and compose's environment.

    ``outside`` is the environment of whoever calls compose.
    """
    folder = Path(dockerfile.__file__).parent
    *_, last = dockerfile.stages((folder / "Dockerfile.cpu").read_text())
    image = {
        key: value for one in last.instructions if one.name == "ENV" for key, value in one.pairs().items()
    }
    for name, value in {**image, **compose["services"]["ultraflash"]["environment"]}.items():
        if name.startswith("ULTRAFLASH_"):
            monkeypatch.setenv(name, substituted(value, outside))
    serve = last.last("CMD")
    assert serve is not None
    host = serve.words()[serve.words().index("--host") + 1]
    return load_settings(None, {"http.host": host})


def substituted(text: str, outside: dict[str, str]) -> str:
    """Compose's ``${NAME:-default}``, ``${NAME:+more}`` and ``${NAME}``, the inner ones first."""
    pattern = re.compile(r"\$\{(\w+)(?:(:[-+])([^${}]*))?\}")
    while found := pattern.search(text):
        name, how, more = found.groups()
        value = outside.get(name, "")
        if how == ":-":
            value = value or more
        elif how == ":+":
            value = more if value else ""
        text = text[: found.start()] + value + text[found.end() :]
    return text


def test_nobody_comes_in_without_a_key_and_there_is_one_from_the_first_start(
    compose: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_in_compose(compose, monkeypatch)
    assert settings.http.key_required
    assert not settings.http.allow_unauthenticated
    file = settings.keys.first_file
    assert file is not None
    mounted = [volume.split(":")[1] for volume in compose["services"]["ultraflash"]["volumes"]]
    assert any(file.is_relative_to(volume) for volume in mounted)
    assert settings_in_compose(compose, monkeypatch, ULTRAFLASH_OPEN="true").http.allow_unauthenticated


def test_the_one_command_of_compose_says_where_the_key_is(docker_dir: Path) -> None:
    variables = dockerfile.stages((docker_dir / "Dockerfile.cpu").read_text())[-1].last("ENV")
    assert variables is not None
    told = f"exec ultraflash cat {variables.pairs()['ULTRAFLASH_KEYS__FIRST_FILE']}"
    for name in ("compose.yaml", "DEPLOY.md", "Dockerfile", "Dockerfile.cpu"):
        assert told in (docker_dir / name).read_text(), name


@pytest.mark.parametrize("name", ["", "video.example.com"], ids=["alone", "proxy"])
def test_prometheus_reaches_the_metrics_by_a_name_that_the_server_answers_to(
    compose: dict[str, Any], docker_dir: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    settings = settings_in_compose(compose, monkeypatch, ULTRAFLASH_HOST=name)
    assert settings.http.allowed_hosts == tuple(filter(None, ("127.0.0.1", "localhost", "ultraflash", name)))
    scrape = yaml.safe_load((docker_dir / "monitoring" / "prometheus.yml").read_text())["scrape_configs"]
    targets = [target for job in scrape for config in job["static_configs"] for target in config["targets"]]
    assert targets == [f"ultraflash:{settings.http.port}"]
    # Prometheus has no key.
    assert settings.http.open_metrics
