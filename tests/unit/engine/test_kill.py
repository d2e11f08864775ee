"""kill -9 at any moment leaves a training that goes on to the very same weights.

The attempts are children of one helper process, so that the libraries are imported once: ``test_kill.py FOLDER``.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

STEPS = 24
# Lines of events to wait for, and seconds after the last of them; a checkpoint is saved after every step.
MOMENTS = ((0, 0.0), (1, 0.0), (2, 0.001), (3, 0.002), (2, 0.004), (4, 0.006), (3, 0.009), (5, 0.013), (2, 0.0))


@pytest.mark.slow
def test_killed_trainings_end_with_the_same_weights(tmp_path: Path) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    helper = subprocess.run(
        [sys.executable, __file__, str(tmp_path)],
        check=False,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert helper.returncode == 0, helper.stderr[-3000:]
    told = json.loads(helper.stdout.splitlines()[-1])
    assert told["killed"] >= len(MOMENTS) - 2
    assert told["attempts"] >= 4

    def losses_of(name: str) -> dict[int, float]:
        lines = [json.loads(line) for line in (tmp_path / name / "events.jsonl").read_text().splitlines()]
        return {line["step"]: line["data"]["loss"] for line in lines if line["type"] == "step"}

    assert losses_of("killed") == losses_of("whole")
    assert len(losses_of("whole")) == STEPS
    last = f"checkpoints/step-{STEPS:08d}"
    for file in ("weights.safetensors", "optimizer.safetensors"):
        assert (tmp_path / "killed" / last / file).read_bytes() == (tmp_path / "whole" / last / file).read_bytes()
    left = {path.name for path in (tmp_path / "killed" / "checkpoints").iterdir()}
    assert left == {f"step-{STEPS - 1:08d}", f"step-{STEPS:08d}"}


def attempt(folder: Path, base: Path) -> None:
    """Train in a child process, from wherever an earlier attempt came to."""
    import transformers
    from tiny_training import counting_rows, train_tiny

    from tunesmith.models.attention import ATTENTION
    from tunesmith.techniques.lora import Lora

    technique = Lora(rank=4, alpha=8, dropout=0.1)
    model = transformers.AutoModelForCausalLM.from_pretrained(base, attn_implementation=ATTENTION)
    model = technique.prepare(model, seed=0)
    train_tiny(model, technique, folder, rows=counting_rows(24), total_steps=STEPS, checkpoint_every_steps=1)


def in_child(folder: Path, base: Path) -> int:
    """Fork an attempt; the child's process id."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            attempt(folder, base)
            code = 0
        finally:
            os._exit(code)
    return child


def kill_later(child: int, events: Path, lines: int, seconds: float) -> bool:
    """Kill the child when it has written so many lines; False where it ended before that by itself."""

    def count() -> int:
        return events.read_bytes().count(b"\n") if events.exists() else 0

    wanted = count() + lines
    while count() < wanted:
        if os.waitpid(child, os.WNOHANG)[0]:
            return False
        time.sleep(0.0005)
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


def main(folder: Path) -> None:
    """Train once whole and once with kills; tell how many kills hit."""
    import torch
    from tiny_training import packed_model

    import tunesmith.techniques.lora  # noqa: F401 - once here and not in every child

    torch.set_num_threads(1)
    packed_model("llama", folder / "base")
    events = folder / "killed" / "events.jsonl"
    finish(in_child(folder / "whole", folder / "base"))
    killed = [
        kill_later(in_child(folder / "killed", folder / "base"), events, lines, seconds) for lines, seconds in MOMENTS
    ]
    finish(in_child(folder / "killed", folder / "base"))
    attempts = {json.loads(line)["attempt"] for line in events.read_text().splitlines()}
    print(json.dumps({"killed": sum(killed), "attempts": len(attempts)}))


def finish(child: int) -> None:
    """Wait for a child that should end well."""
    if os.waitpid(child, 0)[1] != 0:
        raise SystemExit("an attempt failed")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
