"""Every recipe that ships really trains: a tiny model, a few real rows, and a report with the task's own metrics.

The bundled samples stand in where no real rows are at hand: those of verse, fiction and support routing.
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from real_worker import Place, RealRun
from tiny_models import tiny_encoder_folder

from tunesmith.cli import main
from tunesmith.jobs.create import check_inputs, create_run
from tunesmith.recipe.load import apply_overrides, parse_recipe, read_mapping

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning"),  # PEFT asks for it
]

ROOT = Path(__file__).resolve().parents[2]
RECIPES = {path.stem: path for path in sorted((ROOT / "recipes").glob("*.yaml"))}
SAMPLES = "src/tunesmith/samples"
TRAINED, HELD_OUT = 24, 8
# Of classes, rows of so many: a head knows those of the training rows alone.
CLASSES = 4

WRITING = ("chrf", "distinct_1", "distinct_2", "distinct_3")
ENTITIES = ("entity_f1", "entity_precision", "entity_recall")
ROUTING = ("json_exact", "json_fields", "json_valid")
# By recipe: the real rows, and the metrics of its report.
ROWS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "chat": ("chat/sgd_dialogues.jsonl", ("rouge_l", "chrf")),
    "classification": ("classification/banking77_train.csv", ("accuracy", "macro_f1")),
    "classification-head": ("classification/banking77_train.csv", ("accuracy", "macro_f1")),
    "documents": ("domain_legal/site_policies.jsonl", ("general_perplexity",)),
    "fiction": (f"{SAMPLES}/tales/train.jsonl", WRITING),
    "function-calling": ("function_calling/bfcl_simple.jsonl", ("calls_match", "call_names")),
    "math": ("math/gsm8k_train.jsonl", ("final_number",)),
    "music": ("music/irish_abc.jsonl", ("abc_bars", "abc_valid", "distinct_1", "distinct_2", "distinct_3")),
    "ner": ("ner/snips_slots_train.jsonl", ENTITIES),
    "ner-head": ("ner/snips_slots_train.jsonl", ("tag_f1", *ENTITIES)),
    "preference": ("preference/instructions_chosen_rejected.jsonl", ("pair_accuracy", "margin")),
    "qa": ("qa/xquad_en.jsonl", ("exact_match", "token_f1")),
    "qa-head": ("qa/xquad_en.jsonl", ("exact_match", "token_f1")),
    "support-routing": (f"{SAMPLES}/support_routing/train.jsonl", ROUTING),
    "support-routing-full": (f"{SAMPLES}/support_routing/train.jsonl", ROUTING),
    "text-to-sql": ("text_to_sql/wikisql_train.jsonl", ("sql_exact",)),
    "translation": ("translation/tatoeba_en_de.jsonl", ("bleu", "chrf")),
    "verse": (f"{SAMPLES}/verse/train.jsonl", WRITING),
}
# What the rows need besides, as the recipes and the guide say.
SETTINGS: Mapping[str, tuple[str, ...]] = {
    "music": ("data.columns={text: abc}",),
    "ner-head": ("data.on_bad_rows=skip",),  # an entity that ends inside a word has no tags
}
SMALL = (
    "train.budget=6k tokens",
    "train.tokens_per_step=2000",
    "train.precision=float32",
    "evaluate.rows=4",
    "evaluate.samples=2",
)
ASKED = ("evaluate.max_new_tokens=8", "evaluate.few_shot=1")
# These write no answers: rows are measured by likelihoods, or by a head.
UNASKED = ("classification-head", "documents", "ner-head", "preference", "qa-head")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    place = Place.make(tmp_path_factory.mktemp("recipes"), max_position_embeddings=8192)
    tiny_encoder_folder(place.folder / "encoder", max_position_embeddings=2048)
    return place


def real_rows(source: str) -> Path:
    if source.startswith(SAMPLES):
        return ROOT / source
    folder = Path(os.environ.get("TUNESMITH_TEST_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real sample data: set TUNESMITH_TEST_DATA (looked in {folder})")
    return folder / source


def read(path: Path) -> list[dict[str, Any]]:
    """The rows of a file, of a file of classes those of the first few."""
    if path.suffix != ".csv":
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    with path.open(encoding="utf-8", newline="") as file:
        rows: list[dict[str, Any]] = list(csv.DictReader(file))
    by_class: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        by_class.setdefault(row["category"], []).append(row)
    chosen = list(by_class.values())[:CLASSES]
    return [row for turn in zip(*chosen, strict=False) for row in turn]


def tags(row: Mapping[str, Any]) -> set[str]:
    return {entity["label"] for entity in row.get("entities", ())}


def write_rows(folder: Path, source: Path) -> None:
    """The first rows to train on, and the next ones whose tags these know to measure on."""
    rows = read(source)
    train = rows[:TRAINED]
    known = set[str]().union(*map(tags, train))
    held_out = [row for row in rows[TRAINED:] if tags(row) <= known][:HELD_OUT]
    assert (len(train), len(held_out)) == (TRAINED, HELD_OUT)
    for name, side in (("train.jsonl", train), ("held.jsonl", held_out)):
        (folder / name).write_text("".join(f"{json.dumps(row)}\n" for row in side), encoding="utf-8")


def trained(place: Place, name: str) -> RealRun:
    """The recipe as it ships but for model, rows and size, made into a run and trained by the real worker."""
    source, _ = ROWS[name]
    folder = place.folder / f"{name}-rows"
    folder.mkdir()
    write_rows(folder, real_rows(source))
    content = read_mapping(RECIPES[name])
    model = place.model if content["model"].startswith("smollm2") else place.folder / "encoder"
    settings = [
        f"model={model}",
        f"data.train={folder / 'train.jsonl'}",
        f"data.validation={folder / 'held.jsonl'}",
        *SETTINGS.get(name, ()),
        *SMALL,
        *(() if name in UNASKED else ASKED),
    ]
    recipe = parse_recipe(apply_overrides(content, settings))
    check_inputs(recipe, place.folder / "runs")
    return RealRun(create_run(recipe, place.folder / "runs", name), place).done()


def test_every_recipe_is_run() -> None:
    assert ROWS.keys() == RECIPES.keys()


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_trains_and_reports_its_metrics(place: Place, name: str) -> None:
    run = trained(place, name)
    _, metrics = ROWS[name]
    base, tuned = run.systems["base"], run.systems["tuned"]
    for system in (base, tuned):
        assert set(metrics) == set(system["metrics"])
        assert all(one["low"] <= one["value"] <= one["high"] for one in system["metrics"].values())
    assert tuned["loss"]["value"] != base["loss"]["value"]
    assert run.report["cost"]["steps"] >= 1
    assert run.report["data"]["train"]["used_rows"] > 0
    assert ("few_shot" in run.systems) == (name not in UNASKED)
    against = run.report["against_examples"]
    assert (against is not None) == (name not in UNASKED)
    if against is not None:
        few_shot = run.systems["few_shot"]["metrics"][metrics[0]]["value"]
        tuned_value = tuned["metrics"][metrics[0]]["value"]
        assert (against["base"], against["tuned"]) == pytest.approx((few_shot, tuned_value))
        assert against["difference"] == pytest.approx(tuned_value - few_shot)
    assert (run.report["memorisation"] is not None) == (name in ("fiction", "music", "verse"))
    if not name.endswith("-head"):
        assert tuned["perplexity"]["value"] > 1


def test_the_command_trains_a_recipe_on_the_sample_that_it_names(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("TUNESMITH_CACHE", str(place.folder / "cache"))
    arguments = [
        str(RECIPES["verse"]),
        f"model={place.model}",
        *SMALL,
        *ASKED,
        "--output",
        str(tmp_path),
        "--name",
        "verse",
    ]
    assert main.run(["train", *arguments, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)["report"]
    assert report["data"]["train"]["rows"] == 48
    assert report["data"]["validation"]["rows"] == 12
    assert set(WRITING) == set(report["systems"][-1]["metrics"])
