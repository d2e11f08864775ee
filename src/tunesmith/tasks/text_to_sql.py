"""A question about tables, answered by one SQL query.

Beside rows with an ``sql`` column, questions with a context and prompts with a completion are taken as they are, and
plain texts that end in ``Q: question`` and ``A: SQL`` lines with the schema above them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from tunesmith.errors import DataError
from tunesmith.formats.examples import Document, Example, PromptCompletion, QuestionAnswer, SqlQuestion, SqlTable
from tunesmith.formats.inspect import Inspection
from tunesmith.formats.rows import clip
from tunesmith.tasks.answers import longest
from tunesmith.tasks.types import PreparedTask, Question, Reference, question_task

SYSTEM = "Write one SQL query that answers the question. Answer with the query and nothing else."
_WRITTEN = re.compile(r"(?P<schema>.*?)^Q:[ \t]*(?P<question>.*?)\n+A:[ \t]*(?P<sql>.*)", re.MULTILINE | re.DOTALL)
_INSERT = re.compile(r"\binsert\s+into\b", re.IGNORECASE)


def prepare(inspection: Inspection, sample: Sequence[Example]) -> PreparedTask:  # noqa: ARG001  (one form for all)
    """The task for questions about tables; where rows of tables are given, queries are run as well."""
    questions = [read_question(example) for example in sample]
    runnable = any(has_rows(question) for question in questions)
    return question_task(
        "text_to_sql",
        _ask,
        metrics=("sql_execution", "sql_exact") if runnable else ("sql_exact",),
        longest_answer=longest([question.sql for question in questions]),
        wording={"system": SYSTEM},
        description=f"Text to SQL: queries are compared{' and run on the given tables' if runnable else ''}.",
    )


def read_question(example: Example) -> SqlQuestion:
    """The question, SQL and schema of any of the shapes.

    Raises:
        DataError: ``data.sql_text``: a plain text without its Q: and A: lines.
    """
    if isinstance(example, SqlQuestion):
        return example
    if isinstance(example, QuestionAnswer):
        if not example.answers:
            raise DataError(
                "a question has no query that answers it",
                code="data.no_answer",
                value=clip(example.question),
                hint="remove such rows",
            )
        return SqlQuestion(example.question, example.answers[0], example.context)
    if isinstance(example, PromptCompletion):
        return SqlQuestion(example.prompt, example.completion, example.system)
    assert isinstance(example, Document)
    found = _WRITTEN.fullmatch(example.text)
    if found is None or not found["question"].strip() or not found["sql"].strip():
        raise DataError(
            "a text of this task has a line `Q: question` and behind it `A: SQL`",
            code="data.sql_text",
            value=clip(example.text),
            hint="write the rows so, or give them columns question, sql and schema",
        )
    return SqlQuestion(found["question"].strip(), found["sql"].strip(), found["schema"].strip() or None)


def has_rows(question: SqlQuestion) -> bool:
    """Whether the data has rows on which a query can be run."""
    return any(table.rows for table in question.tables) or bool(_INSERT.search(question.schema or ""))


def _ask(example: Example) -> Question:
    question = read_question(example)
    return Question(SYSTEM, _prompt(question), question.sql, _reference(question))


def _prompt(question: SqlQuestion) -> str:
    parts = [question.schema] if question.schema else [_described(table) for table in question.tables]
    return "\n\n".join([*parts, f"Question: {question.question}"])


def _described(table: SqlTable) -> str:
    return f"Table {table.name}: {', '.join(table.columns)}"


def _reference(question: SqlQuestion) -> Reference:
    if not has_rows(question):
        return {"sql": question.sql, "script": None, "tables": ()}
    return {
        "sql": question.sql,
        "script": question.schema if _INSERT.search(question.schema or "") else None,
        "tables": tuple(
            {"name": table.name, "columns": table.columns, "rows": table.rows} for table in question.tables
        ),
    }
