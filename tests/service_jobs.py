"""Jobs of a service for tests: rows that can be trained on, a tiny base, and requests.

site = jobs_site(tmp_path, "sqlite")          # it offers `tiny`, whose weights are there only if asked for
file_id = upload(site.default, chat_rows(20))
job = create(site.client(), file_id)
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import httpx
from service_site import Project, Site, make_site

from tunesmith.service.ids import new_id
from tunesmith.service.shared.files import keep_file

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 512,
    "vocab_size": 400,
    "tie_word_embeddings": True,
}
QUICK = {
    "precision": "float32",
    "learning_rate": 0.01,
    "max_new_tokens": 4,
    "few_shot": 0,
    "samples": 2,
}


def jobs_site(folder: Path, kind: str = "sqlite", model: Path | None = None, **settings: Any) -> Site:
    """A service that offers one tiny model; by its config alone unless a folder is given."""
    if model is None:
        model = folder / "tiny"
        model.mkdir()
        (model / "config.json").write_text(json.dumps(CONFIG))
    return make_site(folder, kind, models=[f"tiny={model}", "smollm2-135m-instruct"], **settings)


def chat_rows(count: int) -> list[dict[str, Any]]:
    """Conversations whose answers are JSON objects."""
    return [
        {
            "messages": [
                {"role": "user", "content": f"ticket {number}"},
                {"role": "assistant", "content": json.dumps({"queue": "ab"[number % 2]})},
            ]
        }
        for number in range(count)
    ]


def pair_rows(count: int) -> list[dict[str, Any]]:
    """Preferences as OpenAI's clients send them."""
    return [
        {
            "input": {"messages": [{"role": "user", "content": f"question {number}"}]},
            "preferred_output": [{"role": "assistant", "content": f"good {number}"}],
            "non_preferred_output": [{"role": "assistant", "content": f"bad {number}"}],
        }
        for number in range(count)
    ]


def upload(project: Project, rows: Iterable[Any], purpose: str = "fine-tune", name: str = "rows.jsonl") -> str:
    """A file of a project."""
    context = project.site.context
    path = context.scratch / new_id("rows-")
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    file_id = keep_file(context, project.id, purpose, name, path)
    path.unlink()
    return file_id


def create(client: httpx.Client, file_id: str, **body: Any) -> dict[str, Any]:
    """A job that must be made."""
    answer = client.post("/v1/fine_tuning/jobs", json={"model": "tiny", "training_file": file_id, **body})
    assert answer.status_code == 200, answer.text
    made: dict[str, Any] = answer.json()
    return made


def status(client: httpx.Client, job_id: str) -> str:
    """Where a job is."""
    return str(client.get(f"/v1/fine_tuning/jobs/{job_id}").json()["status"])
