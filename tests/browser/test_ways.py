"""Ways of using the pages: by the keyboard alone, in the other theme, and where a browser withholds its clipboard."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from live_service import LiveService

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: make setup-test")
from browser_pages import AXE, VENDOR, Looker, chromium_path, looking  # noqa: E402
from playwright.sync_api import Browser, Route, expect  # noqa: E402

pytestmark = [
    pytest.mark.skipif(chromium_path() is None, reason="there is no chromium on this machine"),
    pytest.mark.skipif(not (AXE.is_file() and VENDOR.is_file()), reason="the pages' files are missing: make web"),
]
# What the reader's next key goes to: its name, and whether somebody sees that.
FOCUSED = """() => {
    const one = document.activeElement;
    const style = getComputedStyle(one);
    const label = one.labels?.[0]?.textContent ?? one.getAttribute("aria-label") ?? one.textContent;
    const box = one.getBoundingClientRect();
    const outlined = style.outlineStyle !== "none" && parseFloat(style.outlineWidth) > 0;
    const inside = box.width > 0 && box.height > 0 && box.bottom > 0 && box.top < innerHeight && box.left >= 0;
    return { name: label.trim().replace(/\\s+/g, " "), seen: outlined && inside };
}"""
MOST_TABS = 60


def tab_to(looker: Looker, name: str) -> None:
    """Press Tab until a thing has the focus; on the way everything that has it can be seen."""
    passed = []
    for _ in range(MOST_TABS):
        looker.page.keyboard.press("Tab")
        focused = looker.page.evaluate(FOCUSED)
        assert focused["seen"], focused
        passed.append(focused["name"])
        if focused["name"].startswith(name):
            return
    raise AssertionError(f"{name} is not reached by Tab: {passed}")


def rows_file(service: LiveService) -> str:
    """A file that can be trained on; its id."""
    turns = [{"role": "user", "content": "Where is it?"}, {"role": "assistant", "content": "On its way."}]
    content = "".join(json.dumps({"messages": turns}) + "\n" for _ in range(12))
    with service.client() as client:
        answer = client.post("/files", data={"purpose": "fine-tune"}, files={"file": ("typed.jsonl", content)})
    answer.raise_for_status()
    return str(answer.json()["id"])


def test_from_signing_in_to_a_job_by_the_keyboard_alone(service: LiveService, chromium: Browser) -> None:
    """On a phone's width, where pages are behind a menu. No mouse, and no focus that is set by the test."""
    file_id = rows_file(service)
    with looking(chromium, service.root, width=380) as looker:
        page = looker.page
        page.goto(f"{looker.root}/ui/sign-in")
        # The field has the focus as the page comes.
        page.keyboard.type(service.key)
        page.keyboard.press("Enter")
        page.wait_for_url(f"{looker.root}/ui")
        tab_to(looker, "Skip to the content")
        page.keyboard.press("Enter")
        expect(page.locator("#main")).to_be_focused()
        page.reload()
        tab_to(looker, "Menu")
        expect(page.get_by_role("link", name="Jobs", exact=True)).to_be_hidden()
        page.keyboard.press("Enter")
        tab_to(looker, "Jobs")
        page.keyboard.press("Enter")
        page.wait_for_url(f"{looker.root}/ui/jobs")
        tab_to(looker, "New job")
        page.keyboard.press("Enter")
        page.wait_for_url(f"{looker.root}/ui/jobs/new")
        _three_steps(looker, file_id)
        looker.require_clean()


def _three_steps(looker: Looker, file_id: str) -> None:
    page = looker.page
    tab_to(looker, "examples of good answers")
    page.keyboard.press("ArrowDown")
    expect(page.get_by_role("radio", name="pairs of a better")).to_be_checked()
    page.keyboard.press("ArrowUp")
    expect(page.get_by_role("radio", name="examples of good answers")).to_be_checked()
    tab_to(looker, "Training file")
    page.keyboard.type("typed")
    expect(page.locator("#training-file")).to_have_value(file_id)
    page.keyboard.press("Tab")
    expect(page.get_by_text("This file can be trained on.")).to_be_visible()
    tab_to(looker, "Next: model and technique")
    page.keyboard.press("Enter")
    expect(page.locator("#step-2")).to_be_focused()
    tab_to(looker, "Technique")
    page.keyboard.press("Home")
    tab_to(looker, "Epochs")
    page.keyboard.press("ArrowUp")
    expect(page.get_by_label("Epochs")).to_have_value("1")
    tab_to(looker, "More settings")
    page.keyboard.press("Space")
    tab_to(looker, "Seed")
    page.keyboard.type("7")
    tab_to(looker, "A name of your own")
    page.keyboard.type("typed")
    expect(page.locator("#plan").get_by_text("Tokens trained")).to_be_visible()
    tab_to(looker, "Next: review")
    page.keyboard.press("Enter")
    expect(page.locator("#step-3")).to_be_focused()
    expect(page.locator("#review")).to_contain_text("typed")
    tab_to(looker, "Start training")
    page.keyboard.press("Enter")
    page.wait_for_url(re.compile("/ui/jobs/ftjob-"))


def test_the_theme_is_switched_and_stays(service: LiveService, chromium: Browser) -> None:
    with looking(chromium, service.root) as looker:
        page = looker.page
        ground = "getComputedStyle(document.body).backgroundColor"
        looker.sign_in(service.key)
        light = page.evaluate(ground)
        page.get_by_role("button", name="Dark or light").click()
        expect(page.locator("html")).to_have_attribute("data-theme", "dark")
        dark = page.evaluate(ground)
        assert dark != light
        # Charts are drawn anew, and the next page begins in it.
        page.goto(f"{looker.root}/ui/usage")
        assert page.evaluate(ground) == dark
        page.get_by_role("button", name="Dark or light").click()
        assert page.evaluate(ground) == light
        looker.require_clean()


@pytest.mark.parametrize("host", ["127.0.0.1", "elsewhere.test"])
def test_programs_are_copied_or_selected_to_be_copied(service: LiveService, chromium: Browser, host: str) -> None:
    """Over plain HTTP from another machine a browser has no clipboard for pages; the reader is told what to press."""
    with service.client("/tunesmith/v1") as own:
        own.post("/deployments", json={"name": f"copied-{host[0]}", "model": "tiny"}).raise_for_status()
    root = service.root.replace("127.0.0.1", host)
    with looking(chromium, root) as looker:
        page = looker.page
        looker.sign_in(service.key)
        page.goto(f"{looker.root}/ui/deployments/copied-{host[0]}")
        text = page.get_by_role("tabpanel", name="curl").locator("code").last.text_content()
        assert page.evaluate("isSecureContext") is (host == "127.0.0.1")
        if host == "127.0.0.1":
            page.context.grant_permissions(["clipboard-read", "clipboard-write"])
        page.get_by_role("tabpanel", name="curl").get_by_role("button", name="Copy").click()
        if host == "127.0.0.1":
            expect(page.locator("#toast")).to_have_text("Copied")
            assert page.evaluate("navigator.clipboard.readText()") == text
        else:
            expect(page.locator("#toast")).to_have_text(re.compile("Press Ctrl"))
            assert page.evaluate("getSelection().toString()").strip() == str(text).strip()
        looker.require_clean()


def test_a_table_is_shown_as_it_is_learned(service: LiveService, chromium: Browser, tmp_path: Path) -> None:
    path = tmp_path / "tickets.csv"
    path.write_text("text,label\n" + "".join(f'"Where is it, {at}?",shipping\n' for at in range(12)))
    with looking(chromium, service.root) as looker:
        page = looker.page
        looker.sign_in(service.key)
        page.goto(f"{looker.root}/ui/jobs/new")
        page.get_by_label("or upload one now").set_input_files(path)
        expect(page.get_by_text("This file can be trained on.")).to_be_visible()
        expect(page.locator("#rows mark.learned")).to_have_text(["shipping"] * 5)
        expect(page.locator("#rows mark.read").last).to_have_text("Where is it, 4?")
        expect(page.locator("#rows .line-number").first).to_have_text("2")
        path.with_suffix(".jsonl").write_text("not json\n")
        page.get_by_label("or upload one now").set_input_files(path.with_suffix(".jsonl"))
        expect(page.get_by_text("This file cannot be used yet.")).to_be_visible()
        expect(page.locator("#preview")).to_be_hidden()
        looker.require_clean()


def test_a_mended_file_is_taken_and_the_job_is_a_program_of_python(
    service: LiveService, chromium: Browser, tmp_path: Path
) -> None:
    path = tmp_path / "mended.jsonl"
    path.write_text("not json\n")
    with looking(chromium, service.root) as looker:
        page = looker.page
        looker.sign_in(service.key)
        page.goto(f"{looker.root}/ui/jobs/new")
        upload = page.get_by_label("or upload one now")
        upload.set_input_files(path)
        expect(page.get_by_text("This file cannot be used yet.")).to_be_visible()
        # A browser tells of a choice only where it is another one than before.
        expect(upload).to_have_value("")
        turns = [{"role": "user", "content": "Where is it?"}, {"role": "assistant", "content": "On its way."}]
        path.write_text("".join(json.dumps({"messages": turns}) + "\n" for _ in range(12)))
        upload.set_input_files(path)
        expect(page.get_by_text("This file can be trained on.")).to_be_visible()
        page.get_by_role("button", name="Next: model and technique").click()
        page.get_by_text("More settings").click()
        for wrong, words in (("[1]", "not an object"), ('{"technique": "full"}', "technique"), ("{", "not JSON")):
            page.get_by_label("Further options").fill(wrong)
            page.get_by_role("button", name="Next: review").click()
            expect(page.locator("#error-2")).to_contain_text(words)
        page.get_by_label("Further options").fill('{"rank_stabilized": true, "warmup": 0.1}')
        page.get_by_role("button", name="Next: review").click()
        page.get_by_text("The same as a program").click()
        program = page.locator("#as-program").inner_text()
        given: dict[str, Any] = {}
        client = SimpleNamespace(fine_tuning=SimpleNamespace(jobs=SimpleNamespace(create=given.update)))
        exec(program, {"client": client})
        assert given["extra_body"]["tunesmith"] == {"rank_stabilized": True, "warmup": 0.1, "technique": "lora"}
        looker.require_clean()


def test_a_page_of_a_job_goes_on_when_the_service_answers_again(service: LiveService, chromium: Browser) -> None:
    asked = {"model": "tiny", "training_file": rows_file(service), "tunesmith": {"technique": "lora", "rank": 4}}
    with service.client() as client:
        job = client.post("/fine_tuning/jobs", json=asked).raise_for_status().json()["id"]
        client.post(f"/fine_tuning/jobs/{job}/cancel").raise_for_status()
    with looking(chromium, service.root) as looker:
        page = looker.page
        looker.sign_in(service.key)
        refused = "**/stream?*"
        page.route(refused, lambda route: route.fulfill(status=503, body="busy"))
        page.goto(f"{looker.root}/ui/jobs/{job}")
        lost = page.locator("[data-lost]")
        expect(lost).to_contain_text("does not answer")
        page.unroute(refused)
        expect(lost).to_be_hidden()
        expect(page.locator("[data-state]")).to_have_text("cancelled")
        expect(page.locator("[data-events] li").first).to_be_visible()


def test_another_model_is_chosen_while_the_first_one_answers(service: LiveService, chromium: Browser) -> None:
    with looking(chromium, service.root) as looker:
        page = looker.page
        looker.sign_in(service.key)
        page.goto(f"{looker.root}/ui/playground")
        page.get_by_label("Left model", exact=True).select_option("tiny")
        page.get_by_label("Right model", exact=True).select_option("None")

        def hold(_route: Route) -> None:
            """The answer does not come."""

        page.route("**/v1/chat/completions", hold)
        page.get_by_label("Your message").fill("Where is my parcel?")
        page.get_by_role("button", name="Send").click()
        pane = page.locator("[data-pane=left]")
        expect(pane.locator(".count")).to_have_text("thinking…")
        page.locator("#left").dispatch_event("change")
        expect(pane.locator(".said")).to_have_count(0)
        expect(page.get_by_role("button", name="Send")).to_be_enabled()
        page.unroute("**/v1/chat/completions")
        page.get_by_text("Settings", exact=True).click()
        page.get_by_label("Most new tokens").fill("2")
        page.get_by_label("Your message").fill("And now?")
        with page.expect_request("**/v1/chat/completions") as asked:
            page.get_by_role("button", name="Send").click()
        assert [one["content"] for one in asked.value.post_data_json["messages"]] == ["And now?"]
        expect(pane).to_have_attribute("data-answered", "1")


def test_signing_out_forgets_which_project_was_open(service: LiveService, chromium: Browser) -> None:
    with service.client("/tunesmith/v1") as own:
        project = own.post("/projects", json={"name": "left behind"}).json()["id"]
    with looking(chromium, service.root) as looker:
        looker.sign_in(service.key)
        looker.open_project(project)
        looker.page.goto(f"{looker.root}/ui")
        looker.page.get_by_role("button", name="Sign out").click()
        looker.page.wait_for_url(f"{looker.root}/ui/sign-in")
        assert "tunesmith_project" not in [one["name"] for one in looker.page.context.cookies()]


def test_a_link_on_another_site_leads_to_the_page_of_who_is_signed_in(service: LiveService, chromium: Browser) -> None:
    with looking(chromium, service.root) as looker:
        page = looker.page
        looker.sign_in(service.key)
        other = "http://elsewhere.test:1/"
        target = f"{service.root}/ui/usage?start=2026-01-01"
        page.route(other, lambda route: route.fulfill(content_type="text/html", body=f'<a href="{target}">Usage</a>'))
        page.goto(other)
        page.get_by_role("link", name="Usage").click()
        expect(page.get_by_role("heading", name="Usage", exact=True)).to_be_visible()
        assert page.url == target
        page.context.clear_cookies()
        page.goto(other)
        page.get_by_role("link", name="Usage").click()
        expect(page.get_by_label("API key")).to_be_visible()
