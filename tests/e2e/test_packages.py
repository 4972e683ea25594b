"""What is shipped: wheel and sdist, run away from the source tree; packaging/, as far as its linters are here."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from reconciler.config.load import load
from reconciler.simulator.ports import free_port
from tests.conftest import MakeService
from tests.support.service import until

ROOT = Path(__file__).parents[2]
PACKAGING = ROOT / "packaging"
SECRETS = {"GITLAB_WEBHOOK_TOKEN": "a", "ADMIN_TOKEN": "0123456789abcdef"}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an sdist and a wheel that is made from it. The sdist is made from a copy of what git has."""
    folder = tmp_path_factory.mktemp("dist")
    source = folder / "source"
    subprocess.run(["git", "-C", str(ROOT), "checkout-index", "-a", f"--prefix={source}/"], check=True)
    command = [sys.executable, "-m", "build", "--outdir", str(folder), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return folder


@pytest.mark.long
def test_what_is_in_them(built: Path) -> None:
    [wheel], [sdist] = list(built.glob("*.whl")), list(built.glob("*.tar.gz"))
    names = set(zipfile.ZipFile(wheel).namelist())
    for wanted in (
        "receiver/app.py",
        "reconciler/cli/app.py",
        "reconciler/dashboard/templates/overview.html",
        "reconciler/dashboard/static/htmx.min.js",
        "reconciler/sample_config.yaml",
    ):
        assert wanted in names
    assert not [name for name in names if name.startswith(("tests/", "benchmarks/", "docs/"))]
    with tarfile.open(sdist) as archive:
        inside = {name.partition("/")[2] for name in archive.getnames()}
    assert {
        "README.md",
        "LICENSE",
        "CHANGELOG.md",
        "constraints.txt",
        "tests/conftest.py",
        "packaging/Dockerfile",
    } <= inside


@pytest.mark.long
def test_the_wheel_installs_and_runs_on_a_clean_machine(built: Path, tmp_path: Path) -> None:
    """A new virtual environment, an empty folder, nothing of this source tree on any path."""
    [wheel] = built.glob("*.whl")
    venv = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(venv)], check=True)
    pip = [sys.executable, "-m", "pip", "--python", str(venv / "bin/python"), "install", "-q", "--no-compile"]
    subprocess.run([*pip, "--constraint", str(ROOT / "constraints.txt"), str(wheel)], check=True)
    command = str(venv / "bin/gitlab-reconciler")
    _runs(command, tmp_path / "folder")


def _runs(command: str, folder: Path) -> None:
    """Init, check, serve and stop."""
    folder.mkdir()
    environ = {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "PORT": str(free_port()),
        "ADMIN_PORT": str(free_port()),
    }

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [command, *arguments], cwd=folder, env=environ, capture_output=True, text=True, check=False, timeout=60
        )

    assert run("--version").stdout.startswith("gitlab-reconciler ")
    assert run("init").returncode == 0
    assert "config.yaml is valid" in run("check").stdout
    nats = run("destinations", "list", "--json")
    assert (nats.returncode, json.loads(nats.stdout)) == (0, [])
    process = subprocess.Popen([command, "serve"], cwd=folder, env=environ, stderr=subprocess.PIPE, text=True)
    try:
        url = f"http://127.0.0.1:{environ['ADMIN_PORT']}/"
        until(lambda: answers(url))
        assert "Is anything lost?" in httpx.get(url).text
        assert httpx.get(url + "static/style.css").status_code == 200
    finally:
        process.terminate()
        process.communicate(timeout=30)
        assert process.returncode == 0
    assert (folder / "ledger.db").exists()


def answers(url: str) -> bool:
    try:
        return httpx.get(url).status_code == 200
    except httpx.HTTPError:
        return False


def test_completion_is_printed() -> None:
    command = Path(sys.executable).with_name("gitlab-reconciler")
    asked = {"COMP_WORDS": "gitlab-reconciler back", "COMP_CWORD": "1"}
    environ = {**os.environ, **asked, "_GITLAB_RECONCILER_COMPLETE": "complete_bash"}
    done = subprocess.run([command], env=environ, capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["backfill", "backup"]


class TestPackaging:
    def test_the_container_s_config_is_valid(self) -> None:
        config = load(PACKAGING / "config.yaml", SECRETS)
        assert (str(config.ledger.path), config.admin.port, config.metrics.port) == ("/data/ledger.db", 8081, 9464)

    def test_compose(self) -> None:
        service = yaml.safe_load((PACKAGING / "compose.yaml").read_text())["services"]["gitlab-reconciler"]
        assert service["read_only"] is True
        assert any(volume.endswith(":/data") for volume in service["volumes"])

    def test_the_image_s_user_and_its_health_check(self) -> None:
        text = (PACKAGING / "Dockerfile").read_text()
        assert "USER reconciler" in text
        assert "HEALTHCHECK" in text
        linter = shutil.which("hadolint")
        if linter is None:
            pytest.skip(
                "NOT TESTED: hadolint is not here, and no Docker engine: the image was never built by these tests"
            )
        assert subprocess.run([linter, str(PACKAGING / "Dockerfile")], check=False).returncode == 0

    def test_kubernetes(self, tmp_path: Path) -> None:
        objects = list(yaml.safe_load_all((PACKAGING / "kubernetes/gitlab-reconciler.yaml").read_text()))
        by_kind: dict[str, Any] = {one["kind"]: one for one in objects}
        assert set(by_kind) == {"Secret", "ConfigMap", "StatefulSet", "Service"}
        (tmp_path / "config.yaml").write_text(by_kind["ConfigMap"]["data"]["config.yaml"])
        assert load(tmp_path / "config.yaml", SECRETS).ledger.path == Path("/data/ledger.db")
        spec = by_kind["StatefulSet"]["spec"]
        assert spec["replicas"] == 1  # one process has the ledger
        container = spec["template"]["spec"]["containers"][0]
        assert container["securityContext"]["readOnlyRootFilesystem"] is True
        assert {mount["mountPath"] for mount in container["volumeMounts"]} >= {"/data"}
        ports = {port["name"] for port in container["ports"]}
        assert {port["targetPort"] for port in by_kind["Service"]["spec"]["ports"]} <= ports
        linter = shutil.which("kubeconform")
        if linter is None:
            pytest.skip(
                "NOT TESTED: kubeconform is not here: the manifests' schema was not checked, their contents were"
            )
        assert subprocess.run([linter, str(PACKAGING / "kubernetes")], check=False).returncode == 0

    def test_several_copies_in_kubernetes(self, tmp_path: Path) -> None:
        objects = list(yaml.safe_load_all((PACKAGING / "kubernetes/several-copies.yaml").read_text()))
        by_kind: dict[str, Any] = {one["kind"]: one for one in objects}
        assert set(by_kind) == {"Secret", "ConfigMap", "Deployment", "PodDisruptionBudget", "Service"}
        (tmp_path / "config.yaml").write_text(by_kind["ConfigMap"]["data"]["config.yaml"])
        url = by_kind["Secret"]["stringData"]["LEDGER_URL"]
        location = load(tmp_path / "config.yaml", SECRETS | {"LEDGER_URL": url}).ledger.location
        assert str(location) == "postgresql://postgresql/events"
        spec = by_kind["Deployment"]["spec"]
        assert spec["replicas"] == 3
        assert spec["strategy"]["rollingUpdate"]["maxUnavailable"] == 0
        container = spec["template"]["spec"]["containers"][0]
        named = {volume["name"] for volume in spec["template"]["spec"]["volumes"]}
        assert {mount["name"] for mount in container["volumeMounts"]} == named
        assert by_kind["PodDisruptionBudget"]["spec"]["selector"] == spec["selector"]

    def test_several_copies_with_compose(self, tmp_path: Path) -> None:
        services = yaml.safe_load((PACKAGING / "compose.postgresql.yaml").read_text())["services"]
        config = tmp_path / "config.yaml"
        config.write_text((PACKAGING / "config.postgresql.yaml").read_text())
        for copy in ("first", "second"):
            url = re.sub(r"\$\{.*?\}", "secret", services[copy]["environment"]["LEDGER_URL"])
            loaded = load(config, SECRETS | {"LEDGER_URL": url})
            assert str(loaded.ledger.location) == "postgresql://postgresql/reconciler"
            assert f"server {copy}:{loaded.receiver.port}" in (PACKAGING / "nginx.conf").read_text()

    def test_systemd_likes_the_unit(self, tmp_path: Path) -> None:
        analyze = shutil.which("systemd-analyze")
        if analyze is None:
            pytest.skip("NOT TESTED: systemd-analyze is not here")
        text = (PACKAGING / "systemd/gitlab-reconciler.service").read_text()
        unit = tmp_path / "gitlab-reconciler.service"
        unit.write_text(text.replace("/opt/gitlab-reconciler/bin/gitlab-reconciler", "/bin/true"))
        done = subprocess.run([analyze, "verify", str(unit)], capture_output=True, text=True, check=False)
        assert "gitlab-reconciler.service" not in done.stderr, done.stderr

    def test_systemd_is_told(
        self, make_service: MakeService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = str(tmp_path / "notify")
        monkeypatch.setenv("NOTIFY_SOCKET", path)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
            systemd.bind(path)
            systemd.settimeout(20)
            service = make_service().start()
            notified = iter(lambda: systemd.recv(100), None)
            longer = b"EXTEND_TIMEOUT_USEC=60000000"  # a process that takes longer to start asks for time
            ready = next(message for message in notified if message != longer)
            alive = next(message for message in notified if message != longer)
            assert (ready, alive) == (b"READY=1", b"WATCHDOG=1")
            assert service.stop() == 0
            assert next(message for message in notified if message not in (longer, b"WATCHDOG=1")) == b"STOPPING=1"
