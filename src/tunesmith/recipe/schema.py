"""What a user may ask for: one typed recipe. Unknown keys are errors, and every key but model and data has a default.

Values that say ``auto`` are resolved later, from facts that are handed in; see :mod:`tunesmith.recipe.resolve`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, field_validator

from tunesmith.recipe.budget import parse_budget
from tunesmith.recipe.executors import Executor
from tunesmith.recipe.executors.local import Local
from tunesmith.recipe.exports import Export, sensible
from tunesmith.recipe.objectives import Objective
from tunesmith.recipe.parts import (
    MOST_SEED,
    Auto,
    Number,
    Part,
    Positive,
    PositiveInt,
    Share,
    ShareOrZero,
    Whole,
)
from tunesmith.recipe.techniques import Lora, Technique


class DataSource(Part):
    """One of several training sources."""

    path: str = Field(min_length=1, description="A file, a folder or a hub data set.")
    weight: Positive = Field(1.0, description="How often its rows count, compared with those of the other sources.")


def _each_once(values: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(values)) < len(values):
        raise ValueError("each may stand there once")
    return values


class DataSpec(Part):
    """Where rows come from and how they are read."""

    train: Annotated[str, Field(min_length=1)] | Annotated[tuple[DataSource, ...], Field(min_length=1)] = Field(
        description="A file, a folder or a hub data set; or a list of them with weights."
    )
    validation: Share | Annotated[str, Field(min_length=1)] = Field(
        0.1, description="Held-out data, or the share of the training rows to hold out."
    )
    split_seed: Auto | Annotated[Whole, Field(ge=0, le=MOST_SEED)] = Field(
        "auto", description="Of which training rows are held out; auto: train.seed."
    )
    new_tokens: Annotated[tuple[Annotated[str, Field(min_length=1)], ...], AfterValidator(_each_once)] = Field(
        (), description="Words of the data that become tokens of their own, with rows that train."
    )
    columns: Auto | dict[str, str] = Field("auto", description="A map from our field names to columns of the data.")
    shape: str = Field("auto", description="What a row is, where it is not told from its columns.")
    on_bad_rows: Literal["refuse", "skip"] = Field(
        "refuse", description="Refuse data with rows that cannot be used, or leave them out and count them."
    )
    on_long_rows: Literal["refuse", "skip", "truncate"] = Field(
        "refuse", description="What happens with rows longer than train.max_length; nothing is cut unless asked."
    )

    def seed_of_split(self, train_seed: int) -> int:
        """The seed of which rows are held out."""
        return train_seed if self.split_seed == "auto" else self.split_seed


class TrainSpec(Part):
    """How the weights are trained."""

    epochs: Auto | Positive = Field("auto", description="How often every row is seen.")
    learning_rate: Auto | Positive = Field("auto", description="The highest learning rate.")
    learning_rate_multiplier: Positive = Field(
        1.0, description="How many times the learning rate that is chosen for learning_rate: auto."
    )
    optimizer: Literal["adamw", "adamw_8bit", "paged_adamw_8bit", "lion_8bit", "adafactor", "schedule_free_adamw"] = (
        Field("adamw", description="The optimizer: adamw, or one that needs less memory or no schedule.")
    )
    tokens_per_step: Auto | PositiveInt = Field("auto", description="Tokens of the rows of one optimizer step.")
    rows_per_step: Auto | PositiveInt = Field(
        "auto", description="Rows of one optimizer step on average, in place of tokens_per_step."
    )
    devices: PositiveInt = Field(
        1, description="How many devices share the work: GPUs, or processes on a machine without one."
    )
    nodes: PositiveInt = Field(
        1, description="How many machines share the work, each with so many devices; the others run `tunesmith join`."
    )
    address: str = Field(
        "auto",
        min_length=1,
        description="The name or address of this machine as the others reach it; auto: what TUNESMITH_ADDRESS says, "
        "else the address from which this machine reaches others.",
    )
    offload: bool = Field(
        False,
        description="Keep what the strategy cuts in the host's memory, and the weights too where it cuts them: less "
        "memory of the GPU, more time.",
    )
    sampler: Literal["random", "grouped"] = Field(
        "random",
        description="Which rows a step learns from: drawn one by one, or rows that begin with the same document kept "
        "together, which lets them share it but makes the rows of a step less varied.",
    )
    tokens_per_micro_batch: Auto | PositiveInt = Field(
        "auto", description="Tokens that go through the model at once; changes memory and speed, not the result."
    )
    max_length: Auto | Annotated[Whole, Field(ge=2)] = Field("auto", description="Most tokens of a row.")
    budget: str | None = Field(
        None, description="Time for the whole run (90s, 10m, 2h) or tokens to train on (500k tokens, 2M tokens)."
    )
    seed: Whole = Field(0, ge=0, le=MOST_SEED, description="Of everything that is drawn at random.")
    schedule: Literal["cosine", "linear", "constant"] = Field("cosine", description="How the learning rate falls.")
    warmup: ShareOrZero = Field(0.1, description="Share of the steps in which the learning rate rises.")
    weight_decay: Number = Field(0.0, ge=0, description="Decay of weight matrices (AdamW).")
    clip: Positive | None = Field(1.0, description="The greatest gradient norm; null for no limit.")
    precision: Literal["auto", "float32", "bfloat16"] = Field("auto", description="Type of the matrix products.")
    activation_checkpointing: Auto | bool | PositiveInt = Field(
        "auto",
        description="Compute activations again in the backward pass: less memory, more time. A number: in so many "
        "layers.",
    )
    layout: Literal["packed", "padded"] = Field(
        "packed", description="packed: rows behind one another without padding; padded: one row at a time."
    )
    share_prefix: Auto | bool = Field("auto", description="Compute what rows begin with in common only once.")
    checkpoint_every_steps: Auto | PositiveInt = Field("auto", description="Steps between checkpoints.")
    keep_checkpoints: PositiveInt = Field(2, description="How many checkpoints are kept.")
    validate_every_steps: Auto | PositiveInt = Field("auto", description="Steps between validations.")
    neftune_alpha: Positive | None = Field(
        None, description="Size of the noise on embeddings while training (NEFTune; 5 is usual). null: none."
    )
    patience: PositiveInt | None = Field(
        None,
        description="End training after so many validations in a row that were no better; the result is the weights of "
        "the best one. null: train to the end.",
    )
    on_non_finite: Literal["stop", "skip"] = Field(
        "stop", description="What happens with a step whose loss or gradient norm is not finite."
    )

    @field_validator("budget", mode="before")
    @classmethod
    def _readable_budget(cls, value: Any) -> Any:
        if value is not None:
            parse_budget(str(value))
        return value


class EvaluateSpec(Part):
    """How the result is proven."""

    metrics: Auto | Annotated[tuple[str, ...], Field(min_length=1)] = Field(
        "auto", description="Metrics by name, the first is the one of the verdict."
    )
    samples: Whole = Field(10, ge=0, description="Sample answers in the report.")
    rows: Auto | PositiveInt = Field("auto", description="Held-out rows to measure on.")
    few_shot: Auto | Annotated[Whole, Field(ge=0)] = Field(
        "auto", description="Examples in the prompt of the few-shot system; 0 for none."
    )
    max_new_tokens: Auto | PositiveInt = Field("auto", description="Most tokens of an answer.")
    probe: Auto | bool = Field(
        "auto",
        description="Also measure the perplexity of general text before and after, to see what is forgotten; auto: for "
        "task text.",
    )
    multiple_choice: str | None = Field(
        None, description="A file of multiple-choice questions that base and tuned are scored on, such as TruthfulQA's."
    )
    learning_curve: bool = Field(
        False, description="Also train on a quarter and a half of the rows, and show what more data brings."
    )


class Recipe(Part):
    """What to train, on what, and how."""

    model: str = Field(min_length=1, description="A folder, a run, a catalog id or a hub id.")
    data: DataSpec
    task: str = Field(
        "auto",
        description="text, chat, classification, ner, translation, qa, creative, preference, function_calling, "
        "text_to_sql or math; auto: from the shape of the data.",
    )
    objective: Objective = Field(
        "auto", description="The loss: the name of an objective, or an object with its settings."
    )
    technique: Technique = Field(
        default_factory=Lora,
        description="Which weights train: the name of a technique, or an object with its settings.",
    )
    train: TrainSpec = Field(default_factory=TrainSpec)
    strategy: Literal["auto", "single", "ddp", "fsdp", "zero1", "zero2", "zero3"] = Field(
        "auto",
        description="How the devices share the work: ddp (each holds all), zero1 (a part of the moments), zero2 (of "
        "the gradients too), zero3 or fsdp (of the weights too), or single; auto: single for one device, else the "
        "first of them that fits by the plan.",
    )
    fit: Literal["refuse", "auto", "try"] = Field(
        "refuse",
        description="What happens where the plan says that memory is not enough: refuse, with changes that would fit; "
        "auto: make the cheapest of them; try: train all the same.",
    )
    evaluate: EvaluateSpec = Field(default_factory=EvaluateSpec)
    export: Annotated[tuple[Export, ...], AfterValidator(sensible)] = Field(
        (),
        description="Exports of the result, made and checked after training; a name or {to: ..., precision: ...} each.",
    )
    executor: Executor = Field(
        default_factory=Local,
        description="Where the run takes place: the name of an executor, or an object with its settings.",
    )
