"""A person with a browser: the way to a tuned model that answers, and every page of a service that really trains."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from client_environments import environment
from live_service import LiveService
from web_pages import PAGES, see

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: make setup-test")
from browser_pages import AXE, VENDOR, Looker, chromium_path, looking  # noqa: E402
from browser_walk import Walked, walk  # noqa: E402
from playwright.sync_api import Browser, expect  # noqa: E402

pytestmark = [
    pytest.mark.skipif(chromium_path() is None, reason="there is no chromium on this machine"),
    # The first test that needs what the walk makes waits for all of it.
    pytest.mark.timeout(900),
    pytest.mark.skipif(not (AXE.is_file() and VENDOR.is_file()), reason="the pages' files are missing: make web"),
]


@pytest.fixture(scope="module")
def walked(service: LiveService, chromium: Browser, tmp_path_factory: pytest.TempPathFactory) -> Walked:
    """The whole way once, since what it makes is what the pages are looked at with."""
    path = tmp_path_factory.mktemp("rows") / "questions.jsonl"
    turns = [("Where is my parcel?", "On its way."), ("How do I return it?", "Send it back.")]
    with path.open("w") as file:
        for number in range(24):
            question, answer = turns[number % 2]
            messages = [{"role": "user", "content": f"{question} {number}"}, {"role": "assistant", "content": answer}]
            file.write(json.dumps({"messages": messages}) + "\n")
    return walk(chromium, service, path)


def test_from_signing_in_to_a_tuned_answer(walked: Walked) -> None:
    """Each step of the walk says what it expects; here is what may have gone wrong beside them."""
    assert walked.faults == ()
    assert {"new job", "job", "model", "deployment", "batch", "evaluation", "webhook"} <= set(walked.pages)


SLOW_LOOKS = ((False, 1280), (True, 1280), (False, 380))
LOOKS = pytest.mark.parametrize(
    ("dark", "width"), [(True, 380), *(pytest.param(*look, marks=pytest.mark.slow) for look in SLOW_LOOKS)]
)


@LOOKS
def test_pages_with_content_in_light_and_dark_wide_and_narrow(
    walked: Walked, service: LiveService, chromium: Browser, dark: bool, width: int
) -> None:
    """No serious fault of accessibility, no page that is wider than the window, no error."""
    with looking(chromium, service.root, dark=dark, width=width) as looker:
        looker.sign_in(service.key)
        looker.open_project(walked.project)
        wrong = []
        for name, path in walked.pages.items():
            looker.page.goto(f"{looker.root}{path}")
            for part in _parts(looker, name):
                wrong += _faults(looker, f"{name} {part}".strip(), width)
        looker.require_clean()
        looker.page.goto(f"{looker.root}/ui/jobs/ftjob-nothing")
        wrong += _faults(looker, "error", width)
        # The browser tells the console of the answer 404 by itself.
        assert len(looker.faults) == 1
        assert wrong == []


# Tables that one would have to push aside to read their last column.
CUT_OFF = """[...document.querySelectorAll(".scroll")]
    .filter((one) => one.scrollWidth > one.clientWidth + 1).map((one) => one.getAttribute("aria-label"))"""


def _parts(looker: Looker, name: str) -> Iterator[str]:
    """Wait for what comes late on a page; a page of several steps is looked at in each."""
    page = looker.page
    if name == "job":
        expect(page.locator("[data-chart] canvas")).to_be_visible()
        expect(page.get_by_role("heading", name="Checkpoints")).to_be_visible()
        expect(page.get_by_role("heading", name="Before and after")).to_be_visible()
    elif name == "/ui/usage":
        expect(page.locator("[data-days] canvas")).to_be_visible()
    elif name == "/ui/playground":
        page.get_by_text("Settings", exact=True).click()
        page.get_by_label("Most new tokens").fill("4")
        page.get_by_label("Your message").fill("Where is my parcel?")
        page.get_by_role("button", name="Send").click()
        expect(page.locator("[data-pane=left]")).to_have_attribute("data-answered", "1")
    elif name == "new job":
        expect(page.get_by_text("This file can be trained on.")).to_be_visible()
        expect(page.locator("#rows mark.learned").first).to_be_visible()
        yield "1"
        page.get_by_role("button", name="Next: model and technique").click()
        expect(page.locator("#plan").get_by_text("Tokens trained")).to_be_visible()
        page.get_by_text("More settings").click()
        yield "2"
        page.get_by_role("button", name="Next: review").click()
        page.get_by_text("The same as a program").click()
        yield "3"
        return
    yield ""


def _faults(looker: Looker, name: str, width: int) -> list[str]:
    """Serious faults of accessibility, and what is wider than the window or than its own box."""
    wide = looker.page.evaluate("document.documentElement.scrollWidth")
    found = [f"{name}: {fault}" for fault in looker.faults_of_access()]
    cut_off = looker.page.evaluate(CUT_OFF)
    found += [f"{name}: {label} is cut off at the side" for label in cut_off]
    return [*found, f"{name}: {wide} pixels wide"] if wide > width else found


@LOOKS
@pytest.mark.slow
def test_empty_pages_in_light_and_dark_wide_and_narrow(
    service: LiveService, chromium: Browser, dark: bool, width: int
) -> None:
    """A project with nothing in it yet, and the page to sign in."""
    with service.client("/tunesmith/v1") as own:
        project = own.post("/projects", json={"name": f"empty {dark} {width}"}).json()["id"]
    with looking(chromium, service.root, dark=dark, width=width) as looker:
        looker.page.goto(f"{looker.root}/ui/sign-in")
        wrong = _faults(looker, "sign in", width)
        looker.sign_in(service.key)
        looker.open_project(project)
        for path in PAGES:
            looker.page.goto(f"{looker.root}{path}")
            wrong += _faults(looker, path, width)
        assert wrong == []
        looker.require_clean()


def test_a_wrong_key_and_a_wrong_file_are_told_in_words(
    service: LiveService, chromium: Browser, tmp_path: Path
) -> None:
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"messages": []}\nnot json\n')
    with looking(chromium, service.root) as looker:
        page = looker.page
        page.goto(f"{looker.root}/ui/sign-in")
        page.get_by_label("API key").fill("ts-wrong")
        page.get_by_role("button", name="Sign in").click()
        expect(page.get_by_role("alert")).to_have_text("Incorrect API key provided")
        # Of the answer 401, which the browser tells the console by itself.
        assert len(looker.faults) == 1
        looker.faults.clear()
        looker.sign_in(service.key)
        page.goto(f"{looker.root}/ui/jobs/new")
        page.get_by_label("or upload one now").set_input_files(bad)
        expect(page.locator("#check")).to_contain_text("Line 2")
        page.get_by_role("button", name="Next: model and technique").click()
        expect(page.locator("#error-1")).to_have_text("Choose a file that can be trained on.")
        looker.require_clean()


PACKAGES = {
    "OpenAI": "openai==3.54.0",
    "LangChain": "langchain-openai==1.7.4",
    "Semantic Kernel": "semantic-kernel==1.45.0",
}


def test_curl_and_openai_run_as_printed(service: LiveService) -> None:
    """With the OpenAI package of the suite; the slow test below has all of them in environments of their own."""
    with service.client("/tunesmith/v1") as own, service.client("") as pages:
        own.post("/deployments", json={"name": "printed", "model": "tiny"}).raise_for_status()
        curl, with_openai, *_ = see(pages, "/ui/deployments/printed").programs
    answer = _run(["bash", "-c", curl], service.key)
    assert json.loads(answer)["choices"][0]["message"]["role"] == "assistant"
    assert _run([sys.executable, "-c", with_openai], service.key)


def _run(command: list[str], key: str) -> str:
    """What a program prints that finds its key where the page says."""
    variables = {**os.environ, "TUNESMITH_API_KEY": key, "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
    done = subprocess.run(command, env=variables, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, (command, done.stderr[-2000:])
    return done.stdout.strip()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_programs_of_a_deployment_run_as_printed(service: LiveService, chromium: Browser) -> None:
    """With a key that may only ask, made on the page."""
    with service.client("/tunesmith/v1") as own:
        own.post("/deployments", json={"name": "answers", "model": "tiny"}).raise_for_status()
    with looking(chromium, service.root) as looker:
        page = looker.page
        looker.sign_in(service.key)
        page.goto(f"{looker.root}/ui/project")
        page.get_by_label("Name of a new key").fill("program")
        page.get_by_label("It may").select_option("inference")
        page.get_by_role("button", name="Make a key").click()
        key = page.locator("[data-secret] code")
        expect(key).to_have_text(re.compile("^ts-"))
        secret = key.inner_text()
        page.goto(f"{looker.root}/ui/deployments/answers")
        programs = {}
        for name in ("curl", *PACKAGES):
            page.get_by_role("tab", name=name).click()
            programs[name] = page.get_by_role("tabpanel", name=name).locator("code").last.inner_text()
        looker.require_clean()
    answer = _run(["bash", "-c", programs["curl"]], secret)
    assert json.loads(answer)["choices"][0]["message"]["role"] == "assistant"
    for name, package in PACKAGES.items():
        assert _run([str(environment(package)), "-c", programs[name]], secret), name
