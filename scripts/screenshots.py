"""Take pictures of the service's pages: light and dark, wide and narrow.

It starts a whole service in a temporary folder, trains the starter model for a moment, asks it, and looks at every
page with the Chromium of this machine. `make pictures` calls it for docs/pictures/service; `make web` has to have been
called before.

    python scripts/screenshots.py                             # those of the documentation
    python scripts/screenshots.py --every-state FOLDER        # and all pages empty, with long lists and with errors
    python scripts/screenshots.py --every-state FOLDER --tiny # with a tiny model of chance in place of the starter
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

import service_content as content  # noqa: E402
import service_mishaps as mishaps  # noqa: E402
from browser_pages import Looker, browser, looking  # noqa: E402
from live_service import LiveService, live_service  # noqa: E402
from playwright.sync_api import Browser  # noqa: E402

PICTURES = ROOT / "docs" / "pictures" / "service"
STARTER = "smollm2-135m-instruct"
# Another one, whose licence has to be accepted.
OTHER = "gemma-2-2b-it"
PRICES = {"*": {"input_tokens": 0.2, "output_tokens": 0.8, "trained_tokens": 3.0}}
OPTIONS: dict[str, Any] = {"budget": "2m", "few_shot": 0}
TINY_OPTIONS: dict[str, Any] = {"few_shot": 0, "precision": "float32", "max_length": 128, "max_new_tokens": 4}
LOOKS = {
    "light-wide": (False, 1280),
    "dark-wide": (True, 1280),
    "light-narrow": (False, 380),
    "dark-narrow": (True, 380),
}
# What docs/guide/web.md shows: all in light and wide, but for these, which are dark; and some as a phone has them.
DARK = ("playground", "deployment")
ON_A_PHONE = {"light-narrow": ("overview", "models"), "dark-narrow": ("job",)}
# Pages that need a thing to be there have no empty form.
ONE_THING = ("job", "model", "deployment", "batch", "evaluation", "webhook", "error", "playground")
_HIGHEST = 3000


@dataclass(frozen=True)
class Shown:
    """A running service with something to show.

    Attributes:
        service: The service.
        done: What was done in its first project.
        base: The base model.
        folder: For files of this run.
    """

    service: LiveService
    done: content.Work
    base: str
    folder: Path


def main() -> None:
    """Write every picture that is asked for."""
    parser = argparse.ArgumentParser(description="Take pictures of the service's pages.")
    parser.add_argument("--every-state", metavar="FOLDER", type=Path, help="write all pages in all states there")
    parser.add_argument("--tiny", action="store_true", help="with a tiny model, whose answers mean nothing")
    asked = parser.parse_args()
    if asked.tiny and asked.every_state is None:
        parser.error("--tiny: the documentation shows the starter model; add --every-state")
    with shown(tiny=asked.tiny, has_broken=asked.every_state is not None) as found, browser() as chromium:
        if asked.every_state is None:
            _every_look(found, chromium, PICTURES, found.done.pages, project=None, is_chosen=_is_shown)
        else:
            _every_state(found, chromium, asked.every_state)


@contextmanager
def shown(*, tiny: bool, has_broken: bool) -> Iterator[Shown]:
    """A service with real content, for the time of the block; ``has_broken``: one of its models cannot be loaded."""
    with ExitStack() as open_things:
        folder = Path(open_things.enter_context(tempfile.TemporaryDirectory()))
        base, offered = (STARTER, STARTER) if not tiny else ("tiny", f"tiny={_tiny(folder)}")
        config = folder / "service.yaml"
        models = [offered, OTHER, *([f"broken={mishaps.broken_model(folder)}"] if has_broken else [])]
        told = {"models": models, "prices": PRICES, "webhook_networks": ["127.0.0.0/8"]}
        config.write_text(json.dumps(told), encoding="utf-8")
        hook = open_things.enter_context(content.receiver())
        service = open_things.enter_context(live_service(folder, "--config", str(config)))
        done = content.work(service, folder, base, hook, TINY_OPTIONS if tiny else OPTIONS)
        yield Shown(service, done, base, folder)


def _tiny(folder: Path) -> Path:
    from tiny_models import tiny_model_folder

    return tiny_model_folder("llama", folder / "tiny")


def _every_state(found: Shown, chromium: Browser, folder: Path) -> None:
    _every_look(found, chromium, folder / "real", found.done.pages, project=None)
    empty = content.make_project(found.service, "new project")
    nothing = {name: path for name, path in found.done.pages.items() if name not in ONE_THING}
    nothing["new-job"] = "/ui/jobs/new"
    _every_look(found, chromium, folder / "empty", nothing, project=empty)
    many = content.make_project(found.service, "long lists")
    lists = content.long_lists(found.service, many, found.done, found.base)
    _every_look(found, chromium, folder / "long", lists, project=many)
    for look, (dark, width) in LOOKS.items():
        with looking(chromium, found.service.root, dark=dark, width=width) as looker:
            looker.sign_in(found.service.key)
            for name in mishaps.happen(looker, found.folder, found.base):
                picture(looker, folder / "error" / f"{name}-{look}.png")


def _is_shown(name: str, look: str) -> bool:
    """Whether the guide shows a page so."""
    usual = "dark-wide" if name in DARK else "light-wide"
    return look == usual or name in ON_A_PHONE.get(look, ())


def _always(_name: str, _look: str) -> bool:
    return True


def _every_look(
    found: Shown,
    chromium: Browser,
    folder: Path,
    pages: dict[str, str],
    *,
    project: str | None,
    is_chosen: Callable[[str, str], bool] = _always,
) -> None:
    for look, (dark, width) in LOOKS.items():
        with looking(chromium, found.service.root, dark=dark, width=width) as looker:
            looker.page.goto(f"{looker.root}/ui/sign-in")
            if project is None and is_chosen("sign-in", look):
                picture(looker, folder / f"sign-in-{look}.png")
            looker.sign_in(found.service.key)
            if project is not None:
                looker.open_project(project)
            for name, path in pages.items():
                if is_chosen(name, look):
                    _take(looker, folder, name, path, look)


def _take(looker: Looker, folder: Path, name: str, path: str, look: str) -> None:
    page = looker.page
    page.goto(f"{looker.root}{path}")
    if name == "job":
        page.locator("[data-chart] canvas").wait_for()
        page.get_by_role("heading", name="Checkpoints").wait_for()
    if name == "new-job" and "file=" in path:
        page.get_by_text("This file can be trained on.").wait_for()
    if name == "playground":
        _talk(looker)
    picture(looker, folder / f"{name}-{look}.png")
    if name == "new-job" and "file=" in path:
        page.get_by_role("button", name="Next: model and technique").click()
        page.locator("#plan").get_by_text("Tokens trained").wait_for()
        picture(looker, folder / f"new-job-plan-{look}.png")
        page.get_by_role("button", name="Next: review").click()
        picture(looker, folder / f"new-job-review-{look}.png")


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


def picture(looker: Looker, path: Path) -> None:
    """The whole page in a window as high as it is, so that what sticks to the window is drawn once."""
    page = looker.page
    size = page.viewport_size
    assert size is not None
    page.evaluate("document.activeElement.blur()")
    # Parts that are a share of the window grow with it: once more, until all is in.
    for _ in range(3):
        height = min(_HIGHEST, max(size["height"], page.evaluate("document.documentElement.scrollHeight")))
        page.set_viewport_size({"width": size["width"], "height": height})
        page.wait_for_timeout(200)
    page.evaluate("scrollTo(0, 0)")
    page.wait_for_timeout(100)
    path.parent.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=path)
    page.set_viewport_size(size)


if __name__ == "__main__":
    main()
