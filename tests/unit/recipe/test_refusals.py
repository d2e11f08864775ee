"""Every row of the table of refusals: what it refuses, and that it lets through what is next to it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from recipe_cases import DATA, HOST, MODEL, TEXT, problems_of, recipe

from tunesmith.errors import RecipeError
from tunesmith.recipe.facts import DataFacts, ModelFacts
from tunesmith.recipe.load import load_recipe
from tunesmith.recipe.refusal import Facts
from tunesmith.recipe.refusals import LEARNED_BY_SFT, REFUSALS, check
from tunesmith.recipe.schema import Recipe
from tunesmith.recipe.techniques import LEARN_TOKENS

PAIRS = replace(DATA, task="preference", shape="preference")
RATED = replace(PAIRS, shape="rated")

Case = tuple[Recipe, DataFacts, ModelFacts]

QUESTIONS = replace(DATA, task="qa", shape="question_answer")
CLASSES = replace(DATA, task="classification", shape="text_label", labels=3)

FOR_WRITING = ("gguf", "onnx-adapter")

# Code: cases that are refused for it alone, and cases beside them that are not refused.
TWO = "train.devices=2"
CUT = ("strategy=fsdp", TWO)
CASES: dict[str, tuple[list[Case], list[Case]]] = {
    "recipe.two_step_sizes": (
        [(recipe("train.rows_per_step=8", "train.tokens_per_step=600"), DATA, MODEL)],
        [(recipe("train.rows_per_step=8"), DATA, MODEL), (recipe("train.tokens_per_step=600"), DATA, MODEL)],
    ),
    "recipe.multiplied_rate": (
        [(recipe("train.learning_rate_multiplier=2", "train.learning_rate=0.1"), DATA, MODEL)],
        [
            (recipe("train.learning_rate_multiplier=2"), DATA, MODEL),
            (recipe("train.learning_rate_multiplier=1", "train.learning_rate=0.1"), DATA, MODEL),
        ],
    ),
    "recipe.single_devices": (
        [(recipe("strategy=single", TWO), DATA, MODEL)],
        [
            (recipe("strategy=single"), DATA, MODEL),
            (recipe(TWO), DATA, MODEL),
            (recipe("strategy=ddp", TWO), DATA, MODEL),
        ],
    ),
    "recipe.strategy_alone": (
        [(recipe(f"strategy={name}"), DATA, MODEL) for name in ("ddp", "fsdp", "zero1", "zero3")],
        [(recipe(*CUT), DATA, MODEL), (recipe(), DATA, MODEL)],
    ),
    "recipe.cut_technique": (
        [
            (recipe(*CUT, "technique=qlora", "technique.quantization=int8"), DATA, MODEL),
            (recipe(*CUT, "technique=qdora"), DATA, MODEL),
            (recipe("strategy=zero3", TWO, "technique=ia3"), DATA, MODEL),
        ],
        [
            (recipe(*CUT, "technique=qlora"), DATA, MODEL),
            (recipe("strategy=zero3", TWO, "technique=qlora"), DATA, MODEL),
            (recipe(*CUT, "technique=dora"), DATA, MODEL),
            (recipe(*CUT, "technique=full"), DATA, MODEL),
            (recipe("strategy=ddp", TWO, "technique=qlora"), DATA, MODEL),
        ],
    ),
    "recipe.cut_optimizer": (
        [
            (recipe(f"strategy={name}", TWO, "train.optimizer=adamw_8bit"), DATA, MODEL)
            for name in ("fsdp", "zero1", "zero2", "zero3")
        ],
        [(recipe("strategy=ddp", TWO, "train.optimizer=adamw_8bit"), DATA, MODEL)],
    ),
    "recipe.cut_new_tokens": (
        [(recipe(*CUT, "data.new_tokens=[one]"), DATA, MODEL)],
        [(recipe("strategy=ddp", TWO, "data.new_tokens=[one]"), DATA, MODEL)],
    ),
    "recipe.cut_model": (
        [
            (recipe(*CUT), CLASSES, replace(MODEL, kind="encoder")),
            (recipe(*CUT, "objective=sequence_classification"), CLASSES, MODEL),
            (recipe(*CUT, "technique.initialization=pissa"), DATA, MODEL),
        ],
        [
            (recipe(*CUT, "technique.initialization=gaussian"), DATA, MODEL),
            (recipe("strategy=ddp", TWO, "objective=sequence_classification"), CLASSES, MODEL),
        ],
    ),
    "recipe.cut_gradients": (
        [(recipe(f"strategy={name}", TWO, "technique=adalora"), DATA, MODEL) for name in ("zero1", "zero2")],
        [
            (recipe("strategy=ddp", TWO, "technique=adalora"), DATA, MODEL),
            (recipe("strategy=zero2", TWO, "technique=qlora"), DATA, MODEL),
            (recipe("strategy=zero2", TWO, "objective=sequence_classification"), CLASSES, MODEL),
        ],
    ),
    "recipe.cut_curve": (
        [
            (recipe(f"strategy={name}", TWO, "evaluate.learning_curve=true"), DATA, MODEL)
            for name in ("fsdp", "zero1", "zero3")
        ],
        [(recipe("strategy=ddp", TWO, "evaluate.learning_curve=true"), DATA, MODEL)],
    ),
    "recipe.address_alone": (
        [(recipe("train.address=here"), DATA, MODEL)],
        [(recipe("train.address=here", "train.nodes=2"), DATA, MODEL)],
    ),
    "recipe.zero_skip": (
        [
            (recipe(f"strategy={name}", TWO, "train.on_non_finite=skip"), DATA, MODEL)
            for name in ("zero1", "zero2", "zero3")
        ],
        [(recipe(*CUT, "train.on_non_finite=skip"), DATA, MODEL)],
    ),
    "recipe.offload_strategy": (
        [
            (recipe("strategy=single", "train.offload=true"), DATA, MODEL),
            (recipe("strategy=ddp", TWO, "train.offload=true"), DATA, MODEL),
        ],
        [(recipe("strategy=ddp", TWO), DATA, MODEL)],
    ),
    "recipe.offload_host": (
        [
            (recipe(f"strategy={name}", TWO, "train.offload=true"), DATA, MODEL)
            for name in ("fsdp", "zero1", "zero3", "auto")
        ],
        [(recipe(*CUT), DATA, MODEL)],
    ),
    "recipe.not_causal": (
        [(recipe("objective=sft"), DATA, replace(MODEL, kind="encoder"))],
        [(recipe(), DATA, MODEL), (recipe(), CLASSES, replace(MODEL, kind="encoder", has_chat_template=False))],
    ),
    "recipe.head_rows": (
        [
            (recipe("objective=sequence_classification"), DATA, MODEL),
            (recipe("objective=token_classification"), CLASSES, MODEL),
            (recipe(), DATA, replace(MODEL, kind="encoder")),
        ],
        [(recipe("objective=sequence_classification"), CLASSES, replace(MODEL, has_chat_template=False))],
    ),
    "recipe.head_context": (
        [(recipe("objective=question_answering"), replace(QUESTIONS, has_context=False), MODEL)],
        [(recipe("objective=question_answering"), QUESTIONS, MODEL)],
    ),
    "recipe.seq2seq_model": (
        [(recipe("objective=seq2seq"), DATA, MODEL)],
        [(recipe("objective=seq2seq"), DATA, replace(MODEL, kind="encoder_decoder", has_chat_template=False))],
    ),
    "recipe.seq2seq_task": (
        [(recipe(), TEXT, replace(MODEL, kind="encoder_decoder"))],
        [(recipe(), QUESTIONS, replace(MODEL, kind="encoder_decoder"))],
    ),
    "recipe.encoder_prefix": (
        [(recipe("train.share_prefix=true"), CLASSES, replace(MODEL, kind="encoder"))],
        [(recipe("train.share_prefix=true"), CLASSES, MODEL)],
    ),
    "recipe.no_chat_template": (
        [
            (recipe(), replace(DATA, task=task), replace(MODEL, has_chat_template=False))
            for task in ("chat", "classification", "ner", "translation", "qa")
        ],
        [(recipe(), TEXT, replace(MODEL, has_chat_template=False))],
    ),
    "recipe.task_objective": (
        [
            (recipe(f"objective={name}"), PAIRS, MODEL)
            for name in ("sft", "text", "sequence_classification", "token_classification", "question_answering")
        ],
        [
            *((recipe(), replace(DATA, task=task), MODEL) for task in LEARNED_BY_SFT),
            *((recipe(f"objective={name}"), PAIRS, MODEL) for name in ("auto", "dpo", "orpo", "kto")),
        ],
    ),
    "recipe.no_preferences": (
        [(recipe(f"objective={name}"), DATA, MODEL) for name in ("dpo", "orpo", "kto")],
        [(recipe("objective=sft"), DATA, MODEL), (recipe("objective=dpo"), PAIRS, MODEL)],
    ),
    "recipe.unpaired": (
        [(recipe(f"objective={name}"), RATED, MODEL) for name in ("dpo", "orpo")],
        [(recipe(f"objective={name}"), RATED, MODEL) for name in ("kto", "auto")],
    ),
    "recipe.no_reference": (
        [
            *((recipe("technique=full", f"objective={name}"), PAIRS, MODEL) for name in ("dpo", "kto")),
            (recipe("technique=freeze", "objective=dpo"), PAIRS, MODEL),
            (recipe("technique=full"), RATED, MODEL),
        ],
        [
            (recipe("technique=full"), PAIRS, MODEL),
            (recipe("technique=full", "objective=orpo"), PAIRS, MODEL),
            (recipe("objective=dpo"), PAIRS, MODEL),
        ],
    ),
    "recipe.ipo_smoothing": (
        [(recipe("objective={name: dpo, loss: ipo, label_smoothing: 0.1}"), PAIRS, MODEL)],
        [
            (recipe("objective={name: dpo, label_smoothing: 0.1}"), PAIRS, MODEL),
            (recipe("objective={name: dpo, loss: ipo}"), PAIRS, MODEL),
        ],
    ),
    "recipe.pair_metrics": (
        [
            (recipe("evaluate.metrics=[accuracy]"), PAIRS, MODEL),
            (recipe("evaluate.metrics=[margin, rouge_l]"), PAIRS, MODEL),
            (recipe("evaluate.metrics=[margin]"), RATED, MODEL),
            (recipe("evaluate.metrics=[pair_accuracy]"), DATA, MODEL),
            (recipe("evaluate.metrics=[wanted_margin]"), PAIRS, MODEL),
            (recipe("evaluate.metrics=[wanted_likelier]"), DATA, MODEL),
        ],
        [
            (recipe("evaluate.metrics=[wanted_margin]"), RATED, MODEL),
            (recipe("evaluate.metrics=[margin]"), PAIRS, MODEL),
            (recipe("evaluate.metrics=[accuracy]"), DATA, MODEL),
            (recipe(), RATED, MODEL),
        ],
    ),
    "recipe.max_length": (
        [(recipe("train.max_length=8193"), DATA, MODEL)],
        [
            (recipe("train.max_length=8192"), DATA, MODEL),
            (recipe("train.max_length=8193"), DATA, replace(MODEL, context_length=None)),
            (recipe(), DATA, replace(MODEL, context_length=16)),
        ],
    ),
    "recipe.dropout_prefix": (
        [(recipe("technique.dropout=0.1", "train.share_prefix=true"), DATA, MODEL)],
        [
            (recipe("technique.dropout=0.1", "train.share_prefix=false"), DATA, MODEL),
            (recipe("technique.dropout=0.1"), DATA, MODEL),
            (recipe("train.share_prefix=true"), DATA, MODEL),
            (recipe("technique=full", "train.share_prefix=true"), DATA, MODEL),
        ],
    ),
    "recipe.quantized_beginning": (
        [(recipe("technique={name: qlora, initialization: pissa}"), DATA, MODEL)],
        [(recipe("technique={name: qlora, initialization: eva}"), DATA, MODEL)],
    ),
    "recipe.loftq_bits": (
        [(recipe("technique={name: qlora, initialization: loftq, quantization: int8}"), DATA, MODEL)],
        [(recipe("technique={name: qlora, initialization: loftq}"), DATA, MODEL)],
    ),
    "recipe.double_quantization": (
        [(recipe("technique={name: qdora, double_quantization: true, quantization: int8}"), DATA, MODEL)],
        [(recipe("technique={name: qdora, quantization: int8}"), DATA, MODEL)],
    ),
    "recipe.noisy_reference": (
        [(recipe("train.neftune_alpha=5"), PAIRS, MODEL)],
        [
            (recipe("train.neftune_alpha=5"), DATA, MODEL),
            (recipe("train.neftune_alpha=5", "objective=orpo"), PAIRS, MODEL),
        ],
    ),
    "recipe.paged_optimizer": (
        [(recipe("train.optimizer=paged_adamw_8bit"), DATA, MODEL)],
        [(recipe("train.optimizer=adamw_8bit"), DATA, MODEL)],
    ),
    "recipe.schedule_free": (
        [(recipe("train.optimizer=schedule_free_adamw", "train.schedule=cosine"), DATA, MODEL)],
        [
            (recipe("train.optimizer=schedule_free_adamw"), DATA, MODEL),
            (recipe("train.optimizer=schedule_free_adamw", "train.schedule=constant"), DATA, MODEL),
        ],
    ),
    "recipe.virtual_targets": (
        [(recipe("technique={name: prompt_tuning, targets: attention}"), DATA, MODEL)],
        [
            (recipe("technique=prompt_tuning"), DATA, MODEL),
            (recipe("technique={name: ia3, targets: attention}"), DATA, MODEL),
        ],
    ),
    "recipe.virtual_head": (
        [(recipe("technique=prefix_tuning", "objective=sequence_classification"), CLASSES, MODEL)],
        [(recipe("technique=prefix_tuning"), DATA, MODEL)],
    ),
    "recipe.virtual_padded": (
        [(recipe("technique=p_tuning", "train.layout=padded"), DATA, MODEL)],
        [(recipe("technique=lora", "train.layout=padded"), DATA, MODEL)],
    ),
    "recipe.loftq": (
        [(recipe(f"technique={{name: {name}, initialization: loftq}}"), DATA, MODEL) for name in ("lora", "dora")],
        [(recipe("technique.initialization=eva"), DATA, MODEL)],
    ),
    "recipe.moved_reference": (
        [
            (recipe(f"technique.initialization={first}", f"objective={name}"), PAIRS, MODEL)
            for first in ("pissa", "olora")
            for name in ("dpo", "kto")
        ],
        [
            (recipe("technique.initialization=pissa"), DATA, MODEL),
            (recipe("technique.initialization=pissa", "objective=orpo"), PAIRS, MODEL),
            (recipe("technique.initialization=eva", "objective=dpo"), PAIRS, MODEL),
        ],
    ),
    "recipe.new_tokens": (
        [(recipe("data.new_tokens=[<sku>]", "technique=freeze"), DATA, MODEL)],
        [
            (recipe("technique=freeze"), DATA, MODEL),
            *((recipe("data.new_tokens=[<sku>]", f"technique={name}"), DATA, MODEL) for name in LEARN_TOKENS),
        ],
    ),
    "recipe.padded_prefix": (
        [(recipe("train.layout=padded", "train.share_prefix=true"), DATA, MODEL)],
        [(recipe("train.layout=padded"), DATA, MODEL)],
    ),
    "recipe.padded_micro_batch": (
        [(recipe("train.layout=padded", "train.tokens_per_micro_batch=512"), DATA, MODEL)],
        [
            (recipe("train.layout=padded"), DATA, MODEL),
            (recipe("train.tokens_per_micro_batch=512"), DATA, MODEL),
        ],
    ),
    "recipe.likelihoods_beside": (
        [
            (recipe(setting), CLASSES, replace(MODEL, kind="encoder", has_chat_template=False))
            for setting in ("evaluate.probe=true", "evaluate.multiple_choice=x.jsonl")
        ],
        [
            (recipe("evaluate.probe=true", "evaluate.multiple_choice=x.jsonl"), DATA, MODEL),
            (recipe("evaluate.probe=false"), CLASSES, replace(MODEL, kind="encoder", has_chat_template=False)),
        ],
    ),
    "recipe.budget_learning_curve": (
        [(recipe("train.budget=10m", "evaluate.learning_curve=true"), DATA, MODEL)],
        [
            (recipe("train.budget=10k tokens", "evaluate.learning_curve=true"), DATA, MODEL),
            (recipe("evaluate.learning_curve=true"), DATA, MODEL),
            (recipe("train.budget=10m"), DATA, MODEL),
        ],
    ),
    "recipe.no_rows": (
        [(recipe(), replace(DATA, rows=0, tokens=0), MODEL)],
        [(recipe(), replace(DATA, rows=1), MODEL)],
    ),
    "recipe.no_held_out_rows": (
        [(recipe(), replace(DATA, validation_rows=0), MODEL)],
        [(recipe(), replace(DATA, validation_rows=1), MODEL)],
    ),
    "recipe.text_answers": (
        [(recipe("evaluate.metrics=[accuracy]"), TEXT, MODEL)],
        [(recipe("evaluate.metrics=[accuracy]"), DATA, MODEL), (recipe(), TEXT, MODEL)],
    ),
    "recipe.text_few_shot": (
        [(recipe("evaluate.few_shot=2"), data, MODEL) for data in (TEXT, PAIRS)],
        [(recipe("evaluate.few_shot=2"), DATA, MODEL), (recipe("evaluate.few_shot=0"), TEXT, MODEL)],
    ),
    "recipe.text_max_new_tokens": (
        [(recipe("evaluate.max_new_tokens=8"), data, MODEL) for data in (TEXT, PAIRS)],
        [(recipe("evaluate.max_new_tokens=8"), DATA, MODEL)],
    ),
    "recipe.export_seq2seq": (
        [(recipe("export=[merged]"), DATA, replace(MODEL, kind="encoder_decoder", has_chat_template=False))],
        [(recipe(), DATA, replace(MODEL, kind="encoder_decoder", has_chat_template=False))],
    ),
    "recipe.export_head": (
        [(recipe("objective=sequence_classification", f"export=[{to}]"), CLASSES, MODEL) for to in FOR_WRITING],
        [
            (recipe("objective=sequence_classification", "export=[adapter, merged, onnx]"), CLASSES, MODEL),
            *((recipe(f"export=[{to}]"), CLASSES, MODEL) for to in FOR_WRITING),
        ],
    ),
    "recipe.export_no_adapter": (
        [
            (recipe(f"technique={technique}", f"export=[{to}]"), DATA, MODEL)
            for technique in ("full", "freeze")
            for to in ("adapter", "onnx-adapter")
        ],
        [(recipe("technique=full", "export=[merged, gguf, onnx]"), DATA, MODEL)],
    ),
    "recipe.export_adapter": (
        [(recipe(f"technique={technique}", "export=[onnx-adapter]"), DATA, MODEL) for technique in ("dora", "ia3")],
        [
            (recipe("technique=qlora", "export=[onnx-adapter]"), DATA, MODEL),
            (recipe("technique=dora", "export=[onnx]"), DATA, MODEL),
        ],
    ),
    "recipe.export_unmerged": (
        [
            (recipe(f"technique={technique}", f"export=[{to}]"), DATA, MODEL)
            for technique in ("lily", "prompt_tuning")
            for to in ("merged", "gguf", "onnx")
        ],
        [(recipe("technique=prompt_tuning", "export=[adapter]"), DATA, MODEL)],
    ),
}


def facts(data: DataFacts, model: ModelFacts) -> Facts:
    return Facts(data, model, HOST)


def test_every_refusal_has_cases():
    assert sorted(CASES) == sorted(row.code for row in REFUSALS)


@pytest.mark.parametrize("row", REFUSALS, ids=lambda row: row.code)
def test_a_refusal_refuses_its_cases_alone(row):
    refused, passed = CASES[row.code]
    assert refused
    assert passed
    for wanted, data, model in refused:
        (problem,) = problems_of(lambda wanted=wanted, data=data, model=model: check(wanted, facts(data, model)))
        assert (problem.code, problem.place) == (row.code, row.place)
        assert problem.lines() == [f"{row.place}: {row.reason}", f"  hint: {row.hint}"]
    for wanted, data, model in passed:
        check(wanted, facts(data, model))


@pytest.mark.parametrize("row", REFUSALS, ids=lambda row: row.code)
def test_a_refusal_is_about_a_key_of_the_recipe(row):
    part = recipe()
    for name in row.place.split("."):
        part = getattr(part, name)
    assert row.reason[0].islower()
    assert not row.reason.endswith(".")


@pytest.mark.parametrize("row", REFUSALS, ids=lambda row: row.code)
def test_settings_that_a_hint_names_are_readable(row):
    settings = [word.rstrip(",") for word in row.hint.split() if "=" in word]
    assert isinstance(recipe(*settings), Recipe)


def test_all_that_applies_is_said_at_once():
    data = replace(TEXT, rows=0, validation_rows=0)
    with pytest.raises(RecipeError, match=r"^this cannot work\n") as caught:
        check(recipe("evaluate.metrics=[accuracy]"), facts(data, replace(MODEL, kind="encoder")))
    assert [one.code for one in caught.value.problems] == [
        "recipe.head_rows",
        "recipe.no_rows",
        "recipe.no_held_out_rows",
        "recipe.text_answers",
    ]


def test_the_shortest_recipe_is_let_through(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text("model: tiny\ndata: {train: train.jsonl}\n")
    check(load_recipe(path), facts(DATA, MODEL))


def test_a_loss_that_is_found_for_pairs_compares_with_the_base():
    wanted, data = recipe("technique.initialization=pissa"), replace(DATA, task="preference")
    assert "recipe.moved_reference" in [one.code for one in problems_of(lambda: check(wanted, facts(data, MODEL)))]
