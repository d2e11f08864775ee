"""The keeper with small programs: what dies comes back, and all end in their order."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from tunesmith.service.keeper import Keeper, Program

# Writes down that it begins and that it was asked to end.
WORK = """
import signal, sys, time
name, log = sys.argv[1:]
def say(word):
    with open(log, "a") as file:
        file.write(f"{name} {word}\\n")
def end(*_):
    say("ends")
    sys.exit(0)
signal.signal(signal.SIGTERM, end)
say("begins")
while True:
    time.sleep(0.05)
"""
DEAF = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(60)"


def wait_for(what: Callable[[], bool], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def program(name: str, log: Path) -> Program:
    return Program(name, (sys.executable, "-c", WORK, name, str(log)), 10.0)


def lines(log: Path) -> list[str]:
    return log.read_text().splitlines() if log.exists() else []


def test_what_dies_comes_back_and_all_end_in_order(tmp_path: Path) -> None:
    log = tmp_path / "log"
    keeper = Keeper([program("first", log), program("second", log)], tmp_path)
    stop, now = threading.Event(), threading.Event()
    keeper.start()
    running = threading.Thread(target=keeper.run, args=(stop, now))
    running.start()
    wait_for(lambda: len(lines(log)) == 2)
    killed = keeper.pids()["first"]
    os.kill(killed, signal.SIGKILL)
    wait_for(lambda: len(lines(log)) == 3)
    assert keeper.pids()["first"] != killed
    stop.set()
    running.join(20)
    assert lines(log)[3:] == ["first ends", "second ends"]
    assert keeper.pids() == {}


def test_who_does_not_start_waits_longer_each_time_and_its_words_are_kept(tmp_path: Path) -> None:
    counted = tmp_path / "count"
    code = f"import sys; open({str(counted)!r}, 'a').write('x'); sys.exit('no such thing')"
    keeper = Keeper([Program("broken", (sys.executable, "-c", code), 1.0)], tmp_path)
    keeper.start()
    deadline = time.monotonic() + 2.5
    while time.monotonic() < deadline:
        keeper.look()
        time.sleep(0.02)
    # At once, after half a second, and after one more; the next would come after two.
    assert counted.read_text() in ("xx", "xxx")
    wait_for(lambda: "broken" in keeper.faults())
    assert keeper.faults()["broken"].splitlines()[0] == "no such thing"
    keeper.end(threading.Event())


def test_who_does_not_end_is_killed(tmp_path: Path) -> None:
    deaf = tmp_path / "deaf.stderr"
    keeper = Keeper([Program("deaf", (sys.executable, "-c", DEAF), 60.0)], tmp_path)
    keeper.start()
    wait_for(lambda: deaf.exists() and "deaf" in deaf.read_text())
    now = threading.Event()
    now.set()
    started = time.monotonic()
    keeper.end(now)
    assert time.monotonic() - started < 10
    assert keeper.pids() == {}
