"""What an operator asks for and cannot have is told before anything is kept of it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from service_dispatch import World, jobs
from service_site import DATABASES, database_url

from tunesmith.cli import hosted
from tunesmith.cli.main import run
from tunesmith.errors import TunesmithError, UsageError
from tunesmith.service.__main__ import CHOICES_VARIABLE, main
from tunesmith.service.choices import settings_of
from tunesmith.service.dispatcher.claims import LOCK_SECONDS
from tunesmith.service.operate import prepare_tables
from tunesmith.service.owning import adopt_local_runs, own_local_runs
from tunesmith.service.settings import Settings
from tunesmith.service.up import start_as_json, tell_start, up
from tunesmith.service.web.rendering import VENDOR


@pytest.mark.parametrize(
    ("choices", "code"),
    [
        ({"prot": 5}, "service.settings"),
        ({"executor": {"name": "moon"}}, "service.settings"),
        ({"database": "mysql://x"}, "service.database"),
        ({"database": "postgresql://nobody@127.0.0.1:9/none"}, "service.database"),
        ({"storage": "ftp://x"}, "storage.url"),
        ({"host": "203.0.113.1"}, "service.address"),
    ],
)
def test_what_cannot_be(tmp_path: Path, choices: dict[str, Any], code: str) -> None:
    with pytest.raises(TunesmithError) as caught:
        up(tmp_path / "data", {"port": 0, **choices}, as_json=True)
    assert caught.value.code == code
    assert not (tmp_path / "data" / "choices.json").exists()


def test_a_start_tells_programs_too_what_the_web_page_lacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings(data_folder=tmp_path, database="sqlite://", storage=str(tmp_path), port=8321)
    monkeypatch.setattr("tunesmith.service.web.rendering.STATIC", tmp_path)
    told = start_as_json(settings, "ts-key")
    assert told["web_page_lacks"] == list(VENDOR)
    assert (told["web_page"], told["first_key"]) == ("http://127.0.0.1:8321/ui", "ts-key")
    for name in VENDOR:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    assert start_as_json(settings, None)["web_page_lacks"] == []


def test_a_start_tells_people_what_the_web_page_lacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = Settings(data_folder=tmp_path, database="sqlite://", storage=str(tmp_path), port=8321)
    monkeypatch.setattr("tunesmith.service.web.rendering.STATIC", tmp_path)
    tell_start(settings, "ts-key", as_json=False)
    told = capsys.readouterr().out
    assert "The web page is http://127.0.0.1:8321/ui (its charts" in told
    assert "run `make web`" in told
    assert "ts-key" in told
    for name in VENDOR:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    tell_start(settings, None, as_json=False)
    told = capsys.readouterr().out
    assert "The web page is http://127.0.0.1:8321/ui\n" in told
    assert "make web" not in told


@pytest.mark.parametrize(
    ("config", "options", "code"),
    [
        ("- 5", (), "usage.config"),
        ("a: [", (), "usage.config"),
        ("port: 0", ("--executor", "ray,address"), "recipe.setting"),
        ("port: 0", ("--executor", "nowhere.yaml"), "usage.config"),
    ],
)
def test_what_cannot_be_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], config: str, options: tuple[str, ...], code: str
) -> None:
    (tmp_path / "config.yaml").write_text(config)
    run(["up", "--config", str(tmp_path / "config.yaml"), *options, "--json"])
    assert json.loads(capsys.readouterr().out)["error"]["code"] == code


def test_options_become_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[Any] = []
    monkeypatch.setattr(hosted.os, "execve", lambda program, line, environment: found.append((line, environment)))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.yaml").write_text("port: 1\nlimits: {jobs_at_once: 3}\n")
    options = ("--port", "2", "--executor", "local,threads=2", "--models", "a, b", "--storage", "here", "--config")
    run(["up", *options, "config.yaml", "--data-dir", "data", "--database", "postgresql://me:secret@host/x"])
    ((line, environment),) = found
    assert line[-2:] == ["--data-dir", str(tmp_path / "data")]
    assert "secret" not in " ".join(line)
    assert json.loads(environment[CHOICES_VARIABLE]) == {
        "port": 2,
        "limits": {"jobs_at_once": 3},
        "database": "postgresql://me:secret@host/x",
        "storage": str(tmp_path / "here"),
        "executor": {"name": "local", "threads": 2},
        "models": ["a", "b"],
    }


def choose(folder: Path, patch: pytest.MonkeyPatch, command: str, **choices: Any) -> int:
    """What an operator does with a data folder; the exit code."""
    patch.setenv(CHOICES_VARIABLE, json.dumps({"port": 0, **choices}))
    return main([command, "--data-dir", str(folder), "--json"])


@pytest.mark.parametrize("kind", DATABASES)
def test_one_data_folder_has_the_jobs_that_train_on_this_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    url = database_url(kind, tmp_path)
    first, second, third = (tmp_path / name for name in ("first", "second", "third"))
    assert prepare_tables(settings_of(make_folder(first), {"database": url})) is not None
    capsys.readouterr()
    assert choose(second, monkeypatch, "up", database=url) == 2
    error = json.loads(capsys.readouterr().out)["error"]
    assert (error["code"], "adopt" in error["hint"]) == ("service.runs_elsewhere", True)
    # The same one may start again, also where it was moved to, and on a cluster everybody finds every job.
    first = first.rename(tmp_path / "moved")
    prepare_tables(settings_of(first, {"database": url}))
    prepare_tables(settings_of(make_folder(third), {"database": url, "executor": {"name": "ray"}}))
    assert choose(second, monkeypatch, "adopt", database=url) == 0
    prepare_tables(settings_of(second, {"database": url}))
    with pytest.raises(UsageError, match="another data folder"):
        prepare_tables(settings_of(first, {"database": url}))


def test_jobs_of_a_dispatcher_at_work_are_not_taken_over(world: World) -> None:
    (job_id,) = jobs(world, 1)
    own_local_runs(world.context)
    world.turn()
    world.platform.work(job_id)
    world.turn()
    assert world.row(job_id).told_seq > 0
    settings = world.context.settings.model_copy(update={"data_folder": world.context.scratch})
    other = replace(world.context, settings=settings)
    with pytest.raises(UsageError) as caught:
        adopt_local_runs(other)
    assert caught.value.code == "service.dispatcher_works"
    world.time += LOCK_SECONDS + 1
    adopt_local_runs(other)
    own_local_runs(other)
    # It begins again, and is heard from its first word.
    assert world.row(job_id).told_seq == 0


def make_folder(path: Path) -> Path:
    path.mkdir()
    return path


def test_without_the_extra_its_name_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(hosted, "find_spec", lambda name: None if name == "alembic" else object())
    assert run(["up"]) == 2
    assert "pip install 'tunesmith[server]'" in capsys.readouterr().err
