"""Before training: the model on disk, rows as tokens, the audit, and every value resolved."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from tunesmith.catalog.cache import cache_folder
from tunesmith.catalog.heads import Head, HeadKind, read_head
from tunesmith.catalog.resolve import ModelReference
from tunesmith.catalog.watch import OnProgress
from tunesmith.data.audit import Audit, audit
from tunesmith.data.audit_labels import audit_labelled, audit_written
from tunesmith.data.cache_key import cache_key
from tunesmith.data.grouping import group_beginnings
from tunesmith.data.labelled import LabelReader, make_reader
from tunesmith.data.store import TokenStore
from tunesmith.data.template import chat_template
from tunesmith.data.token_cache import cached_token_store
from tunesmith.data.tokenize import shared_prefix_length
from tunesmith.errors import ModelError
from tunesmith.formats.examples import Example, Place
from tunesmith.models.host import probe_host
from tunesmith.models.load import load_tokenizer, model_facts
from tunesmith.models.new_tokens import extend_tokenizer, token_ids_of_adapter, tokenizer_folder
from tunesmith.models.prepare import PreparedModel, ensure_base_of_run, ensure_model_folder
from tunesmith.pipeline.data import RunData
from tunesmith.pipeline.named_metrics import require_fitting_metrics, require_known_metrics
from tunesmith.pipeline.supervision import SUPERVISION
from tunesmith.pipeline.told import Teller
from tunesmith.pipeline.watched import ShouldStop, go_on, stop_if_asked, watched
from tunesmith.recipe.facts import DataFacts, HostFacts, ModelFacts
from tunesmith.recipe.fitting import objective_of
from tunesmith.recipe.objectives import HEADS, ObjectiveSpec
from tunesmith.recipe.refusal import Facts
from tunesmith.recipe.refusals import check
from tunesmith.recipe.resolve import longest_row_allowed, resolve
from tunesmith.recipe.resolved import Resolved
from tunesmith.recipe.schema import Recipe
from tunesmith.runs.layout import RunFolder
from tunesmith.tasks import PreparedTask, prepare_task

# By objective, where a head answers otherwise than a model that writes: what is cut out of a text is compared as words,
# whatever form the answers of the data have, and tags say where each entity stands.
_METRICS_OF_HEADS = {
    "question_answering": ("exact_match", "token_f1"),
    "token_classification": ("tag_f1", "entity_f1", "entity_precision", "entity_recall"),
}


@dataclass(frozen=True)
class Prepared:
    """All that a run needs before any weights are loaded.

    ``group_beginnings`` are the most tokens that rows of one group begin with and all that they share, where the recipe
    keeps groups together.
    """

    recipe: Recipe
    model: PreparedModel
    model_facts: ModelFacts
    host: HostFacts
    tokenizer: Any
    task: PreparedTask
    data: RunData
    train: TokenStore
    validation: TokenStore
    stop_token_ids: tuple[int, ...]
    new_token_ids: tuple[int, ...] = ()
    group_beginnings: tuple[int, int] = (0, 0)


def prepare_model(name: str, runs_folder: Path, teller: Teller) -> PreparedModel:
    """The model on this machine, fetched if need be, with the fetching told."""
    return ensure_model_folder(name, runs_folder, _telling(teller))


def prepare_base(run: ModelReference, runs_folder: Path, teller: Teller) -> PreparedModel:
    """Likewise the model that a run was trained from."""
    assert run.path is not None
    return ensure_base_of_run(RunFolder(run.path), runs_folder, _telling(teller))


def _telling(teller: Teller) -> OnProgress:
    def progress(what: str, done: int, total: int | None, unit: str) -> None:
        teller.progress(what, done, total, unit)

    return progress


def prepare(
    recipe: Recipe,
    data: RunData,
    runs_folder: Path,
    teller: Teller,
    should_stop: ShouldStop = go_on,
    *,
    labels: Sequence[str] = (),
) -> Prepared:
    """Fetch the model, fit the task to the data, and turn both sides into tokens.

    ``labels`` are those of a head that was trained before, and then the only ones.

    Raises:
        Stopped: ``should_stop`` said so while rows were read.
        TunesmithError: Whatever is wrong with model or data; see the callees.
    """
    task = prepare_task(recipe.task, data.inspection, data.sample())
    model = prepare_model(recipe.model, runs_folder, teller)
    tokenizer = load_tokenizer(tokenizer_folder(model.folder, model.adapter))
    facts = model_facts(model.folder, recipe.model)
    template = None if task.name == "text" or not facts.has_chat_template else chat_template(tokenizer)
    _refuse_early(recipe, task, data, facts)
    new_token_ids = extend_tokenizer(tokenizer, recipe.data.new_tokens)
    objective = objective_of(recipe, task=task.name, shape=data.inspection.shape, model_kind=facts.kind)
    if labels:
        task = replace(task, labels=tuple(labels))
    elif objective.name in HEADS:
        task = _with_known_labels(task, objective.name, model)
    if objective.name == "question_answering":
        # Rows carry no token types, so other programs that read the saved tokenizer shall not make any either.
        names = tokenizer.model_input_names
        tokenizer.model_input_names = [name for name in names if name != "token_type_ids"]
    encoder = _Encoder(recipe, task, objective, tokenizer, facts, teller, should_stop)
    train = encoder.tokens(data.train, data.train_fingerprint())
    held_out = train if data.measured_only else encoder.tokens(data.held_out, data.held_out_fingerprint())
    stop_if_asked(should_stop)
    brought = () if model.adapter is None else token_ids_of_adapter(model.adapter)
    _require_known_tokens((train, held_out), facts, (*brought, *new_token_ids))
    return Prepared(
        recipe=recipe,
        model=model,
        model_facts=facts,
        host=probe_host(),
        tokenizer=tokenizer,
        task=task,
        data=data,
        train=train,
        validation=held_out,
        stop_token_ids=stop_tokens(model.folder, tokenizer, None if template is None else template.end_of_turn_id),
        new_token_ids=new_token_ids,
        # Found once: values are resolved many times where a plan looks for changes that fit.
        group_beginnings=group_beginnings(train.items) if recipe.train.sampler == "grouped" else (0, 0),
    )


def _with_known_labels(task: PreparedTask, objective: str, model: PreparedModel) -> PreparedTask:
    """Keep the label set of a head that was trained before, where the data brings no label that it lacks.

    Such a head goes on with what it has learned; any other begins anew.
    """
    head = read_head(model.adapter or model.folder)
    if head is None or head.kind != objective or not set(task.labels) <= set(head.task_labels):
        return task
    return replace(task, labels=head.task_labels)


def audit_run(prepared: Prepared, *, show: int = 0, should_stop: ShouldStop = go_on) -> Audit:
    """Audit the supervision of a run's rows.

    Raises:
        Stopped: ``should_stop`` said so while rows were read.
    """
    stop_if_asked(should_stop)
    found = _audit(prepared, watched(prepared.data.train(), should_stop), show)
    stop_if_asked(should_stop)
    return found


def _audit(prepared: Prepared, examples: Iterator[tuple[Place, Example]], show: int) -> Audit:
    objective = objective_of(
        prepared.recipe,
        task=prepared.task.name,
        shape=prepared.data.inspection.shape,
        model_kind=prepared.model_facts.kind,
    ).name
    overlap, inspection = prepared.data.overlap(), prepared.data.inspection
    if objective in HEADS:
        reader = make_reader(objective, prepared.task.labels, prepared.tokenizer, prepared.model_facts.kind)
        return audit_labelled(
            prepared.train, examples, reader, inspection, validation=prepared.validation, overlap=overlap, show=show
        )
    if objective == "seq2seq":
        return audit_written(
            prepared.train, prepared.tokenizer, inspection, validation=prepared.validation, overlap=overlap, show=show
        )
    return audit(
        prepared.train,
        examples,
        prepared.task,
        prepared.tokenizer,
        inspection,
        validation=prepared.validation,
        overlap=overlap,
        stop_token_ids=prepared.stop_token_ids,
        everything=objective == "text",
        show=show,
    )


def resolve_run(prepared: Prepared) -> Resolved:
    """Choose every value that the recipe leaves open.

    Raises:
        RecipeError: The combination cannot work, or a metric that is named does not fit the rows.
    """
    facts = Facts(data_facts(prepared), prepared.model_facts, prepared.host)
    check(prepared.recipe, facts)
    require_known_metrics(prepared.recipe)
    resolved = resolve(prepared.recipe, facts.data, facts.model, facts.host)
    require_fitting_metrics(prepared, resolved)
    return resolved


def data_facts(prepared: Prepared) -> DataFacts:
    """The data in tokens of the model."""
    train, task = prepared.train, prepared.task
    shape = prepared.data.inspection.shape
    objective = objective_of(prepared.recipe, task=task.name, shape=shape, model_kind=prepared.model_facts.kind).name
    answer_tokens = 0 if objective in HEADS else task.tokens_to_generate(token_counter(prepared.tokenizer))
    return DataFacts(
        task=task.name,
        shape=shape,
        rows=len(train.items),
        validation_rows=len(prepared.validation.items),
        tokens=int(train.lengths_B.sum()),
        trained_tokens=int(train.trained_counts_B.sum()),
        longest_row=int(train.lengths_B.max(initial=0)),
        shared_prefix_tokens=shared_prefix_length(train),
        group_prefix_tokens=prepared.group_beginnings[0],
        group_shared_tokens=prepared.group_beginnings[1],
        labels=len(task.labels),
        default_metrics=_METRICS_OF_HEADS.get(objective, task.metrics),
        answer_tokens=answer_tokens,
        has_context=_has_context(prepared.data),
    )


def head_of(prepared: Prepared, objective: ObjectiveSpec, seed: int) -> Head | None:
    """The head that an objective puts on the model; None for objectives that write."""
    reader = reader_of(prepared, objective)
    return None if reader is None else Head(cast(HeadKind, objective.name), reader.labels, seed)


def reader_of(prepared: Prepared, objective: ObjectiveSpec) -> LabelReader | None:
    """What reads the labels of an objective with a head; None for objectives that write."""
    if objective.name not in HEADS:
        return None
    return make_reader(objective.name, prepared.task.labels, prepared.tokenizer, prepared.model_facts.kind)


def _has_context(data: RunData) -> bool:
    return data.inspection.shape != "question_answer" or "context" in data.inspection.columns


def token_counter(tokenizer: Any) -> Callable[[str], int]:
    """How many tokens a text has."""
    return lambda text: len(tokenizer(text, add_special_tokens=False)["input_ids"])


def stop_tokens(folder: Path, tokenizer: Any, end_of_turn: int | None) -> tuple[int, ...]:
    """Every token at which an answer ends: the template's end of turn, and what model and tokenizer name."""
    from transformers import GenerationConfig

    found = {tokenizer.eos_token_id, end_of_turn}
    if (folder / "generation_config.json").is_file():
        named = GenerationConfig.from_pretrained(folder, local_files_only=True).eos_token_id
        found |= set(named) if isinstance(named, list) else {named}
    return tuple(sorted(int(token) for token in found if token is not None))


def _refuse_early(recipe: Recipe, task: PreparedTask, data: RunData, model: ModelFacts) -> None:
    """What is known to be impossible before anything is tokenized."""
    rows = max(1, data.inspection.good_rows)
    facts = DataFacts(task.name, data.inspection.shape, rows, 1, 1, 1, 1, has_context=_has_context(data))
    check(recipe, Facts(facts, model, probe_host()))


def _require_known_tokens(stores: Sequence[TokenStore], model: ModelFacts, added: Sequence[int]) -> None:
    """Refuse rows with tokens that the model has no embedding for."""
    highest = max(int(store.arrays["token_ids"].max(initial=0)) for store in stores)
    if highest >= max(model.vocabulary_size, 1 + max(added, default=-1)):
        raise ModelError(
            "the tokenizer gives tokens that the model does not have",
            code="model.vocabulary",
            place=model.name,
            value=f"token {highest} of a vocabulary of {model.vocabulary_size}",
            hint="the folder's tokenizer belongs to another model; take the one that the model came with",
        )


@dataclass(frozen=True)
class _Encoder:
    """Turns rows into tokens, or takes them from the cache."""

    recipe: Recipe
    task: PreparedTask
    objective: ObjectiveSpec
    tokenizer: Any
    model: ModelFacts
    teller: Teller
    should_stop: ShouldStop

    def tokens(self, rows: Callable[[], Iterator[tuple[Place, Example]]], fingerprint: str) -> TokenStore:
        length = longest_row_allowed(self.recipe, task=self.task.name, context_length=self.model.context_length)
        options: dict[str, Any] = {
            "max_length": length or 2**31 - 1,
            "on_long_rows": self.recipe.data.on_long_rows,
            "on_bad_rows": self.recipe.data.on_bad_rows,
        }
        supervision = SUPERVISION[self.objective.name]
        if supervision.labelled:
            options["model_kind"] = self.model.kind
        key = cache_key(
            self.tokenizer,
            data_fingerprint=fingerprint,
            rows="all",
            task=self.task,
            objective=self.objective.name,
            **options,
        )
        if supervision.labelled:
            options["objective"] = self.objective.name

        def write(folder: Path) -> TokenStore:
            def progress(done: int) -> None:
                self.teller.progress("tokenize", done, None, "rows")

            return supervision.tokenize(
                watched(rows(), self.should_stop), self.task, self.tokenizer, folder, on_progress=progress, **options
            )

        return cached_token_store(cache_folder() / "tokens", key, write)
