"""Pages of the service for tests: which there are, and what a test looks at in one.

page = see(client, "/ui/files")              # it is whole, and nothing of it comes from elsewhere
page.words
"""

from __future__ import annotations

from html.parser import HTMLParser

import httpx

# Those that need nothing to be there; the last one is for whoever runs the service.
PAGES = (
    "/ui",
    "/ui/catalog",
    "/ui/files",
    "/ui/jobs",
    "/ui/jobs/new",
    "/ui/models",
    "/ui/playground",
    "/ui/deployments",
    "/ui/batches",
    "/ui/evaluations",
    "/ui/usage",
    "/ui/project",
    "/ui/webhooks",
    "/ui/audit",
    "/ui/admin",
)
FOR_INFERENCE = {"/ui", "/ui/catalog", "/ui/models", "/ui/playground", "/ui/deployments"}


class Page(HTMLParser):
    """What a test looks at in a page: its tags, its words, and those that are printed to be run or copied."""

    def __init__(self, answer: httpx.Response) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words = ""
        self.programs: list[str] = []
        self._open: list[str] = []
        self.wrong: list[str] = []
        self.feed(answer.text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "code" and self._open[-1:] == ["pre"]:
            self.programs.append("")
        if tag not in ("meta", "link", "input", "img", "br"):
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if not self._open or self._open.pop() != tag:
            self.wrong.append(f"</{tag}> at {self.getpos()}")

    def handle_data(self, data: str) -> None:
        self.words += data
        if self._open[-2:] == ["pre", "code"]:
            self.programs[-1] += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def see(client: httpx.Client, path: str, status: int = 200) -> Page:
    """A page that must be whole."""
    answer = client.get(path)
    assert answer.status_code == status, (path, answer.text[-2000:])
    assert answer.headers["content-type"].startswith("text/html")
    assert answer.headers["cache-control"] == "no-store"
    page = Page(answer)
    assert page.wrong == []
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    _require_plain(page)
    return page


def _require_plain(page: Page) -> None:
    """Nothing that the content security policy would stop, nothing of another host, every field with a label."""
    for tag, attributes in page.tags:
        assert "style" not in attributes, (tag, attributes)
        assert not [name for name in attributes if name.startswith("on")], (tag, attributes)
        for name in ("src", "action", "hx-get"):
            assert (attributes.get(name) or "/").startswith("/"), (tag, attributes)
        if tag == "script":
            assert (attributes.get("src") or "").startswith("/ui/static/")
        if tag == "link":
            assert (attributes.get("href") or "").startswith("/ui/static/")
    named = {one.get("for") for one in page.all("label")}
    for tag in ("input", "select", "textarea"):
        for one in page.all(tag):
            hidden = one.get("type") in ("hidden", "checkbox", "radio")
            assert hidden or one.get("id") in named, one
