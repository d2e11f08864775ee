"""Where in Azure something runs when the recipe leaves it open, and what is told when Azure says no."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tunesmith.errors import NetworkError, RecipeError, RunError, UsageError
from tunesmith.executors.azure_place import resolved_place, telling_azure

OPEN = {"subscription": None, "resource_group": None, "workspace": None}


@pytest.fixture
def az(tmp_path: Path) -> dict[str, str]:
    """The files of somebody who has logged in with the az command and set defaults."""
    (tmp_path / "config").write_text("[core]\noutput = table\n[defaults]\ngroup = lab\nworkspace = tuning\n")
    subscriptions = [{"id": "first", "isDefault": False}, {"id": "second", "isDefault": True}]
    # The az command writes a byte order mark.
    (tmp_path / "azureProfile.json").write_text(json.dumps({"subscriptions": subscriptions}), encoding="utf-8-sig")
    return {"AZURE_CONFIG_DIR": str(tmp_path)}


def test_the_recipe_counts_first_then_the_environment_then_the_az_command(az: dict[str, str]) -> None:
    assert resolved_place(OPEN, az) == {"subscription": "second", "resource_group": "lab", "workspace": "tuning"}
    environ = {**az, "AZURE_SUBSCRIPTION_ID": "mine", "AZURE_DEFAULTS_GROUP": "own", "AZURE_DEFAULTS_WORKSPACE": "w"}
    assert resolved_place(OPEN, environ) == {"subscription": "mine", "resource_group": "own", "workspace": "w"}
    given = {"subscription": "said", "resource_group": "said", "workspace": "said"}
    assert resolved_place(given, environ) == given
    # Only what is needed is looked for.
    assert resolved_place({"subscription": None}, az) == {"subscription": "second"}


@pytest.mark.parametrize("content", [None, "no JSON", "[]", '{"subscriptions": [{"id": 3, "isDefault": true}]}'])
def test_what_is_said_nowhere_is_told_at_once(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "azureProfile.json").write_text(content)
        (tmp_path / "config").write_text("no section\n")
    with pytest.raises(RecipeError) as caught:
        resolved_place(OPEN, {"AZURE_CONFIG_DIR": str(tmp_path)})
    assert [one.place for one in caught.value.problems] == [f"executor.{key}" for key in OPEN]


def test_errors_of_azures_libraries_become_ours() -> None:
    core = pytest.importorskip("azure.core.exceptions")

    def told(error: Exception) -> Exception:
        with pytest.raises((NetworkError, RecipeError, RunError, UsageError)) as caught, telling_azure("a place"):
            raise error
        return caught.value

    def answered(status: int) -> Exception:
        error = core.HttpResponseError("said so")
        error.status_code = status
        return error

    assert isinstance(told(answered(403)), RunError)
    for status in (429, 500, 503):
        assert isinstance(told(answered(status)), NetworkError)
    assert isinstance(told(core.ServiceRequestError("no way")), NetworkError)
    login = told(core.ClientAuthenticationError("who?"))
    assert isinstance(login, UsageError)
    assert "az login" in str(login)
    assert isinstance(told(ModuleNotFoundError("x", name="azure.ai.ml")), UsageError)
    # Ours stay as they are.
    with pytest.raises(RunError), telling_azure("a place"):
        raise RunError("ours", code="run.x")
