"""Take pictures of the service's pages for docs/pictures/service: light and dark, wide and narrow, with real content.

It starts a whole service in a temporary folder, trains the starter model for a moment, asks it, and looks at every
page with the Chromium of this machine. `make pictures` calls it; `make web` has to have been called before.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

import httpx  # noqa: E402
from browser_pages import Looker, browser, looking  # noqa: E402
from live_service import LiveService, live_service  # noqa: E402

PICTURES = ROOT / "docs" / "pictures" / "service"
MODEL = "smollm2-135m-instruct"
# Another one, whose licence has to be accepted.
OTHER = "gemma-2-2b-it"
PRICES = {"*": {"input_tokens": 0.2, "output_tokens": 0.8, "trained_tokens": 3.0}}
QUEUES = {
    "shipping": ("Where is my parcel?", "The tracking page has not moved for three days."),
    "billing": ("I was charged twice.", "Please send me the invoice for May."),
    "returns": ("How do I send this back?", "The shoes are too small."),
}
LOOKS = {
    "light-wide": (False, 1280),
    "dark-wide": (True, 1280),
    "light-narrow": (False, 390),
    "dark-narrow": (True, 390),
}
_HIGHEST = 2400
_JOB_SECONDS = 900.0


def main() -> None:
    """Write every picture."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config = folder / "service.yaml"
        config.write_text(json.dumps({"models": [MODEL, OTHER], "prices": PRICES}), encoding="utf-8")
        with live_service(folder, "--config", str(config)) as service:
            pages = _content(service, folder)
            with browser() as chromium:
                for look, (dark, width) in LOOKS.items():
                    with looking(chromium, service.root, dark=dark, width=width) as looker:
                        _pictures(looker, service.key, pages, look)


def _content(service: LiveService, folder: Path) -> dict[str, str]:
    """Make a job, a deployment and some use; the pages to take, by the names of their pictures."""
    rows = folder / "tickets.jsonl"
    rows.write_text("".join(json.dumps(_row(number)) + "\n" for number in range(60)), encoding="utf-8")
    with service.client() as client, service.client("/tunesmith/v1") as own:
        with rows.open("rb") as file:
            made = client.post("/files", data={"purpose": "fine-tune"}, files={"file": (rows.name, file)})
        file_id = _told(made)["id"]
        body = {"model": MODEL, "training_file": file_id, "suffix": "ticket-router"}
        job = _told(client.post("/fine_tuning/jobs", json={**body, "tunesmith": {"budget": "2m", "few_shot": 0}}))
        deadline = time.monotonic() + _JOB_SECONDS
        while job["status"] not in ("succeeded", "failed"):
            if time.monotonic() > deadline:
                raise TimeoutError(service.words())
            time.sleep(1)
            job = _told(client.get(f"/fine_tuning/jobs/{job['id']}"))
        if job["status"] == "failed":
            raise RuntimeError(job["error"])
        _told(own.post("/deployments", json={"name": "ticket-router", "model": job["fine_tuned_model"]}))
        _told(own.post("/keys", json={"name": "help desk", "scope": "inference"}))
    return {
        "overview": "/ui",
        "catalog": "/ui/catalog",
        "data": "/ui/files",
        "jobs": "/ui/jobs",
        "job": f"/ui/jobs/{job['id']}",
        "new-job": f"/ui/jobs/new?file={file_id}",
        "models": "/ui/models",
        "playground": f"/ui/playground?left={job['fine_tuned_model']}",
        "deployments": "/ui/deployments",
        "deployment": "/ui/deployments/ticket-router",
        "usage": "/ui/usage",
        "project": "/ui/project",
        "audit": "/ui/audit",
        "admin": "/ui/admin",
        "error": "/ui/jobs/ftjob-nothing",
    }


def _row(number: int) -> dict[str, Any]:
    queue = list(QUEUES)[number % 3]
    question = QUEUES[queue][number // 3 % 2]
    return {
        "messages": [
            {"role": "system", "content": "Answer with the queue of the message."},
            {"role": "user", "content": f"{question} Order {1000 + number}."},
            {"role": "assistant", "content": queue},
        ]
    }


def _told(answer: httpx.Response) -> dict[str, Any]:
    answer.raise_for_status()
    found: dict[str, Any] = answer.json()
    return found


def _pictures(looker: Looker, key: str, pages: dict[str, str], look: str) -> None:
    page = looker.page
    page.goto(f"{looker.root}/ui/sign-in")
    _picture(looker, f"sign-in-{look}")
    looker.sign_in(key)
    for name, path in pages.items():
        page.goto(f"{looker.root}{path}")
        if name == "job":
            page.locator("[data-chart] canvas").wait_for()
            page.get_by_role("heading", name="Before and after").wait_for()
        if name == "new-job":
            page.get_by_text("This file can be trained on.").wait_for()
        if name == "playground":
            _talk(looker)
        _picture(looker, f"{name}-{look}")
        if name == "new-job":
            page.get_by_role("button", name="Next: model and technique").click()
            page.locator("#plan").get_by_text("Tokens trained").wait_for()
            _picture(looker, f"new-job-plan-{look}")
            page.get_by_role("button", name="Next: review").click()
            _picture(looker, f"new-job-review-{look}")


def _talk(looker: Looker) -> None:
    page = looker.page
    page.get_by_text("Settings", exact=True).click()
    page.get_by_label("Instruction").fill("Answer with the queue of the message.")
    page.get_by_label("Most new tokens").fill("24")
    page.get_by_text("Settings", exact=True).click()
    page.get_by_label("Your message").fill("Where is my parcel? Order 2044.")
    page.get_by_role("button", name="Send").click()
    for side in ("left", "right"):
        page.locator(f"[data-pane={side}][data-answered='1']").wait_for(timeout=180_000)


def _picture(looker: Looker, name: str) -> None:
    """The whole page in a window as high as it is, so that what sticks to the window is drawn once."""
    page = looker.page
    size = page.viewport_size
    assert size is not None
    height = min(_HIGHEST, max(size["height"], page.evaluate("document.documentElement.scrollHeight")))
    page.set_viewport_size({"width": size["width"], "height": height})
    page.evaluate("scrollTo(0, 0)")
    page.wait_for_timeout(400)
    PICTURES.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=PICTURES / f"{name}.png")
    page.set_viewport_size(size)


if __name__ == "__main__":
    main()
