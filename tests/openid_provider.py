"""A small provider of OpenID Connect on loopback: discovery, authorization, token and keys, with what tests spoil."""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

from joserfc import jwt
from joserfc.jwk import RSAKey

CLIENT, SECRET = "tunesmith-test", "the client's secret"
# Its form goes to the address that it was asked under.
_PASSWORD_PAGE = b"""<!doctype html><html lang="en"><title>Provider</title><form method="post">
<label>Password <input type="password" name="password"></label><button>Let me in</button></form></html>"""


class Provider:
    """What it knows, and how it is to lie.

    ``claims`` overlay those of the ID token; ``key`` signs it, ``shown_key`` is what it publishes. With
    ``asks_password`` the way to it ends on a page of its own, and the way back begins there.
    """

    def __init__(self, issuer: str) -> None:
        self.issuer = issuer
        self.key = self.shown_key = RSAKey.generate_key(2048, {"kid": "one"})
        self.algorithm = "RS256"
        self.person: dict[str, Any] = {"sub": "42", "email": "Ada@Example.org", "email_verified": True, "name": "Ada"}
        self.claims: dict[str, Any] = {}
        self.asks_password = False
        self._codes: dict[str, dict[str, str]] = {}

    def authorize(self, query: dict[str, str]) -> str:
        """The person agrees: where the browser is sent back to."""
        assert query["response_type"] == "code"
        assert query["code_challenge_method"] == "S256"
        assert query["client_id"] == CLIENT
        assert "openid" in query["scope"].split()
        code = secrets.token_urlsafe(8)
        self._codes[code] = query
        return f"{query['redirect_uri']}?{urlencode({'code': code, 'state': query['state']})}"

    def token(self, form: dict[str, str], authorization: str) -> tuple[int, dict[str, Any]]:
        """A code for tokens, once, for who proves to have asked."""
        asked = self._codes.pop(form.get("code", ""), None)
        client = base64.b64decode(authorization.removeprefix("Basic ")).decode()
        proof = base64.urlsafe_b64encode(hashlib.sha256(form["code_verifier"].encode()).digest()).rstrip(b"=").decode()
        if asked is None or client != f"{CLIENT}:{SECRET}" or proof != asked["code_challenge"]:
            return 400, {"error": "invalid_grant"}
        now = int(time.time())
        own = {"iss": self.issuer, "aud": CLIENT, "iat": now, "exp": now + 300, "nonce": asked["nonce"]}
        claims = {name: value for name, value in {**own, **self.person, **self.claims}.items() if value is not None}
        id_token = jwt.encode({"alg": self.algorithm, "kid": "one"}, claims, self.key, [self.algorithm])
        return 200, {"access_token": "unused", "token_type": "Bearer", "expires_in": 300, "id_token": id_token}


@contextmanager
def running_provider() -> Iterator[Provider]:
    """A provider for the time of the block."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    provider = Provider(f"http://127.0.0.1:{server.server_port}")
    server.provider = provider  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield provider
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        provider: Provider = self.server.provider  # type: ignore[attr-defined]
        parts = urlsplit(self.path)
        if parts.path == "/.well-known/openid-configuration":
            paths = {"authorization_endpoint": "authorize", "token_endpoint": "token", "jwks_uri": "keys"}
            found = {name: f"{provider.issuer}/{path}" for name, path in paths.items()}
            self._answer(200, {"issuer": provider.issuer, **found})
        elif parts.path == "/keys":
            self._answer(200, {"keys": [provider.shown_key.as_dict(private=False)]})
        elif parts.path == "/authorize" and provider.asks_password:
            self._send(200, "text/html", _PASSWORD_PAGE)
        elif parts.path == "/authorize":
            self._send_back(provider, parts.query)
        else:
            self._answer(404, {})

    def do_POST(self) -> None:
        provider: Provider = self.server.provider  # type: ignore[attr-defined]
        body = self.rfile.read(int(self.headers["content-length"])).decode()
        parts = urlsplit(self.path)
        if parts.path == "/authorize":
            self._send_back(provider, parts.query)
            return
        form = {name: values[0] for name, values in parse_qs(body).items()}
        self._answer(*provider.token(form, self.headers.get("authorization", "")))

    def _send_back(self, provider: Provider, asked: str) -> None:
        query = {name: values[0] for name, values in parse_qs(asked).items()}
        self.send_response(302)
        self.send_header("Location", provider.authorize(query))
        self.end_headers()

    def _answer(self, status: int, body: dict[str, Any]) -> None:
        self._send(status, "application/json", json.dumps(body).encode())

    def _send(self, status: int, kind: str, content: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        """Nothing."""
