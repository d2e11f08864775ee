"""The official client of a service with OpenAI's contract, and its errors as ours; keys are in none of them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from pydantic import ValidationError

from tunesmith.errors import DataError, NetworkError, RecipeError, RunError, TunesmithError, UsageError, missing_extra
from tunesmith.recipe.executors.openai import OpenAi

OPENAI = "https://api.openai.com/v1"
_WHERE = ("base_url", "endpoint", "api_version")
_FILES = ("training_file", "validation_file")
# Whole keys, and the parts of them that services print.
_KEYS = re.compile(r"\b(sk|sess|pk)-[A-Za-z0-9_*.-]+")
_MOST_WORDS = 500


def located(spec: OpenAi) -> OpenAi:
    """The variant with its addresses; those that it leaves open are the environment's.

    Raises:
        UsageError: Azure's address or version is nowhere, or an address of the environment is none.
    """
    if spec.api == "openai":
        given = {"base_url": spec.base_url or os.environ.get("OPENAI_BASE_URL") or OPENAI}
    else:
        given = {
            "endpoint": spec.endpoint or os.environ.get("AZURE_OPENAI_ENDPOINT") or "",
            "api_version": spec.api_version or os.environ.get("OPENAI_API_VERSION") or "",
        }
    for name, value in given.items():
        if not value:
            variable = {"endpoint": "AZURE_OPENAI_ENDPOINT", "api_version": "OPENAI_API_VERSION"}[name]
            raise UsageError(
                "the service cannot be found without this",
                code="usage.openai_address",
                place=f"executor.{name}",
                hint=f"set it in the recipe, or set {variable}",
            )
    try:
        return OpenAi.model_validate({**spec.model_dump(exclude_unset=True), **given})
    except ValidationError:
        # An address of the environment may hold a password: it is not shown.
        raise UsageError(
            "the service's address in the environment is not a plain one",
            code="usage.openai_address",
            place=", ".join(given),
            hint="https://host/path, without user, password, query and fragment",
        ) from None


def where(spec: OpenAi) -> dict[str, str]:
    """The addresses of a located variant as plain data."""
    return {name: value for name in _WHERE if (value := getattr(spec, name)) is not None}


def at(spec: OpenAi, place: Mapping[str, Any]) -> OpenAi:
    """The variant at the addresses that were kept, whatever the environment says now."""
    return OpenAi.model_validate({**spec.model_dump(exclude_unset=True), **place})


def key_variable(spec: OpenAi) -> str:
    """The name of the environment variable that holds the key."""
    return spec.key_variable or ("OPENAI_API_KEY" if spec.api == "openai" else "AZURE_OPENAI_API_KEY")


@contextmanager
def open_service(spec: OpenAi) -> Iterator[Any]:
    """The client of a located variant while the block lasts; errors of the block become ours.

    Raises:
        UsageError: ``usage.missing_extra``; ``usage.no_key``; ``openai.*``: the key is not taken, or there is no such
            thing at the service.
        RecipeError, DataError, RunError: ``openai.*``: the service refuses the request, a file, or what was asked of a
            job.
        NetworkError: ``network.openai`` or ``openai.*``: it does not answer, or cannot now.
    """
    try:
        import openai
    except ModuleNotFoundError as error:
        raise missing_extra(
            "this needs a library that is not installed", "openai", place="executor", value="openai"
        ) from error
    place = spec.base_url or spec.endpoint or OPENAI
    try:
        with _client(openai, spec) as client:
            yield client
    except openai.APIStatusError as error:
        raise service_error(error, place, key_variable(spec)) from None
    except openai.APIConnectionError as error:
        raise NetworkError(
            "the service does not answer",
            code="network.openai",
            place=place,
            value=type(error.__cause__ or error).__name__,
            hint="check the address and the network, then try again",
        ) from None


def _client(openai: Any, spec: OpenAi) -> Any:
    variable = key_variable(spec)
    key = os.environ.get(variable)
    if spec.api == "openai":
        if not key:
            raise _no_key(variable)
        return openai.OpenAI(api_key=key, base_url=spec.base_url)
    given: dict[str, Any] = {"azure_endpoint": spec.endpoint, "api_version": spec.api_version}
    if key:
        return openai.AzureOpenAI(**given, api_key=key)
    if os.environ.get("AZURE_OPENAI_AD_TOKEN"):
        return openai.AzureOpenAI(**given)
    try:
        from azure.identity import DefaultAzureCredential, get_bearer_token_provider
    except ModuleNotFoundError:
        raise _no_key(variable, " or AZURE_OPENAI_AD_TOKEN, or install azure-identity for a login") from None
    scope = "https://cognitiveservices.azure.com/.default"
    return openai.AzureOpenAI(
        **given, azure_ad_token_provider=get_bearer_token_provider(DefaultAzureCredential(), scope)
    )


def _no_key(variable: str, otherwise: str = "") -> UsageError:
    return UsageError(
        "the service's key is not in the environment",
        code="usage.no_key",
        value=variable,
        hint=f"set {variable}{otherwise}; a service that asks for no key takes any text",
    )


def service_error(error: Any, place: str, variable: str) -> TunesmithError:
    """A service's refusal as one of our errors, with its code, parameter and request id."""
    status = int(error.status_code)
    code = f"openai.{_word(error.code) or _word(getattr(error, 'type', None)) or status}"
    request = f"request {error.request_id} at {place}" if error.request_id else place
    if status in (401, 403):
        # What services say here may hold parts of the key.
        hint = f"set {variable} to a key of this service that may do this; {request}"
        return UsageError("the service does not take the key", code=code, place=place, value=status, hint=hint)
    parameter = error.param if isinstance(error.param, str) else None
    kind: type[TunesmithError] = RecipeError
    if status in (408, 429) or status >= 500:
        kind = NetworkError
    elif status == 404:
        kind = UsageError
    elif status == 409:
        kind = RunError
    elif parameter in _FILES:
        kind = DataError
    said = without_keys(_message(error), os.environ.get(variable))
    return kind("the service refuses the request", code=code, place=parameter, value=said, hint=request)


def without_keys(text: str, key: str | None = None) -> str:
    """A service's words on one line, without what may be a key."""
    plain = text.replace(key, "...") if key else text
    return " ".join(_KEYS.sub("...", plain).split())[:_MOST_WORDS]


def _message(error: Any) -> str:
    body = error.body
    said = body.get("message") if isinstance(body, Mapping) else None
    return said if isinstance(said, str) else str(error.message)


def _word(value: Any) -> str | None:
    return value if isinstance(value, str) and re.fullmatch(r"[A-Za-z0-9_.-]{1,60}", value) else None
