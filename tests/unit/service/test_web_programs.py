"""Programs that the page of a deployment prints: each kind of model is asked for what it gives."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pydantic import BaseModel
from service_site import make_site
from tiny_models import tiny_encoder_folder, tiny_model_folder
from web_pages import see

from tunesmith.service.web.snippets import Does, snippets
from tunesmith.wire.chat import ChatRequest
from tunesmith.wire.classify import ClassifyRequest
from tunesmith.wire.embeddings import EmbeddingRequest


def test_snippets_are_programs() -> None:
    for name in ("support", "ft:smollm2-135m-instruct:tunesmith::abcdefgh", 'it\'s "quoted"'):
        found = snippets("http://127.0.0.1:8321/v1", name)
        assert [one.name for one in found] == ["curl", "OpenAI", "LangChain", "Semantic Kernel"]
        for one in found[1:]:
            compile(one.text, one.name, "exec")
        assert found[0].text.count("'") % 2 == 0


@pytest.mark.parametrize(
    ("does", "request_type", "heads"),
    [
        ("writes", ChatRequest, ["curl", "OpenAI", "LangChain", "Semantic Kernel"]),
        ("embeds", EmbeddingRequest, ["curl", "OpenAI", "LangChain"]),
        ("labels", ClassifyRequest, ["curl", "OpenAI"]),
        ("answers", ClassifyRequest, ["curl", "OpenAI"]),
    ],
)
def test_snippets_ask_for_what_a_model_gives(does: Does, request_type: type[BaseModel], heads: list[str]) -> None:
    found = snippets("http://127.0.0.1:8321/v1", "support", does)
    assert [one.name for one in found] == heads
    for one in found[1:]:
        compile(one.text, one.name, "exec")
    body = request_type.model_validate(json.loads(found[0].text.split("-d '")[1].rstrip("\n'")))
    assert body.model_dump()["model"] == "support"


def test_a_deployment_of_an_encoder_is_used_as_one(tmp_path: Path) -> None:
    """Nothing on its page asks it for an answer in words."""
    folders = {"tiny": tiny_model_folder("llama", tmp_path / "tiny"), "vectors": tiny_encoder_folder(tmp_path / "v")}
    site = make_site(tmp_path / "site", models=[f"{name}={folder}" for name, folder in folders.items()])
    with site.client("admin") as client:
        kinds = {one["id"]: one["kind"] for one in client.get("/tunesmith/v1/catalog").json()["data"]}
        assert kinds == {"tiny": "causal", "vectors": "encoder"}
        for name in folders:
            client.post("/tunesmith/v1/deployments", json={"name": f"use-{name}", "model": name}).raise_for_status()
        programs = see(client, "/ui/deployments/use-vectors").programs
        assert all("embed" in program for program in programs)
        assert not any("embed" in program for program in see(client, "/ui/deployments/use-tiny").programs)
        hrefs = [str(one.get("href")) for one in see(client, "/ui/deployments/use-vectors").all("a")]
        assert not [one for one in hrefs if one.startswith("/ui/playground?")]
        names = [one.get("value") for one in see(client, "/ui/playground").all("option")]
        assert "tiny" in names
        assert "vectors" not in names
        # Beside a deployment stands something else than itself.
        chosen = [
            one["value"] for one in see(client, "/ui/playground?left=use-tiny").all("option") if "selected" in one
        ]
        assert chosen == ["tiny", "use-tiny"]
    site.context.database.close()
