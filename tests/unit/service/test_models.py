"""What a project may name: bases, tuned models, shared ones; deployments; the registry. No engine is started."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from openapi import load_contract
from registry_cases import add_small
from service_site import DATABASES, Project, Site, make_site
from sqlalchemy import insert, select
from web_pages import see

from tunesmith.errors import ModelError
from tunesmith.registry.record import Base, Value
from tunesmith.registry.references import add_reference, drop_reference, read_references, remove_version
from tunesmith.registry.versions import read_version
from tunesmith.service.db.tables.accounts import LICENCES
from tunesmith.service.db.tables.inference import ENGINES
from tunesmith.service.db.tables.jobs import CHECKPOINT_PERMISSIONS
from tunesmith.service.db.tables.keeping import AUDIT
from tunesmith.service.db.tables.models import TUNED_MODELS
from tunesmith.service.deployments.references import reconcile
from tunesmith.service.shared.choosing import drawn
from tunesmith.storage.address import open_store
from tunesmith.storage.store import Store

CHAT = {"messages": [{"role": "user", "content": "hello"}]}


@pytest.fixture(params=DATABASES)
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Site]:
    folder = tmp_path / "tiny"
    folder.mkdir()
    models = [f"org/tiny={folder}", "llama-3.2-1b-instruct"]
    site = make_site(tmp_path, request.param, models=models, engine_wait_seconds=0.2)
    yield site
    site.context.database.close()


def store_of(site: Site) -> Store:
    return open_store(site.context.settings.registry)


def add_tuned(project: Project, folder: Path, name: str, **row: Any) -> str:
    """A tuned model whose version is in the registry."""
    job = f"ftjob-{name}"
    metrics = {"tuned": {"accuracy": Value(value=0.75)}}
    add_small(store_of(project.site), folder, job, {"adapter/a.bin": b"a"}, metrics=metrics, base=Base(name="tiny"))
    return add_row(project, f"ft:org/tiny:tunesmith:{name}:abcdefgh", f"{job}:1", **row)


def add_row(project: Project, model: str, address: str, **row: Any) -> str:
    context = project.site.context
    known = {"id": model, "project_id": project.id, "job_id": address.partition(":")[0], "base": "org/tiny"}
    with context.database.write() as connection:
        connection.execute(
            insert(TUNED_MODELS).values(**{**known, "address": address, "created_at": context.now(), **row})
        )
    return model


def deploy(project: Project, name: str, **body: Any) -> dict[str, Any]:
    answer = project.client().post("/tunesmith/v1/deployments", json={"name": name, **body})
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def test_models_are_the_bases_and_the_projects_own(site: Site, tmp_path: Path) -> None:
    contract = load_contract()
    own = add_tuned(site.default, tmp_path, "own")
    add_row(site.default, f"{own}:ckpt-step-8", "ftjob-own:1@8")
    client = site.client("inference")
    answer = client.get("/v1/models").json()
    operation = contract.find("GET", "/models")
    assert operation is not None
    assert contract.problems_of_answer(operation.answer, answer) == []
    assert [one["id"] for one in answer["data"]] == ["org/tiny", "llama-3.2-1b-instruct", own]
    for name in ("org/tiny", "org%2Ftiny", own, f"{own}:ckpt-step-8"):
        found = client.get(f"/v1/models/{name}")
        assert found.status_code == 200, found.text
        assert contract.problems_of_named("Model", found.json()) == []
    for name in ("org/tiny", "org%2Ftiny"):
        assert client.get(f"/tunesmith/v1/catalog/{name}").json()["id"] == "org/tiny"
        # No engine is there: the model was found by its name in Azure's path.
        assert client.post(f"/openai/deployments/{name}/chat/completions", json=CHAT).status_code == 503
    assert client.get("/openai/v1/models/nothing").json()["error"]["code"] == "model_not_found"
    narrow = site.project("narrow", allowed_models=["llama-3.2-1b-instruct"]).client("inference")
    assert [one["id"] for one in narrow.get("/v1/models").json()["data"]] == ["llama-3.2-1b-instruct"]
    assert narrow.get("/v1/models/org/tiny").status_code == 404


def test_another_projects_model_is_not_there_unless_it_is_shared(site: Site, tmp_path: Path) -> None:
    own = add_tuned(site.default, tmp_path, "own")
    other = site.project("other")
    client = other.client()
    for answer in (
        client.get(f"/v1/models/{own}"),
        client.delete(f"/v1/models/{own}"),
        client.post("/v1/chat/completions", json={"model": own, **CHAT}),
        client.post("/tunesmith/v1/deployments", json={"name": "mine", "model": own}),
        client.get(f"/tunesmith/v1/registry/{own}"),
        client.get(f"/tunesmith/v1/registry/{own}/card"),
        client.post(f"/tunesmith/v1/registry/{own}/labels", json={"label": "production"}),
    ):
        assert answer.status_code == 404, answer.text
        assert answer.json()["error"]["code"] == "model_not_found"
    permission = {"id": "cp_1", "checkpoint": own, "project_id": other.id, "created_at": 0}
    with site.context.database.write() as connection:
        connection.execute(insert(CHECKPOINT_PERMISSIONS).values(**permission))
    assert client.get(f"/v1/models/{own}").status_code == 200
    # No engine is there: the model was found.
    assert client.post("/v1/chat/completions", json={"model": own, **CHAT}).status_code == 503
    assert client.delete(f"/v1/models/{own}").status_code == 403
    assert client.get(f"/tunesmith/v1/registry/{own}").status_code == 404


def test_paths_and_addresses_are_no_models(site: Site, tmp_path: Path) -> None:
    add_tuned(site.default, tmp_path, "own")
    client = site.client("inference")
    for name in (
        str(tmp_path / "tiny"),
        "ftjob-own:1",
        "HuggingFaceTB/SmolLM2-135M",
        "../tiny",
        "smollm2-135m-instruct",
    ):
        answer = client.post("/v1/chat/completions", json={"model": name, **CHAT})
        assert answer.status_code == 404, name
        assert answer.json()["error"] == {**answer.json()["error"], "code": "model_not_found", "param": "model"}
    with site.context.database.read() as connection:
        assert connection.execute(select(ENGINES)).all() == []


def test_a_licence_is_accepted_before_a_model_is_used(site: Site) -> None:
    client = site.client("inference")
    asked = {"model": "llama-3.2-1b-instruct", **CHAT}
    answer = client.post("/v1/chat/completions", json=asked)
    assert answer.status_code == 403
    assert answer.json()["error"]["code"] == "licence_not_accepted"
    assert "llama3.2" in answer.json()["error"]["message"]
    accepted = {"model": asked["model"], "licence": "llama3.2", "accepted_by": "somebody", "accepted_at": 0}
    with site.context.database.write() as connection:
        connection.execute(insert(LICENCES).values(id="lic_1", project_id=site.default.id, **accepted))
    answer = client.post("/v1/chat/completions", json=asked)
    assert answer.status_code == 503
    assert answer.json()["error"]["code"] == "model_loading"
    assert int(answer.headers["retry-after"]) > 0
    assert answer.headers["x-should-retry"] == "true"


def test_a_request_that_names_no_model_or_is_none(site: Site) -> None:
    client = site.client("inference")
    assert client.post("/v1/chat/completions", json=CHAT).json()["error"]["param"] == "model"
    for content in (b"{", b"[]", b""):
        assert client.post("/v1/completions", content=content).status_code == 400
    answer = client.post("/v1/chat/completions", json={"model": "org/tiny", "stream": "yes", **CHAT})
    assert answer.json()["error"]["param"] == "stream"


def test_a_spent_budget_stops_requests(site: Site) -> None:
    client = site.project("poor", budget=0.0).client("inference")
    answer = client.post("/v1/chat/completions", json={"model": "org/tiny", **CHAT})
    assert answer.status_code == 429
    assert answer.json()["error"]["code"] == "insufficient_quota"


def test_deleting_a_model_lets_go_of_its_version(site: Site, tmp_path: Path) -> None:
    own = add_tuned(site.default, tmp_path, "own")
    store, client = store_of(site), site.client()
    checkpoint = add_row(site.default, f"{own}:ckpt-step-8", "ftjob-own:1@8")
    # An engine that was killed has not taken its reference back.
    add_reference(store, "ftjob-own", 1, "deployment", "tunesmith serve --registered, process 7 on a machine")
    deploy(site.default, "door", model=own)
    refused = client.delete(f"/v1/models/{own}")
    assert refused.status_code == 409
    assert "door" in refused.json()["error"]["message"]
    assert client.delete("/tunesmith/v1/deployments/door").json()["deleted"] is True
    answer = client.delete(f"/v1/models/{own}")
    assert answer.json() == {"id": own, "object": "model", "deleted": True}
    assert client.get(f"/v1/models/{own}").status_code == 404
    assert client.delete(f"/v1/models/{own}").status_code == 404
    version = read_version(store, "ftjob-own", 1)
    assert version is not None
    # Its checkpoint has a name of its own still.
    assert version.state == "whole"
    assert client.delete(f"/v1/models/{checkpoint}").status_code == 200
    version = read_version(store, "ftjob-own", 1)
    assert version is not None
    assert version.state == "removed"
    assert client.delete("/v1/models/org/tiny").status_code == 403
    with site.context.database.read() as connection:
        actions = [row.action for row in connection.execute(select(AUDIT).order_by(AUDIT.c.id))]
    assert actions == ["deployment.create", "deployment.delete", "model.delete", "model.delete"]


def test_a_deployment_is_made_changed_and_deleted(site: Site, tmp_path: Path) -> None:
    first, second = (add_tuned(site.default, tmp_path, name) for name in ("one", "two"))
    client = site.client()
    made = deploy(site.default, "door", model=first)
    assert made["state"] == "asleep"
    assert made["traffic"] == {first: 100}
    with site.context.database.read() as connection:
        # It sleeps until somebody asks.
        assert connection.execute(select(ENGINES)).all() == []
    again = client.post("/tunesmith/v1/deployments", json={"name": "door", "model": second})
    assert again.status_code == 409
    changed = client.patch("/tunesmith/v1/deployments/door", json={"traffic": {first: 90, second: 10}}).json()
    assert changed["traffic"] == {first: 90, second: 10}
    changed = client.patch("/tunesmith/v1/deployments/door", json={"min_replicas": 1, "idle_seconds": 30}).json()
    assert changed["state"] == "starting"
    assert changed["min_replicas"] == 1
    other = site.project("other").client()
    for answer in (
        other.get("/tunesmith/v1/deployments/door"),
        other.patch("/tunesmith/v1/deployments/door", json={"min_replicas": 0}),
        other.delete("/tunesmith/v1/deployments/door"),
        other.post("/v1/chat/completions", json={"model": "door", **CHAT}),
        other.post("/openai/deployments/door/chat/completions", json=CHAT),
    ):
        assert answer.status_code == 404
    assert other.get("/tunesmith/v1/deployments").json()["data"] == []
    assert [one["name"] for one in client.get("/tunesmith/v1/deployments").json()["data"]] == ["door"]
    assert client.delete("/tunesmith/v1/deployments/door").status_code == 200
    assert deploy(site.default, "door", model=second)["traffic"] == {second: 100}


def used_by(site: Site, name: str) -> list[str]:
    return [one.who for one in read_references(store_of(site), name, 1)]


def test_a_deployed_version_cannot_be_removed(site: Site, tmp_path: Path) -> None:
    first, second = (add_tuned(site.default, tmp_path, name) for name in ("one", "two"))
    checkpoint = add_row(site.default, f"{first}:ckpt-step-8", "ftjob-one:1@8")
    client, store = site.client(), store_of(site)
    who = f"the service's deployment {deploy(site.default, 'door', traffic={first: 50, 'org/tiny': 50})['id']}"
    assert used_by(site, "ftjob-one") == [who]
    with pytest.raises(ModelError) as caught:
        remove_version(store, "ftjob-one", 1, with_labels=True)
    assert [problem.value for problem in caught.value.problems] == [who]
    # One that could not be made holds nothing.
    again = client.post("/tunesmith/v1/deployments", json={"name": "door", "model": second})
    assert (again.status_code, used_by(site, "ftjob-two")) == (409, [])
    change = "/tunesmith/v1/deployments/door"
    # A checkpoint lies in the version that it is of.
    assert client.patch(change, json={"traffic": {checkpoint: 50, second: 50}}).status_code == 200
    assert (used_by(site, "ftjob-one"), used_by(site, "ftjob-two")) == ([who], [who])
    assert client.patch(change, json={"idle_seconds": 7}).status_code == 200
    assert client.patch(change, json={"traffic": {second: 100}}).status_code == 200
    assert (used_by(site, "ftjob-one"), used_by(site, "ftjob-two")) == ([], [who])
    assert client.delete(change).status_code == 200
    assert used_by(site, "ftjob-two") == []
    remove_version(store, "ftjob-one", 1)
    gone = client.post("/tunesmith/v1/deployments", json={"name": "door", "model": first})
    assert (gone.status_code, gone.json()["error"]["code"]) == (404, "model_not_found")


def test_references_that_a_crash_left_wrong_are_put_right(site: Site, tmp_path: Path) -> None:
    own, _ = (add_tuned(site.default, tmp_path, name) for name in ("one", "two"))
    store = store_of(site)
    who = f"the service's deployment {deploy(site.default, 'door', model=own)['id']}"
    drop_reference(store, "ftjob-one", 1, "deployment", who)
    left, engine = "the service's deployment deploy_gone", "tunesmith serve --registered, process 7 on a machine"
    for one in (left, engine):
        add_reference(store, "ftjob-two", 1, "deployment", one)
    reconcile(site.context)
    # It may be of a deployment that is made at this moment.
    assert (used_by(site, "ftjob-one"), set(used_by(site, "ftjob-two"))) == ([who], {left, engine})
    later = replace(site.context, now=lambda: time.time() + 1000)
    for _ in range(2):
        reconcile(later)
        assert (used_by(site, "ftjob-one"), used_by(site, "ftjob-two")) == ([who], [engine])


def test_a_shared_model_that_is_deleted_is_let_go_of(site: Site, tmp_path: Path) -> None:
    own = add_tuned(site.default, tmp_path, "own")
    guest = site.project("guest")
    permission = {"id": "cp_1", "checkpoint": own, "project_id": guest.id, "created_at": 0}
    with site.context.database.write() as connection:
        connection.execute(insert(CHECKPOINT_PERMISSIONS).values(**permission))
    deploy(guest, "door", model=own)
    assert site.client().delete(f"/v1/models/{own}").status_code == 200
    version = read_version(store_of(site), "ftjob-own", 1)
    assert version is not None
    assert version.state == "removed"
    assert guest.client().get("/tunesmith/v1/deployments/door").json()["state"] == "failed"


def test_what_cannot_be_a_deployment(site: Site, tmp_path: Path) -> None:
    own = add_tuned(site.default, tmp_path, "own")
    client = site.client()
    for wrong in (
        {"name": "a b", "model": own},
        {"name": "door"},
        {"name": "door", "model": own, "traffic": {own: 100}},
        {"name": "door", "traffic": {own: 60}},
        {"name": "door", "traffic": {own: 150, "org/tiny": -50}},
        {"name": "door", "model": own, "min_replicas": 2},
        {"name": "door", "model": own, "kind": "batch", "min_replicas": 1},
        {"name": "llama-3.2-1b-instruct", "model": own},
    ):
        assert client.post("/tunesmith/v1/deployments", json=wrong).status_code == 400, wrong
    deploy(site.default, "files", model=own, kind="batch")
    answer = client.post("/v1/chat/completions", json={"model": "files", **CHAT})
    assert answer.json()["error"]["code"] == "deployment_is_batch"


def test_traffic_is_shared_as_its_parts_say() -> None:
    counts = Counter(drawn({"a": 80, "b": 20}) for _ in range(4000))
    # Six standard deviations.
    assert 3200 - 152 < counts["a"] < 3200 + 152
    assert drawn({"a": 100}) == "a"


def test_the_registry_of_a_project(site: Site, tmp_path: Path) -> None:
    own = add_tuned(site.default, tmp_path, "own")
    client = site.client()
    (one,) = client.get("/tunesmith/v1/registry").json()["data"]
    assert one["model"] == own
    assert one["metrics"]["tuned"]["accuracy"]["value"] == 0.75
    whole = client.post(f"/tunesmith/v1/registry/{own}/labels", json={"label": "production"}).json()
    assert whole["labels"] == ["production"]
    assert whole["lineage"] == ["org/tiny"]
    assert str(tmp_path) not in client.get(f"/tunesmith/v1/registry/{own}").text
    wrong = client.post(f"/tunesmith/v1/registry/{own}/labels", json={"label": "nonsense"})
    assert wrong.status_code == 400
    point = add_row(site.default, f"{own}:ckpt-step-8", "ftjob-own:1@8")
    words = see(client, f"/ui/models/{own}").words
    assert "production" in words
    assert "0.75" in words
    # What stands for a version stands for none of its checkpoints.
    assert client.get(f"/tunesmith/v1/registry/{point}").json()["labels"] == []
    refused = client.post(f"/tunesmith/v1/registry/{point}/labels", json={"label": "archived"})
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "checkpoint_label")
    assert client.delete(f"/tunesmith/v1/registry/{point}/labels/production").status_code == 404
    forms = [one.get("data-api") for one in see(client, f"/ui/models/{point}").all("form")]
    assert f"POST /tunesmith/v1/registry/{quote(point)}/labels" not in forms
    assert client.delete(f"/tunesmith/v1/registry/{own}/labels/production").json()["labels"] == []
    assert client.delete(f"/tunesmith/v1/registry/{own}/labels/production").status_code == 404
    card = client.get(f"/tunesmith/v1/registry/{own}/card")
    assert card.headers["content-type"].startswith("text/markdown")
    assert "ftjob-own" in card.text
    assert site.client("inference").post(f"/tunesmith/v1/registry/{own}/labels", json={"label": "x"}).status_code == 403


def test_engines_are_shown_to_who_runs_the_service(site: Site) -> None:
    site.client("inference").post("/v1/chat/completions", json={"model": "org/tiny", **CHAT})
    (engine,) = site.operator.get("/tunesmith/v1/engines").json()["data"]
    assert (engine["base"], engine["state"]) == ("org/tiny", "wanted")
    assert "token" not in engine
    assert site.client("admin").get("/tunesmith/v1/engines").status_code == 403
