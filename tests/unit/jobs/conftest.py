from __future__ import annotations

import json
from pathlib import Path

import pytest

from tunesmith.runs.layout import RunFolder, create_run


@pytest.fixture
def planned(tmp_path: Path):
    """A run whose fake worker follows a plan."""

    def make(plan: list[list], name: str = "first") -> RunFolder:
        run = create_run(tmp_path / "runs", name)
        run.recipe.write_text("model: tiny\n")
        (run.path / "plan.json").write_text(json.dumps(plan))
        return run

    return make
