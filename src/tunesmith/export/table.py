"""The forms of export by name: one row each, for models that write and for heads and encoders."""

from __future__ import annotations

from collections.abc import Mapping

from tunesmith.errors import UsageError
from tunesmith.export.adapter import open_adapter_scores, open_adapter_text, require_adapter, write_adapter
from tunesmith.export.form import ScoreForm, TextForm
from tunesmith.export.gguf.form import open_gguf, require_gguf, write_gguf_folder
from tunesmith.export.merged import open_merged_scores, open_merged_text, require_merged, write_merged
from tunesmith.export.onnx_adapter import open_adapter, require_adapters, switching_problems, write_adapters
from tunesmith.export.onnx_genai import open_genai, require_genai, write_genai
from tunesmith.export.onnx_heads import open_heads, require_heads, write_heads

TEXT_FORMS: Mapping[str, TextForm] = {
    "adapter": TextForm(require_adapter, write_adapter, open_adapter_text),
    "merged": TextForm(require_merged, write_merged, open_merged_text),
    "gguf": TextForm(require_gguf, write_gguf_folder, open_gguf),
    "onnx": TextForm(require_genai, write_genai, open_genai),
    "onnx-adapter": TextForm(require_adapters, write_adapters, open_adapter, switching_problems),
}
SCORE_FORMS: Mapping[str, ScoreForm] = {
    "adapter": ScoreForm(require_adapter, write_adapter, open_adapter_scores),
    "merged": ScoreForm(require_merged, write_merged, open_merged_scores),
    "onnx": ScoreForm(require_heads, write_heads, open_heads),
}


def text_form(name: str) -> TextForm:
    """The form for models that write."""
    return TEXT_FORMS[name]


def score_form(name: str) -> ScoreForm:
    """The form for heads and encoders.

    Raises:
        UsageError: ``export.form``: it is for models that write alone.
    """
    if name not in SCORE_FORMS:
        raise UsageError(
            "this form is for models that write, and this one has a head or gives states",
            code="export.form",
            place="--to",
            value=name,
            hint=f"forms for it are {', '.join(SCORE_FORMS)}",
        )
    return SCORE_FORMS[name]
