"""Works for evaluations: each is measured by a worker in a process of its own, one try after the other."""

from __future__ import annotations

import logging
import threading
from pathlib import Path
from typing import Any

from sqlalchemy import Row
from sqlalchemy.exc import DBAPIError

from tunesmith.errors import NetworkError, OutputError, Stopped, TunesmithError, WorkerError
from tunesmith.jobs import stages
from tunesmith.runs.atomic import read_json
from tunesmith.service.auth.caller import Caller
from tunesmith.service.context import Context
from tunesmith.service.errors import ApiError, status_of, words_of
from tunesmith.service.evaluations.beat import Beat, StoppedError
from tunesmith.service.evaluations.examine import require_rows, rows_of
from tunesmith.service.evaluations.reports import keep_reports, result_of, used_by, without_places
from tunesmith.service.evaluations.states import end, leave, renew, take
from tunesmith.service.shared.files import find_file
from tunesmith.service.shared.metering import count_use, require_budget
from tunesmith.service.shared.naming import Named, find_tuned, offered, require_model
from tunesmith.service.shared.working import LostError, work_in_turn

_log = logging.getLogger(__name__)
# What may be better later is tried so often, after ever longer pauses: half a minute, two, eight.
_MOST_TRIES = 4
_LATER_SECONDS = 30.0
_LONGER = 4
_PASSING = (NetworkError, OutputError, WorkerError, Stopped)
# Processes that are killed say nothing; an evaluation during which all of them are is not tried for ever.
_MOST_INTERRUPTIONS = 10


def run_evaluations(context: Context, stop: threading.Event) -> None:
    """Work for evaluations until told to stop; the dispatcher's process has a thread for it.

    Args:
        context: The service.
        stop: Set when the process shall end.
    """
    count = context.settings.limits.evaluations_at_once
    work_in_turn("evaluations", count, lambda: take(context), lambda row: work(context, row, stop), stop)


def work(context: Context, row: Row[Any], stop: threading.Event) -> None:
    """Bring one evaluation as far as it goes.

    Args:
        context: The service.
        row: An evaluation that was taken.
        stop: Set when the process shall end.
    """
    try:
        try:
            _require_tries(row)
            _measure(context, row, stop)
        except StoppedError:
            leave(context, row)
        except ApiError as error:
            _fail(context, row, str(error.detail.code or "failed"), error.detail.message, error.detail.param)
        except TunesmithError as error:
            _give_up_or_wait(context, row, error)
        except DBAPIError:
            raise
        except Exception as error:
            _log.exception("evaluation %s failed", row.id)
            _fail(context, row, "internal_error", f"unexpected error: {type(error).__name__}", None)
    except LostError:
        _log.info("evaluation %s was cancelled, or another process has it", row.id)


def _require_tries(row: Row[Any]) -> None:
    if row.tries >= _MOST_INTERRUPTIONS:
        raise ApiError(
            500,
            f"It was interrupted {row.tries} times, perhaps by itself: measure on fewer rows, or ask for it again",
            code="evaluation_interrupted",
        )


def _measure(context: Context, row: Row[Any], stop: threading.Event) -> None:
    # Its project decides what it may; nobody's scope is asked for again.
    caller = Caller("inference", False, row.project_id, f"evaluation {row.id}", row.key_id, None, "", None)
    with context.database.read() as connection:
        named = require_model(context, connection, caller, row.measured)
        file = find_file(connection, row.project_id, row.file_id, param="file", even_deleted=True)
        require_budget(context, connection, row.project_id)
    with Beat(context, row, stop) as beat, rows_of(context, file) as rows:
        require_rows(rows, row.options)
        stage = stages.benchmark if row.options["multiple_choice"] else stages.evaluate
        with stage(
            _request(context, row, named, rows.name),
            beat.note,
            runs_folder=context.settings.runs_folder,
            working_folder=rows.parent,
            on_poll=beat.require_going_on,
        ) as folder:
            _finish(context, row, named, folder)


def _request(context: Context, row: Row[Any], named: Named, rows: str) -> dict[str, Any]:
    """What the worker is asked for."""
    options = row.options
    folder = offered(context)[named.base].folder
    model = named.address or (named.base if folder is None else str(folder))
    shared = {
        "model": model,
        "called": named.name,
        "rows": options["rows"] or "auto",
        "samples": options["samples"],
        "seed": options["seed"],
        "robustness": options["robustness"],
    }
    if options["multiple_choice"]:
        return {**shared, "multiple_choice": rows, "harness": []}
    return {
        **shared,
        "data": rows,
        "task": options["task"] or "auto",
        "metrics": options["metrics"] or "auto",
        "few_shot": "auto" if options["few_shot"] is None else options["few_shot"],
        "max_new_tokens": options["max_new_tokens"] or "auto",
    }


def _finish(context: Context, row: Row[Any], named: Named, folder: Path) -> None:
    """Keep the report, and end the evaluation together with what it has used."""
    # Nothing is put where a project is being deleted, or where somebody else is at it.
    renew(context, row, None)
    keep_reports(context, row, named, folder)
    report = read_json(folder / "report.json")
    used = used_by(report, named)
    read, written = (sum(of_model[at] for of_model in used.values()) for at in (0, 1))
    usage = {"input_tokens": read, "output_tokens": written, "total_tokens": read + written}
    with context.database.write() as connection:
        end(context, connection, row, "succeeded", result=result_of(report), usage=usage, error=None)
        for model, (of_model_read, of_model_written) in used.items():
            count_use(
                context,
                connection,
                row.project_id,
                model,
                {"input_tokens": of_model_read, "output_tokens": of_model_written},
                key_id=row.key_id,
                price_of=named.base,
            )


def _give_up_or_wait(context: Context, row: Row[Any], error: TunesmithError) -> None:
    """End an evaluation whose worker told an error; what may pass is tried again."""
    if isinstance(error, _PASSING) and row.tries + 1 < _MOST_TRIES:
        _log.warning("evaluation %s waits: %s", row.id, error.message)
        leave(context, row, _LATER_SECONDS * _LONGER**row.tries, in_vain=True)
        return
    if status_of(error) >= 500:
        # What happened on this machine is for whoever runs it.
        _log.error("evaluation %s failed: %s", row.id, words_of(error))
    _fail(context, row, error.code, _told(context, row, error), None)


def _told(context: Context, row: Row[Any], error: TunesmithError) -> str:
    """An error in words for the one who asked."""
    if isinstance(error, WorkerError | Stopped):
        return "The worker that measured was ended, several times; the service's log says more"
    with context.database.read() as connection:
        tuned = find_tuned(connection, row.project_id, row.measured)
    address = None if tuned is None else tuned.address
    return without_places(context, Named("tuned", row.measured, row.base, address), words_of(error))


def _fail(context: Context, row: Row[Any], code: str, message: str, param: str | None) -> None:
    with context.database.write() as connection:
        end(context, connection, row, "failed", error={"code": code, "message": message, "param": param})
