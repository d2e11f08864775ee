"""What was started for a command ends with it, however the command ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

CHILD = """
import os, sys, time
from pathlib import Path
from tunesmith.runs.parent import watch_parent

def gone():
    Path(sys.argv[2]).write_text("gone")
    os._exit(0)

watch_parent(int(sys.argv[1]), gone)
print("watching", flush=True)
time.sleep(120)
"""
PARENT = """
import os, subprocess, sys, time
child = subprocess.Popen(
    [sys.executable, "-c", sys.argv[1], str(os.getpid()), sys.argv[2]], start_new_session=True, stdout=subprocess.PIPE
)
child.stdout.readline()
print(child.pid, flush=True)
time.sleep(120)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_child_hears_of_its_parents_end(tmp_path: Path, number: signal.Signals) -> None:
    told = tmp_path / "told"
    with subprocess.Popen([sys.executable, "-c", PARENT, CHILD, str(told)], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        time.sleep(0.7)
        assert not told.exists()
        os.kill(parent.pid, number)
    end = time.monotonic() + 30
    while psutil.pid_exists(child) and psutil.Process(child).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < end
        time.sleep(0.05)
    assert told.read_text() == "gone"
