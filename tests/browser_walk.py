"""The way of a person with a browser, step by step, from signing in to a tuned model that answers.

walked = walk(chromium, service, rows)
walked.project, walked.pages         # where it was, and an address for each thing that was made
walked.faults                        # what went wrong on the way
"""

from __future__ import annotations

import json
import re
import time
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from browser_pages import Looker, looking
from live_service import LiveService
from playwright.sync_api import Browser, expect
from web_pages import PAGES

from tunesmith.service.shared.telling import EVENTS

WAIT = 120_000
QUICK = {"precision": "float32", "samples": 2, "few_shot": 0, "max_new_tokens": 4, "evaluation_rows": 2}


@dataclass(frozen=True)
class Walked:
    """What the way has left.

    Attributes:
        project: The project that all of it is in.
        pages: Paths of pages with content: lists, and one of each thing, by what it is.
        faults: Errors of the console and of scripts, and requests to other machines.
    """

    project: str
    pages: dict[str, str]
    faults: tuple[str, ...]


def walk(chromium: Browser, service: LiveService, rows: Path) -> Walked:
    """Go the whole way once.

    Args:
        chromium: The browser.
        service: A whole service, which offers the model ``tiny`` and one whose licence has to be accepted.
        rows: Conversations to train on.
    """
    pages = {path: path for path in PAGES}
    with looking(chromium, service.root) as looker:
        looker.sign_in(service.key)
        project = _make_project(looker)
        _hook(looker)
        _accept(looker)
        pages["new job"] = f"/ui/jobs/new?file={_train(looker, rows)}"
        pages["job"] = _here(looker)
        _watch(looker)
        _label(looker)
        pages["model"] = _here(looker)
        _deploy(looker)
        pages["deployment"] = _here(looker)
        _ask(looker)
        _ask_many(looker, rows.with_name("many.jsonl"))
        pages["batch"] = _here(looker)
        pages["evaluation"] = _measure(looker)
        _told(looker)
        pages["webhook"] = _here(looker)
        _account(looker)
        return Walked(project, pages, tuple(looker.faults))


def _here(looker: Looker) -> str:
    return urlsplit(looker.page.url).path


def _make_project(looker: Looker) -> str:
    """Its id, as the browser keeps it for the pages that follow."""
    page = looker.page
    page.goto(f"{looker.root}/ui/admin")
    page.get_by_label("Name of a new project").fill("support desk")
    page.get_by_role("button", name="Make a project").click()
    expect(page.get_by_role("heading", name="Project support desk")).to_be_visible()
    return next(str(one["value"]) for one in page.context.cookies() if one["name"] == "tunesmith_project")


def _hook(looker: Looker) -> None:
    """Its secret is shown once, while the list already has it; whoever may not be asked is refused in place."""
    page = looker.page
    page.get_by_role("link", name="Webhooks").click()
    page.get_by_label("Address").fill("https://127.0.0.1:9/hook")
    page.get_by_label("budget exceeded").uncheck()
    page.get_by_role("button", name="Make a webhook").click()
    expect(page.locator("[data-secret] code")).to_have_text(re.compile("^whsec_"))
    expect(page.get_by_role("region", name="Webhooks")).to_contain_text(f"{len(EVENTS) - 1} of {len(EVENTS)}")
    assert looker.faults_of_access() == []


def _accept(looker: Looker) -> None:
    page = looker.page
    page.get_by_role("link", name="Catalog").click()
    tile = page.locator(".tile").filter(has=page.get_by_role("checkbox"))
    tile.get_by_role("checkbox").check()
    tile.get_by_role("button", name="Accept").click()
    expect(page.get_by_text("ready", exact=True)).to_have_count(2)


def _train(looker: Looker, rows: Path) -> str:
    """The file's id. There are enough steps that somebody can watch them, and a slow machine may leave some out."""
    page = looker.page
    page.get_by_role("link", name="Jobs").click()
    page.get_by_role("link", name="New job").click()
    page.get_by_label("or upload one now").set_input_files(rows)
    expect(page.get_by_text("This file can be trained on.")).to_be_visible()
    expect(page.locator("#rows mark.learned").first).to_have_text("On its way.")
    file_id = page.get_by_label("Training file").input_value()
    page.get_by_role("button", name="Next: model and technique").click()
    page.locator("#model").select_option("tiny")
    page.get_by_label("Rank").fill("4")
    page.get_by_label("Epochs").fill("15")
    page.get_by_label("Rows a step").fill("1")
    page.get_by_label("A name of your own").fill("first")
    page.get_by_text("More settings").click()
    page.get_by_label("Longest row").fill("64")
    page.get_by_label("Time budget").fill("90s")
    page.get_by_label("Further options").fill(json.dumps(QUICK))
    expect(page.locator("#plan").get_by_text("Tokens trained")).to_be_visible()
    assert looker.faults_of_access() == []
    page.get_by_role("button", name="Count and show tokens").click()
    expect(page.locator("#token-rows mark.learned").first).to_be_visible(timeout=WAIT)
    page.get_by_role("button", name="Next: review").click()
    expect(page.locator("#review")).to_contain_text("lora")
    page.get_by_role("button", name="Start training").click()
    page.wait_for_url(re.compile(r"/ui/jobs/ftjob-"))
    return file_id


def _watch(looker: Looker) -> None:
    """Live: numbers come while the job runs, and the page is not loaded again from the first event to the report."""
    page = looker.page
    expect(page.locator("[data-events] li").first).to_be_visible()
    now = _while_it_trains(looker)
    assert re.match(r"^\d", now["loss"]), now
    assert re.fullmatch(r"\d+ (s|min)", now["left"]), now
    expect(page.locator("[data-state]")).to_have_text("succeeded", timeout=WAIT)
    expect(page.locator("[data-gauge=left]")).to_have_text("done")
    expect(page.locator("[data-gauge=loss]")).to_have_text(re.compile(r"^\d"))
    expect(page.locator("[data-gauge=speed]")).to_have_text(re.compile(r"^\d"))
    expect(page.locator("[data-gauge=memory]")).to_have_text(re.compile("iB$"))
    expect(page.locator("[data-gauge=progress]")).to_have_text(re.compile(r"^\d+ of \d+$"))
    expect(page.locator("[data-chart] canvas")).to_be_visible()
    expect(page.get_by_role("heading", name="Before and after")).to_be_visible()
    expect(page.get_by_role("heading", name="Checkpoints")).to_be_visible()
    assert looker.faults_of_access() == []


def _while_it_trains(looker: Looker) -> dict[str, str]:
    """What the gauges say together at the first moment at which steps are done and steps are left."""
    read = """() => {
        const text = (place) => document.querySelector(place).textContent;
        const gauges = ["progress", "loss", "left"].map((name) => [name, text(`[data-gauge=${name}]`)]);
        return { state: text("[data-state]"), ...Object.fromEntries(gauges) };
    }"""
    deadline = time.monotonic() + WAIT / 1000
    while time.monotonic() < deadline:
        now: dict[str, str] = looker.page.evaluate(read)
        done, _, total = now["progress"].partition(" of ")
        if now["state"] == "running" and done.isdigit() and int(done) < int(total):
            return now
        if now["state"] in ("succeeded", "failed", "cancelled"):
            raise AssertionError(f"no step was seen while it ran: {now}")
        looker.page.wait_for_timeout(50)
    raise AssertionError(f"no step was seen within {WAIT} ms")


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
    """Both models answer side by side, and their tokens are counted."""
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


def _measure(looker: Looker) -> str:
    """The tuned model beside its base; the page follows until the report is there. The path of the evaluation."""
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
    path = _here(looker)
    page.get_by_role("link", name="Evaluations").first.click()
    expect(page.get_by_role("region", name="Evaluations")).to_contain_text("succeeded")
    return path


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
