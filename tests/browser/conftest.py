"""One service and one browser for all tests of this folder."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from live_service import LiveService, live_service
from tiny_models import tiny_model_folder

if TYPE_CHECKING:
    from playwright.sync_api import Browser


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveService]:
    os.environ.setdefault("NO_PROXY", "127.0.0.1")
    folder = tmp_path_factory.mktemp("pages")
    model = tiny_model_folder("llama", folder / "tiny")
    config = folder / "service.yaml"
    prices = {"*": {"input_tokens": 1.0, "output_tokens": 2.0, "trained_tokens": 3.0}}
    config.write_text(json.dumps({"models": [f"tiny={model}", "gemma-2-2b-it"], "prices": prices}))
    with live_service(folder, "--config", str(config)) as service:
        yield service


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    # Only here, since the tests of this folder are skipped where it is not installed.
    from browser_pages import browser

    with browser() as chromium:
        yield chromium
