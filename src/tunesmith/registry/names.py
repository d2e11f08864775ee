"""What a version of the registry is called: ``name:3``, ``name:3@120`` (a checkpoint), ``name@production``."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from tunesmith.errors import ModelError, Problem, UsageError

STAGES = ("staging", "production", "archived")
# Computed, not stored: the newest version that is whole.
LATEST = "latest"
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,79}", re.ASCII)
_LABEL = re.compile(r"[a-z][a-z0-9-]{0,39}", re.ASCII)
_ADDRESS = re.compile(r"(?P<name>[^:@]+)(?::(?P<version>[0-9]{1,8})(?:@(?P<step>[0-9]{1,9}))?|@(?P<label>[^:@]+))")
_RESERVED = ("ft",)
_FORMS = "a version is written name:3, one of its checkpoints name:3@120, a stage or an alias name@production"


@dataclass(frozen=True)
class Address:
    """A version by number (with a checkpoint's ``step``, or None for the result), or by a stage or alias."""

    name: str
    version: int | None = None
    step: int | None = None
    label: str | None = None

    def at(self, version: int) -> Address:
        """The same with the number that a stage or alias stands for."""
        return replace(self, version=version, label=None)

    def __str__(self) -> str:
        if self.label is not None:
            return f"{self.name}@{self.label}"
        step = "" if self.step is None else f"@{self.step}"
        return f"{self.name}:{self.version}{step}"


def looks_like_address(text: str) -> bool:
    """Whether a model's name can only mean the registry: no path and no hub id has these marks."""
    if text.startswith("azureml:") and text.count(":") > 1:
        # Azure ML calls its own models azureml:NAME:VERSION; an address of ours has one colon.
        return False
    return (":" in text or "@" in text) and not {"/", "\\"} & set(text)


def parse_address(text: str) -> Address:
    """Read an address.

    Raises:
        ModelError: ``model.reserved``; ``registry.address``: it has not the form of one.
    """
    match = _ADDRESS.fullmatch(text)
    if text.partition(":")[0] in _RESERVED:
        raise ModelError(
            "names that begin with ft: are those of a hosted service",
            code="model.reserved",
            value=text,
            hint=f"of models that were registered here, {_FORMS}",
        )
    if match is None or not _NAME.fullmatch(match["name"]):
        raise ModelError("not the address of a registered model", code="registry.address", value=text, hint=_FORMS)
    version = None if match["version"] is None else int(match["version"])
    return Address(match["name"], version, None if match["step"] is None else int(match["step"]), match["label"])


def check_name(name: str) -> str:
    """Return a name that registered models may have.

    Raises:
        UsageError: ``registry.name``.
    """
    if not _NAME.fullmatch(name) or name in _RESERVED:
        raise UsageError(
            "not a usable name for a registered model",
            code="registry.name",
            value=repr(name),
            hint="use lowercase letters, digits, '.', '_' and '-', at most 80, starting with a letter or digit; "
            "`ft` is reserved",
        )
    return name


def check_labels(labels: list[str], kind: str) -> list[str]:
    """Return stages or aliases that may be given.

    Raises:
        UsageError: ``registry.label``, with one problem for each.
    """
    problems = [
        Problem("registry.label", message, value=label, hint=hint)
        for label in labels
        for message, hint in [_wrong_label(label, kind)]
        if message
    ]
    if problems:
        raise UsageError(f"not a usable {kind}", problems=problems)
    return labels


def _wrong_label(label: str, kind: str) -> tuple[str, str]:
    if kind == "stage":
        return ("", "") if label in STAGES else ("no such stage", f"stages are {', '.join(STAGES)}; others are aliases")
    if label in (*STAGES, LATEST):
        return "this word has a meaning of its own", "promote gives stages; latest is the newest version by itself"
    good = _LABEL.fullmatch(label) is not None
    return ("", "") if good else ("not a usable alias", "use lowercase letters, digits and '-', starting with a letter")
