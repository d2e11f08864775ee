"""Long lists on the pages: two hundred of everything, with names as long as they may be, and what has failed."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from live_service import LiveService
from registry_cases import add_small
from service_rows import Putter

from tunesmith.service.choices import known_choices, settings_of
from tunesmith.service.context import open_context
from tunesmith.service.db.tables.models import TUNED_MODELS
from tunesmith.storage.address import open_store

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: make setup-test")
from browser_pages import AXE, VENDOR, chromium_path, looking  # noqa: E402
from playwright.sync_api import Browser  # noqa: E402

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))
import service_content as content  # noqa: E402

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(chromium_path() is None, reason="there is no chromium on this machine"),
    pytest.mark.skipif(not (AXE.is_file() and VENDOR.is_file()), reason="the pages' files are missing: make web"),
]
LISTS = ("jobs", "models", "deployments", "batches", "evaluations", "usage", "project", "audit", "admin")
MODEL = "ft:tiny:tunesmith:long:abcdefgh"


@pytest.fixture(scope="module")
def filled(service: LiveService, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, str]]:
    """A project with long lists, as the pictures of the pages have it: its id, and its pages by name."""
    project = content.make_project(service, "long lists")
    context = open_context(settings_of(service.data_folder, known_choices(service.data_folder)))
    files = {"adapter/a.bin": b"a"}
    add_small(open_store(context.settings.registry), tmp_path_factory.mktemp("small"), "small", files)
    put = Putter(context, project)
    put(TUNED_MODELS, id=MODEL, base="tiny", job_id="ftjob-long", address="small:1")
    context.database.close()
    pages = {**{name: f"/ui/{name}" for name in LISTS}, "overview": "/ui", "data": "/ui/files"}
    done = content.Work(pages, MODEL, "ftjob-long")
    return project, content.long_lists(service, project, done, "tiny")


@pytest.mark.parametrize(("dark", "width"), [(False, 1280), (True, 380), (True, 1280), (False, 380)])
def test_long_lists_in_light_and_dark_wide_and_narrow(
    filled: tuple[str, dict[str, str]], service: LiveService, chromium: Browser, dark: bool, width: int
) -> None:
    project, pages = filled
    with looking(chromium, service.root, dark=dark, width=width) as looker:
        looker.sign_in(service.key)
        looker.open_project(project)
        wrong = []
        for name, path in pages.items():
            looker.page.goto(f"{looker.root}{path}")
            wide = looker.page.evaluate("document.documentElement.scrollWidth")
            wrong += [f"{name}: {fault}" for fault in looker.faults_of_access()]
            wrong += [f"{name}: {wide} pixels wide"] if wide > width else []
        assert wrong == []
        looker.require_clean()
