"""Things that go wrong on the pages of the service, one after the other, for pictures of how they are told."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from browser_pages import Looker

_WAIT_MILLISECONDS = 120_000


def broken_model(folder: Path) -> Path:
    """A folder that looks like a model and has no weights."""
    made = folder / "broken"
    made.mkdir()
    (made / "config.json").write_text(json.dumps({"model_type": "llama", "architectures": ["LlamaForCausalLM"]}))
    return made


def happen(looker: Looker, folder: Path, base: str) -> Iterator[str]:
    """Let things go wrong; the name of each is given while it can be seen."""
    page, root = looker.page, looker.root
    bad = folder / "bad.jsonl"
    bad.write_text('{"messages": []}\nnot json\n{"text": 1, "other": 2}\n')
    page.goto(f"{root}/ui/jobs/new")
    page.get_by_label("or upload one now").set_input_files(bad)
    page.get_by_text("This file cannot be used yet.").wait_for()
    page.get_by_role("button", name="Next: model and technique").click()
    yield "bad-file"
    page.goto(f"{root}/ui/deployments")
    page.get_by_label("Name", exact=True).fill("ticket-router")
    page.get_by_role("button", name="Deploy", exact=True).click()
    page.locator("form .error:not([hidden])").wait_for()
    yield "refused-name"
    page.goto(f"{root}/ui/webhooks")
    page.get_by_label("Address").fill("https://user:word@example.com/hook")
    page.get_by_role("button", name="Make a webhook").click()
    page.locator("form .error:not([hidden])").wait_for()
    yield "refused-address"
    yield from _refusals_in_forms(looker, folder)
    page.goto(f"{root}/ui/nothing")
    yield "missing-page"
    page.goto(f"{root}/ui/usage?start=never")
    yield "wrong-day"
    page.goto(f"{root}/ui/catalog?search=zebra")
    yield "nothing-found"
    page.goto(f"{root}/ui/playground?left={base}&right=broken")
    if page.locator("#right").input_value() == "broken":
        page.get_by_label("Your message").fill("Hello")
        page.get_by_role("button", name="Send").click()
        page.locator("[data-pane=right] .words.failed").wait_for(timeout=_WAIT_MILLISECONDS)
        yield "no-engine"
    page.goto(f"{root}/ui/batches")
    page.locator("#upload").set_input_files(bad)
    page.get_by_role("button", name="Upload", exact=True).click()
    page.wait_for_url("**/ui/batches?file=*")
    page.get_by_role("button", name="Start the batch").click()
    page.get_by_text("What is wrong with the file").wait_for(timeout=_WAIT_MILLISECONDS)
    yield "bad-batch"
    if looker.page.viewport_size and looker.page.viewport_size["width"] < 500:
        page.goto(f"{root}/ui")
        page.get_by_role("button", name="Menu").click()
        yield "menu"
    # A session that was and is no more.
    page.context.clear_cookies()
    page.context.add_cookies([{"name": "tunesmith_session", "value": "ended", "url": root}])
    page.goto(f"{root}/ui/jobs")
    yield "ended-session"


def _refusals_in_forms(looker: Looker, folder: Path) -> Iterator[str]:
    """What the API refuses is told beside the button that asked for it."""
    page, root = looker.page, looker.root
    empty = folder / "empty.jsonl"
    empty.touch()
    page.goto(f"{root}/ui/files")
    page.locator("form[data-upload] input[type=file]").first.set_input_files(empty)
    page.locator("form[data-upload] button").first.click()
    page.locator("form .error:not([hidden])").wait_for()
    yield "empty-file"
    page.goto(f"{root}/ui/admin")
    page.get_by_label("Name of a new project").fill("default")
    page.get_by_role("button", name="Make a project").click()
    page.locator("form .error:not([hidden])").wait_for()
    yield "taken-name"
