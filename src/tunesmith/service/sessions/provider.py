"""A provider of OpenID Connect: where it sends people, and what it says of them when they come back.

What it says is believed only if its own key signed it, for this service, for this sign-in, and just now.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import httpx
from authlib.integrations.base_client.errors import OAuthError
from authlib.integrations.httpx_client import OAuth2Client
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet

from tunesmith.service.errors import ApiError
from tunesmith.service.settings import OpenIdSettings

_SCOPE = "openid email profile"
_SECONDS = 10.0
# Of clocks that differ.
_LEEWAY_SECONDS = 60
# Of keys that the provider alone has: a signature by the client's secret would be anybody's who knows that.
_ALGORITHMS = ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512"]
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True)
class Person:
    """Somebody of whom a provider has spoken.

    Attributes:
        subject: The provider's own name for them, which never changes.
        email: Their address.
        is_verified: Whether the provider says that the address is theirs; None where it does not say.
        name: What they are called.
    """

    subject: str
    email: str
    is_verified: bool | None
    name: str


def way_to_provider(settings: OpenIdSettings, redirect_uri: str, *, state: str, nonce: str, verifier: str) -> str:
    """The address to which a browser is sent.

    Raises:
        ApiError: 502: the provider does not answer.
    """
    described = _describe(settings)
    with _client(settings, described, redirect_uri) as client:
        address, _ = client.create_authorization_url(
            described["authorization_endpoint"], state=state, nonce=nonce, code_verifier=verifier
        )
    return str(address)


def person_of(
    settings: OpenIdSettings, redirect_uri: str, *, code: str, nonce: str, verifier: str, now: float
) -> Person:
    """Whom a provider means by a code.

    Raises:
        ApiError: 401: it does not know the code, or what it says is not to be believed; 502: it does not answer.
    """
    described = _describe(settings)
    try:
        with _client(settings, described, redirect_uri) as client:
            token = client.fetch_token(described["token_endpoint"], code=code, code_verifier=verifier)
        keys = _get(described["jwks_uri"])
    except OAuthError as error:
        raise _unbelieved(str(error.error)) from error
    except (httpx.HTTPError, ValueError) as error:
        raise _silent() from error
    claims = _believed(str(token.get("id_token", "")), keys, settings, nonce, now)
    return Person(
        str(claims["sub"]),
        str(claims.get("email", "")).lower(),
        claims.get("email_verified"),
        str(claims.get("name") or claims.get("email", "")),
    )


def _believed(
    id_token: str, keys: Mapping[str, Any], settings: OpenIdSettings, nonce: str, now: float
) -> dict[str, Any]:
    rules = jwt.JWTClaimsRegistry(
        now=int(now),
        leeway=_LEEWAY_SECONDS,
        iss={"essential": True, "value": settings.issuer},
        aud={"essential": True, "value": settings.client_id},
        sub={"essential": True},
        exp={"essential": True},
        iat={"essential": True},
        nonce={"essential": True, "value": nonce},
    )
    try:
        claims: dict[str, Any] = jwt.decode(id_token, KeySet.import_key_set(dict(keys)), _ALGORITHMS).claims  # type: ignore[arg-type]
        rules.validate(claims)
    except (JoseError, ValueError, KeyError, TypeError) as error:
        raise _unbelieved(type(error).__name__) from error
    # A token for several of the provider's clients names the one that asked for it.
    if isinstance(claims["aud"], list) and len(claims["aud"]) > 1 and claims.get("azp") != settings.client_id:
        raise _unbelieved("azp")
    return claims


def _describe(settings: OpenIdSettings) -> dict[str, Any]:
    try:
        found = _get(f"{settings.issuer.rstrip('/')}/.well-known/openid-configuration")
    except (httpx.HTTPError, ValueError) as error:
        raise _silent() from error
    endpoints = ("authorization_endpoint", "token_endpoint", "jwks_uri")
    if found.get("issuer") != settings.issuer or not all(_is_safe(str(found.get(one, ""))) for one in endpoints):
        raise _silent()
    return found


def _client(settings: OpenIdSettings, described: Mapping[str, Any], redirect_uri: str) -> OAuth2Client:
    secret = os.environ.get(settings.secret_variable)
    told = described.get("token_endpoint_auth_methods_supported", ["client_secret_basic"])
    by_header = "client_secret_basic" if "client_secret_basic" in told else "client_secret_post"
    return OAuth2Client(
        settings.client_id,
        secret,
        token_endpoint_auth_method=by_header if secret else "none",
        scope=_SCOPE,
        redirect_uri=redirect_uri,
        code_challenge_method="S256",
        timeout=_SECONDS,
    )


def _get(address: str) -> dict[str, Any]:
    answer = httpx.get(address, timeout=_SECONDS)
    answer.raise_for_status()
    found = answer.json()
    if not isinstance(found, dict):
        raise ValueError("not an object")
    return found


def _is_safe(address: str) -> bool:
    parts = urlsplit(address)
    return parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in _LOOPBACK)


def _unbelieved(why: str) -> ApiError:
    return ApiError(401, f"The provider's answer is not to be believed: {why}", code="openid_refused")


def _silent() -> ApiError:
    return ApiError(502, "The provider for signing in does not answer as it should", code="openid_provider")
