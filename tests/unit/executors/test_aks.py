"""The manifests and recipes of the AKS page: each is what the page says, and its cluster would take it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from fake_kaito import FakeKaito, check_workspace, serve_kaito, workspace_schema
from kaito_cases import AKS_ENDPOINT, AKS_SERVING, objects_of, recipe_of

from tunesmith.executors.kaito.deployer import KaitoDeployer, serving_objects
from tunesmith.executors.kaito.executor import KaitoExecutor
from tunesmith.executors.protocol import Submission
from tunesmith.recipe.executors import ExecutorSpec
from tunesmith.recipe.executors.kaito import Kaito
from tunesmith.recipe.load import load_recipe
from tunesmith.recipe.parts import variant_names

ROOT = Path(__file__).resolve().parents[3]
FOLDER = ROOT / "deploy" / "aks"
PAGE = (ROOT / "docs" / "guide" / "aks.md").read_text(encoding="utf-8")
KAITO_RECIPE = FOLDER / "kaito-recipe.yaml"


def documents(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((FOLDER / name).read_text(encoding="utf-8")))


def test_every_file_is_on_the_page() -> None:
    files = sorted(path.name for path in FOLDER.iterdir())
    assert files
    assert [name for name in files if f"deploy/aks/{name}" not in PAGE] == []


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*-recipe.yaml")), ids=lambda path: path.stem)
def test_recipes_are_read_and_their_data_are_there(path: Path) -> None:
    wanted = yaml.safe_load(path.read_text(encoding="utf-8"))
    known = {name for variant in get_args(ExecutorSpec) for name in variant_names(variant)}
    if wanted["executor"]["name"] not in known:
        pytest.skip(f"executor {wanted['executor']['name']} is not here")
    recipe = load_recipe(path)
    for source in (recipe.data.train, recipe.data.validation):
        assert (ROOT / str(source)).is_file()


def test_kaito_takes_the_tuning_and_what_it_is_served_with() -> None:
    recipe = load_recipe(KAITO_RECIPE)
    assert isinstance(recipe.executor, Kaito)
    kaito = FakeKaito(workspace_schema(), Path("none"))
    config_map, workspace = objects_of(recipe)
    kaito.config_maps["tunesmith", config_map["metadata"]["name"]] = config_map
    check_workspace(kaito, "tunesmith", workspace)
    (endpoint,) = documents("kaito-endpoint.yaml")
    check_workspace(kaito, "tunesmith", endpoint)
    assert [endpoint] == serving_objects(AKS_ENDPOINT, AKS_SERVING)
    # What is served is what was tuned.
    (adapter,) = endpoint["inference"]["adapters"]
    assert adapter["source"]["image"] == recipe.executor.output.image
    assert adapter["source"]["imagePullSecrets"] == [recipe.executor.output.push_secret]
    assert endpoint["inference"]["preset"]["name"] == workspace["tuning"]["preset"]["name"]


def test_the_claim_is_the_one_that_the_recipe_names() -> None:
    recipe = load_recipe(KAITO_RECIPE)
    assert isinstance(recipe.executor, Kaito)
    volume, claim = documents("rows-volume.yaml")
    assert claim["metadata"]["name"] == recipe.executor.input.volume_claim
    assert claim["spec"]["volumeName"] == volume["metadata"]["name"]
    assert claim["spec"]["storageClassName"] == volume["spec"]["storageClassName"]
    assert recipe.executor.input.store == f"az://{volume['spec']['csi']['volumeAttributes']['containerName']}"


def test_the_role_allows_what_is_asked_and_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("kubernetes")
    account, role, binding = documents("kaito-role.yaml")
    with serve_kaito(tmp_path) as kaito:
        monkeypatch.setenv("KUBECONFIG", str(kaito.kubeconfig))
        recipe = recipe_of(namespace="team")
        assert isinstance(recipe.executor, Kaito)
        executor = KaitoExecutor(recipe.executor)
        kaito.next_play = "fail"
        handle = executor.submit(Submission("demo", "k", "", recipe))
        while executor.status(handle).state != "failed":
            executor.tell(handle, None)
        assert list(executor.logs(handle))
        kaito.next_play = "wait"
        handle = executor.submit(Submission("demo", "l", "", recipe))
        executor.cancel(handle)
        assert executor.status(handle).state == "cancelled"
        deployer = KaitoDeployer(AKS_SERVING)
        deployer.delete(deployer.deploy(AKS_ENDPOINT))
        asked = kaito.asked
    allowed = {(resource, verb) for rule in role["rules"] for resource in rule["resources"] for verb in rule["verbs"]}
    assert allowed == asked
    assert binding["roleRef"]["name"] == role["metadata"]["name"]
    assert binding["subjects"][0]["name"] == account["metadata"]["name"]
