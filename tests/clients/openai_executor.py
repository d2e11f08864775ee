"""Train through the openai executor with whatever version of the package this interpreter finds; print what came."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import openai

from tunesmith.executors.protocol import ENDED
from tunesmith.jobs.submitted import cancel, find_job, logs, look, pause, resume
from tunesmith.jobs.submitting import Asked, submit
from tunesmith.recipe.load import load_recipe
from tunesmith.runs.atomic import read_json
from tunesmith.runs.events import read_events

folder = Path(sys.argv[1])
recipe = load_recipe(folder / "recipe.yaml")
first = submit(recipe, folder / "runs", Asked("one", "key"))
again = submit(recipe, folder / "other-runs", Asked("two", "key"))
job = find_job(folder / "runs", "one")
while look(job).run.step < 2:
    pass
pause(job)
paused = look(job).status.state
resume(job)
while look(job).status.state not in ENDED:
    pass
cancel(job)
document = {
    "version": openai.__version__,
    "same": job.handle["job"] == find_job(folder / "other-runs", "two").handle["job"],
    "paused": paused,
    "state": look(job).status.state,
    "events": [[event.type, event.step] for event in read_events(job.run.events)],
    "model": read_json(job.run.service_model),
    "lines": len(list(logs(job))),
}
print(json.dumps(document))
