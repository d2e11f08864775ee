"""One process that several files ask, since each takes seconds to start."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest
from openai_paths import Place

from tunesmith.jobs.inference_process import InferenceProcess, start_inference


@pytest.fixture(scope="session")
def paths(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return Place(tmp_path_factory.mktemp("paths"))


@pytest.fixture(scope="session")
def paths_process(paths: Place) -> Iterator[InferenceProcess]:
    with start_inference(paths.served) as running:
        yield running


@pytest.fixture(scope="session")
def http(paths_process: InferenceProcess) -> Iterator[httpx.Client]:
    headers = {"Authorization": f"Bearer {paths_process.token}"}
    with httpx.Client(base_url=paths_process.base_url, headers=headers, timeout=60, trust_env=False) as client:
        yield client
