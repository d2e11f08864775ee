"""Signing in with the company's account in a real browser, which decides itself which cookies it sends."""

from __future__ import annotations

import json
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from live_service import live_service
from openid_provider import CLIENT, SECRET, running_provider
from storage_servers import free_port

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: make setup-test")
from browser_pages import chromium_path, looking  # noqa: E402
from playwright.sync_api import Browser, expect  # noqa: E402

pytestmark = pytest.mark.skipif(chromium_path() is None, reason="there is no chromium on this machine")


@pytest.mark.slow
def test_who_gives_the_provider_a_password_is_signed_in_here(tmp_path: Path, chromium: Browser) -> None:
    port = free_port()
    # Another site than the provider's 127.0.0.1, as browsers see it; another port alone would be the same site.
    root = f"http://localhost:{port}"
    config = tmp_path / "service.yaml"
    with running_provider() as provider:
        provider.asks_password = True
        openid = {"issuer": provider.issuer, "client_id": CLIENT, "admin_emails": ["ada@example.org"]}
        config.write_text(json.dumps({"public_url": root, "openid": openid}))
        options = ("--config", str(config), "--port", str(port))
        with (
            live_service(tmp_path, *options, environment={"TUNESMITH_OIDC_SECRET": SECRET}),
            looking(chromium, root) as looker,
        ):
            page = looker.page
            page.goto(f"{root}/ui/sign-in")
            page.get_by_role("link", name="Sign in with your company").click()
            expect(page).to_have_title("Provider")
            assert urlsplit(page.url).hostname == "127.0.0.1"
            page.get_by_label("Password").fill("secret")
            page.get_by_role("button", name="Let me in").click()
            page.wait_for_url(f"{root}/ui")
            expect(page.get_by_role("link", name="Administration")).to_be_visible()
            # Nothing is left of the way: going back does not ask the provider's answer again.
            page.go_back()
            assert "/openid/callback" not in page.url
