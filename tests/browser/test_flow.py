"""A person with a browser, from signing in to a tuned model that answers, on a whole service that really trains."""

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
from live_service import LiveService, live_service
from tiny_models import tiny_model_folder
from web_pages import PAGES, see

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: make setup-test")
from browser_pages import AXE, VENDOR, Looker, browser, chromium_path, looking  # noqa: E402
from playwright.sync_api import Browser, expect  # noqa: E402

pytestmark = [
    pytest.mark.skipif(chromium_path() is None, reason="there is no chromium on this machine"),
    pytest.mark.skipif(not (AXE.is_file() and VENDOR.is_file()), reason="the pages' files are missing: make web"),
]
WAIT = 120_000
QUICK = {"precision": "float32", "samples": 2, "few_shot": 0, "max_new_tokens": 4, "evaluation_rows": 2}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveService]:
    os.environ.setdefault("NO_PROXY", "127.0.0.1")
    folder = tmp_path_factory.mktemp("pages")
    model = tiny_model_folder("llama", folder / "tiny")
    config = folder / "service.yaml"
    prices = {"*": {"input_tokens": 1.0, "output_tokens": 2.0, "trained_tokens": 3.0}}
    config.write_text(json.dumps({"models": [f"tiny={model}", "gemma-2-2b-it"], "prices": prices}))
    with live_service(folder, "--config", str(config)) as service:
        yield service


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with browser() as chromium:
        yield chromium


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("rows") / "questions.jsonl"
    turns = [("Where is my parcel?", "On its way."), ("How do I return it?", "Send it back.")]
    with path.open("w") as file:
        for number in range(24):
            question, answer = turns[number % 2]
            messages = [{"role": "user", "content": f"{question} {number}"}, {"role": "assistant", "content": answer}]
            file.write(json.dumps({"messages": messages}) + "\n")
    return path


@pytest.mark.timeout(420)
def test_from_signing_in_to_a_tuned_answer(service: LiveService, chromium: Browser, rows: Path) -> None:
    with looking(chromium, service.root) as looker:
        looker.sign_in(service.key)
        _make_project(looker)
        _hook(looker)
        _accept(looker)
        _train(looker, rows)
        _watch(looker)
        _label(looker)
        _deploy(looker)
        _ask(looker)
        _ask_many(looker, rows.with_name("many.jsonl"))
        _measure(looker)
        _told(looker)
        _account(looker)
        looker.require_clean()


def _make_project(looker: Looker) -> None:
    page = looker.page
    page.goto(f"{looker.root}/ui/admin")
    page.get_by_label("Name of a new project").fill("support desk")
    page.get_by_role("button", name="Make a project").click()
    expect(page.get_by_role("heading", name="Project support desk")).to_be_visible()


def _hook(looker: Looker) -> None:
    """Its secret is shown once, while the list already has it; whoever may not be asked is refused in place."""
    page = looker.page
    page.get_by_role("link", name="Webhooks").click()
    page.get_by_label("Address").fill("https://127.0.0.1:9/hook")
    page.get_by_label("budget exceeded").uncheck()
    page.get_by_role("button", name="Make a webhook").click()
    expect(page.locator("[data-secret] code")).to_have_text(re.compile("^whsec_"))
    expect(page.get_by_role("region", name="Webhooks")).to_contain_text("11 of 12")
    assert looker.faults_of_access() == []


def _accept(looker: Looker) -> None:
    page = looker.page
    page.get_by_role("link", name="Catalog").click()
    tile = page.locator(".tile").filter(has=page.get_by_role("checkbox"))
    tile.get_by_role("checkbox").check()
    tile.get_by_role("button", name="Accept").click()
    expect(page.get_by_text("ready", exact=True)).to_have_count(2)


def _train(looker: Looker, rows: Path) -> None:
    page = looker.page
    page.get_by_role("link", name="Jobs").click()
    page.get_by_role("link", name="New job").click()
    page.get_by_label("or upload one now").set_input_files(rows)
    expect(page.get_by_text("This file can be trained on.")).to_be_visible()
    expect(page.locator("#rows mark.learned").first).to_have_text("On its way.")
    page.get_by_role("button", name="Next: model and technique").click()
    page.locator("#model").select_option("tiny")
    page.get_by_label("Rank").fill("4")
    page.get_by_label("A name of your own").fill("first")
    page.get_by_text("More settings").click()
    page.get_by_label("Longest row").fill("64")
    page.get_by_label("Further options").fill(json.dumps(QUICK))
    expect(page.locator("#plan").get_by_text("Tokens trained")).to_be_visible()
    assert looker.faults_of_access() == []
    page.get_by_role("button", name="Count and show tokens").click()
    expect(page.locator("#token-rows mark.learned").first).to_be_visible(timeout=WAIT)
    page.get_by_role("button", name="Next: review").click()
    expect(page.locator("#review")).to_contain_text("lora")
    page.get_by_role("button", name="Start training").click()
    page.wait_for_url(re.compile(r"/ui/jobs/ftjob-"))


def _watch(looker: Looker) -> None:
    """Live: the page is not loaded again between the first event and the report."""
    page = looker.page
    expect(page.locator("[data-events] li").first).to_be_visible()
    expect(page.locator("[data-state]")).to_have_text("succeeded", timeout=WAIT)
    expect(page.locator("[data-gauge=loss]")).to_have_text(re.compile(r"^\d"))
    expect(page.locator("[data-gauge=speed]")).to_have_text(re.compile(r"^\d"))
    expect(page.locator("[data-gauge=memory]")).to_have_text(re.compile("iB$"))
    expect(page.locator("[data-gauge=progress]")).to_have_text(re.compile(r"^(\d+) of \1$"))
    expect(page.locator("[data-chart] canvas")).to_be_visible()
    expect(page.get_by_role("heading", name="Before and after")).to_be_visible()
    expect(page.get_by_role("heading", name="Checkpoints")).to_be_visible()
    assert looker.faults_of_access() == []


def _label(looker: Looker) -> None:
    """From the job to its model, which gets a stage and an alias."""
    page = looker.page
    page.get_by_role("link", name="Models").click()
    page.get_by_role("link", name=re.compile("^ft:tiny:[^ ]*first:[a-z0-9]{8}$")).click()
    expect(page.get_by_role("region", name="Measures")).to_contain_text("loss")
    page.get_by_label("Stage").select_option("production")
    page.get_by_role("button", name="Promote").click()
    expect(page.locator(".rows .state", has_text="production")).to_be_visible()
    page.get_by_label("Alias").fill("best")
    page.get_by_role("button", name="Add", exact=True).click()
    expect(page.locator(".rows .state", has_text="best")).to_be_visible()
    page.get_by_role("button", name="Take away best").click()
    expect(page.locator(".rows .state", has_text="best")).to_have_count(0)
    assert looker.faults_of_access() == []


def _deploy(looker: Looker) -> None:
    page = looker.page
    page.get_by_role("link", name="Deploy", exact=True).click()
    expect(page.locator("#model")).to_have_value(re.compile("^ft:tiny:"))
    page.get_by_label("Name").fill("support")
    page.get_by_role("button", name="Deploy").click()
    page.wait_for_url(f"{looker.root}/ui/deployments/support")
    page.get_by_role("tab", name="curl").focus()
    page.keyboard.press("ArrowRight")
    expect(page.get_by_role("tabpanel", name="OpenAI")).to_contain_text(f"{looker.root}/v1")
    assert looker.faults_of_access() == []


def _ask(looker: Looker) -> None:
    """By the keyboard alone once the page is there; both models answer, and their tokens are counted."""
    page = looker.page
    page.get_by_role("link", name="Try it").click()
    page.get_by_label("Left model", exact=True).select_option("support")
    page.get_by_label("Right model", exact=True).select_option("tiny")
    page.get_by_text("Settings", exact=True).click()
    page.get_by_label("Most new tokens").fill("8")
    page.get_by_label("Your message").fill("Where is my parcel?")
    page.get_by_label("Your message").press("Control+Enter")
    for side in ("left", "right"):
        pane = page.locator(f"[data-pane={side}]")
        expect(pane).to_have_attribute("data-answered", "1", timeout=WAIT)
        expect(pane.locator(".count")).to_have_text(re.compile(r"^\d+ tokens read, [1-8] written"))
        expect(pane.locator(".said.assistant .words")).not_to_have_class(re.compile("failed"))
    assert looker.faults_of_access() == []


def _ask_many(looker: Looker, path: Path) -> None:
    """A file of questions becomes a file of answers; the page follows by itself until it may be downloaded."""
    page = looker.page
    with path.open("w") as file:
        for number in range(3):
            asked = {"model": "support", "messages": [{"role": "user", "content": f"Hello {number}"}], "max_tokens": 2}
            line = {"custom_id": str(number), "method": "POST", "url": "/v1/chat/completions", "body": asked}
            file.write(json.dumps(line) + "\n")
    page.get_by_role("link", name="Batches").click()
    page.locator("#upload").set_input_files(path)
    page.get_by_role("button", name="Upload", exact=True).click()
    expect(page.locator("#input")).to_have_value(re.compile("^file-"))
    page.get_by_role("button", name="Start the batch").click()
    answers = page.get_by_role("link", name="Download answers")
    expect(answers).to_be_visible(timeout=WAIT)
    expect(page.get_by_role("group", name="The batch now")).to_contain_text("3 of 3")
    assert looker.faults_of_access() == []
    with page.expect_download() as waiting:
        answers.click()
    lines = [json.loads(line) for line in Path(waiting.value.path()).read_text().splitlines()]
    assert sorted(line["custom_id"] for line in lines) == ["0", "1", "2"]


def _measure(looker: Looker) -> None:
    """The tuned model beside its base; the page follows until the report is there."""
    page = looker.page
    page.get_by_role("link", name="Models").click()
    page.get_by_role("link", name=re.compile("^ft:tiny")).first.click()
    page.get_by_role("link", name="Measure").click()
    expect(page.get_by_label("Model", exact=True)).to_have_value(re.compile("^ft:tiny"))
    rows = page.get_by_label("Rows", exact=True)
    rows.select_option(rows.locator("option", has_text="questions.jsonl").get_attribute("value"))
    page.get_by_label("At most so many rows").fill("3")
    page.get_by_text("More", exact=True).click()
    page.get_by_label("Longest answer, in tokens").fill("4")
    assert looker.faults_of_access() == []
    page.get_by_role("button", name="Measure").click()
    expect(page.get_by_role("heading", name="Before and after")).to_be_visible(timeout=WAIT)
    expect(page.get_by_role("region", name="Measures before and after")).to_contain_text("Tuned")
    expect(page.get_by_role("link", name="Download the report")).to_be_visible()
    assert looker.faults_of_access() == []
    page.get_by_role("link", name="Evaluations").first.click()
    expect(page.get_by_role("region", name="Evaluations")).to_contain_text("succeeded")


def _told(looker: Looker) -> None:
    """What was sent to the webhook, which nobody takes there; it is switched off."""
    page = looker.page
    page.get_by_role("link", name="Webhooks").click()
    page.get_by_role("link", name="https://127.0.0.1:9/hook").click()
    deliveries = page.get_by_role("region", name="Deliveries")
    expect(deliveries).to_contain_text("fine_tuning.job.succeeded")
    page.get_by_role("button", name="Send a test").click()
    expect(deliveries).to_contain_text("webhook.test")
    page.get_by_role("button", name="Switch off").click()
    expect(page.get_by_role("button", name="Switch on")).to_be_visible()
    assert looker.faults_of_access() == []


def _account(looker: Looker) -> None:
    """What was used is on the page of usage; the key that was signed in with is worth nothing after signing out."""
    page = looker.page
    page.get_by_role("link", name="Usage").click()
    expect(page.get_by_role("region", name="Use by model")).to_contain_text("trained tokens")
    expect(page.locator("[data-days] canvas")).to_be_visible()
    page.get_by_role("button", name="Sign out").click()
    page.wait_for_url(f"{looker.root}/ui/sign-in")
    assert not [one for one in page.context.cookies() if one["name"] == "tunesmith_session"]


@pytest.mark.parametrize(
    ("dark", "width"),
    [
        (False, 1280),
        (True, 380),
        pytest.param(True, 1280, marks=pytest.mark.slow),
        pytest.param(False, 380, marks=pytest.mark.slow),
    ],
)
def test_pages_in_light_and_dark_wide_and_narrow(
    service: LiveService, chromium: Browser, dark: bool, width: int
) -> None:
    """No serious fault of accessibility, no page that is wider than the window, no error."""
    with looking(chromium, service.root, dark=dark, width=width) as looker:
        looker.page.goto(f"{looker.root}/ui/sign-in")
        assert looker.faults_of_access() == []
        looker.sign_in(service.key)
        wrong = []
        for path in PAGES:
            looker.page.goto(f"{looker.root}{path}")
            wide = looker.page.evaluate("document.documentElement.scrollWidth")
            wrong += [f"{path}: {fault}" for fault in looker.faults_of_access()]
            wrong += [f"{path}: {wide} pixels wide"] if wide > width else []
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
