"""Services that train with a trainer of their own, for their contract suite: how each is reached in a test.

A service joins with one function: it serves something that plays the service on loopback, and yields a Service.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest
from fake_kaito import TOKEN, serve_kaito
from fake_openai import KEY, serve_openai
from openapi import load_contract

# What the next job comes to; "wait" is at work until it is cancelled.
Play = Literal["succeed", "fail", "wait"]


@dataclass(frozen=True)
class Service:
    """A service that a test can submit to.

    Attributes:
        settings: The recipe's ``executor``.
        model: The recipe's ``model``.
        play: Says what the next job comes to.
        jobs: How many jobs were made so far.
        reason: Words that the reason of a failure has.
        secrets: What the service lets callers in by, and what else must not be found in anything that is kept.
        sent: Everything that was sent to it as bodies; secrets belong into headers.
        recipe: Further keys of the recipe, which the service can follow.
    """

    settings: dict[str, Any]
    model: str
    play: Callable[[Play], None]
    jobs: Callable[[], int]
    reason: str
    secrets: tuple[str, ...]
    sent: Callable[[], str] = str
    recipe: dict[str, Any] = field(default_factory=dict)


@contextmanager
def kaito(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    """A cluster with KAITO."""
    pytest.importorskip("kubernetes")
    with serve_kaito(folder) as cluster:
        monkeypatch.setenv("KUBECONFIG", str(cluster.kubeconfig))

        def play(what: Play) -> None:
            cluster.next_play = what

        yield Service(
            settings={
                "name": "kaito",
                "namespace": "team",
                "instance_type": "Standard_NC24ads_A100_v4",
                "input": {"volume_claim": "rows", "store": str(folder / "volume")},
                "output": {"volume_claim": "adapters"},
            },
            model="phi-3-mini-4k-instruct",
            play=play,
            jobs=lambda: cluster.made,
            reason="CUDA out of memory",
            secrets=(TOKEN,),
            sent=lambda: "\n".join(cluster.bodies),
        )


@contextmanager
def openai(_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    """A service with OpenAI's contract; whatever either side says is held to that."""
    pytest.importorskip("openai")
    with serve_openai(load_contract()) as service:
        monkeypatch.setenv("TEST_SERVICE_KEY", KEY)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")

        def play(what: Play) -> None:
            service.fails_at_step = 3 if what == "fail" else None
            # The files are read, it is queued, and two steps are done.
            service.most_turns = 4 if what == "wait" else 1000

        yield Service(
            settings={"name": "openai", "model": "tiny", "base_url": service.url, "key_variable": "TEST_SERVICE_KEY"},
            model="tiny",
            play=play,
            jobs=lambda: len(service.jobs),
            reason="it broke",
            secrets=(KEY,),
            sent=lambda: b"\n".join(service.received).decode(errors="replace"),
        )
        assert service.problems == []


# Every executor with a trainer of its own; a test sees to it that none is missing.
SERVICES: dict[str, Callable[[Path, pytest.MonkeyPatch], AbstractContextManager[Service]]] = {
    "kaito": kaito,
    "openai": openai,
}
