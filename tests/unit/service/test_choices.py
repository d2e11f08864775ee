"""What an operator may choose, what is kept of it, and how what makes no sense is told."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from tunesmith.errors import UsageError
from tunesmith.service.choices import keep_choices, known_choices, make_private_folder, settings_of
from tunesmith.service.settings import read_settings, write_settings
from tunesmith.service.shared.metering import KINDS


def test_without_choices_everything_lies_in_the_data_folder(tmp_path: Path) -> None:
    settings = settings_of(tmp_path, {})
    assert settings.database == f"sqlite:///{tmp_path}/service.db"
    assert settings.storage == str(tmp_path / "storage")
    assert (settings.host, settings.executor) == ("127.0.0.1", {"name": "local"})
    write_settings(settings, settings.settings_file)
    assert read_settings(settings.settings_file) == settings


def test_choices_are_kept(tmp_path: Path) -> None:
    assert known_choices(tmp_path) == {}
    keep_choices(tmp_path, {"port": 9000})
    assert settings_of(tmp_path, known_choices(tmp_path)).port == 9000


@pytest.mark.parametrize(
    ("choices", "place", "secret"),
    [
        ({"prot": 1}, "prot", "1x"),
        ({"limits": {"file_bytes": "many"}}, "limits.file_bytes", "many"),
        ({"executor": {"name": "moon"}}, "executor", "1x"),
        ({"executor": {"name": "kubernetes", "nodes": "x"}}, "executor", "1x"),
        ({"models": ["no such model"]}, "models", "1x"),
        ({"data_folder": "/elsewhere"}, "data_folder", "1x"),
        ({"prices": {"*": {"output_token": 0.6}}}, "prices.*.output_token", "0.6"),
        ({"prices": {"*": {"output_tokens": -0.6}}}, "prices.*.output_tokens", "0.6"),
        ({"prices": {"tiny": {"stored_byte_hours": 0.6}}}, "prices", "0.6"),
        ({"database": 5, "port": "postgresql://me:secret@host/x"}, "port", "secret"),
    ],
)
def test_what_makes_no_sense_is_told_without_its_value(
    tmp_path: Path, choices: dict[str, object], place: str, secret: str
) -> None:
    with pytest.raises(UsageError) as caught:
        settings_of(tmp_path, choices)
    told = "\n".join(caught.value.lines())
    assert place in told
    assert secret not in told


def test_every_kind_of_use_may_have_a_price(tmp_path: Path) -> None:
    prices = {"*": dict.fromkeys(KINDS, 0.5), "tiny": {"requests": 0.0}}
    assert settings_of(tmp_path, {"prices": prices}).prices == prices


def test_the_data_folder_is_closed_to_others(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir(mode=0o755)
    make_private_folder(folder)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="data folder"):
        make_private_folder(tmp_path / "file" / "below")
