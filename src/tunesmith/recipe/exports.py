"""The forms that a model is exported to, and the precisions of each; the first one is taken where none is named."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import Field

from tunesmith.recipe.parts import Part

FormName = Literal["adapter", "merged", "gguf", "onnx", "onnx-adapter"]
PRECISIONS: Mapping[str, tuple[str, ...]] = {
    "adapter": ("float32",),
    "merged": ("float32", "bfloat16", "float16"),
    "gguf": ("q8_0", "f16", "bf16", "f32", "q5_1", "q5_0", "q4_1", "q4_0"),
    "onnx": ("fp32", "int8", "int4", "qdq-int8"),
    "onnx-adapter": ("fp32", "int4"),
}
# Hardware that takes a form of its own, with the form and the precision that it takes.
TARGETS: Mapping[str, tuple[str, str]] = {"vitisai": ("onnx", "qdq-int8")}


class ExportSpec(Part):
    """One export of the trained model."""

    to: FormName = Field(
        description="adapter (PEFT), merged (safetensors), gguf (llama.cpp, Ollama), onnx (ONNX Runtime, Foundry "
        "Local) or onnx-adapter."
    )
    precision: str = Field(
        "auto", description="How many bits weights have, such as q4_0 or int4; auto: the form's own."
    )
    target: Literal["vitisai"] | None = Field(None, description="Hardware that takes a form of its own.")

    @property
    def chosen_precision(self) -> str:
        """The precision, where it is left open that of target or form."""
        if self.precision != "auto":
            return self.precision
        return TARGETS[self.target][1] if self.target is not None else PRECISIONS[self.to][0]


def misfit(to: str, precision: str, target: str | None) -> str | None:
    """Why these do not go together, in words; None where they do."""
    if to not in PRECISIONS:
        return f"there is no form {to}; forms are {', '.join(PRECISIONS)}"
    if target is not None:
        if target not in TARGETS:
            return f"there is no target {target}; targets are {', '.join(TARGETS)}"
        form, only = TARGETS[target]
        if to != form or precision not in ("auto", only):
            return f"target {target} takes {form} in precision {only}"
        return None
    targeted = {only for form, only in TARGETS.values() if form == to}
    allowed = [one for one in PRECISIONS[to] if one not in targeted]
    if precision in targeted:
        return f"precision {precision} is that of a target; name it as well"
    if precision != "auto" and precision not in allowed:
        return f"{to} has the precisions {', '.join(allowed)}"
    return None


def folder_name(spec: ExportSpec) -> str:
    """What a folder of this export is called."""
    parts = [spec.to, spec.chosen_precision, *([spec.target] if spec.target else [])]
    return "-".join(parts)


# A bare name stands for the form with its defaults.
Export = FormName | ExportSpec


def export_spec(export: Export) -> ExportSpec:
    """An entry of the recipe's list as a whole one."""
    return ExportSpec(to=export) if isinstance(export, str) else export


def sensible(exports: tuple[Export, ...]) -> tuple[Export, ...]:
    """The list, if each entry is one that there is, and none stands there twice.

    Raises:
        ValueError: Not so.
    """
    specs = [export_spec(one) for one in exports]
    reasons = [reason for one in specs if (reason := misfit(one.to, one.precision, one.target)) is not None]
    if reasons:
        raise ValueError("; ".join(reasons))
    names = [folder_name(one) for one in specs]
    if len(set(names)) < len(names):
        raise ValueError("each export may stand there once")
    return exports
