"""Backups: written while the service runs, restored into either kind of database, and never half."""

from __future__ import annotations

import hashlib
import io
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest
from service_dispatch import World, jobs, make_world
from service_jobs import chat_rows, upload
from service_site import DATABASES, Site, database_url, make_site
from sqlalchemy import delete, insert, inspect, select

from tunesmith.errors import UsageError
from tunesmith.recipe.load import load_recipe
from tunesmith.service.backup import restore_backup, write_backup
from tunesmith.service.backup.rows import tables_of
from tunesmith.service.context import Context, open_context
from tunesmith.service.db.migrate import newest, revision_of, upgrade
from tunesmith.service.db.tables import METADATA
from tunesmith.service.db.tables.accounts import PROJECTS
from tunesmith.service.db.tables.jobs import JOB_EVENTS, JOBS
from tunesmith.service.db.tables.usage import USAGE
from tunesmith.service.fine_tuning.places import inputs_folder, run_of
from tunesmith.service.owning import own_local_runs
from tunesmith.service.settings import Settings

ROWS = b'{"messages": []}\n' * 20


def fill(site: Site) -> str:
    """Rows of all kinds of columns: texts, numbers, truth values, JSON, nothing."""
    client = site.client()
    told = client.post("/v1/files", files={"file": ("zürich.jsonl", ROWS)}, data={"purpose": "fine-tune"}).json()
    site.project("other", allowed_models=["a", {"b": None}], budget=0.1, storage_bytes=2**40)
    job = {
        "id": "ftjob-1", "project_id": site.default.id, "created_at": 1700000000.123456, "created_by": "x",
        "model": "m", "seed": 2**31, "training_file": told["id"], "method": {"z": [1, 2.5, None, "☃"], "a": True},
        "hyperparameters": {}, "options": {}, "recipe": {}, "state": "running", "reason": "", "wish": "run",
        "priority": 0, "result_files": [], "metadata": None, "told_seq": 0, "tries": 0,
    }  # fmt: skip
    events = [
        {"id": f"e{at:04}", "job_id": "ftjob-1", "created_at": at / 3, "level": "info", "type": "message",
         "message": "line\nbreak\u2028", "data": None if at % 2 else {"at": at}}
        for at in range(1203)
    ]  # fmt: skip
    with site.context.database.write() as connection:
        connection.execute(insert(JOBS).values(**job))
        connection.execute(insert(JOB_EVENTS), events)
    client.delete("/v1/files/none")
    return str(told["id"])


def rows_of(context: Context) -> dict[str, list[dict[str, Any]]]:
    with context.database.read() as connection:
        return {
            table.name: [
                dict(row) for row in connection.execute(select(table).order_by(*table.primary_key.columns)).mappings()
            ]
            for table in METADATA.sorted_tables
        }


def new_settings(folder: Path, kind: str = "sqlite", **more: Any) -> Settings:
    plain = {"data_folder": folder / "data", "database": database_url(kind, folder), "storage": str(folder / "files")}
    return Settings(**{**plain, **more})


def restored(settings: Settings, path: Path) -> Context:
    restore_backup(settings, path)
    return open_context(settings)


def test_rows_go_from_one_kind_of_database_to_the_other_and_back(tmp_path: Path) -> None:
    site = make_site(tmp_path / "first", "sqlite")
    fill(site)
    expected = rows_of(site.context)
    told = write_backup(site.context, tmp_path / "one.tar", with_files=False)
    assert told["tables"]["job_events"] == 1203
    assert told["revision"] == newest()
    assert (tmp_path / "one.tar").stat().st_mode & 0o077 == 0
    context = site.context
    for number, kind in enumerate(DATABASES[::-1]):
        path = tmp_path / f"{number}.tar"
        write_backup(context, path, with_files=False)
        context.database.close()
        context = restored(new_settings(tmp_path / str(number), kind), path)
        assert context.database.is_postgresql == (kind == "postgresql")
        assert rows_of(context) == expected
        assert list(context.scratch.iterdir()) == []
    with context.database.read() as connection:
        # SQL's nothing, and not JSON's.
        events = select(JOB_EVENTS.c.id).where(JOB_EVENTS.c.data.is_(None))
        assert len(connection.execute(events).all()) == 601
    context.database.close()


def test_files_models_and_runs_come_along(tmp_path: Path) -> None:
    site = make_site(tmp_path / "first")
    name = fill(site)
    site.context.storage.write("registry/models/one/1/record.json", b"{}")
    run = site.context.settings.runs_folder / "ftjob-1" / "events.jsonl"
    run.parent.mkdir(parents=True)
    run.write_bytes(b"events")
    (site.context.scratch / "form-1").write_bytes(b"half")
    told = write_backup(site.context, tmp_path / "one.tar", with_files=True)
    assert told["files"] == 3
    settings = new_settings(tmp_path / "second")
    assert restore_backup(settings, tmp_path / "one.tar")["files"] == 3
    again = Site(open_context(settings), site.first_key)
    assert again.operator.get(f"/v1/files/{name}/content").content == ROWS
    assert again.context.storage.read("registry/models/one/1/record.json") == b"{}"
    assert (settings.runs_folder / "ftjob-1" / "events.jsonl").read_bytes() == b"events"
    assert list(again.context.scratch.iterdir()) == []
    store = new_settings(tmp_path / "third", storage=f"memory://backup-{tmp_path.name}")
    context = restored(store, tmp_path / "one.tar")
    assert Site(context, site.first_key).operator.get(f"/v1/files/{name}/content").content == ROWS
    with pytest.raises(UsageError, match="storage"):
        write_backup(context, tmp_path / "two.tar", with_files=True)
    for one in (site.context, again.context, context):
        one.database.close()


def test_a_restored_service_trains_in_whichever_folder_starts_it(tmp_path: Path) -> None:
    site = make_site(tmp_path / "first")
    site.context.settings.data_folder.mkdir(exist_ok=True)
    own_local_runs(site.context)
    write_backup(site.context, tmp_path / "one.tar", with_files=False)
    context = restored(new_settings(tmp_path / "second"), tmp_path / "one.tar")
    assert context.scratch.is_dir()
    own_local_runs(context)
    for one in (site.context, context):
        one.database.close()


def test_a_paused_job_goes_on_in_the_folder_that_it_is_restored_into(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "first").mkdir()
    world = make_world(tmp_path / "first", monkeypatch)
    (job_id,) = jobs(world, 1, validation_file=upload(world.site.default, chat_rows(5)))
    world.turn()
    world.site.client().post(f"/v1/fine_tuning/jobs/{job_id}/pause")
    for _ in range(2):
        world.turn()
    assert world.row(job_id).state == "paused"
    # Rows that were deleted since are kept for it, and go into the backup.
    file_id = world.row(job_id).training_file
    assert world.site.client().delete(f"/v1/files/{file_id}").status_code == 200
    first = world.context.settings
    write_backup(world.context, tmp_path / "one.tar", with_files=True)
    world.context.database.close()
    plain = {name: getattr(first, name) for name in ("models", "executor")}
    context = restored(new_settings(tmp_path / "second", **plain), tmp_path / "one.tar")
    # Whatever is left of the old folder is not what it stands on.
    shutil.rmtree(first.data_folder)
    world.platform.runs[job_id] = str(run_of(context, job_id).path)
    again = World(Site(context, world.site.first_key), world.platform)
    assert again.site.operator.post(f"/v1/fine_tuning/jobs/{job_id}/resume").status_code == 200
    for _ in range(2):
        again.turn()
    data = load_recipe(run_of(context, job_id).recipe).data
    for named, rows in ((data.train, 20), (data.validation, 5)):
        assert Path(str(named)).parent == inputs_folder(context, job_id).resolve()
        assert [orjson.loads(line) for line in Path(str(named)).read_bytes().splitlines()] == chat_rows(rows)
    assert world.platform.entries == {job_id: "running"}
    again.platform.work(job_id, "succeeded")
    again.turn()
    assert again.row(job_id).state == "succeeded"
    context.database.close()


@pytest.mark.parametrize("kind", DATABASES)
def test_a_backup_of_the_first_version_is_brought_to_this_one(kind: str, tmp_path: Path) -> None:
    context = open_context(new_settings(tmp_path / "old", kind))
    upgrade(context.database, "0001")
    with context.database.write() as connection:
        projects = next(table for table in tables_of(connection) if table.name == "projects")
        row = {"id": "proj_1", "name": "old", "created_at": 1.5, "priority": 3, "budget_action": "stop"}
        connection.execute(insert(projects).values(**row))
        usage = next(table for table in tables_of(connection) if table.name == "usage")
        used = {"hour": 5, "kind": "requests", "model": "m", "key_id": "", "quantity": 3, "cost": 0.25}
        connection.execute(insert(usage).values(project_id="proj_1", **used))
    assert write_backup(context, tmp_path / "old.tar", with_files=False)["revision"] == "0001"
    context.database.close()
    context = restored(new_settings(tmp_path / "new", kind), tmp_path / "old.tar")
    assert revision_of(context.database) == newest()
    (found,) = rows_of(context)["projects"]
    assert {key: found[key] for key in row} == row
    with context.database.write() as connection:
        connection.execute(delete(PROJECTS).where(PROJECTS.c.id == "proj_1"))
        # What it has used stays, and is counted by one row an hour as before.
        more = {**used, "project_id": "proj_1"}
        keys = ("project_id", "hour", "kind", "model", "key_id")
        context.database.upsert(connection, USAGE, more, keys, {"quantity": USAGE.c.quantity + 3})
    assert rows_of(context)["usage"] == [{**used, "project_id": "proj_1", "quantity": 6}]
    context.database.close()


def test_only_an_empty_database_is_restored_into(tmp_path: Path) -> None:
    site = make_site(tmp_path / "first")
    write_backup(site.context, tmp_path / "one.tar", with_files=False)
    with pytest.raises(UsageError) as caught:
        restore_backup(site.context.settings, tmp_path / "one.tar")
    assert caught.value.code == "backup.not_empty"
    with pytest.raises(UsageError) as caught:
        restore_backup(new_settings(tmp_path / "second"), tmp_path / "none.tar")
    assert caught.value.code == "backup.missing"
    empty = open_context(new_settings(tmp_path / "third"))
    with pytest.raises(UsageError) as caught:
        write_backup(empty, tmp_path / "three.tar", with_files=False)
    assert caught.value.code == "backup.empty"
    assert not (tmp_path / "three.tar").exists()
    site.context.database.close()


Change = Callable[[dict[str, bytes]], None]


def _changed(name: str, content: bytes) -> Change:
    return lambda members: members.update({name: content})


def _resealed(name: str, **about: Any) -> Change:
    """As somebody would write it who knows the hashes."""

    def change(members: dict[str, bytes]) -> None:
        members[name] = b"x"
        listed = orjson.loads(members["manifest.json"]) | about
        listed["members"][name] = hashlib.sha256(b"x").hexdigest()
        members["manifest.json"] = orjson.dumps(listed)
        members["manifest.sha256"] = hashlib.sha256(members["manifest.json"]).hexdigest().encode()

    return change


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (_changed("tables/projects.jsonl", b'{"id": "proj_evil"}\n'), "backup.broken"),
        (_changed("tables/more.jsonl", b""), "backup.broken"),
        (lambda members: members.pop("tables/users.jsonl"), "backup.broken"),
        (lambda members: members.pop("manifest.json"), "backup.broken"),
        (_changed("manifest.json", b"{}"), "backup.broken"),
        (_resealed("../outside"), "backup.broken"),
        (_resealed("/tmp/outside"), "backup.broken"),
        (_resealed("storage/../../outside"), "backup.broken"),
        (_resealed("runs/./outside"), "backup.broken"),
        (_resealed("storage\\..\\outside"), "backup.broken"),
        (_resealed("other/outside"), "backup.broken"),
        (_resealed("tables/a/b.jsonl"), "backup.broken"),
        (_resealed("storage/projects/x", revision="9999"), "backup.newer"),
        (_resealed("storage/projects/x", format=2), "backup.newer"),
    ],
)
def test_what_was_changed_is_refused_and_nothing_is_written(
    small_backup: Path, tmp_path: Path, change: Change, code: str
) -> None:
    with tarfile.open(small_backup) as tar:
        members = {entry.name: tar.extractfile(entry).read() for entry in tar}  # type: ignore[union-attr]
    change(members)
    path = tmp_path / "changed.tar"
    with tarfile.open(path, "w:") as tar:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    _refused(tmp_path, path, code)


@pytest.fixture(scope="module")
def small_backup(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("backup")
    site = make_site(folder / "first")
    write_backup(site.context, folder / "one.tar", with_files=True)
    site.context.database.close()
    return folder / "one.tar"


def _refused(folder: Path, path: Path, code: str) -> None:
    settings = new_settings(folder)
    with pytest.raises(UsageError) as caught:
        restore_backup(settings, path)
    assert caught.value.code == code
    assert [one.name for one in folder.rglob("*") if one.is_file() and "service.db" not in one.name] == [path.name]
    context = open_context(settings)
    assert inspect(context.database.engine).get_table_names() == []
    context.database.close()


def test_links_cut_files_and_other_files_are_refused(small_backup: Path, tmp_path: Path) -> None:
    path = tmp_path / "bad.tar"
    with tarfile.open(path, "w:") as tar:
        link = tarfile.TarInfo("storage/projects/link")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc"
        tar.addfile(link)
    _refused(tmp_path, path, "backup.broken")
    whole = small_backup.read_bytes()
    for content in (whole[: len(whole) // 2], whole[:700], b"no tar at all", b""):
        path.write_bytes(content)
        _refused(tmp_path, path, "backup.broken")


def test_a_restore_that_fails_leaves_an_empty_database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = make_site(tmp_path / "first")
    fill(site)
    write_backup(site.context, tmp_path / "one.tar", with_files=False)
    site.context.database.close()
    settings = new_settings(tmp_path / "second")
    with monkeypatch.context() as patched:
        patched.setattr("tunesmith.service.backup.restore.load_rows", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            restore_backup(settings, tmp_path / "one.tar")
    assert restore_backup(settings, tmp_path / "one.tar")["tables"]["job_events"] == 1203
