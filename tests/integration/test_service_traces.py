"""The dispatcher's process sends traces of jobs and chores, to the last one, and none where no place is named."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from service_jobs import chat_rows, create, jobs_site, status, upload
from trace_receiver import receiver

from tunesmith.service.fine_tuning import create as creating
from tunesmith.service.shared.traces import stop_traces

_START_SECONDS = 60.0


def test_what_the_dispatcher_does_is_traced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(creating, "READ_AT_ONCE_BYTES", 10)
    with receiver() as traces:
        site = jobs_site(tmp_path, traces=traces.address)
        # So the job ends as soon as the dispatcher looks at it.
        client, file_id = site.client(), upload(site.default, [*chat_rows(20), "no row"])
        job_id = create(client, file_id)["id"]
        settings = tmp_path / "settings.json"
        settings.write_text(site.context.settings.model_dump_json())
        command = [sys.executable, "-m", "tunesmith.service", "dispatcher", "--settings", str(settings)]
        environment = {**os.environ, "OTEL_BSP_SCHEDULE_DELAY": "100"}
        with subprocess.Popen(command, env=environment) as process:
            try:
                assert traces.wait_for("job.tend", _START_SECONDS)
            finally:
                process.terminate()
            assert process.wait(20) == 0
        assert status(client, job_id) == "failed"
        stop_traces()
        site.context.database.close()
    attributes = {(one.name, pair.key, pair.value.string_value) for one in traces.spans for pair in one.attributes}
    assert ("job.tend", "job", job_id) in attributes
    assert ("chore.do", "chore", "remove old runs") in attributes
    assert traces.roles >= {"dispatcher"}
