"""Pages of the hosted service from its code: docs/openapi.json, and every setting with what it takes and means."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from tunesmith.service.app import make_app
from tunesmith.service.context import open_context
from tunesmith.service.settings import Limits, OpenIdSettings, Settings

HEAD = """\
# Settings of the hosted service

<!-- Written by scripts/make_docs.py; do not edit by hand. -->

`tunesmith up --config FILE` takes a YAML file with these names; options of the command win over it. What was chosen is
kept in the data folder and holds for later starts. Unknown names are errors. None of them is a secret: those are in
environment variables, and the password of a database may be in `PGPASSWORD`.

| name | takes | default | |
|---|---|---|---|
"""
MEANINGS = {
    "database": "`sqlite:///FILE` or `postgresql://USER@HOST/NAME`",
    "storage": "where files, results, runs and models lie: a folder, `s3://`, `az://` or `abfs://`",
    "executor": "where jobs train, as a recipe's section `executor`",
    "host": "the address to listen on",
    "port": "the port; 0 takes a free one",
    "api_processes": "processes that take requests from that port",
    "trusted_proxies": "addresses and networks whose `X-Forwarded-For` is believed",
    "public_url": "how clients reach the service, for links and sign-in",
    "organization": "the third part of tuned models' names",
    "models": "base models that are offered: ids of the catalog, or `NAME=FOLDER`",
    "limits.file_bytes": "the largest file that is uploaded at once",
    "limits.upload_bytes": "the largest file that is uploaded in parts",
    "limits.part_bytes": "the largest part",
    "limits.body_bytes": "the largest body of any other request",
    "limits.project_bytes": "all files of a project together",
    "limits.batch_requests": "requests of a batch",
    "limits.batch_bytes": "the largest file of a batch",
    "limits.requests_per_minute": "requests of a key in a minute",
    "limits.tokens_per_minute": "tokens of a project's questions in a minute; batches and evaluations work in the "
    "background and are not held to it",
    "limits.failures_per_minute": "wrong keys and sign-ins from an address in a minute",
    "limits.jobs_at_once": "jobs that train at the same time, in the whole service and wherever they train; unless it "
    "is said, 1 with the executor `local` and no limit with others",
    "limits.jobs_waiting": "jobs of a project that wait, and its evaluations",
    "limits.evaluations_at_once": "models that a dispatcher's machine measures at the same time; 0: none",
    "prices": "of a million, by model (`*`: any other) and kind: `input_tokens`, `output_tokens`, `trained_tokens`, "
    "`requests`, and under `*` alone `stored_byte_hours` (a byte kept for an hour)",
    "currency": "of prices and budgets",
    "file_retention_days": "files are deleted so long after they came",
    "job_retention_days": "runs, reports and logs of jobs, and evaluations are deleted so long after their end; jobs "
    "and models stay",
    "engine_idle_seconds": "a model that nobody has asked for so long leaves the memory",
    "engines_at_once": "bases in memory at the same time",
    "engine_wait_seconds": "how long a request waits for a model that is being loaded",
    "engine_address": "where the processes that answer listen, and where the API reaches them",
    "openid.issuer": "who signs people in, by OpenID Connect",
    "openid.client_id": "what the service is called there",
    "openid.secret_variable": "the environment variable with the client's secret",
    "openid.admin_emails": "who is an administrator, for as long as they are named here",
    "openid.allowed_domains": "whose addresses of mail are let in; all, if none is named",
    "openid.require_verified_email": "only addresses that the provider has verified",
    "session_hours": "how long a browser's session lasts",
    "webhook_networks": "networks inside the house that webhooks may point to",
    "metrics_without_key": "whoever reaches the port reads `/metrics`, for scrapers that send no key; a proxy then "
    "keeps that path from others",
    "traces": "the address of an OpenTelemetry collector",
    "secure_cookies": "cookies over HTTPS alone, and browsers are told to stay with it",
    "log_level": "the least that is written to the logs",
    "logs": "`files`: in `logs/` of the data folder; `stderr`: for containers",
}
_HIDDEN = ("data_folder",)
_WORDS = {"string": "text", "integer": "whole number", "number": "number", "boolean": "true or false"}
_WORDS |= {"array": "a list", "object": "a map"}
_DEFAULTS = {"database": "SQLite in the data folder", "storage": "the data folder"}


def openapi_document() -> str:
    """The description of all paths, those of OpenAI's contract under their first prefix."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        context = open_context(
            Settings(data_folder=place, database=f"sqlite:///{place / 'none.db'}", storage=str(place / "none"))
        )
        document = make_app(context).openapi()
        context.database.close()
    return json.dumps(document, indent=1, ensure_ascii=False, sort_keys=True) + "\n"


def settings_page() -> str:
    """Every setting with what it takes, its default and its meaning."""
    return HEAD + "".join(
        f"| `{name}` | {takes} | {default} | {MEANINGS[name]} |\n" for name, takes, default in _rows()
    )


def _rows() -> Iterator[tuple[str, str, str]]:
    for name, takes, default in _fields(Settings, ""):
        if name in ("limits", "openid"):
            yield from _fields(Limits if name == "limits" else OpenIdSettings, f"{name}.")
        elif name not in _HIDDEN:
            yield name, takes, default


def _fields(model: type[BaseModel], above: str) -> Iterator[tuple[str, str, str]]:
    schema = model.model_json_schema(ref_template="{model}")
    for name, field in model.model_fields.items():
        default = field.get_default(call_default_factory=True)
        shown = "required" if field.is_required() else "none" if default is None else f"`{_dumped(default)}`"
        yield f"{above}{name}", _takes(schema["properties"][name]), _DEFAULTS.get(f"{above}{name}", shown)


def _takes(value: dict[str, Any]) -> str:
    if "anyOf" in value:
        return ", ".join(_takes(one) for one in value["anyOf"] if one.get("type") != "null")
    if "enum" in value:
        return ", ".join(f"`{one}`" for one in value["enum"])
    # A reference is to a section with keys of its own.
    return _WORDS[value.get("type", "object")]


def _dumped(default: Any) -> str:
    return "" if isinstance(default, BaseModel) else json.dumps(default).strip('"')
