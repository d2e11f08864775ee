"""A fake service with OpenAI's contract, and a place to submit to it from."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from fake_openai import KEY, FakeOpenAi, serve_openai
from openapi import load_contract

from tunesmith.executors.protocol import ENDED
from tunesmith.jobs import submitted
from tunesmith.jobs.submitted import Job, JobView, find_job, look
from tunesmith.jobs.submitting import Asked, submit
from tunesmith.recipe.load import parse_recipe
from tunesmith.recipe.schema import Recipe
from tunesmith.runs.events import Event, read_events

MODEL = "tiny-2026"


@contextmanager
def serving(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeOpenAi]:
    for name in list(os.environ):
        if name.startswith(("OPENAI_", "AZURE_OPENAI_")):
            monkeypatch.delenv(name)
    with serve_openai(load_contract()) as service:
        monkeypatch.setenv("OPENAI_BASE_URL", service.url)
        monkeypatch.setenv("OPENAI_API_KEY", KEY)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        monkeypatch.setattr(submitted, "_POLL_SECONDS", 0.001)
        yield service
        assert service.problems == []


class Site:
    """A place to submit from."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.runs = folder / "runs"

    def rows(self, rows: list[dict[str, Any]], name: str = "rows.jsonl") -> Path:
        path = self.folder / name
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return path

    def labelled(self, count: int = 32) -> Path:
        words = ["parcel", "invoice", "refund", "password"]
        return self.rows([{"text": f"my {words[at % 4]} number {at}", "label": words[at % 4]} for at in range(count)])

    def recipe(
        self, data: Path, executor: dict[str, Any] | None = None, validation: float | str = 0.25, **recipe: Any
    ) -> Recipe:
        wanted = {"name": "openai", "model": MODEL, **(executor or {})}
        plain = {"model": MODEL, "data": {"train": str(data), "validation": validation}, "executor": wanted}
        return parse_recipe({**plain, **recipe}, "the test")

    def submit(self, recipe: Recipe, name: str = "one", key: str | None = None) -> Job:
        return find_job(self.runs, submit(recipe, self.runs, Asked(name, key)).name)


def until_ended(job: Job) -> JobView:
    for _ in range(200):
        view = look(job)
        if view.status.state in ENDED:
            return view
    raise AssertionError("it does not end")


def events_of(job: Job, kind: str) -> list[Event]:
    return [event for event in read_events(job.run.events) if event.type == kind]


def requests(service: FakeOpenAi, method: str, path: str) -> list[dict[str, str]]:
    return [headers for verb, target, headers in service.asked if (verb, target.partition("?")[0]) == (method, path)]
