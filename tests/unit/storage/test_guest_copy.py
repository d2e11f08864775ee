"""A machine that takes part in a run finds, with the invitation, everything that its ranks need."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tunesmith.runs.atomic import write_json, write_text
from tunesmith.runs.control import read_wish
from tunesmith.storage.address import open_store
from tunesmith.storage.guest_copy import guest_copy
from tunesmith.storage.mirror import put_run
from tunesmith.storage.run_store import MEETING, RunStore
from tunesmith.storage.working_copy import working_copy


def until(found: Callable[[], object]) -> None:
    end = time.monotonic() + 30
    while not found():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.fixture
def run(tmp_path: Path) -> RunStore:
    run = RunStore(open_store((tmp_path / "store" / "one").as_uri()))
    rows = tmp_path / "rows.csv"
    rows.write_text("text,label\n")
    put_run(run, "model: m\n", {"inputs/rows.csv": rows}, {"key": "a"})
    return run


def url_of(run: RunStore) -> str:
    return Path(run.store.url).as_uri()


def test_the_invitation_comes_behind_what_ranks_need(run: RunStore) -> None:
    with working_copy(url_of(run)) as owner, guest_copy(url_of(run)) as guest:
        assert guest.recipe.read_text() == "model: m\n"
        assert (guest.path / "inputs" / "rows.csv").read_text() == "text,label\n"
        assert not guest.resolved.exists()
        write_json(owner.folder.resolved, {"a": 1})
        checkpoint = owner.folder.checkpoints / "step-000002"
        checkpoint.mkdir(parents=True)
        write_text(checkpoint / "manifest.json", "{}")
        write_json(owner.folder.path / MEETING, {"address": "127.0.0.1", "port": 1, "token": "t"})
        until((guest.path / MEETING).exists)
        assert guest.resolved.read_text() == owner.folder.resolved.read_text()
        assert (guest.checkpoints / "step-000002" / "manifest.json").is_file()
        (owner.folder.path / MEETING).unlink()
        until(lambda: not (guest.path / MEETING).exists())
        owner.code = 0


@pytest.mark.slow
def test_a_later_invitation_takes_the_place_of_the_first(run: RunStore) -> None:
    with working_copy(url_of(run)) as owner, guest_copy(url_of(run)) as guest:
        for port in (1, 22):
            write_json(owner.folder.path / MEETING, {"address": "127.0.0.1", "port": port, "token": "t"})
            until(
                lambda port=port: (
                    (guest.path / MEETING).exists()
                    and f":{port}," in (guest.path / MEETING).read_text().replace(" ", "")
                )
            )
            (owner.folder.path / MEETING).unlink()
            until(lambda: not (guest.path / MEETING).exists())
        owner.code = 0


def test_wishes_reach_a_guest_and_what_it_writes_stays_here(run: RunStore) -> None:
    with guest_copy(url_of(run)) as guest:
        run.write_wish("cancel")
        until(lambda: read_wish(guest.control) == "cancel")
        before = {found.path for found in run.store.walk("")}
        write_text(guest.path / "rank-1.error.json", "{}")
        write_text(guest.recipe, "changed: yes\n")
    assert {found.path for found in run.store.walk("")} == before
    assert run.store.read("recipe.yaml") == b"model: m\n"
