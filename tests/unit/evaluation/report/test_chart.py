from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree

import pytest
from matplotlib import image as pyplot_image

from tunesmith.errors import DataError
from tunesmith.evaluation.report import parse_report, render_html, render_markdown
from tunesmith.evaluation.report.chart import make_chart
from tunesmith.evaluation.report.chart_page import write_chart


def report(run, base=None, tuned=None, **more):
    systems = []
    for name, metrics in (("base", base), ("tuned", tuned)):
        if metrics:
            known = {one: {"value": value, "low": value - 0.1, "high": value + 0.1} for one, value in metrics.items()}
            systems.append({"name": name, "label": name.title(), "metrics": known, **more})
    return {"format": 1, "run": run, "created": "2026-11-24", "tunesmith": "0.1.0", "systems": systems}


def test_reports_of_one_run_become_one_model_with_all_that_was_measured():
    chart = make_chart(
        [
            parse_report(report("a", {"mc1": 0.2, "mc2": 0.4}, {"mc1": 0.5, "mc2": 0.6})),
            parse_report(report("b", {"mc1": 0.3})),
            parse_report(report("a", {"accuracy": 0.1}, {"accuracy": 0.9})),
        ]
    )
    assert [model.name for model in chart.models] == ["a", "b"]
    assert chart.metrics == ("mc1", "mc2", "accuracy")
    assert chart.models[0].metrics["accuracy"]["after"].value == 0.9
    assert list(chart.models[1].metrics["mc1"]) == ["before"]


def named(folder, run, value):
    return parse_report({**report(run, {"mc1": value}), "model": {"name": folder}})


def test_two_folders_of_one_name_are_two_models_named_by_what_tells_them_apart():
    chart = make_chart([named("exp1/merged", "merged", 0.2), named("exp2/merged", "merged", 0.4)])
    found = [(model.name, model.metrics["mc1"]["before"].value) for model in chart.models]
    assert found == [("exp1/merged", 0.2), ("exp2/merged", 0.4)]
    deep = [named(f"/data/{one}/out/merged", "merged", 0.2) for one in ("a", "b")]
    assert [model.name for model in make_chart(deep).models] == ["a/out/merged", "b/out/merged"]


def test_one_folder_named_in_two_ways_and_a_run_with_its_own_report_stay_one_model():
    reports = [
        named("runs/first", "first", 0.2),
        named("/data/runs/first", "first", 0.3),
        parse_report(report("first", {"accuracy": 0.1})),
    ]
    (model,) = make_chart(reports).models
    assert model.name == "first"
    assert set(model.metrics) == {"mc1", "accuracy"}


@pytest.mark.parametrize(("base", "tuned"), [(-0.6, -0.2), (-0.6, 0.2), (0.6, -0.2)])
def test_bars_below_zero_are_drawn(tmp_path, base, tuned):
    write_chart([report("a", {"margin": base}, {"margin": tuned})], ("margin",), tmp_path)
    picture = pyplot_image.imread(tmp_path / "chart.png")[:, :, :3] * 255
    areas = [int((abs(picture - colour).max(axis=2) < 2).sum()) for colour in ((0x8B, 0x92, 0x9B), (0x0F, 0x76, 0x6E))]
    # Three times as long, so about three times as much colour.
    assert 2.5 < areas[0] / areas[1] < 3.5
    assert areas[1] > 5_000


def test_metrics_are_chosen_by_name_and_unknown_ones_named():
    found = [parse_report(report("a", {"mc1": 0.2, "mc2": 0.4}))]
    assert make_chart(found, ["mc2"]).metrics == ("mc2",)
    with pytest.raises(DataError, match="no report has this metric: bleu") as caught:
        make_chart(found, ["bleu"])
    assert caught.value.hint == "they have mc1, mc2"
    with pytest.raises(DataError):
        make_chart([parse_report({"format": 1, "run": "a", "created": ""})])


def test_every_form_of_a_chart_shows_every_value(tmp_path):
    reports = [
        report("first <run> & more", {"mc1": 0.231, "ours/acc": 0.125}, {"mc1": 0.517, "ours/acc": 0.75}),
        report("a-name-that-is-much-longer-than-any-bar-is-wide-and-goes-on", {"mc1": 0.304}),
    ]
    write_chart(reports, (), tmp_path)
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".html", ".json", ".png", ".svg"]
    svg = (tmp_path / "chart.svg").read_text()
    ElementTree.fromstring(svg)
    for shown in ("23.1", "51.7", "30.4", "0.125", "0.750", "MC1 (%)", "before fine-tuning", "first &lt;run&gt;"):
        assert shown in svg
    assert "prefers-color-scheme: dark" in svg
    assert "#00000" not in svg
    html = (tmp_path / "chart.html").read_text()
    assert "23.1 %" in html
    assert "+28.6 points" in html
    assert "first &lt;run&gt; &amp; more" in html
    assert (tmp_path / "chart.png").read_bytes().startswith(b"\x89PNG")
    numbers = json.loads((tmp_path / "chart.json").read_text())
    assert numbers["models"][0]["metrics"]["mc1"]["after"] == pytest.approx(
        {"value": 0.517, "low": 0.417, "high": 0.617}
    )


def test_robustness_is_told_for_each_way_of_asking():
    table = [{"asked": "as_written", "changed": 0, "mc1": 0.5}, {"asked": "typos", "changed": 9, "mc1": 0.375}]
    document = report("a", {"mc1": 0.5}, {"mc1": 0.5}, details={"robustness": table})
    text = render_markdown(document)
    assert "| typos | 9 | 37.5 % | 12.5 | 37.5 % | 12.5 |" in text
    assert "Robustness" in render_html(document)
