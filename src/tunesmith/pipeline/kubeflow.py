"""Tell Kubeflow's trainer how far the run is, where the run is a TrainJob whose controller wants to know.

The controller says so by three variables: an address, a file with its certificate and a file with a token that changes
now and then. What is told comes from events.jsonl, by a thread of its own: whatever goes wrong there, training does not
notice it.
"""

from __future__ import annotations

import os
import ssl
import threading
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from math import isfinite
from pathlib import Path
from typing import Any

import orjson

from tunesmith.runs.events import Event, EventFollower

URL = "KUBEFLOW_TRAINER_SERVER_URL"
CERTIFICATE = "KUBEFLOW_TRAINER_SERVER_CA_CERT"
TOKEN = "KUBEFLOW_TRAINER_SERVER_TOKEN"  # noqa: S105
# As seldom as Kubeflow's own clients tell it.
_PERIOD_SECONDS = 5.0
_LOOK_SECONDS = 1.0
_TIMEOUT_SECONDS = 5.0
_METRICS = ("loss", "learning_rate", "gradient_norm", "tokens_per_second", "epoch")


@contextmanager
def telling_trainer(events: Path, variables: Mapping[str, str] = os.environ) -> Iterator[None]:
    """Tell the trainer of what is written into ``events`` while the block lasts, and its last state afterwards.

    Without all three variables nothing is done.
    """
    if not all(variables.get(name) for name in (URL, CERTIFICATE, TOKEN)):
        yield
        return
    done = threading.Event()
    place = (variables[URL], Path(variables[CERTIFICATE]), Path(variables[TOKEN]))
    thread = threading.Thread(target=_tell, args=(events, place, done), name="kubeflow", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join(2 * _TIMEOUT_SECONDS)


@dataclass
class Progress:
    """How far a run is, as far as its events tell."""

    percentage: int = 0
    remaining_seconds: int | None = None
    metrics: dict[str, float] = field(default_factory=dict)

    def note(self, event: Event) -> None:
        """Take one event in."""
        if event.type == "step":
            total = event.data.get("total_steps") or 0
            # What comes after the last step is not over before the run says so.
            self.percentage = min(99, int(100 * (event.step or 0) / total)) if total else 0
            eta = event.data.get("eta_seconds")
            self.remaining_seconds = max(0, round(float(eta))) if eta is not None and _is_number(eta) else None
            self._take({name: event.data.get(name) for name in _METRICS})
        elif event.type == "evaluation":
            self._take({"validation_loss": event.data.get("loss")})
        elif event.type == "status" and event.data.get("state") == "finished":
            self.percentage, self.remaining_seconds = 100, 0

    def to_json(self) -> dict[str, Any]:
        """As the trainer takes it."""
        told: dict[str, Any] = {
            "progressPercentage": self.percentage,
            "metrics": [{"name": name, "value": f"{value:.6g}"} for name, value in sorted(self.metrics.items())],
            "lastUpdatedTime": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        }
        if self.remaining_seconds is not None:
            told["estimatedRemainingSeconds"] = self.remaining_seconds
        return {"trainerStatus": told}

    def _take(self, values: Mapping[str, Any]) -> None:
        self.metrics |= {name: float(value) for name, value in values.items() if _is_number(value)}


def _tell(events: Path, place: tuple[str, Path, Path], done: threading.Event) -> None:
    follower, progress, told_at, is_news = EventFollower(events), Progress(), 0.0, False
    over = False
    while not over:
        over = done.wait(_LOOK_SECONDS)
        try:
            for event in follower.poll():
                progress.note(event)
                is_news = True
            if is_news and (over or time.monotonic() - told_at >= _PERIOD_SECONDS):
                told_at, is_news = time.monotonic(), False
                _post(progress, *place)
        except Exception:  # noqa: S112
            # A progress bar is no reason to end or to disturb a training; the next word brings it up to date.
            continue


def _post(progress: Progress, url: str, certificate: Path, token: Path) -> None:
    request = urllib.request.Request(  # noqa: S310
        url,
        data=orjson.dumps(progress.to_json()),
        # Read anew each time: it is replaced before it runs out.
        headers={"Authorization": f"Bearer {token.read_text('ascii').strip()}", "Content-Type": "application/json"},
    )
    context = ssl.create_default_context(cafile=str(certificate))
    with urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS, context=context) as answer:  # noqa: S310
        answer.read()


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)
