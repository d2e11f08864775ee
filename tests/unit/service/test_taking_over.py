"""Jobs of a cluster that a keeper with another data folder takes over: it follows the run that is there, at its newest.

The platform is a stand-in, see tests/service_dispatch.py; pausing and sending again go the way of real clusters.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from service_dispatch import World, jobs, make_world, of_a_machine
from service_jobs import status

from tunesmith.service.dispatcher.claims import LOCK_SECONDS
from tunesmith.service.files.chores import remove_deleted_bytes
from tunesmith.service.fine_tuning.places import inputs_folder, run_of


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    made = make_world(tmp_path, monkeypatch, executor={"name": "ray", "address": "http://127.0.0.1:8265"})
    yield made
    made.context.database.close()


def elsewhere(world: World, folder: Path) -> World:
    """Another keeper, once the locks of the first one have ended."""
    world.time += LOCK_SECONDS + 1
    return of_a_machine(world, folder)


def pause_and_resume(world: World, job_id: str, key: str) -> None:
    """Let the job go on under a new key, whose worker says so: the run's last word is not that of the one before."""
    client = world.site.client()
    for action, state in (("pause", "paused"), ("resume", "running")):
        client.post(f"/v1/fine_tuning/jobs/{job_id}/{action}")
        for _ in range(3):
            world.turn()
        assert status(client, job_id) == state
    world.platform.tell(key, "status", state="training")


def succeed(world: World, job_id: str, key: str) -> None:
    world.platform.work(key, "succeeded")
    world.turn()
    assert status(world.site.client(), job_id) == "succeeded"


def test_a_job_that_was_paused_and_resumed_is_followed_at_its_newest_attempt(world: World, tmp_path: Path) -> None:
    (job_id,) = jobs(world, 1)
    world.turn()
    world.platform.work(job_id)
    pause_and_resume(world, job_id, f"{job_id}+2")
    assert world.platform.entries == {job_id: "failed", f"{job_id}+2": "running"}
    other = elsewhere(world, tmp_path / "other")
    other.turn()
    assert world.row(job_id).state == "running"
    # The first machine, which comes back, knows of the second attempt and not of the third.
    pause_and_resume(other, job_id, f"{job_id}+3")
    back = elsewhere(other, world.context.settings.data_folder)
    back.turn()
    assert world.row(job_id).state == "running"
    assert world.platform.submissions == 3
    succeed(back, job_id, f"{job_id}+3")
    assert world.row(job_id).trained_tokens == 200


def test_a_job_that_has_begun_needs_its_file_no_more(world: World, tmp_path: Path) -> None:
    (job_id,) = jobs(world, 1)
    world.turn()
    file_id = world.row(job_id).training_file
    assert world.site.client().delete(f"/v1/files/{file_id}").status_code == 200
    other = elsewhere(world, tmp_path / "other")
    other.turn()
    assert (world.row(job_id).state, world.platform.submissions) == ("running", 1)
    assert not inputs_folder(other.context, job_id).exists()
    # It goes on there too, from what lies in the store.
    pause_and_resume(other, job_id, f"{job_id}+2")
    succeed(other, job_id, f"{job_id}+2")
    other.time += 1000
    remove_deleted_bytes(other.context)
    assert list(world.context.storage.walk(f"projects/{world.site.default.id}/files/{file_id}")) == []


@pytest.mark.parametrize("where", ["before", "after"])
def test_a_keeper_that_is_killed_while_it_sends_a_job_again_is_followed(
    world: World, tmp_path: Path, where: str
) -> None:
    (job_id,) = jobs(world, 1)
    world.turn()
    client = world.site.client()
    client.post(f"/v1/fine_tuning/jobs/{job_id}/pause")
    for _ in range(3):
        world.turn()
    client.post(f"/v1/fine_tuning/jobs/{job_id}/resume")
    world.platform.kills = [where]
    world.turn()
    assert world.platform.kills == []
    other = elsewhere(world, tmp_path / "other")
    other.turn()
    assert world.platform.entries == {job_id: "failed", f"{job_id}+2": "running"}
    succeed(other, job_id, f"{job_id}+2")


def test_what_an_older_version_has_sent_is_told_to_others(world: World, tmp_path: Path) -> None:
    (job_id,) = jobs(world, 1)
    world.turn()
    pause_and_resume(world, job_id, f"{job_id}+2")
    store = world.context.storage.local
    assert store is not None
    # As of a version that wrote job.json alone.
    shutil.rmtree(store / "runs" / job_id / "submissions")
    again = elsewhere(world, world.context.settings.data_folder)
    again.turn()
    other = elsewhere(again, tmp_path / "other")
    other.turn()
    assert run_of(other.context, job_id).path.is_dir()
    succeed(other, job_id, f"{job_id}+2")
