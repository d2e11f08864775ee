"""What is asked of Ray for a run, and what is refused before anything is asked."""

from __future__ import annotations

import json
import shlex
from typing import Any

import pytest
import yaml

from tunesmith.errors import NetworkError, RecipeError, UsageError
from tunesmith.executors.deploying import Endpoint
from tunesmith.executors.protocol import Submission
from tunesmith.executors.ray import RayJobs, connect, job_request
from tunesmith.executors.ray_serve import ANYBODY, APPLICATION, RayServe
from tunesmith.recipe.executors.ray import Ray
from tunesmith.recipe.load import parse_recipe

RUN = "s3://bucket/runs/one"


def recipe(**executor: Any) -> Any:
    return parse_recipe({"model": "m", "data": {"train": "rows.csv"}, "executor": {"name": "ray", **executor}}, "test")


def asked(spec: Ray, **changes: Any) -> dict[str, Any]:
    return job_request(spec, Submission("one", "key", RUN, recipe(), **changes))


def test_one_machine_is_one_job_whose_command_is_the_worker() -> None:
    spec = Ray(cpus=4, gpus=2, memory_gib=1.5, resources={"fast_disk": 1}, max_failures=0)
    request = asked(spec, devices=2, environment={"COLOUR": "blue"})
    assert request["entrypoint"] == f"python -P -m tunesmith.worker {RUN}"
    assert request["entrypoint_num_cpus"] == 4
    assert request["entrypoint_num_gpus"] == 2
    assert request["entrypoint_memory"] == 3 * 2**29
    assert request["entrypoint_resources"] == {"fast_disk": 1}
    assert request["runtime_env"]["env_vars"]["OMP_NUM_THREADS"] == "4"
    assert request["runtime_env"]["env_vars"]["COLOUR"] == "blue"
    assert request["metadata"] == {"job_name": "one", "tunesmith_run": RUN}


def test_a_worker_that_may_fail_is_started_by_one_that_starts_it_again() -> None:
    assert asked(Ray())["entrypoint"] == f"python -P -m tunesmith.launchers.attempts {RUN} --max-failures 3"


def test_several_machines_are_workers_of_ray_train() -> None:
    request = asked(Ray(cpus=2, gpus=1, memory_gib=1, resources={"a b": 2}), nodes=3)
    words = shlex.split(request["entrypoint"])
    assert words[:7] == ["python", "-P", "-m", "tunesmith.launchers.ray_train", RUN, "--workers", "3"]
    assert json.loads(words[words.index("--resources") + 1]) == {"CPU": 2, "GPU": 1, "memory": 2**30, "a b": 2}
    # The command itself asks for nothing: it waits on the head.
    assert not [name for name in request if name.startswith("entrypoint_")]


def test_the_id_is_of_the_key_alone() -> None:
    first = asked(Ray())["submission_id"]
    other = job_request(Ray(cpus=9), Submission("two", "key", "file:///two", recipe()))["submission_id"]
    assert first == other
    assert first != job_request(Ray(), Submission("one", "another", RUN, recipe()))["submission_id"]


def test_packages_and_a_folder_are_rays_to_bring() -> None:
    spec = Ray(pip=("tunesmith==0.1.0",), working_directory="s3://bucket/code.zip")
    environment = asked(spec)["runtime_env"]
    assert environment["pip"] == ["tunesmith==0.1.0"]
    assert environment["working_dir"] == "s3://bucket/code.zip"


def test_what_is_rendered_is_what_is_sent() -> None:
    submission = Submission("one", "key", RUN, recipe())
    files = RayJobs(Ray()).render(submission)
    assert json.loads(files["ray-job.json"]) == job_request(Ray(), submission)


def test_gpus_and_devices_must_agree() -> None:
    with pytest.raises(UsageError, match="one GPU") as caught:
        asked(Ray(gpus=4), devices=2)
    assert caught.value.code == "usage.ray_gpus"


@pytest.mark.parametrize(
    "settings",
    [
        {"address": "http://me:hidden@host:8265"},
        {"working_directory": "https://me:hidden@host/code.zip"},
        {"pip": ["--extra-index-url=https://me:hidden@host/simple"]},
    ],
)
def test_credentials_are_refused_and_not_repeated(settings: dict[str, Any]) -> None:
    with pytest.raises(RecipeError, match="credentials") as caught:
        recipe(**settings)
    assert "hidden" not in str(caught.value)


def test_resources_that_have_settings_are_refused() -> None:
    with pytest.raises(RecipeError, match="use cpus, gpus and memory_gib"):
        recipe(resources={"GPU": 1})


def test_a_cluster_must_be_named(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.delenv("RAY_API_SERVER_ADDRESS", raising=False)
    with pytest.raises(UsageError) as caught:
        connect(None)
    assert caught.value.code == "usage.ray_address"


def test_the_recipes_address_counts_before_the_environments(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray")
    monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1:1")
    with pytest.raises(NetworkError) as caught:
        connect("http://127.0.0.1:2")
    assert caught.value.place == "http://127.0.0.1:2"
    assert "127.0.0.1:2" in str(caught.value.value)
    with pytest.raises(NetworkError) as caught:
        connect(None)
    assert "127.0.0.1:1" in str(caught.value.value)


def test_headers_that_are_no_json_are_refused_without_being_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray")
    monkeypatch.setenv("RAY_JOB_HEADERS", "Bearer hidden")
    with pytest.raises(UsageError) as caught:
        connect("http://127.0.0.1:1")
    assert caught.value.code == "usage.ray_headers"
    assert "hidden" not in str(caught.value)


def test_an_endpoint_is_an_application_of_serve() -> None:
    endpoint = Endpoint("router", "key", {"router": "support-router:3"}, replicas=2, environment={"COLOUR": "blue"})
    (application,) = yaml.safe_load(RayServe(Ray(cpus=2)).render_endpoint(endpoint)["serve.yaml"])["applications"]
    assert application["import_path"] == APPLICATION
    assert application["route_prefix"] == "/router"
    assert application["args"] == {"models": {"router": "support-router:3"}, "anybody": False, "key": "key"}
    assert application["runtime_env"]["env_vars"]["COLOUR"] == "blue"
    (server,) = application["deployments"]
    assert server["num_replicas"] == 2
    assert server["ray_actor_options"] == {"num_cpus": 2, "num_gpus": 0}


def test_an_endpoint_may_scale_to_none_and_answer_anybody() -> None:
    endpoint = Endpoint("router", "key", {"router": "m"}, replicas=0, environment={ANYBODY: "yes"})
    (application,) = yaml.safe_load(RayServe(Ray()).render_endpoint(endpoint)["serve.yaml"])["applications"]
    assert application["args"]["anybody"] is True
    assert ANYBODY not in application["runtime_env"]["env_vars"]
    (server,) = application["deployments"]
    assert server["autoscaling_config"]["min_replicas"] == 0
    assert "num_replicas" not in server


def test_what_serve_cannot_do_is_refused() -> None:
    with pytest.raises(UsageError, match="one by one"):
        RayServe(Ray()).render_endpoint(Endpoint("a", "key", {"a": "m"}, kind="batch"))
    with pytest.raises(UsageError, match="no folder of this machine"):
        RayServe(Ray(working_directory="code")).render_endpoint(Endpoint("a", "key", {"a": "m"}))
