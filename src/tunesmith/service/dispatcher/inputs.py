"""A job's files on the dispatcher's machine, for as long as the job may need them, and its recipe over them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Row, select

from tunesmith.errors import DataError, ModelError
from tunesmith.recipe.load import dump_recipe, load_recipe
from tunesmith.recipe.schema import Recipe
from tunesmith.runs.atomic import telling_output_errors, write_text
from tunesmith.runs.layout import RunFolder
from tunesmith.service.context import Context
from tunesmith.service.db.tables.files import FILES
from tunesmith.service.db.tables.models import TUNED_MODELS
from tunesmith.service.fine_tuning.create import suffix_of
from tunesmith.service.fine_tuning.examine import Files
from tunesmith.service.fine_tuning.mapping import whole_recipe
from tunesmith.service.fine_tuning.places import inputs_folder
from tunesmith.service.shared.files import bring
from tunesmith.service.shared.naming import offered


@dataclass(frozen=True)
class _Wanted:
    name: str
    file_id: str
    param: str


def bring_inputs(context: Context, job: Row[Any]) -> Files:
    """Bring a job's files here; what is here already is taken as it is.

    Raises:
        DataError: ``file_deleted``: a file's bytes are not there any more.
        OutputError, NetworkError: They cannot be written, or the storage does not answer.
    """
    wanted = [_Wanted("training", job.training_file, "training_file")]
    if job.validation_file is not None:
        wanted.append(_Wanted("validation", job.validation_file, "validation_file"))
    return Files(*[_bring(context, job, one) for one in wanted])


def settle_inputs(context: Context, job: Row[Any], run: RunFolder) -> None:
    """Let a run of this machine name its files where they lie now: those of a restored service lie in another folder.

    Raises:
        DataError, OutputError, NetworkError: As of :func:`bring_inputs`.
    """
    recipe = load_recipe(run.recipe)
    here = inputs_folder(context, job.id).resolve()
    train = Path(str(recipe.data.train))
    if train.parent == here and train.is_file():
        return
    files = bring_inputs(context, job)
    changed = {"train": str(files.training.resolve())}
    if files.validation is not None:
        changed["validation"] = str(files.validation.resolve())
    data = recipe.data.model_copy(update=changed)
    write_text(run.recipe, dump_recipe(recipe.model_copy(update={"data": data})))


def _bring(context: Context, job: Row[Any], wanted: _Wanted) -> Path:
    folder = inputs_folder(context, job.id).absolute()
    known = sorted(folder.glob(f"{wanted.name}.*"))
    whole = [path for path in known if not path.name.endswith(".part")]
    if whole:
        return whole[0]
    with context.database.read() as connection:
        # Also one that was deleted since the job was made: its bytes stay as long as the job may need them.
        query = select(FILES).where(FILES.c.id == wanted.file_id, FILES.c.project_id == job.project_id)
        row = connection.execute(query).first()
    if row is None:
        raise _deleted(wanted)
    path = folder / f"{wanted.name}{suffix_of(row.filename)}"
    part = path.with_name(f"{path.name}.part")
    with telling_output_errors(path):
        folder.mkdir(parents=True, exist_ok=True)
        part.unlink(missing_ok=True)
        try:
            bring(context, row.place, part)
        except FileNotFoundError:
            raise _deleted(wanted) from None
        part.replace(path)
    return path


def _deleted(wanted: _Wanted) -> DataError:
    return DataError(
        f"the file {wanted.file_id} was deleted before the job began", code="file_deleted", place=wanted.param
    )


def recipe_of(context: Context, job: Row[Any], files: Files) -> Recipe:
    """The recipe that a job's worker gets.

    Raises:
        ModelError: ``model_not_found``: its base is offered no more, or the tuned model was deleted.
        ApiError: The recipe is refused, by a service that was told otherwise since.
    """
    offer = offered(context).get(job.base)
    if offer is None:
        raise ModelError("the service offers this model no more", code="model_not_found", value=job.base)
    model = offer.name if offer.folder is None else str(offer.folder)
    if job.model != job.base:
        with context.database.read() as connection:
            query = select(TUNED_MODELS).where(TUNED_MODELS.c.id == job.model, TUNED_MODELS.c.deleted_at.is_(None))
            row = connection.execute(query).first()
        if row is None:
            raise ModelError("the fine-tuned model was deleted", code="model_not_found", value=job.model)
        model = row.address
    validation = None if files.validation is None else str(files.validation)
    return whole_recipe(job.recipe, context.settings, model, str(files.training), validation)
