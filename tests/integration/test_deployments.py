"""Deployments of this machine: real servers of tiny models, which outlive whoever made them."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from served_models import make_served
from storage_servers import free_port

from tunesmith.catalog.registering import register_folder
from tunesmith.cli import main
from tunesmith.errors import ModelError, RunError, UsageError
from tunesmith.jobs.deployments import Asked, create, delete, find_deployment, list_deployments, look, render
from tunesmith.registry.record import Origin
from tunesmith.registry.references import read_references, remove_version
from tunesmith.storage.folder import LocalStore

# PEFT asks for a property by a name that Transformers has just deprecated.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning"),
    pytest.mark.timeout(900),
]
PATIENCE_SECONDS = 240.0
QUESTION = [{"role": "user", "content": "Where is my parcel?"}]
SECRET = "planted-key-of-the-server-81c2"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base model."""
    root = tmp_path_factory.mktemp("deployed")
    make_served(root)
    return root


class Site:
    """A folder of runs whose deployments end with the test."""

    def __init__(self, folder: Path, base: Path) -> None:
        self.folder, self.base = folder, base
        self.runs = folder / "runs"
        self.store = LocalStore(folder / "registry")

    def command(self, *arguments: str) -> Any:
        """What another process prints, which has ended when this returns."""
        where = ["--output", str(self.runs), "--json"]
        command = [sys.executable, "-m", "tunesmith.cli", "deployments", *arguments, *where]
        done = subprocess.run(command, cwd=self.folder, capture_output=True, text=True, check=False, timeout=300)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def register(self, name: str) -> None:
        origin = Origin(kind="folder", name="base")
        register_folder(self.store, self.base, name, origin=origin, description="", language=None, with_base=True)

    def pid(self, name: str) -> int:
        """The process of the server that was started last."""
        return int(json.loads((self.runs / ".deployments" / name / "launch.json").read_text())["pid"])

    def served(self, name: str) -> psutil.Process:
        return psutil.Process(self.pid(name))

    def keeper(self, name: str) -> psutil.Process:
        """The one that lives; a second one ends as soon as it sees the first."""
        _until(lambda: len(_keepers(self, name)) == 1)
        return _keepers(self, name)[0]

    def until(self, name: str, state: str, patience_seconds: float = PATIENCE_SECONDS) -> dict[str, Any]:
        end = time.monotonic() + patience_seconds
        while (view := look(find_deployment(self.runs, name)).to_json())["state"] != state:
            assert time.monotonic() < end, view
            time.sleep(0.1)
        return view


@pytest.fixture
def site(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setenv("TUNESMITH_REGISTRY", str(tmp_path / "registry"))
    monkeypatch.setenv("TUNESMITH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.delenv("TUNESMITH_API_KEY", raising=False)
    site = Site(tmp_path, root / "base")
    yield site
    for one in list_deployments(site.runs):
        delete(one)


def _keeps(command: list[str], place: str) -> bool:
    return "tunesmith.executors.local.keeper" in command and place in command


def answer(address: str, model: str, key: str = "") -> httpx.Response:
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    body = {"model": model, "messages": QUESTION, "temperature": 0, "max_tokens": 5}
    return httpx.post(f"{address}/chat/completions", json=body, headers=headers, timeout=60, trust_env=False)


@pytest.mark.slow
def test_a_deployment_outlives_its_maker_and_its_server_and_is_deleted(site: Site) -> None:
    """Its version cannot be removed, its stage may mean another one meanwhile, and its address stays."""
    site.register("router")
    made = site.command("create", "desk=router@latest", "--name", "desk", "--wait")
    assert (made["state"], made["models"], made["versions"]) == ("ready", {"desk": "router:1"}, ["router:1"])
    first = answer(made["address"], "desk")
    assert first.status_code == 200
    with pytest.raises(ModelError) as caught:
        remove_version(site.store, "router", 1)
    assert "tunesmith deployment desk" in str(caught.value)

    server = site.served("desk")
    # The same once more is found, and something else under this name is not.
    same = Asked(("desk=router:1",), "desk")
    assert create(same, site.runs).record["handle"] == made["handle"]
    assert site.served("desk") == server
    with pytest.raises(RunError) as taken:
        create(Asked((f"desk={site.base}",), "desk"), site.runs)
    assert taken.value.code == "deployment.exists"

    server.kill()
    _until(lambda: site.pid("desk") != server.pid)
    again = site.until("desk", "ready")
    assert again["address"] == made["address"]
    assert answer(again["address"], "desk").json()["choices"] == first.json()["choices"]
    (reference,) = read_references(site.store, "router", 1)
    assert reference.kind == "deployment"

    server, keeper = site.served("desk"), site.keeper("desk")
    assert site.command("delete", "desk") == {"deployment": "desk", "deleted": True}
    assert not server.is_running()
    psutil.wait_procs([keeper], timeout=5)
    assert not keeper.is_running() or keeper.status() == psutil.STATUS_ZOMBIE
    assert list_deployments(site.runs) == []
    assert not (site.runs / ".deployments" / "desk").exists()
    remove_version(site.store, "router", 1)


@pytest.mark.slow
def test_one_whose_keeper_died_too_is_taken_over_or_started_by_whoever_looks(site: Site) -> None:
    create(Asked((f"base={site.base}",), "desk"), site.runs)
    view = site.until("desk", "ready")
    server, keeper = site.served("desk"), site.keeper("desk")
    keeper.kill()
    _gone(keeper)
    # The server goes on, and the next look finds it a new keeper.
    assert answer(view["address"], "base").status_code == 200
    assert look(find_deployment(site.runs, "desk")).status.state == "ready"
    _until(lambda: bool(_keepers(site, "desk")))
    assert site.served("desk") == server
    site.keeper("desk").kill()
    server.kill()
    _gone(server)
    assert site.until("desk", "ready")["address"] == view["address"]
    assert site.served("desk") != server


@pytest.mark.slow
def test_a_server_with_a_key_is_not_started_again_without_it(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNESMITH_API_KEY", SECRET)
    create(Asked((f"base={site.base}",), "desk"), site.runs)
    address = site.until("desk", "ready")["address"]
    assert (answer(address, "base").status_code, answer(address, "base", SECRET).status_code) == (401, 200)
    for path in site.runs.rglob("*"):
        assert not path.is_file() or SECRET.encode() not in path.read_bytes(), path
    monkeypatch.delenv("TUNESMITH_API_KEY")
    # Its keeper has the key.
    server, keeper = site.served("desk"), site.keeper("desk")
    server.kill()
    _until(lambda: site.pid("desk") != server.pid)
    site.until("desk", "ready")
    assert answer(address, "base").status_code == 401
    server = site.served("desk")
    keeper.kill()
    _gone(keeper)
    server.kill()
    _gone(server)
    view = look(find_deployment(site.runs, "desk"))
    assert view.status.state == "stopped"
    assert "TUNESMITH_API_KEY" in str(view.status.reason)
    monkeypatch.setenv("TUNESMITH_API_KEY", SECRET)
    site.until("desk", "ready")


@pytest.mark.slow
def test_a_server_that_cannot_start_is_given_up_and_tried_again_when_asked(site: Site) -> None:
    broken = site.folder / "broken"
    broken.mkdir()
    (broken / "config.json").write_text("{}")
    asked = Asked((f"base={broken}",), "desk")
    create(asked, site.runs)
    # Five starts, each of which loads the libraries.
    reason = site.until("desk", "failed", 3 * PATIENCE_SECONDS)["reason"]
    assert "died 5 times" in reason
    assert "error" in reason
    create(asked, site.runs)
    assert look(find_deployment(site.runs, "desk")).status.state == "starting"


@pytest.mark.slow
def test_answers_under_way_are_finished_when_it_is_deleted(site: Site) -> None:
    port = free_port()
    create(Asked((f"base={site.base}",), "desk", settings={"port": port}), site.runs)
    address = site.until("desk", "ready")["address"]
    assert address == f"http://127.0.0.1:{port}/v1"
    body = {"model": "base", "messages": QUESTION, "max_tokens": 300, "stream": True}
    with httpx.stream("POST", f"{address}/chat/completions", json=body, timeout=60, trust_env=False) as stream:
        lines = stream.iter_lines()
        next(lines)
        command = [sys.executable, "-m", "tunesmith.cli", "deployments", "delete", "desk", "--output", str(site.runs)]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL) as deleting:
            data = [line.removeprefix("data: ") for line in lines if line]
            assert deleting.wait(PATIENCE_SECONDS) == 0
    assert data[-1] == "[DONE]"
    # A model of chance may end its answer by itself.
    assert json.loads(data[-2])["choices"][0]["finish_reason"] in ("length", "stop")


def test_one_that_still_loads_holds_its_version_and_is_deleted(site: Site) -> None:
    site.register("router")
    made = create(Asked(("desk=router:1",), "desk"), site.runs)
    assert look(made).status.state == "starting"
    with pytest.raises(ModelError):
        remove_version(site.store, "router", 1)
    _until((site.runs / ".deployments" / "desk" / "launch.json").exists)
    server, keeper = site.served("desk"), site.keeper("desk")
    delete(made)
    _gone(server)
    _gone(keeper)
    assert not (site.runs / ".deployments" / "desk").exists()
    remove_version(site.store, "router", 1)
    with pytest.raises(RunError):
        find_deployment(site.runs, "desk")


@pytest.mark.parametrize(
    ("change", "error", "code"),
    [
        ({"on": "nowhere"}, UsageError, "usage.deployer"),
        ({"kind": "batch"}, UsageError, "usage.deployment"),
        ({"replicas": 2}, UsageError, "usage.deployment"),
        ({"name": "Not/usable"}, UsageError, "usage.deployment_name"),
        ({"settings": {"colour": "red"}}, UsageError, "usage.deployment_setting"),
        ({"settings": {"port": 70_000}}, UsageError, "usage.deployment_setting"),
        ({"models": ("base=BASE", "base=BASE")}, UsageError, "usage.served_names"),
        ({"models": ("no-such-model",)}, ModelError, "model.unknown"),
        ({"models": ("router:9",)}, ModelError, "registry.unknown"),
    ],
)
def test_what_cannot_be_deployed_is_refused_and_leaves_nothing(
    site: Site, change: dict[str, Any], error: type[Exception], code: str
) -> None:
    plain: dict[str, Any] = {"models": (f"base={site.base}",), "name": "desk"}
    if "models" in change:
        change = {"models": tuple(one.replace("BASE", str(site.base)) for one in change["models"])}
    with pytest.raises(error) as caught:
        create(Asked(**{**plain, **change}), site.runs)
    assert getattr(caught.value, "code", None) == code
    assert list_deployments(site.runs) == []


def test_a_port_that_is_taken_is_told_and_the_version_let_go(site: Site) -> None:
    site.register("router")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        asked = Asked(("router:1",), "desk", settings={"port": taken.getsockname()[1]})
        with pytest.raises(RunError) as caught:
            create(asked, site.runs)
    assert caught.value.code == "deployment.port"
    assert list_deployments(site.runs) == []
    assert read_references(site.store, "router", 1) == []


def test_what_is_not_there_is_told(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    runs = str(site.runs)
    assert main.run(["deployments", "list", "--output", runs]) == 0
    assert "no deployments" in capsys.readouterr().out
    assert main.run(["deployments", "show", "desk", "--output", runs]) == 15
    assert "no such deployment" in capsys.readouterr().err
    with pytest.raises(UsageError) as caught:
        render(Asked((f"base={site.base}",)), site.runs, site.folder / "out")
    assert caught.value.code == "usage.render"


def test_what_another_platform_would_be_told_is_written(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    folder = site.folder / "out"
    models = ["desk=oci://team.azurecr.io/adapter:0.0.1", "--set", "preset=phi-4-mini-instruct"]
    command = ["deployments", "create", *models, "--name", "desk", "--on", "kaito", "--render", str(folder)]
    setting = ["--set", "instance_type=Standard_NC24ads_A100_v4", "--output", str(site.runs), "--json"]
    assert main.run([*command, *setting]) == 0
    written = json.loads(capsys.readouterr().out)["files"]
    assert written
    assert any("team.azurecr.io/adapter:0.0.1" in Path(path).read_text() for path in written)
    assert list_deployments(site.runs) == []


def _keepers(site: Site, name: str) -> list[psutil.Process]:
    place = str(site.runs / ".deployments" / name)
    return [one for one in psutil.process_iter(["cmdline"]) if _keeps(one.info["cmdline"] or [], place)]


def _until(is_so: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE_SECONDS
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.05)


def _gone(process: psutil.Process) -> None:
    _until(lambda: not process.is_running() or process.status() == psutil.STATUS_ZOMBIE)
