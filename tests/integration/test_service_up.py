"""`tunesmith up` and `tunesmith service` as an operator uses them: real processes, real ends."""

from __future__ import annotations

import json
import signal
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import psutil
import pytest
from live_service import LiveService, end_tree, end_workers, live_service, start_service
from prometheus_client.parser import text_string_to_metric_families
from service_site import database_url

REQUESTS = 20


def tunesmith(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", "-m", "tunesmith.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


def answers(service: LiveService) -> bool:
    try:
        return httpx.get(f"{service.root}/ready", timeout=5.0, trust_env=False).status_code == 200
    except httpx.TransportError:
        return False


def test_the_life_of_a_service(tmp_path: Path) -> None:
    first = start_service(tmp_path, "--api-processes", "2")
    try:
        _is_private(first)
        _counts_for_all_processes(first)
        _survives_the_end_of_a_process(first)
        # Nor are its counts lost with a process.
        assert counted(first, "/v1/models") == {REQUESTS}
        taken = tunesmith("up", "--data-dir", str(first.data_folder), "--port", "0", "--json")
        assert (taken.returncode, json.loads(taken.stdout)["error"]["code"]) == (15, "service.data_folder_taken")
        # Nobody is told when a keeper is killed; its processes see it and end.
        children = list(first.processes().values())
        first.process.kill()
        first.process.wait()
        # It waits for them, and what was chosen holds.
        second = start_service(tmp_path, key=first.key)
        assert second.told["first_key"] is None
        assert not any(child.is_running() and child.status() != psutil.STATUS_ZOMBIE for child in children)
        assert {"api-1", "api-2"} <= set(second.processes())
    finally:
        end_tree(first.process)
    try:
        left = list(second.processes().values())
        assert second.stop() == 0
        assert psutil.wait_procs(left, timeout=5)[1] == []
        assert "trainings of this machine go on" in second.errors.read_text()
    finally:
        end_tree(second.process)
        end_workers(second.data_folder)


def _is_private(service: LiveService) -> None:
    assert stat.S_IMODE(service.data_folder.stat().st_mode) == 0o700
    files = [path for path in service.data_folder.rglob("*") if path.is_file()]
    assert [path for path in files if stat.S_IMODE(path.stat().st_mode) & 0o077] == []
    lines = [" ".join(one.cmdline()) for one in [psutil.Process(service.process.pid), *service.processes().values()]]
    assert [line for line in lines if service.key in line] == []
    assert [path for path in files if service.key.encode() in path.read_bytes()] == []


def counted(service: LiveService, route: str) -> set[float]:
    """How many requests to a route were answered, by every process that is asked: each time a new connection."""
    name = "tunesmith_requests_total"
    found = set()
    for _ in range(2 * REQUESTS):
        text = httpx.get(f"{service.root}/metrics", headers=service.headers, trust_env=False).text
        families = text_string_to_metric_families(text)
        samples = [one for family in families for one in family.samples if one.name == name]
        found.add(sum(one.value for one in samples if one.labels["route"] == route))
    return found


def _counts_for_all_processes(service: LiveService) -> None:
    def ask(_: int) -> int:
        return httpx.get(f"{service.base_url}/models", headers=service.headers, trust_env=False).status_code

    # At once, so that one process does not have them all.
    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(ask, range(REQUESTS))) == {httpx.codes.OK}
    assert counted(service, "/v1/models") == {REQUESTS}
    files = [path.name for path in (service.data_folder / "counts").glob("counter_*.db")]
    assert len(files) == 2, "both processes were asked"


def _survives_the_end_of_a_process(service: LiveService) -> None:
    killed = service.kill("api-1")
    # The other one answers meanwhile.
    assert answers(service)
    service.wait_for(lambda: "api-1" in service.processes() and service.processes()["api-1"].pid != killed)
    for _ in range(8):
        assert answers(service)


@pytest.mark.parametrize("kind", ["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)])
def test_keys_of_an_operator(tmp_path: Path, kind: str) -> None:
    data, url = tmp_path / "data", database_url(kind, tmp_path)
    # Before the first start, as in a cluster; it is the first key then.
    made = [tunesmith("service", "key", "--data-dir", str(data), "--database", url) for _ in range(2)]
    keys = [one.stdout.strip() for one in made]
    assert all(key.startswith("ts-") for key in keys), made
    assert len(set(keys)) == 2
    migrated = tunesmith("service", "migrate", "--data-dir", str(data), "--json")
    assert json.loads(migrated.stdout)["version"]
    with live_service(tmp_path) as service:
        assert service.told["first_key"] is None
        settings = json.loads((data / "settings.json").read_text())
        assert settings["database"] == url
        for key, status in ((keys[0], 200), (keys[1], 200), ("ts-nobody", 401)):
            found = httpx.get(
                f"{service.root}/v1/models", headers={"Authorization": f"Bearer {key}"}, trust_env=False
            ).status_code
            assert found in (status, 404), (key, found)


def test_words_for_people(tmp_path: Path) -> None:
    """Without --json: the key once, with an example that begins as OpenAI's does."""
    command = [sys.executable, "-P", "-m", "tunesmith.cli", "up", "--data-dir", str(tmp_path / "data"), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(8)]
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    (key,) = [line.strip() for line in lines if line.startswith("  ts-")]
    assert f'api_key="{key}"' in "".join(lines)


def test_an_error_is_told_as_other_commands_tell_theirs(tmp_path: Path) -> None:
    done = tunesmith("up", "--data-dir", str(tmp_path / "data"), "--database", "mysql://x", "--json")
    assert (json.loads(done.stdout)["error"]["code"], done.returncode) == ("service.database", 2), done.stderr
    assert done.stderr.startswith("error: ")
