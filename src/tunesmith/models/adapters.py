"""Put a saved PEFT adapter on a model, and take it off for a while."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tunesmith.errors import ModelError
from tunesmith.models.new_tokens import add_rows_up_to, token_ids_of_adapter
from tunesmith.models.quiet import quiet_libraries
from tunesmith.runs.atomic import read_json


def with_adapter(model: Any, folder: Path) -> Any:
    """The model wrapped by PEFT with the adapter of a folder, in eval mode.

    A model that lacks rows for tokens of the adapter gets them first.

    Raises:
        ModelError: The folder holds no adapter, or one that does not fit the model.
    """
    from peft import PeftModel

    try:
        add_rows_up_to(model, max(token_ids_of_adapter(folder), default=-1))
        with quiet_libraries():
            return PeftModel.from_pretrained(model, str(folder), local_files_only=True).eval()
    except Exception as error:
        # PEFT raises what its parts raise: missing files, shapes that differ, unknown keys of later versions.
        raise ModelError(
            "the adapter cannot be put on the model",
            code="model.adapter",
            place=str(folder),
            value=f"{type(error).__name__}: {str(error).strip()[:300]}",
            hint="the adapter must have been trained from this very model",
        ) from error


def method_of(folder: Path) -> str:
    """The name of the method that a saved adapter is of, as the PEFT library calls it, in lower case.

    Raises:
        ModelError: ``model.adapter``: the folder holds no adapter.
    """
    try:
        config: dict[str, Any] = read_json(folder / "adapter_config.json")
        return str(config["peft_type"]).lower()
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(
            "the folder holds no adapter", code="model.adapter", place=str(folder), value=str(error)[:200]
        ) from error


@contextmanager
def without_adapter(model: Any) -> Iterator[None]:
    """Let a model with an adapter compute as the model before training does, for the time of the block.

    What trains and what does not stays as it is, whatever the library sets on the way.

    Raises:
        ModelError: The model has no adapter that could be turned off.
    """
    if not hasattr(model, "disable_adapter"):
        raise ModelError(
            "the model has no adapter to turn off, so the model before training is gone",
            code="model.no_adapter",
            value=type(model).__name__,
            hint="train an adapter (technique: lora), or take an objective without a reference (objective: orpo)",
        )
    trained = [parameter.requires_grad for parameter in model.parameters()]
    own = set(vars(model))
    try:
        with model.disable_adapter():
            yield
    finally:
        for parameter, trains in zip(model.parameters(), trained, strict=True):
            parameter.requires_grad_(trains)
        # Where virtual tokens were off, the library leaves bound methods behind, which read as if they still were.
        for name in {"forward", "prepare_inputs_for_generation"} & set(vars(model)) - own:
            delattr(model, name)
