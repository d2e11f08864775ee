"""The rows of a recipe on both sides of the split."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice

from tunesmith.errors import DataError
from tunesmith.formats.bad_rows import BadRows
from tunesmith.formats.examples import Example, Place
from tunesmith.formats.inspect import Inspection, inspect_source
from tunesmith.formats.overlap import Overlap, overlap
from tunesmith.formats.read import read_examples, weighted_rows
from tunesmith.formats.split import Split, plan_split
from tunesmith.recipe.schema import DataSource, DataSpec

# From so many rows the form and length of answers are told.
SAMPLE_ROWS = 500

Rows = Iterator[tuple[Place, Example]]


@dataclass(frozen=True)
class Source:
    """One inspected training source; ``split`` is None where validation is a source of its own."""

    spec: DataSource
    inspection: Inspection
    split: Split | None


@dataclass(frozen=True)
class RunData:
    """Training and validation rows.

    Attributes:
        sources: The training sources.
        validation: The inspection of a validation source of its own, or None.
        inspection: All training sources as one.
        on_bad_rows: What happens with bad rows.
        seed: Of what is drawn.
        measured_only: Nothing is trained; both sides are the same rows.
    """

    sources: tuple[Source, ...]
    validation: Inspection | None
    inspection: Inspection
    on_bad_rows: str
    seed: int
    measured_only: bool = False

    def train(self) -> Rows:
        """The training rows in order; sources with a weight other than 1 have rows repeated or left out."""
        return chain.from_iterable(self._weighted(source) for source in self.sources)

    def held_out(self) -> Rows:
        """The validation rows in order."""
        if self.validation is not None:
            return read_examples(self.validation, on_bad_rows=self.on_bad_rows)
        return chain.from_iterable(self._side(source, "validation") for source in self.sources)

    def sample(self) -> list[Example]:
        """Training rows and held-out rows from which a task is fitted."""
        return [example for rows in (self.train(), self.held_out()) for _, example in islice(rows, SAMPLE_ROWS)]

    def train_fingerprint(self) -> str:
        """A hash of what :meth:`train` gives."""
        return _hash("train", *(f"{_identity(source)}*{source.spec.weight}" for source in self.sources), self.seed)

    def held_out_fingerprint(self) -> str:
        """A hash of what :meth:`held_out` gives."""
        if self.validation is not None:
            return _hash("held out", self.validation.fingerprint, self.on_bad_rows)
        return _hash("held out", *(_identity(source) for source in self.sources), self.on_bad_rows)

    def overlap(self) -> Overlap | None:
        """What training gives away of a validation source of its own; a split of ours gives nothing away."""
        if self.validation is None or self.measured_only:
            return None
        found = [overlap(source.inspection, self.validation) for source in self.sources]
        first = max(found, key=lambda one: one.same_prompt)
        return Overlap(max(one.exact for one in found), first.same_prompt, first.first)

    def describe_split(self) -> str:
        """How validation rows were chosen, in words."""
        if self.validation is not None:
            return f"validation rows are those of {self.validation.source}"
        return "; ".join(source.split.describe() for source in self.sources if source.split is not None)

    def _side(self, source: Source, side: str) -> Rows:
        rows = read_examples(source.inspection, on_bad_rows=self.on_bad_rows)
        if source.split is None:
            return rows
        split = source.split
        return ((place, example) for place, example in rows if split.side(place, example) == side)

    def _weighted(self, source: Source) -> Rows:
        count = source.split.train_rows if source.split else source.inspection.good_rows
        return weighted_rows(lambda: self._side(source, "train"), count, source.spec.weight, self.seed)


def load_data(spec: DataSpec, seed: int) -> RunData:
    """Inspect every source and decide which rows validate.

    Raises:
        DataError: A source cannot be used, has bad rows that are refused, or is too small to split; or sources
            have different shapes (``data.shapes_differ``).
        NetworkError: A hub did not answer.
    """
    columns = None if spec.columns == "auto" else dict(spec.columns)
    shape = None if spec.shape == "auto" else spec.shape
    wanted = (DataSource(path=spec.train, weight=1.0),) if isinstance(spec.train, str) else spec.train
    sources = []
    for source in wanted:
        inspection = inspect_source(source.path, columns=columns, shape=shape)
        inspection.require_usable(spec.on_bad_rows)
        split = None
        if isinstance(spec.validation, float):
            split = plan_split(
                inspection, fraction=spec.validation, seed=spec.seed_of_split(seed), on_bad_rows=spec.on_bad_rows
            )
        sources.append(Source(source, inspection, split))
    validation = None
    if isinstance(spec.validation, str):
        validation = inspect_source(spec.validation, columns=columns, shape=shape)
        validation.require_usable(spec.on_bad_rows)
    found = [source.inspection for source in sources]
    _require_one_shape([*found, *([validation] if validation else [])])
    return RunData(tuple(sources), validation, _as_one(found), spec.on_bad_rows, seed)


def measured_data(source: str, spec: DataSpec, seed: int) -> RunData:
    """Rows that are only measured.

    Raises:
        DataError, NetworkError: As :func:`load_data`.
    """
    columns = None if spec.columns == "auto" else dict(spec.columns)
    shape = None if spec.shape == "auto" else spec.shape
    inspection = inspect_source(source, columns=columns, shape=shape)
    inspection.require_usable(spec.on_bad_rows)
    sources = (Source(DataSource(path=source, weight=1.0), inspection, None),)
    return RunData(sources, inspection, inspection, spec.on_bad_rows, seed, measured_only=True)


def with_labels(data: RunData, labels: Sequence[str]) -> RunData:
    """The data with a label set that it need not show whole, such as the one that a model was trained with."""
    counts = {**dict.fromkeys(labels, 0), **data.inspection.label_counts}
    return replace(data, inspection=replace(data.inspection, label_counts=counts))


def _require_one_shape(inspections: Sequence[Inspection]) -> None:
    if len({inspection.shape for inspection in inspections}) > 1:
        raise DataError(
            "the sources have rows of different shapes",
            code="data.shapes_differ",
            value=", ".join(f"{one.source}: {one.shape}" for one in inspections),
            hint="bring them into one shape, or name shape and columns under data",
        )


def _as_one(inspections: Sequence[Inspection]) -> Inspection:
    """Several sources as one inspection; duplicates are those within each source."""
    first = inspections[0]
    if len(inspections) == 1:
        return first
    labels: Counter[str] = Counter()
    for one in inspections:
        labels.update(one.label_counts)
    bad = BadRows()
    for one in inspections:
        for kind in one.bad_rows.kinds.values():
            bad.kinds.setdefault(kind.kind, kind)
    return replace(
        first,
        source=", ".join(one.source for one in inspections),
        files=tuple(chain.from_iterable(one.files for one in inspections)),
        rows=sum(one.rows for one in inspections),
        good_rows=sum(one.good_rows for one in inspections),
        bad_rows=bad,
        duplicates=sum(one.duplicates for one in inspections),
        label_counts=dict(labels.most_common()),
        fingerprint=_hash(*(one.fingerprint for one in inspections)),
        warnings=tuple(chain.from_iterable(one.warnings for one in inspections)),
    )


def _identity(source: Source) -> str:
    split = source.split
    rule = "all" if split is None else f"{split.fraction} {split.seed} {split.grouped_by}"
    return f"{source.inspection.fingerprint} {rule}"


def _hash(*parts: object) -> str:
    return hashlib.sha256("\n".join(map(str, parts)).encode()).hexdigest()
