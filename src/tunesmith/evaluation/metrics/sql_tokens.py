"""SQL as tokens that are equal where queries are written alike: case, blanks and quotes of names do not count.

What stands between double quotes is a name where a column, table or alias is called so, and else a text, as SQLite
reads it; texts keep their case.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from itertools import pairwise
from typing import Any

_TOKEN = re.compile(
    r"'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"|`[^`]*`|\[[^\]]*\]|[0-9]+(?:\.[0-9]+)?|\w+|<>|!=|==|<=|>=|\|\||\S", re.DOTALL
)
_CREATE = re.compile(r"\bCREATE\b[^;]*", re.IGNORECASE)
# Behind these stands a value rather than a name.
_COMPARISONS = frozenset(("=", "==", "<>", "!=", "<", ">", "<=", ">=", "like", "glob"))


def known_names(tables: Sequence[Mapping[str, Any]], script: str | None) -> frozenset[str] | None:
    """Names of tables and columns in lower case; None where nothing tells them."""
    if not tables and not script:
        return None
    names = {str(name).lower() for table in tables for name in (table["name"], *table["columns"])}
    made = [token for statement in _CREATE.findall(script or "") for token in _TOKEN.findall(statement)]
    return frozenset(names | {_bare(token).lower() for token in made if not token.startswith("'")})


def normal_tokens(query: str, names: Collection[str] | None = None) -> list[str]:
    """The query as tokens: names and key words in lower case without quotes, texts in single quotes as they are.

    ``names`` are those of tables and columns. Where they are not known, what stands between double quotes is a text
    behind a comparison and in the list of IN, and a name elsewhere.
    """
    tokens = _TOKEN.findall(query)
    aliases = {_bare(name).lower() for word, name in pairwise(tokens) if word.lower() == "as"}
    found: list[str] = []
    in_list = False
    for token in tokens:
        before = found[-1] if found else ""
        in_list = before != ")" and (in_list or (before == "(" and found[-2:-1] == ["in"]))
        if token.startswith('"') and len(token) > 1:
            name = _bare(token).lower()
            is_value = before in _COMPARISONS or in_list if names is None else name not in names
            found.append(_as_text(token) if is_value and name not in aliases else name)
        else:
            found.append(_normal(token))
    return found


def asks_for_order(query: str) -> bool:
    """Whether the rows of the result are to be in an order: an ORDER BY outside of all parentheses."""
    depth, before = 0, ""
    for word in map(str.lower, _TOKEN.findall(query)):
        depth += (word == "(") - (word == ")")
        if depth == 0 and (before, word) == ("order", "by"):
            return True
        before = word if depth == 0 else ""
    return False


def _normal(token: str) -> str:
    if token.startswith("'") and len(token) > 1:
        return token
    if len(token) > 1 and token[0] in "`[":
        return _bare(token).lower()
    return {"!=": "<>", "==": "="}.get(token, token.lower())


def _bare(token: str) -> str:
    """A name without its quotes."""
    if len(token) > 1 and token[0] in '"`[':
        return token[1:-1].replace('""', '"') if token[0] == '"' else token[1:-1]
    return token


def _as_text(token: str) -> str:
    return "'" + _bare(token).replace("'", "''") + "'"
