"""Routes of fine-tuning, held to the contract, on both databases."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from openai import OpenAI
from openapi import load_contract
from recording_proxy import recording
from service_jobs import CONFIG, chat_rows, create, jobs_site, pair_rows, status, upload
from service_site import DATABASES, Site, make_site, served
from sqlalchemy import insert, select, update

from tunesmith.catalog.cache import machine_file
from tunesmith.planner.counted import Question, remember
from tunesmith.planner.trained import Counted
from tunesmith.recipe.facts import HostFacts
from tunesmith.recipe.techniques import PeftMethod
from tunesmith.runs.atomic import write_json
from tunesmith.service.db.tables.accounts import PROJECTS
from tunesmith.service.db.tables.jobs import JOBS
from tunesmith.service.db.tables.models import TUNED_MODELS
from tunesmith.service.fine_tuning import router
from tunesmith.service.shared.metering import count_use

JOB_PATH = "/fine_tuning/jobs"


@pytest.fixture(params=DATABASES)
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Site]:
    site = jobs_site(tmp_path, request.param)
    yield site
    site.context.database.close()


@pytest.fixture
def one(tmp_path: Path) -> Iterator[Site]:
    """Where the database does not matter."""
    site = jobs_site(tmp_path)
    yield site
    site.context.database.close()


def fits(method: str, path: str, answer: Any) -> None:
    contract = load_contract()
    operation = contract.find(method, path)
    assert operation is not None, path
    assert contract.problems_of_answer(operation.answer, answer) == []


def refusal(site: Site, body: dict[str, Any], status_code: int = 400) -> tuple[str, str | None, str]:
    answer = site.client().post("/v1/fine_tuning/jobs", json={"model": "tiny", **body})
    assert answer.status_code == status_code, answer.text
    error = answer.json()["error"]
    return error["code"], error["param"], error["message"]


def test_a_job_is_made_and_told_as_the_contract_has_it(site: Site) -> None:
    client, file_id = site.client(), upload(site.default, chat_rows(40))
    job = create(client, file_id, suffix="mine", seed=7, metadata={"team": "a"})
    assert job["status"] == "queued"
    assert job["hyperparameters"] == {"n_epochs": 3, "batch_size": "auto", "learning_rate_multiplier": 1.0}
    assert (job["seed"], job["user_provided_suffix"], job["metadata"]) == (7, "mine", {"team": "a"})
    fits("POST", JOB_PATH, job)
    assert client.get(f"/v1/fine_tuning/jobs/{job['id']}").json() == job
    events = client.get(f"/v1/fine_tuning/jobs/{job['id']}/events").json()
    fits("GET", f"{JOB_PATH}/x/events", events)
    assert [event["message"] for event in events["data"]] == [
        "Files validated, moving job to queued state",
        f"Validating training file: {file_id}",
        f"Created fine-tuning job: {job['id']}",
    ]
    checkpoints = client.get(f"/v1/fine_tuning/jobs/{job['id']}/checkpoints").json()
    fits("GET", f"{JOB_PATH}/x/checkpoints", checkpoints)


def test_preferences_are_learned_by_dpo(one: Site) -> None:
    file_id = upload(one.default, pair_rows(20))
    job = create(
        one.client(), file_id, method={"type": "dpo", "dpo": {"hyperparameters": {"beta": 0.2, "batch_size": 4}}}
    )
    assert job["method"]["dpo"]["hyperparameters"] == {
        "n_epochs": 5,
        "batch_size": 4,
        "learning_rate_multiplier": 1.0,
        "beta": 0.2,
    }
    fits("POST", JOB_PATH, job)
    recipe = one.client().get(f"/tunesmith/v1/jobs/{job['id']}/recipe").json()
    assert recipe["objective"] == {"name": "dpo", "beta": 0.2}
    assert recipe["train"]["rows_per_step"] == 4
    assert recipe["data"]["train"] == file_id


def test_a_base_without_a_chat_template_learns_plain_text_alone(tmp_path: Path) -> None:
    """Said before a job is made, and in the catalog."""
    base = "llama-3.2-1b"
    site = make_site(tmp_path, models=[base])
    client = site.client()
    assert client.get(f"/tunesmith/v1/catalog/{base}").json()["chat_template"] is False
    assert client.post(f"/tunesmith/v1/catalog/{base}/accept").status_code == 200
    chats = {"model": base, "training_file": upload(site.default, chat_rows(20))}
    assert refusal(site, chats)[:2] == ("recipe.no_chat_template", "model")
    texts = upload(site.default, [{"text": f"A sentence about parcel {number}."} for number in range(20)])
    assert create(client, texts, model=base, tunesmith={"task": "text"})["status"] == "queued"
    site.context.database.close()


def test_old_hyperparameters_hold_for_every_method(one: Site) -> None:
    file_id, old = upload(one.default, pair_rows(20)), {"n_epochs": 2}
    job = create(one.client(), file_id, method={"type": "dpo"}, hyperparameters=old)
    assert job["method"]["dpo"]["hyperparameters"]["n_epochs"] == 2
    told = {"type": "dpo", "dpo": {"hyperparameters": {"n_epochs": 2, "beta": 0.5}}}
    assert create(one.client(), file_id, method=told, hyperparameters=old)["hyperparameters"]["n_epochs"] == 2


def test_rows_that_cannot_be_learned_are_refused_with_their_lines(one: Site) -> None:
    rows: list[Any] = chat_rows(20)
    rows[6] = '{"messages": ['
    rows[11] = {"messages": [{"role": "user", "content": "nothing follows"}]}
    code, param, message = refusal(one, {"training_file": upload(one.default, rows)})
    assert (code, param) == ("invalid_training_file", "training_file")
    assert "line 7:" in message
    assert "line 12:" in message
    good = upload(one.default, chat_rows(20))
    assert refusal(one, {"training_file": good, "validation_file": upload(one.default, rows)})[1] == "validation_file"
    assert refusal(one, {"training_file": upload(one.default, chat_rows(3))})[0] == "invalid_n_examples"
    assert refusal(one, {"training_file": upload(one.default, pair_rows(20))})[0] == "invalid_training_file"
    code, _, message = refusal(one, {"training_file": good, "method": {"type": "dpo"}})
    assert (code, "preferred_output" in message) == ("invalid_training_file", True)


def test_what_cannot_be_is_refused_by_its_parameter(one: Site) -> None:
    good = {"training_file": upload(one.default, chat_rows(20))}
    batch = upload(one.default, ["{}"], purpose="batch")
    cases: list[tuple[dict[str, Any], int, str, str | None]] = [
        ({**good, "model": "nothing"}, 404, "model_not_found", "model"),
        ({"training_file": "file-nothing"}, 404, "not_found", "training_file"),
        ({"training_file": batch}, 400, "invalid_file_purpose", "training_file"),
        ({**good, "hyperparameters": {"n_epochs": 51}}, 400, "invalid_value", "hyperparameters.n_epochs"),
        ({**good, "hyperparameters": {"n_epochs": True}}, 400, "invalid_value", "hyperparameters.n_epochs"),
        ({**good, "hyperparameters": {"batch_size": 1.5}}, 400, "invalid_value", "hyperparameters.batch_size"),
        ({**good, "metadata": {"k" * 65: "v"}}, 400, "invalid_value", "metadata"),
        ({**good, "suffix": "s" * 65}, 400, "invalid_value", "suffix"),
        ({**good, "surprise": 1}, 400, "invalid_value", "surprise"),
        ({**good, "integrations": [{"type": "wandb", "wandb": {}}]}, 400, "unsupported_integration", "integrations"),
        ({**good, "method": {"type": "reinforcement", "reinforcement": {}}}, 501, "unsupported", None),
        ({**good, "method": {"type": "supervised", "dpo": {}}}, 400, "invalid_value", "method.dpo"),
        (
            {
                **good,
                "hyperparameters": {"n_epochs": 2},
                "method": {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 3}}},
            },
            400,
            "invalid_value",
            "hyperparameters",
        ),
        ({**good, "tunesmith": {"technique": None, "rank": 4}}, 400, "recipe.bad_value", "tunesmith.technique"),
        ({**good, "tunesmith": {"rnak": 4}}, 400, "unknown_option", "tunesmith.rnak"),
        ({**good, "tunesmith": {"rank": "many"}}, 400, "recipe.bad_value", "tunesmith.rank"),
        ({**good, "tunesmith": {"task": "poetry"}}, 400, "task.unknown", "tunesmith.task"),
        ({**good, "tunesmith": {"validation": "/etc/passwd"}}, 400, "invalid_value", "tunesmith.validation"),
        ({**good, "tunesmith": {"dry_run": "yes"}}, 400, "invalid_value", "tunesmith.dry_run"),
        ({**good, "tunesmith": {"objective": "dpo"}}, 400, "recipe.no_preferences", "tunesmith.objective"),
        (
            {**good, "hyperparameters": {"learning_rate_multiplier": 2}, "tunesmith": {"learning_rate": 0.1}},
            400,
            "recipe.multiplied_rate",
            "hyperparameters.learning_rate_multiplier",
        ),
    ]
    for body, status_code, code, param in cases:
        found = refusal(one, body, status_code)
        assert found[0] == code, found
        assert param is None or found[1] == param, found


def test_nothing_of_this_machine_can_be_named(one: Site) -> None:
    file_id = upload(one.default, chat_rows(20))
    folder = one.context.settings.models[0].partition("=")[2]
    for name in (folder, "org/name", "ftjob-x:1", "../tiny"):
        assert refusal(one, {"training_file": file_id, "model": name}, 404)[0] == "model_not_found"


def test_epochs_follow_the_number_of_rows(one: Site) -> None:
    client = one.client()
    for rows, epochs in ((10, 10), (20, 5), (40, 3)):
        job = create(client, upload(one.default, chat_rows(rows)))
        assert job["hyperparameters"]["n_epochs"] == epochs


def test_lists_have_pages_and_filters(site: Site) -> None:
    client, file_id = site.client(), upload(site.default, chat_rows(20))
    made = [create(client, file_id, metadata={"n": str(number % 2)})["id"] for number in range(4)]
    made.append(create(client, file_id)["id"])
    page = client.get("/v1/fine_tuning/jobs", params={"limit": 2}).json()
    fits("GET", JOB_PATH, page)
    assert [job["id"] for job in page["data"]] == made[:2:-1]
    assert page["has_more"] is True
    rest = client.get("/v1/fine_tuning/jobs", params={"after": page["data"][-1]["id"]}).json()
    assert [job["id"] for job in rest["data"]] == made[2::-1]
    assert rest["has_more"] is False
    odd = client.get("/v1/fine_tuning/jobs", params={"metadata[n]": "1"}).json()
    assert [job["id"] for job in odd["data"]] == [made[3], made[1]]
    odd = {'a"b': "1", "a.b": "2", "\\": "3", "": "4", "[0]": "5", "ключ": "6", "$": "7"}
    named = create(client, file_id, metadata=odd)["id"]
    for key, value in odd.items():
        for asked, found in ((value, [named]), ("0", [])):
            page = client.get("/v1/fine_tuning/jobs", params={f"metadata[{key}]": asked}).json()
            assert [job["id"] for job in page["data"]] == found, key
    without = client.get("/v1/fine_tuning/jobs", params={"metadata": "null"}).json()
    assert [job["id"] for job in without["data"]] == [made[4]]
    events = client.get(f"/v1/fine_tuning/jobs/{made[0]}/events", params={"limit": 1}).json()
    older = client.get(f"/v1/fine_tuning/jobs/{made[0]}/events", params={"after": events["last_id"]}).json()
    assert len(events["data"]) + len(older["data"]) == 3


def test_a_job_that_waits_is_paused_resumed_and_cancelled_at_once(site: Site) -> None:
    client, file_id = site.client(), upload(site.default, chat_rows(20))
    job_id = create(client, file_id)["id"]
    for action, state in (("pause", "paused"), ("resume", "queued"), ("pause", "paused"), ("cancel", "cancelled")):
        answer = client.post(f"/v1/fine_tuning/jobs/{job_id}/{action}").json()
        assert answer["status"] == state
        if state != "paused":
            # The enumeration of states lacks it; the contract's own example has it.
            fits("POST", f"{JOB_PATH}/x/{action}", answer)
    assert answer["finished_at"] is not None
    for action in ("pause", "resume", "cancel"):
        again = client.post(f"/v1/fine_tuning/jobs/{job_id}/{action}")
        assert again.status_code == 400
        assert again.json()["error"]["code"] == "invalid_job_state"


def test_a_retry_of_the_official_client_makes_no_second_job(site: Site) -> None:
    client, file_id = site.client(), upload(site.default, chat_rows(20))
    body = {"model": "tiny", "training_file": file_id}
    first = client.post("/v1/fine_tuning/jobs", json=body).json()
    retried = client.post("/v1/fine_tuning/jobs", json=body, headers={"x-stainless-retry-count": "1"}).json()
    assert retried == first
    assert len(client.get("/v1/fine_tuning/jobs").json()["data"]) == 1


def test_the_official_client_tries_again_by_itself_and_one_job_is_made(site: Site) -> None:
    file_id = upload(site.default, chat_rows(20))
    with served(site) as root, recording(root, losing=["POST /v1/fine_tuning/jobs"]) as proxy:
        with OpenAI(base_url=f"{proxy.url}/v1", api_key=site.default.key()) as client:
            job = client.fine_tuning.jobs.create(model="tiny", training_file=file_id)
            assert [one.id for one in client.fine_tuning.jobs.list()] == [job.id]
        first, second = (one for one in proxy.exchanges if one.method == "POST")
    assert (first.answer["id"], second.answer["id"]) == (job.id, job.id)
    assert second.headers["idempotency-replayed"] == "true"


def test_a_process_that_dies_before_it_answers_has_made_the_one_job(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, file_id = site.client(), upload(site.default, chat_rows(20))
    whole = router.keep_job

    def dies(*given: Any) -> Any:
        whole(*given)
        raise MemoryError

    asked = {"json": {"model": "tiny", "training_file": file_id}, "headers": {"Idempotency-Key": "one"}}
    monkeypatch.setattr(router, "keep_job", dies)
    assert client.post("/v1/fine_tuning/jobs", **asked).status_code == 500
    monkeypatch.setattr(router, "keep_job", whole)
    again = client.post("/v1/fine_tuning/jobs", **asked)
    assert again.headers["idempotency-replayed"] == "true"
    assert [one["id"] for one in client.get("/v1/fine_tuning/jobs").json()["data"]] == [again.json()["id"]]


def test_so_many_jobs_may_wait(tmp_path: Path) -> None:
    site = jobs_site(tmp_path, limits={"jobs_waiting": 2})
    client, file_id = site.client(), upload(site.default, chat_rows(20))
    create(client, file_id)
    create(client, file_id)
    assert refusal(site, {"training_file": file_id}, 429)[0] == "too_many_jobs"
    other = site.project("other")
    create(other.client(), upload(other, chat_rows(20)))


def test_a_job_beyond_the_budget_is_refused_by_what_it_would_cost(tmp_path: Path) -> None:
    site = jobs_site(tmp_path, prices={"tiny": {"trained_tokens": 1000.0}})
    file_id = upload(site.default, chat_rows(20))
    project = site.default
    with site.context.database.write() as connection:
        connection.execute(update(PROJECTS).where(PROJECTS.c.id == project.id).values(budget=0.5))
    code, _, message = refusal(site, {"training_file": file_id}, 429)
    assert code == "insufficient_quota"
    assert "would cost" in message
    create(site.client(), file_id, hyperparameters={"n_epochs": 1})
    with site.context.database.write() as connection:
        count_use(site.context, connection, project.id, "tiny", {"trained_tokens": 1000})
    assert refusal(site, {"training_file": file_id, "hyperparameters": {"n_epochs": 1}}, 429)[0] == "insufficient_quota"


def test_an_estimate_makes_no_job(one: Site) -> None:
    client, file_id = one.client(), upload(one.default, chat_rows(40))
    body = {"model": "tiny", "training_file": file_id, "seed": 1, "tunesmith": {"technique": "dora", "rank": 4}}
    found = client.post("/tunesmith/v1/estimates", json=body).json()
    assert (found["epochs"], found["training_rows"], found["validation_rows"]) == (3, 36, 4)
    assert found["trained_tokens"] == round(found["tokens_per_epoch"] * 3)
    assert found["technique"]["name"] == "dora"
    assert found["data"]["training_file"]["examples"] == 40
    assert str(one.context.settings.data_folder) not in str(found)
    dry = {**body, "tunesmith": {**body["tunesmith"], "dry_run": True}}  # type: ignore[dict-item]
    assert client.post("/v1/fine_tuning/jobs", json=dry).json() == found
    assert client.get("/v1/fine_tuning/jobs").json()["data"] == []


def test_an_estimate_counts_what_trains_where_no_formula_knows_only_if_asked_to(
    one: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was counted before is taken; the worker that counts is tried in tests/integration/test_service_jobs.py."""
    monkeypatch.setenv("TUNESMITH_CACHE", str(tmp_path / "cache"))
    machine_file().parent.mkdir(parents=True)
    write_json(machine_file(), asdict(HostFacts(2, 2**34)))
    client, file_id = one.client(), upload(one.default, chat_rows(40))
    body = {"model": "tiny", "training_file": file_id, "tunesmith": {"technique": "osf"}}
    guess = client.post("/tunesmith/v1/estimates", json=body).json()
    assert any("osf trains is a guess" in line and "`exact`" in line for line in guess["warnings"])
    spec = PeftMethod(name="osf")
    remember(Question(CONFIG, spec, "sft", 0), Counted(spec, 12345))
    known = client.post("/tunesmith/v1/estimates", json=body).json()
    assert known["plan"]["trained_parameters"] == 12345
    assert not any("guess, as much" in line for line in known["warnings"])


def test_an_estimate_fits_where_the_run_will_make_itself_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a recipe leaves open is chosen in both as the plan says; here activations are computed again."""
    monkeypatch.setenv("TUNESMITH_CACHE", str(tmp_path / "cache"))
    machine_file().parent.mkdir(parents=True)
    write_json(machine_file(), asdict(HostFacts(2, 3 * 10**9)))
    site = make_site(tmp_path / "site", models=["smollm2-135m-instruct"])
    body = {
        "model": "smollm2-135m-instruct",
        "training_file": upload(site.default, chat_rows(200)),
        "tunesmith": {"technique": "dora"},
    }
    found = site.client().post("/tunesmith/v1/estimates", json=body).json()
    assert found["plan"]["fits"], found
    assert found["plan"]["peak_memory_bytes"] < 0.9 * 3 * 10**9
    site.context.database.close()


def test_azure_s_training_types_are_taken(one: Site) -> None:
    file_id = upload(one.default, chat_rows(20))
    made = [create(one.client(), file_id, trainingType=kind)["id"] for kind in ("Standard", "Developer")]
    with one.context.database.read() as connection:
        rows = connection.execute(select(JOBS.c.id, JOBS.c.priority)).all()
    assert [{row.id: row.priority for row in rows}[job_id] for job_id in made] == [0, -1]


def test_checkpoints_are_shared_by_those_who_manage_the_project(site: Site) -> None:
    name = "ft:tiny:tunesmith::abcdefgh:ckpt-step-5"
    mine, other = site.default, site.project("other")
    row = {"id": name, "project_id": mine.id, "base": "tiny", "address": "ftjob-x:1@5", "created_at": 1.0}
    with site.context.database.write() as connection:
        connection.execute(TUNED_MODELS.insert().values(**row))
    path = f"/v1/fine_tuning/checkpoints/{name}/permissions"
    admin = site.client("admin")
    assert site.client("member").post(path, json={"project_ids": [other.id]}).status_code == 403
    assert other.client("admin").get(path).status_code == 404
    assert admin.post(path, json={"project_ids": ["proj_nothing"]}).status_code == 404
    made = admin.post(path, json={"project_ids": [other.id]}).json()
    again = admin.post(path, json={"project_ids": [other.id]}).json()
    listed = admin.get(path).json()
    assert made == again == listed
    fits("POST", "/fine_tuning/checkpoints/x/permissions", made)
    fits("GET", "/fine_tuning/checkpoints/x/permissions", listed)
    gone = admin.delete(f"{path}/{made['data'][0]['id']}").json()
    fits("DELETE", "/fine_tuning/checkpoints/x/permissions/y", gone)
    assert admin.get(path).json()["data"] == []


def test_jobs_of_others_are_not_there(one: Site) -> None:
    job_id = create(one.client(), upload(one.default, chat_rows(20)))["id"]
    other = one.project("other").client()
    assert other.get("/v1/fine_tuning/jobs").json()["data"] == []
    for path in ("", "/events", "/checkpoints"):
        assert other.get(f"/v1/fine_tuning/jobs/{job_id}{path}").status_code == 404
    for path in ("cancel", "pause", "resume"):
        assert other.post(f"/v1/fine_tuning/jobs/{job_id}/{path}").status_code == 404
    for path in ("stream", "report", "recipe", "logs"):
        assert other.get(f"/tunesmith/v1/jobs/{job_id}/{path}").status_code == 404
    assert one.client("inference").get("/v1/fine_tuning/jobs").status_code == 403
    assert status(one.client(), job_id) == "queued"


def test_a_stream_goes_on_behind_its_last_event(one: Site) -> None:
    client = one.client()
    job_id = create(client, upload(one.default, chat_rows(20)))["id"]
    client.post(f"/v1/fine_tuning/jobs/{job_id}/cancel")
    whole = client.get(f"/tunesmith/v1/jobs/{job_id}/stream").text
    names = [line.removeprefix("id: ") for line in whole.splitlines() if line.startswith("id: ")]
    assert len(names) == 4
    assert whole.endswith('event: done\ndata: {"status":"cancelled"}\n\n')
    rest = client.get(f"/tunesmith/v1/jobs/{job_id}/stream", headers={"Last-Event-ID": names[1]}).text
    assert [line for line in rest.splitlines() if line.startswith("id: ")] == [f"id: {name}" for name in names[2:]]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/fine_tuning/alpha/graders/run"),
        ("POST", "/openai/v1/fine_tuning/alpha/graders/validate"),
        ("POST", "/openai/fine_tuning/jobs/ftjob-1/checkpoints/ftckpt_1/copy"),
        ("GET", "/v1/evals"),
        ("GET", "/v1/chat/completions"),
        ("GET", "/openai/v1/chat/completions/chatcmpl-1/messages"),
        ("POST", "/v1/responses"),
        ("POST", "/v1/moderations"),
        ("DELETE", "/v1/evals/eval_1/runs/run_1"),
    ],
)
def test_what_is_not_built_says_so(one: Site, method: str, path: str) -> None:
    answer = one.client().request(method, path)
    assert answer.status_code == 501
    assert answer.json()["error"]["code"] == "unsupported"
    assert answer.headers["x-should-retry"] == "false"


def test_what_is_done_with_jobs_and_checkpoints_is_in_the_audit_log(site: Site) -> None:
    client, admin = site.client(), site.client("admin")
    job_id = create(client, upload(site.default, chat_rows(20)))["id"]
    path = f"/v1/fine_tuning/jobs/{job_id}"
    for action in ("pause", "resume", "cancel"):
        assert client.post(f"{path}/{action}").status_code == 200
    assert client.post(f"{path}/pause").status_code == 400
    name = "ft:tiny:tunesmith::abcdefgh:ckpt-step-2"
    row = {"project_id": site.default.id, "job_id": job_id, "base": "tiny", "address": f"{job_id}:1@2"}
    with site.context.database.write() as connection:
        connection.execute(insert(TUNED_MODELS).values(id=name, created_at=site.context.now(), **row))
    other = site.project("other").id
    permissions = f"/v1/fine_tuning/checkpoints/{name}/permissions"
    (made,) = admin.post(permissions, json={"project_ids": [other]}).json()["data"]
    assert admin.post(permissions, json={"project_ids": ["proj_nothing"]}).status_code == 404
    assert admin.delete(f"{permissions}/{made['id']}").status_code == 200

    lines = admin.get("/tunesmith/v1/audit").json()["data"][::-1]
    assert [(line["action"], line["target"]) for line in lines] == [
        ("job.create", job_id),
        ("job.pause", job_id),
        ("job.resume", job_id),
        ("job.cancel", job_id),
        ("checkpoint.permit", name),
        ("checkpoint.withdraw", name),
    ], "what was refused is not there"
    actors = [line["actor"] for line in lines]
    assert actors == [actors[0]] * 4 + [actors[4]] * 2
    assert actors[0] != actors[4]
    assert lines[0]["detail"] == {"model": "tiny"}
    assert lines[4]["detail"] == {"projects": [other]}
    assert other in str(lines[5]["detail"]), "whose permission is gone"
