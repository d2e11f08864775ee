"""KAITO's manifests: what a recipe becomes there, and what of it is refused or told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from fake_kaito import SECTIONS, TUNING_PRESETS, FakeKaito, Refused, check_config, check_workspace, workspace_schema
from kaito_cases import CASES, ROWS, objects_of, recipe_of

from tunesmith.catalog.entries import find_entry
from tunesmith.errors import DataError, RecipeError
from tunesmith.executors.kaito.executor import KaitoExecutor
from tunesmith.executors.kaito.limits import warnings_for
from tunesmith.executors.kaito.manifests import object_name
from tunesmith.executors.kaito.presets import TUNABLE
from tunesmith.executors.kaito.rows import HELD_OUT, TRAIN, write_rows
from tunesmith.executors.protocol import Submission
from tunesmith.recipe.executors.kaito import Kaito
from tunesmith.recipe.load import dump_recipe, parse_recipe
from tunesmith.recipe.schema import Recipe

GOLDEN = Path(__file__).parent / "golden"


def sections_of(recipe: Recipe) -> dict[str, Any]:
    sections: dict[str, Any] = yaml.safe_load(objects_of(recipe)[0]["data"]["training_config.yaml"])["training_config"]
    return sections


def taken(config_map: dict[str, Any], workspace: dict[str, Any]) -> None:
    """Raises where KAITO would not take it."""
    kaito = FakeKaito(workspace_schema(), Path("none"))
    metadata = config_map["metadata"]
    kaito.config_maps[metadata["namespace"], metadata["name"]] = config_map
    check_workspace(kaito, metadata["namespace"], workspace)


@pytest.mark.parametrize("name", CASES)
def test_kaito_takes_what_a_recipe_becomes(name: str) -> None:
    config_map, workspace = objects_of(CASES[name])
    taken(config_map, workspace)
    sections = yaml.safe_load(config_map["data"]["training_config.yaml"])["training_config"]
    assert set(sections) <= set(SECTIONS)
    # A recipe that was written down and read again is the same tuning.
    again = parse_recipe(yaml.safe_load(dump_recipe(CASES[name])), "the test")
    assert objects_of(again) == (config_map, workspace)


@pytest.mark.parametrize("name", CASES)
def test_manifests_are_as_they_were(name: str, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    inputs = {"rows.jsonl": tmp_path / "rows.jsonl"}
    recipe = CASES[name]
    assert isinstance(recipe.executor, Kaito)
    submission = Submission("demo", "k", "", recipe, inputs, devices=recipe.train.devices)
    files = KaitoExecutor(recipe.executor).render(submission)
    assert files["workspace.yaml"] == (GOLDEN / f"kaito-{name}.yaml").read_text()
    documents = list(yaml.safe_load_all(files["workspace.yaml"]))
    assert documents == list(objects_of(recipe))
    for warning in warnings_for(recipe, recipe.executor):
        assert warning in files["notes.md"]


def test_a_typo_would_be_found() -> None:
    """The checks above would pass for nothing if they let everything through."""
    config_map, workspace = objects_of(CASES["lora-volume-image"])
    for path, value in [
        (("tuning", "inptu"), {}),
        (("tuning", "output", "imagePushSecrets"), "x"),
        (("resource", "labelSelector", "matchLabel"), {}),
        (("tuning", "method"), "dora"),
        (("resource", "count"), 2),
        (("inference",), {"preset": {"name": "phi-4"}}),
        (("tuning", "preset"), {"name": "llama"}),
        (("tuning", "input", "urls"), ["https://team.example/rows.jsonl"]),
    ]:
        changed = json.loads(json.dumps(workspace))
        place = changed
        for word in path[:-1]:
            place = place[word]
        place[path[-1]] = value
        with pytest.raises(Refused):
            taken(config_map, changed)
    for text in (
        "training_config: {TrainingArguments: {output_dir: /mnt/results}, Trainer: {}}",
        "training_config: {TrainingArguments: {output_dir: .}}",
        "training_config: {TrainingArguments: {output_dir: a}, QuantizationConfig: {load_in_4bit: true}}",
        "training_config: {TrainingArguments: {output_dir: a}, LoraConfig: {rank_pattern: {q: 1}}}",
    ):
        with pytest.raises(Refused):
            check_config({"data": {"training_config.yaml": text}}, "lora")


def test_every_preset_gets_the_modules_that_it_has() -> None:
    assert set(TUNABLE) == set(TUNING_PRESETS)
    for preset in TUNABLE:
        model = preset if find_entry(preset) else f"Qwen/{preset}"
        recipe = recipe_of({"model": model}, chat_template="x.jinja")
        _, workspace = objects_of(recipe)
        assert workspace["tuning"]["preset"]["name"] == preset
        modules = sections_of(recipe)["LoraConfig"]["target_modules"]
        if preset.startswith("phi"):
            assert modules == ["qkv_proj", "o_proj", "gate_up_proj", "down_proj"]
        else:
            assert modules == ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def test_modules_by_name_are_those_of_the_model() -> None:
    some = recipe_of({"technique": {"name": "lora", "targets": ["qkv_proj"]}})
    assert sections_of(some)["LoraConfig"]["target_modules"] == ["qkv_proj"]
    attention = recipe_of({"technique": {"name": "lora", "targets": "attention"}})
    assert sections_of(attention)["LoraConfig"]["target_modules"] == ["qkv_proj", "o_proj"]
    with pytest.raises(RecipeError) as caught:
        objects_of(recipe_of({"technique": {"name": "lora", "targets": ["q_proj", "o_proj"]}}))
    assert (caught.value.code, caught.value.value) == ("kaito.targets", "q_proj")


@pytest.mark.parametrize(
    ("model", "preset"),
    [("qwen3-0.6b", "auto"), ("phi-4", "phi-3-mini-4k-instruct"), ("phi-4", "phi-9"), ("a/b", "phi-4")],
)
def test_models_without_a_preset_are_refused_with_the_list(model: str, preset: str) -> None:
    with pytest.raises(RecipeError) as caught:
        objects_of(recipe_of({"model": model}, preset=preset))
    assert caught.value.code == "kaito.preset"
    assert caught.value.hint is not None
    assert "phi-3.5-mini-instruct" in caught.value.hint or "phi-4" in caught.value.hint


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"technique": "full"}, "technique"),
    ({"technique": "dora"}, "technique"),
    ({"technique": {"name": "lora", "rank_pattern": {"o_proj": 4}}}, "technique.rank_pattern"),
    ({"technique": {"name": "lora", "learning_rate_ratio": 16}}, "technique.learning_rate_ratio"),
    ({"technique": {"name": "lora", "initialization": "pissa"}}, "technique.initialization"),
    ({"technique": {"name": "lora", "alpha": 1.5}}, "technique.alpha"),
    ({"objective": "dpo"}, "objective"),
    ({"objective": "text"}, "objective"),
    ({"objective": {"name": "sft", "label_smoothing": 0.1}}, "objective.label_smoothing"),
    ({"train": {"nodes": 2}}, "train.nodes"),
    ({"train": {"budget": "10m"}}, "train.budget"),
    ({"train": {"tokens_per_step": 4096}}, "train.tokens_per_step"),
    ({"train": {"checkpoint_every_steps": 5}}, "train.checkpoint_every_steps"),
    ({"train": {"patience": 2}}, "train.patience"),
    ({"train": {"optimizer": "schedule_free_adamw"}}, "train.optimizer"),
    ({"train": {"share_prefix": True}}, "train.share_prefix"),
    ({"train": {"activation_checkpointing": 3}}, "train.activation_checkpointing"),
    ({"train": {"max_length": 512}}, "data.on_long_rows"),
    ({"train": {"on_non_finite": "skip"}}, "train.on_non_finite"),
    ({"strategy": "zero3"}, "strategy"),
    ({"export": ["gguf"]}, "export"),
    ({"data": {"train": "rows.jsonl", "new_tokens": ["<a>"]}}, "data.new_tokens"),
    ({"data": {"train": "rows.jsonl", "on_long_rows": "skip"}}, "data.on_long_rows"),
    ({"data": {"train": [{"path": "a", "weight": 2}]}}, "data.train"),
    ({"model": "mistral-7b-v0.3"}, "executor.chat_template"),
]


@pytest.mark.parametrize(("given", "place"), REFUSED, ids=[place for _, place in REFUSED])
def test_what_changes_the_training_is_refused_by_name(given: dict[str, Any], place: str) -> None:
    with pytest.raises(RecipeError) as caught:
        objects_of(recipe_of(given))
    assert [problem.place for problem in caught.value.problems] == [place]


def test_all_refusals_come_at_once() -> None:
    with pytest.raises(RecipeError) as caught:
        objects_of(recipe_of({"technique": "vera", "train": {"nodes": 2, "budget": "1h"}, "strategy": "fsdp"}))
    places = {problem.place for problem in caught.value.problems}
    assert places == {"technique", "train.nodes", "train.budget", "strategy"}


def test_what_is_otherwise_than_here_is_told() -> None:
    recipe = recipe_of({"evaluate": {"metrics": ["exact_match"], "rows": 5}, "fit": "try"})
    assert isinstance(recipe.executor, Kaito)
    told = "\n".join(warnings_for(recipe, recipe.executor))
    for word in (
        "assistant",
        "resume",
        "held-out",
        "evaluate.metrics, evaluate.rows",
        "fit",
        "not put anywhere",
        "cuts",
    ):
        assert word in told
    plain = recipe_of(input={"volume_claim": "rows", "store": "az://rows"})
    assert isinstance(plain.executor, Kaito)
    quiet = "\n".join(warnings_for(plain, plain.executor))
    assert "evaluate." not in quiet
    assert "not put anywhere" not in quiet
    assert "different lengths" not in quiet
    several = recipe_of(rows_per_micro_batch=2)
    assert isinstance(several.executor, Kaito)
    assert "different lengths" in "\n".join(warnings_for(several, several.executor))


@pytest.mark.parametrize(
    ("executor", "words"),
    [
        ({"input": {"url": "https://a.example/x.jsonl?sig=secret"}}, "signature"),
        ({"input": {"url": "https://me:secret@a.example/x.jsonl"}}, "signature"),
        ({"input": {"url": "ftp://a.example/x.jsonl"}}, "https"),
        ({"input": {"url": "https://a.example/folder/"}}, "must name the file"),
        ({"input": {}}, "exactly one"),
        ({"input": {"volume_claim": "rows"}}, "needs file"),
        ({"input": {"volume_claim": "rows", "file": "../x"}}, "relative path"),
        ({"input": {"image": "a.io/x:1", "store": "az://rows"}}, "cannot be put into an image"),
        ({"input": {"url": "https://a.example/x.jsonl", "pull_secrets": ["acr"]}}, "belong to image"),
        ({"output": {"image": "a.io/x:1"}}, "push_secret"),
        ({"output": {"image": "not an image", "push_secret": "acr"}}, "registry/repository:tag"),
        ({"output": {"volume_claim": "a", "image": "a.io/x:1", "push_secret": "acr"}}, "exactly one"),
        ({"instance_type": None}, "labels"),
        ({"namespace": "Not A Name"}, "namespace"),
    ],
)
def test_settings_that_make_no_sense_are_refused(executor: dict[str, Any], words: str) -> None:
    with pytest.raises(RecipeError) as caught:
        recipe_of(**executor)
    assert words in str(caught.value)
    assert "sig=secret" not in str(caught.value)
    assert "me:secret" not in str(caught.value)


def test_steps_have_as_many_rows_as_asked_for() -> None:
    for rows, at_once, devices in ((8, 1, 1), (8, 4, 2), (16, 4, 1), (4, 8, 1), (6, 4, 4)):
        given = {"train": {"devices": devices}}
        arguments = sections_of(recipe_of(given, rows_per_step=rows, rows_per_micro_batch=at_once))["TrainingArguments"]
        made = arguments["per_device_train_batch_size"] * arguments["gradient_accumulation_steps"] * devices
        assert rows <= made < rows + arguments["per_device_train_batch_size"] * devices


def test_names_are_those_of_the_dns_and_of_the_key() -> None:
    names = {object_name(name, key) for name in ("a", "A run_1.x", "9-" + "x" * 80, "---") for key in ("k", "l")}
    assert len(names) == 8
    for name in names:
        assert len(name) <= 45
        assert name[0].isalpha()
        assert name.replace("-", "").isalnum()
        assert name == name.lower()
    assert object_name("a", "k") == object_name("a", "k")


def write(tmp_path: Path, rows: list[dict[str, Any]], **data: Any) -> tuple[Path, Submission]:
    source = tmp_path / "folder" / "deep" / "rows.jsonl"
    source.parent.mkdir(parents=True, exist_ok=True)
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = recipe_of({"data": {"train": "inputs/train/folder", **data}})
    out = tmp_path / "out"
    out.mkdir(exist_ok=True)
    return out, Submission("demo", "k", "", recipe, {"inputs/train/folder/deep/rows.jsonl": source})


def read(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_rows_of_any_shape_become_conversations(tmp_path: Path) -> None:
    labelled = [{"text": f"It {what} {n}", "label": what} for n in range(10) for what in ("works", "fails")]
    out, submission = write(tmp_path, labelled, validation=0.2)
    written = write_rows(submission, out)
    train, held_out = read(out / TRAIN), read(out / HELD_OUT)
    assert (len(train), len(held_out)) == (written.train, written.held_out)
    assert (written.train + written.held_out, written.held_out) == (20, 4)
    roles = {tuple(message["role"] for message in row["messages"]) for row in train}
    assert roles == {("system", "user", "assistant")}
    assert {row["messages"][-1]["content"] for row in [*train, *held_out]} == {"works", "fails"}
    # The instruction lists all labels, and no row stands on both sides.
    assert all("works" in row["messages"][0]["content"] and "fails" in row["messages"][0]["content"] for row in train)
    assert not [row for row in held_out if row in train]


def test_held_out_rows_may_be_a_file(tmp_path: Path) -> None:
    (tmp_path / "apart.jsonl").write_text(json.dumps(ROWS[3]) + "\n")
    out, submission = write(tmp_path, ROWS, validation=str(tmp_path / "apart.jsonl"))
    assert write_rows(submission, out).held_out == 1
    assert read(out / TRAIN) == ROWS
    assert read(out / HELD_OUT) == [ROWS[3]]


@pytest.mark.parametrize(
    ("row", "code"),
    [
        ({"text": "Only words, to be learned as they are."}, "kaito.task"),
        ({"prompt": "Which?", "chosen": "this", "rejected": "that"}, "kaito.task"),
    ],
)
def test_tasks_that_kaito_cannot_train_are_refused(tmp_path: Path, row: dict[str, Any], code: str) -> None:
    rows = [{key: f"{value} {number}" for key, value in row.items()} for number in range(10)]
    out, submission = write(tmp_path, rows)
    with pytest.raises(RecipeError) as caught:
        write_rows(submission, out)
    assert caught.value.code == code


def test_calls_of_functions_are_refused_at_their_row(tmp_path: Path) -> None:
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    calling = {"messages": [{"role": "user", "content": "Do it"}, {"role": "assistant", "tool_calls": [call]}]}
    out, submission = write(tmp_path, [*ROWS, calling])
    with pytest.raises(DataError) as caught:
        write_rows(submission, out)
    assert caught.value.code == "kaito.calls"
    assert str(caught.value.place).endswith(":21")
