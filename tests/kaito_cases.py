"""Recipes for KAITO, and what it takes, for the tests of its executor."""

from __future__ import annotations

from typing import Any

from tunesmith.executors.deploying import Endpoint
from tunesmith.executors.kaito.manifests import tuning_objects
from tunesmith.executors.protocol import Submission
from tunesmith.recipe.executors.kaito import Kaito, KaitoServing
from tunesmith.recipe.load import parse_recipe
from tunesmith.recipe.schema import Recipe

VOLUME = {"volume_claim": "rows", "file": "sub/train.jsonl"}
IMAGE = {"image": "team.azurecr.io/adapter:0.0.1", "push_secret": "acr"}
NODES = {"instance_type": "Standard_NC24ads_A100_v4"}
ROWS = [
    {"messages": [{"role": "user", "content": f"Number {n}?"}, {"role": "assistant", "content": str(n)}]}
    for n in range(20)
]


def recipe_of(given: dict[str, Any] | None = None, **executor: Any) -> Recipe:
    """A recipe with executor kaito: keys of the recipe, then settings of the executor."""
    settings = {"name": "kaito", **NODES, "input": VOLUME, "output": IMAGE, **executor}
    plain = {"model": "phi-3-mini-4k-instruct", "data": {"train": "rows.jsonl"}, "executor": settings, **(given or {})}
    return parse_recipe(plain, "the test")


def objects_of(recipe: Recipe, name: str = "demo", key: str = "k") -> tuple[dict[str, Any], dict[str, Any]]:
    """Its ConfigMap and its Workspace."""
    assert isinstance(recipe.executor, Kaito)
    submission = Submission(name, key, "", recipe, devices=recipe.train.devices, nodes=recipe.train.nodes)
    return tuning_objects(submission, recipe.executor)


CASES: dict[str, Recipe] = {
    "lora-volume-image": recipe_of({"train": {"epochs": 2, "learning_rate": 0.0001, "seed": 7}}, namespace="team"),
    "qlora-url-claim": recipe_of(
        {
            "model": "microsoft/Phi-4-mini-instruct",
            "technique": {"name": "qlora", "rank": 32, "alpha": 64, "dropout": 0.05, "rank_stabilized": True},
            "train": {"devices": 2, "schedule": "constant", "clip": None, "neftune_alpha": 5, "optimizer": "lion_8bit"},
        },
        input={"url": "https://team.blob.core.windows.net/data/rows.parquet", "format": "parquet"},
        output={"volume_claim": "adapters"},
        rows_per_step=16,
        rows_per_micro_batch=4,
        model_access_secret="hub",
    ),
    "qlora-int8-image-image": recipe_of(
        {
            "model": "mistral-7b-v0.3",
            "technique": {"name": "qlora", "quantization": "int8", "targets": "attention"},
            "train": {"precision": "float32", "activation_checkpointing": True, "max_length": 2048},
            "data": {"train": "rows.jsonl", "on_long_rows": "truncate"},
        },
        instance_type="Standard_NC96ads_A100_v4",
        labels={"pool": "tuning"},
        input={"image": "team.azurecr.io/rows:1", "pull_secrets": ["acr"]},
        chat_template="/workspace/chat_templates/mistral-instruct.jinja",
    ),
}

# What deploy/aks/kaito-endpoint.yaml is.
AKS_SERVING = KaitoServing(
    namespace="tunesmith",
    instance_type="Standard_NC24ads_A100_v4",
    preset="phi-3-mini-4k-instruct",
    pull_secrets=("registry",),
)
AKS_ENDPOINT = Endpoint("support", "aks", {"support": "oci://myregistry.azurecr.io/support-adapter:0.0.1"})
