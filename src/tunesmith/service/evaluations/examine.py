"""The rows of an evaluation, looked at before any model is loaded: what is wrong is told with its line."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

from sqlalchemy import Row

from tunesmith.errors import DataError, RecipeError
from tunesmith.formats.choices import read_choices
from tunesmith.formats.read import read_examples
from tunesmith.runs.atomic import telling_output_errors
from tunesmith.service.context import Context
from tunesmith.service.errors import ApiError
from tunesmith.service.shared.files import bring, ending_of
from tunesmith.service.shared.training_rows import TrainingReport, check_training_file, problems_of
from tunesmith.tasks import prepare_task

# Larger files are looked at by whoever measures, while the evaluation waits.
READ_AT_ONCE_BYTES = 16 * 2**20
_CODE = "invalid_evaluation_file"
_PARAM = "file"
_SAMPLE_ROWS = 500


@contextmanager
def rows_of(context: Context, file: Row[Any]) -> Iterator[Path]:
    """A file of rows under a name that says nothing of where files lie, alone in a folder that ends with the block.

    Raises:
        ApiError: 404: its bytes are gone.
        OutputError, NetworkError: It cannot be written, or the storage does not answer.
    """
    with tempfile.TemporaryDirectory(prefix="evaluation-", dir=context.scratch) as folder:
        path = Path(folder) / f"rows{ending_of(file.filename) or '.jsonl'}"
        with telling_output_errors(path):
            try:
                bring(context, file.place, path)
            except FileNotFoundError as error:
                raise ApiError(404, f"The file {file.id} was deleted", code="file_deleted", param=_PARAM) from error
        yield path


def require_rows(path: Path, options: Mapping[str, Any]) -> None:
    """Refuse rows that cannot be measured on.

    Args:
        path: The file.
        options: Of the evaluation.

    Raises:
        ApiError: 400 with all that is wrong, by line.
    """
    if options["multiple_choice"]:
        try:
            read_choices(path)
        except DataError as error:
            TrainingReport(problems_of(error, path), None).require_usable(_PARAM, code=_CODE)
        return
    report = check_training_file(path, "any", least_examples=1)
    report.require_usable(_PARAM, code=_CODE)
    assert report.inspection is not None
    sample = [example for _, example in islice(read_examples(report.inspection), _SAMPLE_ROWS)]
    try:
        prepare_task(options["task"] or "auto", report.inspection, sample)
    except RecipeError as error:
        message = "; ".join(part for part in (error.message, error.hint) if part)
        raise ApiError(400, message, code=error.code, param="task") from error
    except DataError as error:
        TrainingReport(problems_of(error, path), None).require_usable(_PARAM, code=_CODE)
