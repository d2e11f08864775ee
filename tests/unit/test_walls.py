"""The walls of the house: every room is named in the contracts, and nothing light loads what is heavy."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "src" / "tunesmith"
HEAVY = ("torch", "transformers", "peft", "accelerate", "fastapi", "uvicorn")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
CONTRACTS = {contract["name"]: contract for contract in PROJECT["tool"]["importlinter"]["contracts"]}
CONTROL = set(CONTRACTS["CONTROL never imports COMPUTE"]["source_modules"])
COMPUTE = set(CONTRACTS["COMPUTE never imports CONTROL"]["source_modules"])
BASE = set(CONTRACTS["BASE imports neither"]["source_modules"])
# Commands that platforms start: they begin what the others are, by process and not by import.
LAUNCHERS = set(CONTRACTS["Launchers know BASE alone"]["source_modules"])


def modules_below(folder: Path) -> list[str]:
    """Every module of the package below a folder, by its import name."""
    paths = [path.relative_to(PACKAGE.parent).with_suffix("") for path in folder.rglob("*.py")]
    return sorted(".".join(path.parts[:-1] if path.name == "__init__" else path.parts) for path in paths)


def run_python(program: str) -> str:
    """What a new interpreter prints that runs the program."""
    command = [sys.executable, "-W", "error", "-c", program]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_every_room_is_in_one_of_the_parts():
    rooms = {f"tunesmith.{path.stem}" for path in PACKAGE.iterdir() if path.suffix in ("", ".py")}
    assert rooms - {"tunesmith.__init__", "tunesmith.__pycache__"} == CONTROL | COMPUTE | BASE | LAUNCHERS
    parts = (CONTROL, COMPUTE, BASE, LAUNCHERS)
    assert sum(map(len, parts)) == len(set().union(*parts))


def test_every_contract_names_the_same_rooms():
    assert set(CONTRACTS["CONTROL never imports COMPUTE"]["forbidden_modules"]) == COMPUTE
    assert set(CONTRACTS["COMPUTE never imports CONTROL"]["forbidden_modules"]) == CONTROL
    assert set(CONTRACTS["BASE imports neither"]["forbidden_modules"]) == CONTROL | COMPUTE
    light = CONTRACTS["BASE and CONTROL never load the training stack or a web server"]
    assert set(light["source_modules"]) == (BASE | CONTROL) - {"tunesmith.service"}
    others = CONTROL - {"tunesmith.service"}
    assert set(CONTRACTS["Nobody loads the service: its processes are started"]["source_modules"]) == others
    databases = CONTRACTS["Databases and web frameworks of the service are in it alone"]
    assert set(databases["source_modules"]) == others | COMPUTE
    assert set(light["forbidden_modules"]) == set(HEAVY)
    assert set(CONTRACTS["The web server is in inference alone"]["source_modules"]) == COMPUTE - {"tunesmith.inference"}
    assert set(CONTRACTS["Accelerate is in strategies alone"]["source_modules"]) == COMPUTE - {"tunesmith.strategies"}
    assert set(CONTRACTS["Launchers know BASE alone"]["forbidden_modules"]) == CONTROL | COMPUTE
    assert set(CONTRACTS["Nobody knows a launcher"]["source_modules"]) == CONTROL | COMPUTE | BASE
    ray = CONTRACTS["Ray is in executors and launchers alone"]
    assert set(ray["source_modules"]) == (CONTROL | COMPUTE | BASE) - {"tunesmith.executors"}
    apart = CONTRACTS["Ray and torch meet in one launcher alone"]
    launchers = {name for name in modules_below(PACKAGE / "launchers") if name.count(".") > 1}
    assert set(apart["source_modules"]) == launchers - {"tunesmith.launchers.ray_train"}
    ordered = CONTRACTS["The order of COMPUTE"]["layers"]
    assert {f"tunesmith.{room.strip()}" for layer in ordered for room in layer.split("|")} == COMPUTE


@pytest.mark.parametrize("room", ["techniques", "trackers"])
def test_every_sibling_is_kept_from_the_others(room):
    """Files that only define the room's protocol, its table or shared helpers are no siblings."""
    (contract,) = [one for one in CONTRACTS.values() if one.get("modules", [""])[0].startswith(f"tunesmith.{room}.")]
    table = (PACKAGE / room / "table.py").read_text(encoding="utf-8")
    members = {name for name in modules_below(PACKAGE / room) if f"from {name} import" in table}
    # The list of the library's methods is data, not a technique.
    assert members - {f"tunesmith.{room}.base", "tunesmith.techniques.peft_methods"} == set(contract["modules"])


def test_every_resource_of_the_service_is_kept_from_the_others():
    rooms = {f"tunesmith.service.{path.name}" for path in (PACKAGE / "service").iterdir() if path.is_dir()}
    below = set(CONTRACTS["What resources share knows none of them"]["source_modules"])
    resources = set(CONTRACTS["Resources of the service do not know each other"]["modules"])
    # The dispatcher works for all of them.
    assert rooms - {"tunesmith.service.__pycache__", "tunesmith.service.dispatcher"} == below | resources


def test_no_module_of_base_or_control_loads_anything_heavy():
    folders = [PACKAGE / room.partition(".")[2] for room in sorted((BASE | CONTROL) - {"tunesmith.service"})]
    modules = [name for folder in folders for name in modules_below(folder)]
    modules += [f"tunesmith.{folder.name}" for folder in folders if not folder.is_dir()]
    assert len(modules) > len(folders)
    assert blamed(["tunesmith", *modules], HEAVY) == {}


def test_no_module_of_the_service_loads_the_training_stack():
    modules = [name for name in modules_below(PACKAGE / "service") if ".migrations." not in name]
    assert blamed(modules, HEAVY[:4]) == {}


def blamed(modules: list[str], heavy: tuple[str, ...]) -> dict[str, str]:
    """Heavy packages that come with one of the modules, and with which first."""
    program = f"""
import importlib, json, sys
blame = {{}}
for name in {modules!r}:
    importlib.import_module(name)
    for heavy in {heavy!r}:
        if heavy in sys.modules:
            blame.setdefault(heavy, name)
print(json.dumps(blame))
"""
    found: dict[str, str] = json.loads(run_python(program))
    return found


# Of a model that is not here tokens are guessed, so that a plan needs no worker.
FAR = ["--model", "llama-3.1-8b-instruct", "--data", "rows.csv", "--hardware", "a100-80gb"]


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["train", "--help"], ["runs", "list"], ["models", "list"], ["plan", *FAR], ["advise", *FAR]],
)
def test_light_commands_load_nothing_heavy(arguments, tmp_path):
    (tmp_path / "rows.csv").write_text("text,label\n" + "".join(f"words {at},kind {at % 2}\n" for at in range(40)))
    program = f"""
import contextlib, io, os, sys
os.chdir({str(tmp_path)!r})
from tunesmith.cli.main import run
with contextlib.redirect_stdout(io.StringIO()):
    code = run({arguments!r})
print(code, [name for name in {HEAVY!r} if name in sys.modules])
"""
    assert run_python(program) == "0 []\n"
