"""Named entities: tokens with tags, or a text with character spans."""

from __future__ import annotations

from typing import Any

from tunesmith.formats.examples import EntityText, Span
from tunesmith.formats.rows import RowProblem, clip
from tunesmith.formats.shapes.values import Fields, plain_word

_START = ("start", "start_offset", "start_char", "begin")
_END = ("end", "end_offset", "end_char", "stop")
_LABEL = ("label", "type", "entity", "entity_type", "entity_group", "tag")
_TEXT = ("text", "word", "value")


def parse_entities(fields: Fields) -> EntityText:
    """Tokens with IOB2 tags, or a text with spans; spans are sorted by where they start."""
    if fields.has("tokens"):
        return _from_tokens(fields.get("tokens"), fields.get("tags"))
    text = fields.text("text")
    spans = [_span(value, text) for value in _span_values(fields.get("entities"))]
    return EntityText(text, tuple(sorted(spans, key=lambda span: (span.start, span.end, span.label))))


def _from_tokens(tokens: Any, tags: Any) -> EntityText:
    if not isinstance(tokens, list) or not all(isinstance(token, str) for token in tokens):
        raise RowProblem("data_type", f"tokens must be a list of texts, found {clip(tokens)}")
    if not tokens or not any(token.strip() for token in tokens):
        raise RowProblem("empty_text", "there are no tokens")
    if not isinstance(tags, list):
        raise RowProblem("missing_label", f"tags must be a list, found {clip(tags)}")
    if len(tokens) != len(tags):
        raise RowProblem("tags_do_not_match_tokens", f"{len(tokens)} tokens but {len(tags)} tags")
    spans: list[Span] = []
    start = 0
    previous = "O"
    for number, (token, tag) in enumerate(zip(tokens, tags, strict=True), start=1):
        _check_tag(tag, previous, number)
        end = start + len(token)
        if tag[0] == "B":
            spans.append(Span(start, end, tag[2:]))
        elif tag[0] == "I":
            spans[-1] = Span(spans[-1].start, end, tag[2:])
        previous = tag
        start = end + 1
    return EntityText(" ".join(tokens), tuple(spans), tuple(tokens), tuple(tags))


def _check_tag(tag: Any, previous: str, number: int) -> None:
    if not isinstance(tag, str):
        raise RowProblem("invalid_tag", f"tag {number} must be a text such as B-person, found {clip(tag)}")
    if tag == "O":
        return
    if tag[:2] not in ("B-", "I-") or len(tag) == 2:
        raise RowProblem("invalid_tag", f"tag {number} must be O, B-name or I-name, found {clip(tag)}")
    if tag[0] == "I" and previous[2:] != tag[2:]:
        raise RowProblem("tags_not_iob2", f"tag {number} is {clip(tag)} without a B-{clip(tag[2:])} before it")


def _span_values(value: Any) -> list[Any]:
    """Spans as a list, or as an object of lists, which is how Parquet files often hold them."""
    if value is None:
        raise RowProblem("missing_label", "no entities; an empty list says that there are none")
    if isinstance(value, dict) and value and all(isinstance(column, list) for column in value.values()):
        if len({len(column) for column in value.values()}) != 1:
            raise RowProblem("data_type", f"the lists of the entities differ in length: {clip(value)}")
        return [dict(zip(value, values, strict=True)) for values in zip(*value.values(), strict=True)]
    if not isinstance(value, list):
        raise RowProblem("data_type", f"entities must be a list, found {clip(value)}")
    return value


def _span(value: Any, text: str) -> Span:
    if isinstance(value, list) and len(value) == 3:
        value = dict(zip(("start", "end", "label"), value, strict=True))
    if not isinstance(value, dict):
        raise RowProblem("data_type", f"an entity must be an object with start, end and label, found {clip(value)}")
    start, end, label = (_first(value, names) for names in (_START, _END, _LABEL))
    if type(start) is not int or type(end) is not int:
        raise RowProblem("data_type", f"start and end of an entity must be whole numbers, found {clip(value)}")
    name = plain_word(label)
    if name is None or not name.strip():
        raise RowProblem("missing_label", f"an entity without a label: {clip(value)}")
    if not 0 <= start < end <= len(text):
        raise RowProblem("span_outside_text", f"characters {start} to {end} of a text of {len(text)} characters")
    covered = _first(value, _TEXT)
    if isinstance(covered, str) and covered != text[start:end]:
        raise RowProblem(
            "span_text_differs", f"characters {start} to {end} are {clip(text[start:end])}, not {clip(covered)}"
        )
    return Span(start, end, name)


def _first(value: dict[str, Any], names: tuple[str, ...]) -> Any:
    return next((value[name] for name in names if value.get(name) is not None), None)
