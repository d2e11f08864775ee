"""A worker without models: writes the events that a plan in its folder asks for, and ends as it says.

``plan.json`` beside the recipe is a list of actions, each a list: ``["event", type, step, data]``, ``["write", name,
data]``, ``["sleep", seconds]``, ``["wait_for_wish"]`` (until the run is asked to pause or cancel), ``["print", text]``,
``["exit", code]``, ``["kill"]``. Without a plan of its own the folder gets the one that FAKE_PLAN names.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

from tunesmith.runs.control import read_wish
from tunesmith.runs.events import open_events
from tunesmith.runs.lease import Lease

COMMAND = (sys.executable, __file__)


def main() -> int:
    folder = Path(sys.argv[1])
    plan_file = folder / "plan.json" if (folder / "plan.json").exists() else Path(os.environ["FAKE_PLAN"])
    plans = json.loads(plan_file.read_text())
    plan = plans[sys.argv[3]] if isinstance(plans, dict) else plans
    with Lease(folder / "lease.json"):
        return play(folder, plan)


def play(folder: Path, plan: list[list]) -> int:
    events = open_events(folder / "events.jsonl")
    for action, *rest in plan:
        if action == "event":
            type_, step, data = rest
            events.emit(type_, step, **data)
        elif action == "write":
            (folder / rest[0]).write_text(rest[1] if isinstance(rest[1], str) else json.dumps(rest[1]))
        elif action == "folder":
            (folder / rest[0]).mkdir(parents=True, exist_ok=True)
        elif action == "sleep":
            time.sleep(rest[0])
        elif action == "wait_for_wish":
            while read_wish(folder / "control.json") == "continue":
                time.sleep(0.02)
        elif action == "print":
            print(*rest, flush=True)
        elif action == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        elif action == "exit":
            return int(rest[0])
    return 0


if __name__ == "__main__":
    sys.exit(main())
