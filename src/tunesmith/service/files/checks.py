"""What a training file is worth before a job is made of it: its rows, what is wrong with them, how they would split."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tunesmith.formats.overlap import overlap
from tunesmith.formats.split import plan_split
from tunesmith.service.auth.caller import Caller
from tunesmith.service.context import Context
from tunesmith.service.files.sample import first_rows
from tunesmith.service.files.schema import CheckFile
from tunesmith.service.shared.files import find_file, local_copy
from tunesmith.service.shared.training_rows import TrainingReport, check_training_file


def check_file(context: Context, caller: Caller, file_id: str, asked: CheckFile) -> dict[str, Any]:
    """Read a training file, and the validation file where one is named, and report.

    Raises:
        ApiError: 404: there is no such file; 400: it is for something else.
    """
    with context.database.read() as connection:
        row = find_file(connection, caller.project_id, file_id, purpose="fine-tune")
        other = None
        if asked.validation_file is not None:
            other = find_file(
                connection, caller.project_id, asked.validation_file, purpose="fine-tune", param="validation_file"
            )
    with local_copy(context, row.place) as path:
        report = _report(path, asked)
        told = {"object": "tunesmith.file_check", "file": file_id, **report.to_json()}
        found = report.inspection
        told["first_rows"] = [] if found is None or not found.good_rows else first_rows(found)
        told["split"] = None if asked.validation is None or report.problems else _split(report, asked)
        if other is not None:
            with local_copy(context, other.place) as held:
                second = _report(held, asked, least_examples=1)
                told["validation_file"] = {"file": other.id, **second.to_json()}
                told["overlap"] = _overlap(report, second)
    return told


def _report(path: Path, asked: CheckFile, **more: int) -> TrainingReport:
    return check_training_file(path, asked.method, columns=asked.columns, shape=asked.shape, **more)


def _split(report: TrainingReport, asked: CheckFile) -> dict[str, Any]:
    assert report.inspection is not None
    assert asked.validation is not None
    split = plan_split(report.inspection, fraction=asked.validation, seed=asked.split_seed)
    return {
        "training_rows": split.train_rows,
        "validation_rows": split.validation_rows,
        "groups": split.groups,
        "grouped_by": split.grouped_by,
        "seed": split.seed,
    }


def _overlap(first: TrainingReport, second: TrainingReport) -> dict[str, int] | None:
    """Validation rows that training gives away; None where rows of either cannot be read."""
    if first.problems or second.problems:
        return None
    assert first.inspection is not None
    assert second.inspection is not None
    found = overlap(first.inspection, second.inspection)
    return {"equal_rows": found.exact, "equal_prompts": found.same_prompt}
