"""Put a saved PEFT adapter on a model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tunesmith.errors import ModelError
from tunesmith.models.quiet import quiet_libraries


def with_adapter(model: Any, folder: Path) -> Any:
    """The model wrapped by PEFT with the adapter of a folder, in eval mode.

    Raises:
        ModelError: The folder holds no adapter, or one that does not fit the model.
    """
    from peft import PeftModel

    try:
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
