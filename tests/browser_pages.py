"""A real Chromium for tests and pictures: it notes every fault, and every request to another machine.

with browser() as chromium, looking(chromium, service.root) as looker:
    looker.page.goto(f"{service.root}/ui")
    looker.require_clean()
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from playwright.sync_api import Browser, ConsoleMessage, Page, expect, sync_playwright

ROOT = Path(__file__).resolve().parents[1]
AXE = ROOT / "web" / "node_modules" / "axe-core" / "axe.min.js"
VENDOR = ROOT / "src" / "tunesmith" / "service" / "web" / "static" / "vendor" / "htmx.min.js"
_QUIET = (
    "--no-sandbox",
    "--disable-gpu",
    # A name for this machine that browsers do not trust as they trust 127.0.0.1.
    "--host-resolver-rules=MAP elsewhere.test 127.0.0.1",
    "--no-proxy-server",
    "--disable-quic",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)
_SERIOUS = ("serious", "critical")
_WAIT_MILLISECONDS = 60_000


def chromium_path() -> str | None:
    """The Chromium of this machine; None where there is none."""
    return shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@dataclass
class Looker:
    """A page, with what went wrong on it.

    Attributes:
        page: The page.
        root: Where the service is; whatever is asked elsewhere is a fault.
        faults: Errors of the console and of scripts, and requests to other machines.
    """

    page: Page
    root: str
    faults: list[str] = field(default_factory=list)

    def watch(self) -> None:
        """Begin to note faults."""
        self.page.on("console", self._heard)
        self.page.on("pageerror", lambda error: self.faults.append(str(error)))
        self.page.on("request", lambda request: self._at_home(request.url))

    def require_clean(self) -> None:
        """Nothing went wrong until now."""
        assert self.faults == []

    def faults_of_access(self) -> list[str]:
        """What axe finds serious on the page as it is now."""
        # The policy of the pages lets no script in that is not the service's own: it comes by the debugger.
        self.page.evaluate(AXE.read_text(encoding="utf-8"))
        found: dict[str, Any] = self.page.evaluate("axe.run(document, {resultTypes: ['violations']})")
        return [
            f"{one['id']}: {json.dumps([node['target'] for node in one['nodes']])} {one['nodes'][0]['failureSummary']}"
            for one in found["violations"]
            if one["impact"] in _SERIOUS
        ]

    def sign_in(self, key: str) -> None:
        """Sign in as somebody does: on the page."""
        self.page.goto(f"{self.root}/ui/sign-in")
        self.page.get_by_label("API key").fill(key)
        self.page.get_by_role("button", name="Sign in").click()
        self.page.wait_for_url(f"{self.root}/ui")

    def open_project(self, project: str) -> None:
        """Look at a project from the next page on."""
        self.page.context.add_cookies([{"name": "tunesmith_project", "value": project, "url": self.root}])

    def _heard(self, message: ConsoleMessage) -> None:
        if message.type == "error":
            self.faults.append(f"{message.text} ({message.location['url']})")

    def _at_home(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("data", "blob") and f"{parts.scheme}://{parts.netloc}" != self.root:
            self.faults.append(f"asked elsewhere: {url}")


@contextmanager
def browser() -> Iterator[Browser]:
    """Debian's Chromium without a window; what is expected on a page may take as long as what is done on it."""
    expect.set_options(timeout=_WAIT_MILLISECONDS)
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=chromium_path(), args=list(_QUIET))
        try:
            yield chromium
        finally:
            chromium.close()


@contextmanager
def looking(
    chromium: Browser, root: str, *, dark: bool = False, width: int = 1280, height: int = 860
) -> Iterator[Looker]:
    """A new reader with nothing in the browser's memory."""
    context = chromium.new_context(
        color_scheme="dark" if dark else "light", viewport={"width": width, "height": height}, locale="en-GB"
    )
    context.set_default_timeout(_WAIT_MILLISECONDS)
    looker = Looker(context.new_page(), root)
    looker.watch()
    try:
        yield looker
    finally:
        context.close()
