"""Every auto value: where it comes from, that the recipe's own value wins, and that each has a reason."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from recipe_cases import DATA, HOST, MODEL, TEXT, recipe

from tunesmith.recipe.cost import estimate_cost
from tunesmith.recipe.facts import DataFacts, HostFacts, ModelFacts
from tunesmith.recipe.objectives import Sft
from tunesmith.recipe.packing import rows_together
from tunesmith.recipe.resolve import FEWEST_EVALUATION_ROWS, MOST_TRAINING_SECONDS, PIECE_TOKENS, resolve
from tunesmith.recipe.resolved import KEYS

SLOW = replace(HOST, matmul_flops_per_second=2e9)
SHARED = replace(DATA, tokens=900 * 320, longest_row=400, shared_prefix_tokens=300)


def resolved(*settings: str, data: DataFacts = DATA, model: ModelFacts = MODEL, host: HostFacts = HOST):
    return resolve(recipe(*settings), data, model, host)


# Key: a value that no rule would choose, as it is written and as it is meant.
OWN = {
    "model": ("other", "other"),
    "task": ("chat", "chat"),
    "objective": ("sft", Sft().model_dump()),
    "technique": ("full", {"name": "full"}),
    "train.seed": ("7", 7),
    "train.epochs": ("1.25", 1.25),
    "train.neftune_alpha": ("5", 5.0),
    "train.patience": ("3", 3),
    "train.optimizer": ("adafactor", "adafactor"),
    "train.learning_rate": ("0.5", 0.5),
    "train.schedule": ("linear", "linear"),
    "train.warmup": ("0.03", 0.03),
    "train.weight_decay": ("0.2", 0.2),
    "train.clip": ("null", None),
    "train.tokens_per_step": ("777", 777),
    "train.max_length": ("333", 333),
    "train.on_non_finite": ("skip", "skip"),
    "evaluate.metrics": ("[rouge_l]", ["rouge_l"]),
    "evaluate.samples": ("3", 3),
    "evaluate.rows": ("17", 17),
    "evaluate.few_shot": ("2", 2),
    "evaluate.max_new_tokens": ("9", 9),
    "evaluate.probe": ("true", True),
    "evaluate.multiple_choice": ("choices.jsonl", "choices.jsonl"),
    "evaluate.learning_curve": ("true", True),
    "strategy": ("single", "single"),
    "train.devices": ("2", 2),
    "train.nodes": ("2", 2),
    "train.offload": ("true", True),
    "train.precision": ("bfloat16", "bfloat16"),
    "train.sampler": ("grouped", "grouped"),
    "train.tokens_per_micro_batch": ("99", 99),
    "train.activation_checkpointing": ("true", True),
    "train.layout": ("padded", "padded"),
    "train.share_prefix": ("false", False),
    "train.checkpoint_every_steps": ("5", 5),
    "train.keep_checkpoints": ("4", 4),
    "train.validate_every_steps": ("6", 6),
}


def test_every_key_has_an_own_value_here():
    assert {*OWN, "train.budget_seconds"} == {*KEYS}


@pytest.mark.parametrize("key", OWN)
def test_the_recipe_s_own_value_wins(key):
    written, meant = OWN[key]
    found = resolved(f"{key}={written}")
    assert found.value(key) == meant
    assert found.reasons[key].startswith("as the recipe says")


def test_every_key_has_a_reason():
    for found in (resolved(), resolved("train.budget=10m"), resolved(data=TEXT)):
        assert {*found.reasons} == {*KEYS}
        assert all(reason and "e+" not in reason for reason in found.reasons.values())


def test_learning_rates_fall_with_size_and_for_all_weights():
    def rate(technique: str, parameters: float) -> float:
        model = replace(MODEL, parameters=int(parameters))
        return resolved(f"technique={technique}", model=model).learning_rate

    sizes = (135e6, 1.7e9, 8e9)
    assert [rate("lora", size) for size in sizes] == [1e-3, 5e-4, 2e-4]
    assert [rate("full", size) for size in sizes] == pytest.approx([5e-5, 2.5e-5, 1e-5])


def test_preferences_are_learned_more_slowly_than_answers():
    pairs = replace(DATA, task="preference", shape="preference")

    def rate(*settings: str) -> float:
        return resolved(*settings, data=pairs).learning_rate

    answers = resolved().learning_rate
    for objective, slower in (("auto", 3), ("dpo", 3), ("kto", 3), ("orpo", 3)):
        assert rate(f"objective={objective}") == pytest.approx(answers / slower)
    assert rate("technique=full") == pytest.approx(resolved("technique=full").learning_rate / 3)
    assert "dpo" in resolved(data=pairs).reasons["train.learning_rate"]
    assert rate("train.learning_rate=0.5") == 0.5


def test_max_length_is_the_model_s_or_the_data_s():
    assert resolved().max_length == 8192
    unknown = replace(MODEL, context_length=None)
    assert resolved(model=unknown).max_length == 300
    assert resolved(model=unknown, data=replace(DATA, longest_row=1)).max_length == 2


def test_plain_texts_are_learned_in_pieces_unless_long_ones_are_to_be_cut_or_a_length_is_asked_for():
    assert resolved(data=TEXT).max_length == PIECE_TOKENS
    assert resolved(data=TEXT, model=replace(MODEL, context_length=None)).max_length == PIECE_TOKENS
    assert resolved(data=TEXT, model=replace(MODEL, context_length=64)).max_length == 64
    assert resolved("data.on_long_rows=truncate", data=TEXT).max_length == 8192
    assert resolved("train.max_length=4096", data=TEXT).max_length == 4096


def test_precision_is_the_host_s_fastest():
    assert resolved(host=replace(HOST, fast_dtype="bfloat16")).precision == "bfloat16"
    assert resolved().precision == "float32"


def test_metrics_are_the_task_s():
    assert resolved().metrics == ("exact_match", "token_f1")
    assert resolved(data=TEXT).metrics == ()


def test_a_prefix_is_shared_where_that_changes_nothing():
    assert resolved().share_prefix
    assert not resolved("technique.dropout=0.1").share_prefix
    assert not resolved("train.layout=padded").share_prefix


def test_a_shared_prefix_gets_more_rows_a_step_and_larger_packs():
    alone, shared = resolved("train.share_prefix=false", data=SHARED), resolved(data=SHARED)
    assert shared.tokens_per_step > alone.tokens_per_step
    assert (alone.tokens_per_micro_batch, shared.tokens_per_micro_batch) == (1024, 2048)
    assert "300 shared tokens" in shared.reasons["train.tokens_per_step"]


def instructed(prefix: int, own: int = 60) -> DataFacts:
    """Rows under one instruction."""
    return replace(DATA, tokens=900 * (prefix + own), longest_row=prefix + 2 * own, shared_prefix_tokens=prefix)


@pytest.mark.parametrize("prefix", [1100, 1900, 2500, 6000])
def test_a_beginning_as_long_as_a_pack_gets_packs_with_room_behind_it(prefix):
    found = resolved(data=instructed(prefix))
    assert found.tokens_per_micro_batch == prefix + 1024
    assert f"the {prefix:,} tokens that rows begin with" in found.reasons["train.tokens_per_micro_batch"]
    assert found.reasons["train.share_prefix"].startswith("auto: on")
    assert resolved("train.share_prefix=false", data=instructed(prefix)).tokens_per_micro_batch == 1024
    grouped = replace(DATA, tokens=900 * (prefix + 60), longest_row=prefix + 120, group_prefix_tokens=prefix)
    assert resolved(data=grouped).tokens_per_micro_batch == prefix + 1024


def test_steps_of_grouped_rows_have_several_rows_of_a_document():
    """60 rows of 1,350 tokens on four documents of 1,300."""
    documents = replace(DATA, rows=60, tokens=60 * 1350, longest_row=1360)
    grouped = replace(documents, group_prefix_tokens=1300, group_shared_tokens=56 * 1300)
    assert resolved(data=documents).tokens_per_step == 2 * 1350
    found = resolved(data=grouped)
    assert found.tokens_per_step == 1350 * round(1024 / (50 + 4 * 1300 / 60))
    assert "up to 1,300 tokens that rows of a group share" in found.reasons["train.tokens_per_step"]
    assert resolved("train.share_prefix=false", data=grouped).tokens_per_step == 2 * 1350


def test_a_pack_behind_a_long_beginning_is_bounded_by_memory():
    def found(memory_gib: float, *settings: str):
        return resolved(*settings, data=instructed(6000), host=replace(HOST, memory_bytes=int(memory_gib * 2**30)))

    assert found(8).tokens_per_micro_batch == 7024
    less = found(1.9)
    assert 2048 < less.tokens_per_micro_batch < 7024
    assert "what memory allows; 7,024 would" in less.reasons["train.tokens_per_micro_batch"]
    assert found(1).tokens_per_micro_batch == 2048
    # Where activations must be kept, memory holds fewer tokens; where all scores are there, fewer still.
    whole, half = (
        found(8, f"train.activation_checkpointing={again}").tokens_per_micro_batch for again in ("false", 15)
    )
    assert 2048 < whole < half < 7024
    kept = found(6, "technique=full").tokens_per_micro_batch
    assert 2048 < kept < found(6).tokens_per_micro_batch == 7024


def test_an_own_pack_size_that_leaves_no_room_to_share_stays_and_is_told():
    found = resolved("train.tokens_per_micro_batch=1024", data=instructed(920))
    assert found.tokens_per_micro_batch == 1024
    assert "have no room for two rows of average length behind the 920" in found.reasons["train.share_prefix"]
    assert not found.reasons["train.share_prefix"].startswith("auto: on")
    # A short beginning is no reason to speak of it, whatever the rows behind it.
    assert resolved(data=instructed(30, 600)).reasons["train.share_prefix"].startswith("auto: on")
    # Steps are those of rows that share nothing.
    assert found.tokens_per_step == resolved("train.share_prefix=false", data=instructed(920)).tokens_per_step
    # A row that is longer than the pack goes beyond it in any case, and half a pack more of them together.
    assert (
        resolved("train.tokens_per_micro_batch=1024", data=instructed(1900))
        .reasons["train.share_prefix"]
        .startswith("auto: on")
    )


def test_the_estimate_counts_a_beginning_as_often_as_it_is_computed():
    def epochs(*settings: str) -> float:
        return resolved(*settings, data=instructed(900), host=SLOW).epochs

    together, apart = epochs(), epochs("train.tokens_per_micro_batch=1000")
    assert apart == pytest.approx(epochs("train.share_prefix=false"), rel=0.1)
    assert together > 8 * apart
    # Steps of two rows share it between two.
    assert epochs("train.rows_per_step=2") == pytest.approx(apart * 960 / (60 + 450), rel=0.1)
    assert epochs("train.tokens_per_step=1920") == epochs("train.rows_per_step=2")


def test_the_largest_pack_is_weighed_with_what_it_holds_beyond_its_size():
    """Rows longer than the pack, several behind one beginning."""

    def needed(prefix: int) -> str:
        data = replace(instructed(2500), shared_prefix_tokens=prefix)
        settings = ("train.tokens_per_micro_batch=2048", "train.tokens_per_step=20000")
        return resolved(*settings, data=data).reasons["train.activation_checkpointing"]

    assert needed(2500) != needed(0)


def test_steps_are_enough_for_small_data_and_bounded_for_large():
    def steps(rows: int) -> float:
        data = replace(DATA, rows=rows, tokens=120 * rows)
        found = resolved("train.epochs=3", data=data)
        assert 500 <= found.tokens_per_step <= 4200
        return 3 * data.tokens / found.tokens_per_step

    assert steps(300) > 55
    assert steps(900) > 55
    assert steps(100_000) > 8000


def test_checkpointing_of_activations_where_memory_is_short():
    assert not resolved().activation_checkpointing
    assert resolved(host=replace(HOST, memory_bytes=2**31)).activation_checkpointing
    assert "GiB" in resolved().reasons["train.activation_checkpointing"]


def test_several_devices_hold_the_whole_model_where_there_is_room():
    assert resolved().strategy == "single"
    assert resolved("train.devices=2").strategy == "ddp"
    large = replace(MODEL, parameters=3_000_000_000)
    assert resolved("train.devices=2", model=large).strategy == "fsdp"
    assert "GiB" in resolved("train.devices=2", model=large).reasons["strategy"]
    # A GPU has its memory for itself; processes share that of the machine.
    roomy = replace(HOST, memory_bytes=32 * 2**30)
    assert resolved("train.devices=4", model=large, host=roomy).strategy == "fsdp"
    gpus = replace(roomy, device="cuda", device_memory_bytes=80 * 2**30)
    assert resolved("train.devices=4", model=large, host=gpus).strategy == "ddp"


@pytest.mark.parametrize("setting", ["technique=ia3", "train.optimizer=adafactor", "data.new_tokens=[a]"])
def test_what_cannot_be_cut_stays_whole(setting):
    large = replace(MODEL, parameters=3_000_000_000)
    found = resolved("train.devices=2", setting, model=large)
    assert found.strategy == "ddp"
    assert "not fsdp: " in found.reasons["strategy"]


def test_the_learning_curve_keeps_the_model_whole():
    large = replace(MODEL, parameters=3_000_000_000)
    found = resolved("train.devices=2", "evaluate.learning_curve=true", model=large)
    assert found.strategy == "ddp"
    assert "its points are trained on one device" in found.reasons["strategy"]


@pytest.mark.parametrize(
    ("settings", "strategy"),
    [
        (("train.precision=float32",), "fsdp"),
        (("train.precision=bfloat16",), "ddp"),
        # Weights that train are float32 whatever the products are.
        (("train.precision=bfloat16", "technique=full"), "fsdp"),
    ],
)
def test_frozen_weights_in_half_precision_take_half(settings, strategy):
    """Of seven billion weights 26 GiB in float32 and 13 GiB in bfloat16, where 40 GiB are there."""
    large = replace(MODEL, parameters=7_000_000_000)
    gpus = replace(HOST, device="cuda", device_memory_bytes=40 * 2**30)
    assert resolved("train.devices=2", *settings, model=large, host=gpus).strategy == strategy


def test_no_more_layers_compute_again_than_memory_needs():
    long = replace(DATA, tokens=900 * 8000, longest_row=8192)
    counts = []
    for gibibytes in (2, 4, 8, 12, 16, 20, 24, 32):
        found = resolved(data=long, host=replace(HOST, memory_bytes=gibibytes * 2**30))
        counts.append(found.activation_checkpointing)
    assert counts[0] is True
    assert counts[-1] is False
    numbers = [30 if one is True else int(one) for one in counts]
    assert numbers == sorted(numbers, reverse=True)
    between = [one for one in counts if not isinstance(one, bool)]
    assert len(between) >= 2
    assert all(0 < one < 30 for one in between)
    assert resolved("train.activation_checkpointing=7").activation_checkpointing == 7


def test_checkpoints_and_validations_lie_within_the_run():
    found = resolved(data=replace(DATA, rows=2, tokens=240))
    assert (found.checkpoint_every_steps, found.validate_every_steps) == (1, 1)
    slow = resolved(host=SLOW)
    assert (
        slow.checkpoint_every_steps < resolved(host=replace(HOST, matmul_flops_per_second=1e12)).checkpoint_every_steps
    )


def test_few_shot_examples_fit_into_half_of_the_context():
    assert resolved().few_shot == 5
    assert resolved(data=replace(DATA, rows=2, tokens=240)).few_shot == 2
    for context in (16, 512, 600, 900):
        found = resolved(model=replace(MODEL, context_length=context))
        assert found.few_shot == max(0, min(5, (context // 2 - 300) // 120))
        assert "-" not in found.reasons["evaluate.few_shot"].removeprefix("auto: ")
    assert resolved(data=TEXT).few_shot == 0


def test_rows_of_evaluation_are_what_there_is_what_is_enough_or_what_time_allows():
    assert resolved(data=replace(DATA, validation_rows=1)).evaluation_rows == 1
    assert resolved(data=replace(DATA, validation_rows=1)).samples == 1
    many = replace(DATA, validation_rows=5000)
    assert resolved(data=many, host=replace(HOST, matmul_flops_per_second=1e14)).evaluation_rows == 200
    slow = resolved(data=many, host=SLOW)
    assert slow.evaluation_rows == FEWEST_EVALUATION_ROWS
    assert "min allow here; 5,000 are held out" in slow.reasons["evaluate.rows"]


def test_answers_without_a_known_length_take_the_recipe_s():
    assert resolved(data=replace(DATA, answer_tokens=0)).max_new_tokens == 0
    assert resolved("evaluate.max_new_tokens=9", data=replace(DATA, answer_tokens=0)).max_new_tokens == 9


def training_seconds(found, data, model, host) -> float:
    together = rows_together(recipe(), data, found.tokens_per_micro_batch) if found.share_prefix else None
    cost = estimate_cost(data, model, host, full=found.technique.name == "full", rows_together=together)
    return found.epochs * data.rows * cost.train_seconds_per_row


def test_epochs_are_three_where_there_is_time():
    assert resolved().epochs == 3
    assert resolved().reasons["train.epochs"] == "auto: the usual 3"


@pytest.mark.parametrize("technique", ["lora", "full"])
def test_epochs_keep_training_under_half_an_hour(technique):
    found = resolved(f"technique={technique}", host=SLOW)
    assert 0.9 * MOST_TRAINING_SECONDS < training_seconds(found, DATA, MODEL, SLOW) < 1.05 * MOST_TRAINING_SECONDS
    assert found.reasons["train.epochs"].startswith("auto: so that training takes about 25 min here, at an estimated")


def test_own_epochs_may_take_longer():
    assert resolved("train.epochs=10", host=SLOW).epochs == 10


def test_a_budget_of_time_is_kept_for_the_run_and_bounds_the_evaluation():
    found = resolved("train.budget=2m", host=SLOW, data=replace(DATA, validation_rows=5000))
    assert (found.budget_seconds, found.epochs) == (120, 3)
    assert found.reasons["train.budget_seconds"] == "train.budget is 2m"
    assert found.tokens_per_step < resolved(host=SLOW).tokens_per_step * 2
    assert "0.5 min" in found.reasons["evaluate.rows"]
    assert "within the budget" in resolved("train.budget=2m", "train.epochs=9").reasons["train.epochs"]


def test_a_budget_of_tokens_sets_epochs_and_lowers_own_ones():
    assert resolved("train.budget=54k tokens").epochs == 0.5
    assert resolved("train.budget=54k tokens", "train.epochs=2").epochs == 0.5
    assert resolved("train.budget=1M tokens", "train.epochs=2").epochs == 2
    found = resolved("train.budget=54k tokens")
    assert found.reasons["train.epochs"] == "train.budget is 54k tokens, an epoch has 108,000 tokens"
    assert found.budget_seconds is None


def test_the_estimate_is_of_a_usual_machine_where_nothing_was_measured():
    unknown = replace(HOST, matmul_flops_per_second=None)
    assert resolved(host=unknown).epochs == resolved().epochs


COUNTS = st.integers(1, 10**9)


@settings(max_examples=150)
@given(st.data())
def test_odd_facts_still_give_values_that_can_run(data):
    rows = data.draw(COUNTS)
    mean = data.draw(st.integers(0, 10_000))
    facts = replace(
        data.draw(st.sampled_from([DATA, TEXT])),
        rows=rows,
        validation_rows=data.draw(COUNTS),
        tokens=rows * mean,
        longest_row=mean + data.draw(st.integers(0, 10**6)),
        shared_prefix_tokens=data.draw(st.integers(0, mean)),
        answer_tokens=data.draw(st.sampled_from([0, 1, 10**6])),
    )
    context = data.draw(st.none() | st.integers(1, 10**6))
    model = replace(MODEL, parameters=data.draw(st.integers(0, 10**12)), context_length=context)
    host = replace(HOST, matmul_flops_per_second=data.draw(st.none() | st.floats(1e6, 1e16)))
    given_settings = data.draw(
        st.sampled_from([[], ["train.budget=1s"], ["train.budget=99h"], ["train.budget=1 token"], ["technique=full"]])
    )
    found = resolved(*given_settings, data=facts, model=model, host=host)
    assert found.epochs > 0
    assert found.tokens_per_step >= 1
    assert found.checkpoint_every_steps >= 1
    assert found.validate_every_steps >= 1
    assert 1 <= found.evaluation_rows <= facts.validation_rows
    assert 0 <= found.few_shot <= 5
    assert found.samples <= found.evaluation_rows
    if not any("budget" in setting for setting in given_settings):
        assert training_seconds(found, facts, model, host) <= 1.06 * MOST_TRAINING_SECONDS


def test_answers_are_cut_where_a_budget_has_no_time_for_the_longest():
    long = replace(DATA, answer_tokens=1024)
    assert resolved(data=long).max_new_tokens == 1024
    assert resolved("train.budget=2h", data=long).max_new_tokens == 1024
    found = resolved("train.budget=60s", data=long)
    assert 32 <= found.max_new_tokens < 512
    assert "1024" in found.reasons["evaluate.max_new_tokens"]
    assert resolved("train.budget=1s", data=long).max_new_tokens == 32
    assert resolved("train.budget=60s", "evaluate.max_new_tokens=700", data=long).max_new_tokens == 700


def test_rows_of_a_step_become_tokens_by_the_mean_row() -> None:
    found = resolved("train.rows_per_step=7")
    assert found.tokens_per_step == round(7 * DATA.mean_row_tokens)
    assert "train.rows_per_step is 7" in found.reasons["train.tokens_per_step"]


def test_the_chosen_rate_is_multiplied() -> None:
    assert resolved("train.learning_rate_multiplier=0.5").learning_rate == resolved().learning_rate / 2
