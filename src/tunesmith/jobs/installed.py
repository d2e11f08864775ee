"""Ways of a recipe that need libraries which are not here, so that no plan for this machine offers them."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec

from tunesmith.planner.changes import Change, Settings
from tunesmith.recipe.resolved import Resolved
from tunesmith.recipe.strategies import DEEPSPEED

# The library of a setting, and the extra that brings it.
_NEEDED: Mapping[str, tuple[str, str]] = {
    "technique=qlora": ("bitsandbytes", "quantization"),
    "technique=qdora": ("bitsandbytes", "quantization"),
    **{f"strategy={name}": ("deepspeed", "deepspeed") for name in DEEPSPEED},
}


def lacking() -> dict[str, str]:
    """Settings that need what is not installed here, and what that is."""
    return {
        setting: f"needs the package {library}, which is not here: pip install 'tunesmith[{extra}]'"
        for setting, (library, extra) in _NEEDED.items()
        if find_spec(library) is None
    }


def without(change: Change, lacked: Mapping[str, str]) -> Change:
    """How a recipe changes, but for settings that need what is not here; as it is it stays."""

    def changed(settings: Settings) -> Resolved | None:
        return None if any(setting in lacked for setting in settings) else change(settings)

    return changed
