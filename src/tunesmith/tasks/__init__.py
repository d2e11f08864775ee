"""Tasks: what is learned of an example, what is asked at evaluation, and by which metrics. Never loads torch."""

from __future__ import annotations

from tunesmith.tasks.prepare import TASKS, prepare_task
from tunesmith.tasks.types import EvaluationRow, PreparedTask

__all__ = ["TASKS", "EvaluationRow", "PreparedTask", "prepare_task"]
