"""Reports: their schema, and renderings that hold whatever the data holds."""

from __future__ import annotations

import copy
import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from example_report import make_report
from jsonschema import Draft202012Validator
from markdown_it import MarkdownIt

from tunesmith.errors import DataError, OutputError
from tunesmith.evaluation.report import FORMAT, Report, parse_report, render_html, render_markdown, write_report
from tunesmith.evaluation.report.pictures import MOST_POINTS, thin
from tunesmith.evaluation.report.schema import TrainPoint
from tunesmith.runs.atomic import read_json

HOSTILE = (
    "</td><script>alert(1)</script> \"quoted\" 'single' {{ 7 * 7 }} | pipe\nline \ud800 $x_1^{ \x00\x1b[31m \u202e"
)


@pytest.fixture(scope="module")
def report() -> dict[str, Any]:
    return make_report(rows=120, steps=90)


@pytest.fixture(scope="module")
def html(report: dict[str, Any]) -> str:
    return render_html(report)


class Reader(HTMLParser):
    """Reads a page: its tags, attributes and text; every element that must be closed is."""

    VOID = frozenset({"meta", "link", "br", "img", "hr", "input"})

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str | None]] = []
        self.open: list[str] = []
        self.texts: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes.extend((tag, name, value) for name, value in attrs)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes.extend((tag, name, value) for name, value in attrs)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def read_page(page: str) -> Reader:
    reader = Reader()
    reader.feed(page)
    reader.close()
    assert reader.open == []
    return reader


def poison(value: Any, text: str) -> Any:
    """Every text of the report replaced, but for names that the report refers by."""
    if isinstance(value, dict):
        kept = {"name", "metric", "primary_metric"}
        return {
            key: item if key in kept and isinstance(item, str) else poison(item, text) for key, item in value.items()
        }
    if isinstance(value, list):
        return [poison(item, text) for item in value]
    return text if isinstance(value, str) else value


def test_the_page_asks_for_nothing_outside_and_runs_nothing(html: str) -> None:
    page = read_page(html)
    assert not {"script", "link", "iframe", "img", "object", "embed", "base", "form"} & set(page.tags)
    for tag, name, value in page.attributes:
        assert not name.startswith("on"), (tag, name)
        if name in ("src", "href", "xlink:href", "action", "data", "srcset"):
            assert (value or "").startswith("#"), (tag, name, value)
    assert not re.search(r"https?:|url\((?!#)|@import", html)
    assert "default-src 'none'" in html
    assert len(html) < 600_000


def test_ids_are_unique_and_every_reference_within_the_page_has_its_target(html: str) -> None:
    page = read_page(html)
    ids = [value for _, name, value in page.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    targets = re.findall(r'(?:href="|url\()#([^")]+)', html)
    assert targets
    assert set(targets) <= set(ids)


def test_the_page_tells_what_the_report_holds(report: dict[str, Any], html: str) -> None:
    page = read_page(html)
    text = " ".join(" ".join(page.texts).split())
    verdict = report["verdict"]["text"]
    assert verdict[:1].upper() + verdict[1:] in text
    for expected in ("3f" * 32, "every row has trained tokens", "bfloat16 was slower", "2.13.0+cpu", "label missing"):
        assert expected in text
    assert page.tags.count("svg") == 5
    assert page.tags.count("article") == 10
    order = [
        html.index(f'<section id="{name}"') for name in ("results", "samples", "cost", "data", "audit", "warnings")
    ]
    assert order == sorted(order)


def test_pictures_take_the_colours_of_the_page(html: str) -> None:
    pictures = re.findall(r"<svg.*?</svg>", html, flags=re.DOTALL)
    assert all('role="img"' in picture and "aria-label=" in picture for picture in pictures)
    colours = {colour for picture in pictures for colour in re.findall(r"#[0-9a-f]{6}\b", picture)}
    assert not colours
    assert "var(--tuned)" in pictures[0]


def test_hostile_text_stays_text(report: dict[str, Any]) -> None:
    hostile = poison(copy.deepcopy(report), HOSTILE)
    hostile["run"] = HOSTILE
    for system in hostile["systems"]:
        system["details"]["confusion"]["labels"] = [f"{HOSTILE}{n}" for n in range(8)]
        system["metrics"][HOSTILE] = {"value": 0.5, "low": 0.4, "high": 0.6, "higher_is_better": True}
    hostile["resolved"][HOSTILE] = {"value": {HOSTILE: [HOSTILE]}, "reason": HOSTILE}
    hostile["environment"][HOSTILE] = HOSTILE
    hostile["technique"][HOSTILE] = HOSTILE
    page = render_html(hostile)
    reader = read_page(page)
    assert "script" not in reader.tags
    assert not any(name.startswith("on") for _, name, _ in reader.attributes)
    text = " ".join(reader.texts)
    assert "<script>alert(1)</script>" in text
    assert "{{ 7 * 7 }}" in text
    assert not re.search("[\x00\x1b\ud800]", page)
    page.encode()


def test_the_most_confused_of_many_classes_are_drawn(report: dict[str, Any]) -> None:
    many = copy.deepcopy(report)
    confusion = {"labels": ["up", "down"], "counts": [[5, 2, 0], [1, 4, 0]], "others": [3, 0], "classes": 77}
    many["systems"][2]["details"]["confusion"] = confusion
    text = " ".join(read_page(render_html(many)).texts)
    assert "Of 77 classes, the 2 that are taken for each other most." in text
    assert "(75 others)" in text
    confusion["others"] = ["3"]
    assert "(75 others)" not in " ".join(read_page(render_html(many)).texts)


def test_dollar_signs_in_labels_are_no_mathematics(report: dict[str, Any]) -> None:
    priced = copy.deepcopy(report)
    priced["systems"][2]["label"] = "$\\bad{$"
    priced["systems"][2]["details"]["confusion"]["labels"] = [f"$x_{{{n}$" for n in range(8)]
    text = " ".join(read_page(render_html(priced)).texts)
    assert "$x_{7$" in text
    assert "$\\bad{$" in text


def test_huge_texts_are_cut_in_sight_and_whole_in_the_json(report: dict[str, Any], tmp_path: Path) -> None:
    huge = copy.deepcopy(report)
    huge["samples"][0]["prompt"] = "word " * 400_000
    huge["warnings"] = ["w" * 1_000_000]
    write_report(huge, tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert len(page) < 600_000
    assert "(1,996,000 more characters in report.json)" in page
    assert "(999,400 more characters in report.json)" in (tmp_path / "report.md").read_text()
    assert len(read_json(tmp_path / "report.json")["samples"][0]["prompt"]) == 2_000_000


def cells(tokens: list[Any]) -> list[list[str]]:
    rows: list[list[str]] = []
    for index, token in enumerate(tokens):
        if token.type == "tr_open":
            rows.append([])
        elif token.type in ("td_open", "th_open"):
            inline = tokens[index + 1]
            rows[-1].append("".join(child.content for child in inline.children or []))
            kinds = {child.type for child in inline.children or []}
            assert kinds <= {"text", "text_special"}, kinds
    return rows


def test_markdown_cells_hold_pipes_line_breaks_and_markup_as_text(report: dict[str, Any]) -> None:
    text = "a|b\n\nc `code` **bold** [x](y) <b> _e_ &lt; \\| 1. - # $m$ \r\nend"
    hostile = poison(copy.deepcopy(report), text)
    parsed = MarkdownIt("gfm-like", {"html": True, "linkify": False}).parse(render_markdown(hostile))
    rows = cells(parsed)
    # One table each: results, classes, form, cost, data, audit, resolved, environment, warnings.
    assert sum(token.type == "table_open" for token in parsed) == 9
    shown = " ".join(text.replace("\r\n", "\n").split("\n"))
    assert [shown] in rows
    assert [len(row) for row in rows if shown in row and len(row) == 3].count(3) >= len(report["resolved"])
    assert not any(token.type == "html_block" for token in parsed)


def test_markdown_answers_cannot_end_their_block(report: dict[str, Any]) -> None:
    hostile = copy.deepcopy(report)
    answer = "```\n# not a heading\n`````\n| no | table |\n~~~"
    hostile["samples"] = [{"place": "x:1", "prompt": answer, "reference": None, "answers": {"tuned": answer}}]
    parsed = MarkdownIt("gfm-like", {"linkify": False}).parse(render_markdown(hostile))
    assert [token.content for token in parsed if token.type == "fence"] == [answer + "\n"] * 2
    headings = [parsed[i + 1].content for i, token in enumerate(parsed) if token.type == "heading_open"]
    assert "not a heading" not in headings


def test_the_json_is_whole_and_fits_its_schema(report: dict[str, Any], tmp_path: Path) -> None:
    write_report(report, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.html", "report.json", "report.md"]
    written = read_json(tmp_path / "report.json")
    assert written == json.loads(json.dumps(report))
    Draft202012Validator(Report.model_json_schema()).validate(written)
    assert parse_report(written).systems[2].metrics["accuracy"].higher_is_better


def test_values_that_are_not_finite_become_null_and_are_said_to_be(report: dict[str, Any], tmp_path: Path) -> None:
    endless = copy.deepcopy(report)
    endless["systems"][0]["perplexity"] = {"value": float("inf"), "low": float("nan"), "high": float("inf")}
    endless["curves"]["train"][3]["loss"] = float("nan")
    write_report(endless, tmp_path)
    assert read_json(tmp_path / "report.json")["systems"][0]["perplexity"]["value"] is None
    assert "not finite" in (tmp_path / "report.md").read_text()


def test_a_bare_report_is_shown_without_empty_sections(tmp_path: Path) -> None:
    bare = {"format": FORMAT, "run": "stopped early", "created": "2026-11-24"}
    write_report(bare, tmp_path)
    page = read_page((tmp_path / "report.html").read_text())
    assert "table" not in page.tags
    assert "svg" not in page.tags
    assert "No verdict" in " ".join(page.texts)


def test_fields_of_later_additions_are_kept_and_later_formats_refused(report: dict[str, Any]) -> None:
    assert parse_report({**report, "new": [1]}).model_dump()["new"] == [1]
    with pytest.raises(DataError) as error:
        parse_report({**report, "format": FORMAT + 1})
    assert error.value.code == "report.format"
    assert error.value.hint == "upgrade Tunesmith"


def test_every_wrong_field_is_named_and_nothing_is_written(report: dict[str, Any], tmp_path: Path) -> None:
    wrong = {**report, "seed": "many", "audit": [{"name": "x", "ok": "perhaps"}]}
    with pytest.raises(DataError) as error:
        write_report(wrong, tmp_path)
    assert {problem.place for problem in error.value.problems} == {"seed", "audit.0.ok"}
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(DataError, match="not a report"):
        parse_report([])


def test_a_folder_that_is_missing_is_an_output_error(report: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(OutputError):
        write_report(report, tmp_path / "missing")


def test_a_long_curve_is_thinned_to_means_of_neighbours(report: dict[str, Any]) -> None:
    points = [TrainPoint(step=step, loss=float(step % 2), learning_rate=1.0) for step in range(4000)]
    thinned = thin(points)
    assert len(thinned) == MOST_POINTS
    assert {loss for _, loss, _ in thinned} == {0.5}
    assert thinned[-1][0] == 3999
    long = {**report, "curves": {"train": [point.model_dump() for point in points], "validation": []}}
    assert "mean of up to 10 steps" in render_html(long)


def test_undecided_and_worse_are_told_without_praise(report: dict[str, Any]) -> None:
    undecided = copy.deepcopy(report)
    undecided["verdict"] |= {"decided": False, "text": "undecided: +1.2 points (-0.8 to 3.1)"}
    assert '<div class="card verdict undecided">' in render_html(undecided)
    worse = copy.deepcopy(report)
    worse["verdict"] |= {"difference": -0.1, "low": -0.2, "high": -0.05, "text": "worse by 10.0 points (5.0 to 20.0)"}
    assert '<div class="card verdict worse">' in render_html(worse)
    lower = copy.deepcopy(report)
    lower["verdict"] |= {"metric": "loss", "difference": -0.5, "low": -0.6, "high": -0.4}
    assert '<div class="card verdict better">' in render_html(lower)


def test_loading_the_report_and_the_metrics_loads_no_plotting_and_no_torch() -> None:
    code = (
        "import sys, tunesmith.evaluation.report, tunesmith.evaluation.metrics\n"
        "print(sorted({'matplotlib', 'sklearn', 'torch', 'sacrebleu', 'seqeval'} & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_the_share_of_answering_in_the_run_is_told(report: dict[str, Any]) -> None:
    """Each of three systems answers for 41.3 s of a run of 412 s; without a run there is no share."""
    text = render_markdown(report)
    one = "| 600 tokens for 120 rows in 41.3 s, 10 % of the run's wall time |"
    assert text.count(one) == 3
    assert "| Answering, all systems | 2 min 4 s, 30 % of the run's wall time |" in text
    alone = copy.deepcopy(report)
    del alone["cost"]["wall_seconds"]
    assert "of the run's wall time" not in render_markdown(alone)
    assert "600 tokens for 120 rows in 41.3 s |" in render_markdown(alone)


def test_a_run_too_short_for_the_next_plans_says_so(report: dict[str, Any]) -> None:
    told = "The next plans of this machine learn nothing from it: it has fewer than 5 steps."
    for steps, is_short in ((4, True), (5, False)):
        plan = [{"what": "steps", "predicted": 4, "measured": steps}]
        assert (told in render_markdown({**report, "plan": plan})) == is_short
