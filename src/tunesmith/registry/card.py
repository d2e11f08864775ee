"""The model card of a version: a page in the form of the Hugging Face hub."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from tunesmith.registry.record import Base, DataSide, Record, Value

# How the hub names the licences that the catalog knows; others are `other` with a name and a link.
_HUB_LICENCES = ("apache-2.0", "mit", "gemma", "llama3.1", "llama3.2", "llama3.3")
_SPECIAL = re.compile(r"([\\`*_{}\[\]<>#|~$&])")
_CONTROL = re.compile(r"[\x00-\x1f\x7f\u2028\u2029]+")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
_MOST = 300


def model_card(record: Record) -> str:
    """The card as Markdown behind YAML; text that came from outside shows as it is and means nothing."""
    from huggingface_hub import ModelCardData

    known = {key: value for key, value in _front_matter(record).items() if value is not None}
    front = ModelCardData(**known).to_yaml()
    parts = [f"---\n{front}\n---", f"# {record.name}, version {record.version}", *_introduction(record)]
    if record.metrics:
        parts += ["## Before and after", _results(record), "Ranges are 95 % bootstrap intervals on held-out rows."]
    parts += ["## How it was made", _made(record), "## Data", *_data(record)]
    parts += ["## Licence", *_licence(record), "## How to use it", *_use(record)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _front_matter(record: Record) -> dict[str, Any]:
    from huggingface_hub import EvalResult

    base = record.base
    tuned = record.metrics.get("tuned", {})
    results = [
        EvalResult(
            task_type=record.pipeline or "text-generation",
            dataset_type="held-out",
            dataset_name="held-out rows",
            metric_type=name,
            metric_value=value.value,
            metric_name=name.replace("_", " "),
        )
        for name, value in tuned.items()
        if value.value is not None
    ]
    base_model = None if base is None else base.hub_id or (base.name if _HUB_ID.fullmatch(base.name) else None)
    named = [str(record.technique.get("name", "")), record.task or "", record.objective or ""]
    return {
        "model_name": record.name if results else None,
        "eval_results": results or None,
        "base_model": base_model,
        "base_model_relation": None if base_model is None else "adapter" if record.kind == "adapter" else "finetune",
        "language": record.language,
        "library_name": "peft" if record.kind == "adapter" else "transformers",
        "pipeline_tag": record.pipeline,
        "tags": ["tunesmith", *dict.fromkeys(tag for tag in named if tag)],
        **_licence_fields(base),
    }


def _licence_fields(base: Base | None) -> dict[str, Any]:
    licence = None if base is None else base.licence
    if base is None or licence is None or licence.lower() in _HUB_LICENCES:
        return {"license": None if licence is None else licence.lower()}
    return {"license": "other", "license_name": licence, "license_link": base.licence_url}


def _introduction(record: Record) -> list[str]:
    base = "" if record.base is None else f" of {_text(record.base.name)}"
    technique = str(record.technique.get("name", "")) or "a technique that is not recorded"
    task = f" for {_text(record.task)}" if record.task else ""
    what = "An adapter on top" if record.kind == "adapter" else "A fine-tuned version"
    lines = [f"{what}{base}, made with {_text(technique)}{task} by Tunesmith {_text(record.tunesmith)}."]
    if record.description:
        lines.insert(0, _text(record.description, 2000))
    if record.verdict:
        lines.append(f"**{_text(record.verdict)}**")
    return lines


def _results(record: Record) -> str:
    systems = sorted(record.metrics, key=lambda name: {"base": 0, "tuned": 2}.get(name, 1))
    measures = dict.fromkeys(name for system in systems for name in record.metrics[system])
    ordered = sorted(measures, key=lambda name: name != record.primary_metric)
    rows = []
    for name in ordered:
        found = [record.metrics[system].get(name) for system in systems]
        better = next((value.higher_is_better for value in found if value is not None), True)
        label = f"{_text(name.replace('_', ' '))} ({'higher' if better else 'lower'} is better)"
        rows.append([label, *map(_value, found)])
    return _table(["Measure", *(_text(name.replace("_", " ")) for name in systems)], rows)


def _value(value: Value | None) -> str:
    if value is None or value.value is None:
        return "–"
    shown = f"{value.value:.4g}"
    return shown if value.low is None or value.high is None else f"{shown} ({value.low:.4g} to {value.high:.4g})"


def _made(record: Record) -> str:
    settings = ", ".join(
        f"{key.replace('_', ' ')} {value}" for key, value in record.technique.items() if key != "name" and value
    )
    rows = [
        ("Technique", f"{record.technique.get('name', '')}{f' ({settings})' if settings else ''}"),
        ("Objective", record.objective),
        ("Optimizer steps", record.step),
        ("Seed", record.seed),
        ("Made from", f"{record.origin.kind} {record.origin.name}"),
        ("Run identity", record.origin.identity),
        ("Parent version", record.parent),
        ("Libraries", ", ".join(f"{name} {number}" for name, number in record.libraries.items())),
        ("Registered", record.created),
    ]
    shown = [[name, _text(str(value))] for name, value in rows if value not in (None, "")]
    base = record.base
    if base is not None:
        state = f" at {base.revision}" if base.revision else ""
        shown.insert(0, ["Base model", _text(f"{base.name}{state}")])
        shown += [[f"Base file {_text(name)}", f"sha256 `{digest}`"] for name, digest in base.weights.items()]
    return _table(["", ""], shown)


def _data(record: Record) -> list[str]:
    rows = [
        [side, _text(file.name), "" if part.rows is None else f"{part.rows:,}", f"`{_text(file.sha256)}`"]
        for side, part in (("training", record.train), ("held out", record.held_out))
        for file in part.files
    ]
    if not rows:
        return ["Not recorded."]
    return [_table(["Side", "File", "Rows", "SHA-256"], rows), *_fingerprints(record.train, record.held_out)]


def _fingerprints(train: DataSide, held_out: DataSide) -> list[str]:
    found = [
        f"{side} `{part.fingerprint}`"
        for side, part in (("training", train), ("held out", held_out))
        if part.fingerprint
    ]
    return [f"Fingerprints of the rows that were used: {', '.join(found)}."] if found else []


def _licence(record: Record) -> list[str]:
    if not record.licences:
        return ["The licence of the base model is not known here. Find it out before you pass this model on."]
    chain = "\n".join(f"{number}. {_text(link)}" for number, link in enumerate(record.licences, 1))
    rest = "The terms of each link hold for this model too. Terms of the training data are not known here."
    return [chain, rest]


def _use(record: Record) -> list[str]:
    name = record.address
    asks = record.pipeline in ("text-classification", "token-classification", "question-answering")
    command = f"tunesmith {'classify' if asks else 'chat'} {name}"
    parts = [f"```console\n$ {command}\n```"]
    if asks:
        return [*parts, "With Transformers: the folder is that of a model with a head (see config.json)."]
    base = None if record.base is None else record.base
    if record.kind == "model":
        load = 'model = AutoModelForCausalLM.from_pretrained("FOLDER")'
        imports = "from transformers import AutoModelForCausalLM, AutoTokenizer"
    else:
        below = "base" if base is None or base.copied else base.hub_id or base.name
        load = (
            f'model = AutoModelForCausalLM.from_pretrained("{_plain(below)}")\n'
            'model = PeftModel.from_pretrained(model, "FOLDER")'
        )
        imports = "from peft import PeftModel\nfrom transformers import AutoModelForCausalLM, AutoTokenizer"
    code = f'{imports}\n\n{load}\ntokenizer = AutoTokenizer.from_pretrained("FOLDER")'
    return [*parts, f"```python\n{code}\n```"]


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _text(text: str, most: int = _MOST) -> str:
    line = _CONTROL.sub(" ", text).strip()
    return _SPECIAL.sub(r"\\\1", line if len(line) <= most else f"{line[:most]}…")


def _plain(text: str) -> str:
    return re.sub(r"[^\w./:@ -]", "", text)
