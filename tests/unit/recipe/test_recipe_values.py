"""Keys and values that are wrong: all are named at once, one readable line each, with the nearest known key."""

from __future__ import annotations

from typing import get_args

import pytest
from recipe_cases import SHORTEST, problems_of, recipe

from tunesmith.errors import RecipeError
from tunesmith.recipe.load import apply_overrides, load_recipe, parse_recipe
from tunesmith.recipe.objectives import Sft
from tunesmith.recipe.parts import variant_names
from tunesmith.recipe.techniques import Full, Lora, TechniqueSpec

TECHNIQUES = ", ".join(name for variant in get_args(TechniqueSpec) for name in variant_names(variant))


def lines_of(mapping) -> list[str]:
    return [line for problem in problems_of(lambda: parse_recipe(mapping)) for line in problem.lines()]


@pytest.mark.parametrize(
    ("setting", "line"),
    [
        ("model=", "model: must be text: null"),
        ("model=''", "model: must be text that is not empty: ''"),
        ("model=2024-01-01", "model: must be text: 2024-01-01"),
        ("data=train.jsonl", "data: must be a mapping of keys: 'train.jsonl'"),
        ("data.train=3", "data.train: must be text or a list: 3"),
        ("data.train=[]", "data.train: must be text or a list that is not empty"),
        ("data.train=[a.jsonl]", "data.train.0: must be a mapping of keys: 'a.jsonl'"),
        ("data.train=[{weight: 2}]", "data.train.0.path: is missing"),
        ("data.train=[{path: a, weight: 0}]", "data.train.0.weight: must be a number above 0: 0"),
        ("data.validation=0", "data.validation: must be a number above 0 or text: 0"),
        ("data.validation=20", "data.validation: must be a number below 1 or text: 20"),
        ("data.validation=true", "data.validation: must be a number or text: true"),
        ("data.split_seed=-1", "data.split_seed: must be 'auto' or a number of at least 0: -1"),
        ("data.split_seed=1.5", "data.split_seed: must be 'auto' or a whole number: 1.5"),
        ("data.split_seed=true", "data.split_seed: must be 'auto' or a number: true"),
        ("data.split_seed=4294967296", "data.split_seed: must be 'auto' or a number of at most 4294967295: 4294967296"),
        ("data.columns={text: 3}", "data.columns.text: must be text: 3"),
        ("data.on_bad_rows=drop", "data.on_bad_rows: must be 'refuse' or 'skip': 'drop'"),
        ("technique=", "technique: must be a name or a mapping of keys: null"),
        ("technique=[lora]", "technique: must be a name or a mapping of keys"),
        ("technique.targets=q_proj", "technique.targets: must be 'all-linear' or 'attention' or a list: 'q_proj'"),
        ("technique.dropout=1", "technique.dropout: must be a number below 1: 1"),
        ("technique.rank=1.5", "technique.rank: must be a whole number: 1.5"),
        ("train.epochs=two", "train.epochs: must be 'auto' or a number: 'two'"),
        ("train.epochs=true", "train.epochs: must be 'auto' or a number: true"),
        ("train.learning_rate=.inf", "train.learning_rate: must be 'auto' or a finite number: inf"),
        ("train.tokens_per_step=0", "train.tokens_per_step: must be 'auto' or a number of at least 1: 0"),
        ("train.max_length=1", "train.max_length: must be 'auto' or a number of at least 2: 1"),
        ("train.seed=-1", "train.seed: must be a number of at least 0: -1"),
        ("train.seed=4294967296", "train.seed: must be a number of at most 4294967295: 4294967296"),
        ("train.weight_decay=.inf", "train.weight_decay: must be a finite number: inf"),
        ("train.warmup=.nan", "train.warmup: must be a finite number: nan"),
        ("train.clip=none", "train.clip: must be a number: 'none'"),
        ("train.share_prefix=maybe", "train.share_prefix: must be 'auto' or true or false: 'maybe'"),
        ("train.schedule=cosin", "train.schedule: must be 'cosine', 'linear' or 'constant': 'cosin'"),
        ("evaluate.metrics=accuracy", "evaluate.metrics: must be 'auto' or a list: 'accuracy'"),
        ("evaluate.metrics=[]", "evaluate.metrics: must be 'auto' or a list that is not empty"),
        ("strategy=dpd", "strategy: must be 'auto', 'single', 'ddp', 'fsdp', 'zero1', 'zero2' or 'zero3': 'dpd'"),
        (
            "export=[pt]",
            "export.0: must be 'adapter', 'merged', 'gguf', 'onnx' or 'onnx-adapter' or a mapping of keys: 'pt'",
        ),
        (
            "export=[{to: onnx, precision: q4_0}]",
            "export: onnx has the precisions fp32, int8, int4",
        ),
        ("export=[{to: gguf, target: vitisai}]", "export: target vitisai takes onnx in precision qdq-int8"),
        (
            "export=[{to: onnx, precision: qdq-int8}]",
            "export: precision qdq-int8 is that of a target; name it as well",
        ),
        ("export=[gguf, {to: gguf, precision: q8_0}]", "export: each export may stand there once"),
    ],
)
def test_a_wrong_value_is_one_line(setting, line):
    assert lines_of(apply_overrides(SHORTEST, [setting])) == [line]


@pytest.mark.parametrize("value", ["10", "5 minutes", "0m", "[10m]", "true"])
def test_a_budget_says_how_to_write_one(value):
    (line,) = lines_of(apply_overrides(SHORTEST, [f"train.budget={value}"]))
    expected = "write a time such as 90s, 10m or 1h30m, or tokens such as 500k tokens or 2M tokens"
    assert line.startswith(f"train.budget: {expected}")


def test_long_values_are_shortened():
    (line,) = lines_of(apply_overrides(SHORTEST, [f"train.schedule={'x' * 500}"]))
    assert line.endswith("xxx...")
    assert len(line) < 140


@pytest.mark.parametrize(
    ("setting", "key", "hint"),
    [
        ("trian.epochs=1", "trian", "did you mean train?"),
        ("train.lerning_rate=1", "train.lerning_rate", "did you mean learning_rate?"),
        ("evaluate.fewshot=1", "evaluate.fewshot", "did you mean few_shot?"),
        ("technique.rnk=8", "technique.rnk", "did you mean rank?"),
        ("data.train=[{path: a, wieght: 1}]", "data.train.0.wieght", "did you mean weight?"),
        ("objective.smoothing=1", "objective.smoothing", "did you mean label_smoothing?"),
        ("epochs=1", "epochs", "epochs belongs below train"),
        ("rank=8", "rank", "rank belongs below technique"),
        ("train.model=tiny", "train.model", "model belongs at the top"),
        ("technique={name: full, rank: 8}", "technique.rank", "only lora has rank"),
        ("fi=1", "fi", "did you mean fit?"),
    ],
)
def test_an_unknown_key_names_the_nearest_known_one(setting, key, hint):
    (problem,) = problems_of(lambda: recipe(setting))
    assert (problem.code, problem.place, problem.hint) == ("recipe.unknown_key", key, hint)


def test_a_dotted_key_in_a_file_is_told_where_it_belongs():
    assert lines_of({**SHORTEST, "train.epochs": 2}) == [
        "train.epochs: unknown key",
        "  hint: epochs belongs below train",
    ]


@pytest.mark.parametrize("key", [1, None, True, ("a", "b")])
def test_keys_that_are_no_text_are_unknown_once(key):
    (problem,) = problems_of(lambda: parse_recipe({**SHORTEST, key: 1}))
    assert (problem.code, problem.place) == ("recipe.unknown_key", str(key))


@pytest.mark.parametrize(("name", "hint"), [("loraa", "did you mean lora?"), ("xyz", f"it is one of {TECHNIQUES}")])
@pytest.mark.parametrize("form", ["technique={}", "technique.name={}"])
def test_an_unknown_technique_names_the_known_ones(name, hint, form):
    assert lines_of(apply_overrides(SHORTEST, [form.format(name)])) == [
        f"technique: no such variant: {name}",
        f"  hint: {hint}",
    ]


@pytest.mark.parametrize(("mapping", "missing"), [({}, ["model", "data"]), ({"data": {}}, ["model", "data.train"])])
def test_missing_keys(mapping, missing):
    problems = problems_of(lambda: parse_recipe(mapping))
    assert [(one.code, one.place) for one in problems] == [("recipe.missing_key", key) for key in missing]


def test_all_problems_are_told_at_once_in_the_order_of_the_file(tmp_path):
    path = tmp_path / "bad.yaml"
    path.write_text("data:\n  train:\n  - path: a\n  - wieght: 2\ntrain:\n  seed: -1\n  epoch: 2\nfitt: 1\n")
    with pytest.raises(RecipeError) as caught:
        load_recipe(path)
    assert str(caught.value).splitlines() == [
        f"{path}: the recipe has 6 problems",
        "  data.train.1.wieght (line 4): unknown key",
        "    hint: did you mean weight?",
        "  train.seed (line 6): must be a number of at least 0: -1",
        "  train.epoch (line 7): unknown key",
        "    hint: did you mean epochs?",
        "  fitt (line 8): unknown key",
        "    hint: did you mean fit?",
        "  model: is missing",
        "  data.train.1.path: is missing",
    ]


def test_one_problem_is_not_called_problems():
    with pytest.raises(RecipeError, match=r"^here: the recipe has 1 problem\n"):
        parse_recipe({**SHORTEST, "x": 1}, "here")


def test_bare_names_stand_for_variants_with_their_defaults():
    assert recipe("technique=lora").technique == Lora()
    assert recipe("technique=full").technique == Full()
    assert recipe("objective=sft").objective == Sft()
    assert recipe("objective=auto").objective == recipe().objective == "auto"


def test_numbers_may_be_written_with_exponents():
    """YAML 1.1 reads 1e-4 as text."""
    assert recipe("train.learning_rate=1e-4").train.learning_rate == 1e-4


def test_a_recipe_cannot_be_changed():
    with pytest.raises(ValueError, match="frozen"):
        recipe().train.seed = 1


@pytest.mark.parametrize("setting", ["executor=slurm", "executor.name=slurm"])
def test_an_unknown_executor_names_the_known_ones(setting):
    line, hint = lines_of(apply_overrides(SHORTEST, [setting]))
    assert line == "executor: no such variant: slurm"
    assert hint.startswith("  hint: it is one of local, ")


@pytest.mark.parametrize("setting", ["objective=dpoo", "objective.name=dpoo"])
def test_an_unknown_objective_names_the_nearest_one(setting):
    assert lines_of(apply_overrides(SHORTEST, [setting])) == [
        "objective: no such variant: dpoo",
        "  hint: did you mean dpo?",
    ]


def test_the_seed_of_the_split_is_the_training_s_unless_it_is_given() -> None:
    usual, given, zero = (
        recipe("train.seed=7"),
        recipe("train.seed=7", "data.split_seed=3"),
        recipe("data.split_seed=0"),
    )
    assert [one.data.seed_of_split(7) for one in (usual, given, zero)] == [7, 3, 0]
