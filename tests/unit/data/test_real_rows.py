"""Real data sets through task, tokens and audit: nothing fails, and every row's answer is what trains."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from chat_templates import styled_tokenizer

from tunesmith.data.audit import audit
from tunesmith.data.checks import trained_stretches
from tunesmith.data.pairs import tokenize_pairs
from tunesmith.data.tokenize import tokenize_examples
from tunesmith.evaluation.metrics.score import score
from tunesmith.formats.inspect import inspect_source
from tunesmith.formats.read import read_examples
from tunesmith.tasks import prepare_task

ROOT = Path(__file__).resolve().parents[3]
ROWS = 120

SETS = {
    "classification/banking77_train.csv": ("classification", ("accuracy", "macro_f1")),
    "classification/sentiment_amazon.csv": ("classification", ("accuracy", "macro_f1")),
    "math/gsm8k_train.jsonl": ("qa", ("final_number",)),
    "ner/wnut17_train.jsonl": ("ner", ("entity_f1", "entity_precision", "entity_recall")),
    "ner/snips_slots_train.jsonl": ("ner", ("entity_f1", "entity_precision", "entity_recall")),
    "translation/tatoeba_en_de.jsonl": ("translation", ("bleu", "chrf")),
    "qa/xquad_en.jsonl": ("qa", ("exact_match", "token_f1")),
    "chat/alpaca_style_instructions.jsonl": ("chat", ("rouge_l", "chrf")),
    "domain_legal/site_policies.jsonl": ("text", ()),
}
# Data whose task has to be named, or whose columns have to be; with the columns.
NAMED: dict[str, tuple[str, tuple[str, ...], dict[str, str]]] = {
    "math/gsm8k_train.jsonl": ("math", ("final_number",), {}),
    "music/irish_abc.jsonl": (
        "creative",
        ("abc_bars", "abc_valid", "distinct_1", "distinct_2", "distinct_3"),
        {"text": "abc"},
    ),
    "function_calling/bfcl_simple.jsonl": ("function_calling", ("calls_match", "call_names"), {}),
    "text_to_sql/wikisql_train.jsonl": ("text_to_sql", ("sql_exact",), {}),
    "preference/instructions_chosen_rejected.jsonl": ("preference", ("pair_accuracy", "margin"), {}),
}


@pytest.fixture(scope="module")
def real_data() -> Path:
    folder = Path(os.environ.get("TUNESMITH_TEST_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real sample data: set TUNESMITH_TEST_DATA (looked in {folder})")
    return folder


@pytest.mark.parametrize("name", SETS)
def test_a_real_data_set(real_data: Path, tmp_path: Path, name: str) -> None:
    inspection = inspect_source(real_data / name)
    rows = [row for row, _ in zip(read_examples(inspection), range(ROWS), strict=False)]
    task = prepare_task("auto", inspection, [example for _, example in rows])
    assert (task.name, task.metrics) == SETS[name]
    tokenizer = styled_tokenizer("chatml")
    store = tokenize_examples(rows, task, tokenizer, tmp_path / "store", max_length=4096)
    found = audit(store, rows, task, tokenizer, inspection)
    found.require_ok()
    if task.name == "text":
        return
    for index, (_, example) in enumerate(rows):
        row, asked = store[index], task.evaluation(example)
        assert asked is not None
        start, end = trained_stretches(row.trained_T)[-1]
        assert tokenizer.decode(row.token_ids_T[start:end].tolist()) == asked.shown_reference + "<|im_end|>"


@pytest.mark.parametrize("name", NAMED)
def test_a_real_data_set_of_a_named_task(real_data: Path, tmp_path: Path, name: str) -> None:
    wanted, metrics, columns = NAMED[name]
    inspection = inspect_source(real_data / name, columns=columns or None)
    rows = [row for row, _ in zip(read_examples(inspection), range(ROWS), strict=False)]
    examples = [example for _, example in rows]
    task = prepare_task(wanted, inspection, examples)
    assert (task.name, task.metrics) == (wanted, metrics)
    tokenizer = styled_tokenizer("chatml")
    tokenize = tokenize_pairs if wanted == "preference" else tokenize_examples
    store = tokenize(rows, task, tokenizer, tmp_path / "store", max_length=4096)
    audit(store, rows, task, tokenizer, inspection).require_ok()
    if not task.is_asked:
        return
    asked = [row for example in examples if (row := task.evaluation(example)) is not None]
    found = score(task.metrics, [row.shown_reference for row in asked], [row.reference for row in asked], task.labels)
    assert len(asked) == len(examples)
    assert found[metrics[0]]["value"] > 0.99, "what is learned is right by the task's own measure"
