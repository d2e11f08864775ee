"""Signing in: with a key, and through a real small provider of OpenID Connect that can be made to lie."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from joserfc.jwk import OctKey, RSAKey
from openid_provider import CLIENT, SECRET, Provider, running_provider
from service_site import ANY_DATABASE, DATABASES, Site, make_site
from sqlalchemy import insert, select, update

from tunesmith.service.app import make_app
from tunesmith.service.db.tables.accounts import MEMBERS, SECRETS, SESSIONS, USERS
from tunesmith.service.first import prepare
from tunesmith.service.sessions.sessions import forget_ended

OWN = "/tunesmith/v1"
COOKIE = "tunesmith_session"


@pytest.fixture(params=DATABASES)
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Site]:
    site = make_site(tmp_path, request.param)
    yield site
    site.context.database.close()


@pytest.fixture
def provider() -> Iterator[Provider]:
    with running_provider() as provider:
        yield provider


@pytest.fixture
def company(tmp_path: Path, provider: Provider, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setenv("TUNESMITH_OIDC_SECRET", SECRET)
    openid = {"issuer": provider.issuer, "client_id": CLIENT, "allowed_domains": ["example.org"]}
    site = make_site(
        tmp_path,
        openid={**openid, "admin_emails": ["boss@elsewhere.net"]},
        public_url="http://testserver",
        limits={"failures_per_minute": 1000},
    )
    yield site
    site.context.database.close()


def browser(site: Site) -> httpx.Client:
    return site.with_key(None)


def sign_in(site: Site, key: str) -> tuple[httpx.Client, str]:
    client = browser(site)
    answer = client.post(f"{OWN}/sessions", json={"key": key})
    assert answer.status_code == 200, answer.text
    return client, answer.json()["csrf_token"]


def through_provider(site: Site) -> tuple[httpx.Client, httpx.Response]:
    """A browser goes to the provider, which sends it back."""
    client = browser(site)
    out = client.get(f"{OWN}/openid/login", follow_redirects=False)
    assert out.status_code == 302, out.text
    back = httpx.get(out.headers["location"], follow_redirects=False).headers["location"]
    return client, client.get(back, follow_redirects=False)


@ANY_DATABASE
def test_a_browser_signs_in_with_a_key_and_out_again(site: Site) -> None:
    key = site.default.key("member")
    client, csrf = sign_in(site, key)
    cookie = next(one for one in client.cookies.jar if one.name == COOKIE)
    assert cookie.has_nonstandard_attr("HttpOnly")
    assert cookie.get_nonstandard_attr("SameSite") == "strict"
    told = client.get(f"{OWN}/session").json()
    assert (told["scope"], told["csrf_token"], told["is_operator"]) == ("member", csrf, False)
    assert told["projects"] == [{"id": site.default.id, "name": "default"}]
    assert client.post(f"{OWN}/keys", json={"name": "a"}).json()["error"]["code"] == "csrf"
    assert client.post(f"{OWN}/keys", json={"name": "a"}, headers={"x-csrf-token": csrf}).status_code == 200
    kept = client.cookies[COOKIE]
    assert client.delete(f"{OWN}/session").json()["error"]["code"] == "csrf"
    assert client.delete(f"{OWN}/session", headers={"x-csrf-token": csrf}).status_code == 200
    client.cookies.set(COOKIE, kept)
    assert client.get(f"{OWN}/session").status_code == 401


def test_a_session_is_worth_what_its_key_is_worth_now(site: Site) -> None:
    project = site.project("signed")
    made = project.client("admin").post(f"{OWN}/keys", json={"name": "page", "scope": "member"}).json()
    client, _ = sign_in(site, made["value"])
    assert client.get(f"{OWN}/keys").status_code == 200
    project.client("admin").delete(f"{OWN}/keys/{made['id']}")
    assert client.get(f"{OWN}/keys").status_code == 401


def test_sessions_end_by_themselves(site: Site) -> None:
    client, _ = sign_in(site, site.default.key("member"))
    with site.context.database.write() as connection:
        connection.execute(update(SESSIONS).values(expires_at=site.context.now() - 1))
    assert client.get(f"{OWN}/session").status_code == 401
    forget_ended(site.context)
    with site.context.database.read() as connection:
        assert connection.execute(select(SESSIONS)).all() == []


def test_cookies_are_signed_with_a_secret_of_this_service_that_its_processes_share(site: Site) -> None:
    client, _ = sign_in(site, site.default.key("member"))
    secret, _, signature = client.cookies[COOKIE].rpartition(".")
    with site.context.database.read() as connection:
        (row,) = connection.execute(select(SESSIONS)).all()
        (own,) = connection.execute(select(SECRETS)).all()
    assert secret not in str(row)
    assert len(own.value) == 64
    assert prepare(site.context) is None

    other = Site(site.context, site.first_key)
    other.app = make_app(site.context)
    second = browser(other)
    second.cookies.set(COOKIE, f"{secret}.{signature}")
    assert second.get(f"{OWN}/session").status_code == 200
    for spoiled in (secret, f"{secret}.{'0' * 64}", f"{secret}x.{signature}", "", "."):
        second.cookies.set(COOKIE, spoiled)
        assert second.get(f"{OWN}/session").status_code == 401


@ANY_DATABASE
def test_bad_keys_and_other_sites_do_not_sign_in(site: Site) -> None:
    client = browser(site)
    assert client.post(f"{OWN}/sessions", json={"key": "ts-wrong"}).status_code == 401
    key = site.default.key("member")
    cross = client.post(f"{OWN}/sessions", json={"key": key}, headers={"sec-fetch-site": "cross-site"})
    assert cross.json()["error"]["code"] == "csrf"
    assert COOKIE not in client.cookies
    assert client.post(f"{OWN}/sessions", content=b'{"key": "a"}', headers={"content-type": "text/plain"}).is_error


@ANY_DATABASE
def test_a_service_without_a_provider_has_no_such_way(site: Site) -> None:
    assert browser(site).get(f"{OWN}/openid/login").status_code == 404


def test_people_come_in_through_their_provider(company: Site, provider: Provider) -> None:
    client, answer = through_provider(company)
    assert (answer.status_code, answer.headers["cache-control"]) == (200, "no-store")
    assert '<meta http-equiv="refresh" content="0; url=/">' in answer.text
    # In no project yet.
    assert client.get(f"{OWN}/session").json()["error"]["code"] == "no_project"
    with company.context.database.write() as connection:
        (user,) = connection.execute(select(USERS)).all()
        assert (user.email, user.name, user.is_admin) == ("ada@example.org", "Ada", False)
        row = {"project_id": company.default.id, "user_id": user.id, "role": "member", "created_at": 0.0}
        connection.execute(insert(MEMBERS).values(**row))
    told = client.get(f"{OWN}/session").json()
    assert (told["name"], told["scope"]) == ("ada@example.org", "member")

    # The provider's own name decides, though the address has changed.
    provider.person["email"] = "ada.l@example.org"
    again, _ = through_provider(company)
    assert again.get(f"{OWN}/session").json()["name"] == "ada@example.org"
    company.operator.post(f"{OWN}/users/{user.id}", json={"disabled": True})
    assert again.get(f"{OWN}/session").status_code == 401
    assert through_provider(company)[1].json()["error"]["code"] == "account_closed"


def test_administrators_are_named_by_the_settings(company: Site, provider: Provider) -> None:
    provider.person = {"sub": "1", "email": "boss@elsewhere.net", "email_verified": True}
    client, _ = through_provider(company)
    assert client.get(f"{OWN}/session").json()["is_operator"] is True
    assert client.get(f"{OWN}/users").status_code == 200


def test_an_administrator_whom_the_settings_name_no_more_is_none_and_has_no_key_of_one(
    company: Site, provider: Provider
) -> None:
    provider.person = {"sub": "1", "email": "boss@elsewhere.net", "email_verified": True}
    client, _ = through_provider(company)
    csrf = {"x-csrf-token": client.get(f"{OWN}/session").json()["csrf_token"]}
    made = [
        client.post(f"{OWN}/keys", json={"name": name, "scope": "admin", "operator": operator}, headers=csrf).json()
        for name, operator in (("all", True), ("of a project", False))
    ]
    (user,) = client.get(f"{OWN}/users").json()["data"]
    assert user["is_admin"] is True
    refused = company.operator.post(f"{OWN}/users/{user['id']}", json={"is_admin": False})
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "named_by_settings")
    assert [company.with_key(key["value"]).get(f"{OWN}/keys").status_code for key in made] == [200, 200]

    # The service is started again with other settings; the person and the session are those of before.
    assert company.context.settings.openid is not None
    openid = company.context.settings.openid.model_copy(update={"admin_emails": [], "allowed_domains": []})
    settings = company.context.settings.model_copy(update={"openid": openid})
    later = Site(replace(company.context, settings=settings), company.first_key)
    assert [later.with_key(key["value"]).get(f"{OWN}/keys").status_code for key in made] == [401, 401]
    again = browser(later)
    again.cookies.set(COOKIE, client.cookies[COOKIE])
    assert again.get(f"{OWN}/session").json()["error"]["code"] == "no_project"
    assert through_provider(later)[0].get(f"{OWN}/session").json()["error"]["code"] == "no_project"
    assert later.operator.get(f"{OWN}/users").json()["data"][0]["is_admin"] is False


@pytest.mark.parametrize(
    ("person", "code"),
    [
        ({"email": "mallory@evil.net"}, "domain_not_allowed"),
        ({"email": "mallory@sub.example.org"}, "domain_not_allowed"),
        ({"email_verified": False}, "email_not_verified"),
        ({"email_verified": None}, "email_not_verified"),
        ({"email": "boss@elsewhere.net", "email_verified": False}, "email_not_verified"),
    ],
)
def test_who_is_not_welcome_stays_out(company: Site, provider: Provider, person: dict[str, Any], code: str) -> None:
    provider.person.update(person)
    client, answer = through_provider(company)
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, code)
    assert COOKIE not in client.cookies


def test_nobody_takes_an_account_over_by_its_address(company: Site, provider: Provider) -> None:
    through_provider(company)
    provider.person["sub"] = "43"
    assert through_provider(company)[1].json()["error"]["code"] == "email_taken"


LIES: tuple[dict[str, Any], ...] = (
    {"nonce": "another"},
    {"nonce": None},
    {"aud": "another client"},
    {"aud": [CLIENT, "another client"]},
    {"aud": None},
    {"iss": "http://127.0.0.1:1"},
    {"exp": int(time.time()) - 3600},
    {"exp": None},
    {"sub": None},
)


def test_what_a_provider_should_not_say_is_not_believed(company: Site, provider: Provider) -> None:
    for claims in LIES:
        provider.claims = claims
        client, answer = through_provider(company)
        assert (answer.status_code, answer.json()["error"]["code"]) == (401, "openid_refused"), claims
        assert COOKIE not in client.cookies
    provider.claims = {}
    assert through_provider(company)[1].status_code == 200


def test_signatures_of_others_are_not_believed(company: Site, provider: Provider) -> None:
    provider.key = RSAKey.generate_key(2048, {"kid": "one"})
    assert through_provider(company)[1].json()["error"]["code"] == "openid_refused"
    # Signed with the secret that the client knows too.
    provider.algorithm, provider.key = "HS256", OctKey.import_key(SECRET)
    assert through_provider(company)[1].json()["error"]["code"] == "openid_refused"


def test_a_sign_in_ends_once_and_in_the_browser_that_began_it(company: Site) -> None:
    client = browser(company)
    out = client.get(f"{OWN}/openid/login", follow_redirects=False)
    query = parse_qs(urlsplit(out.headers["location"]).query)
    assert query["redirect_uri"] == [f"http://testserver{OWN}/openid/callback"]
    back = httpx.get(out.headers["location"], follow_redirects=False).headers["location"]
    assert browser(company).get(back).json()["error"]["code"] == "openid_state"
    kept = client.cookies["tunesmith_sign_in"]
    assert client.get(back, follow_redirects=False).status_code == 200
    client.cookies.set("tunesmith_sign_in", kept)
    assert client.get(back, follow_redirects=False).json()["error"]["code"] == "openid_state"
    refused = client.get(f"{OWN}/openid/callback?error=access_denied&state=x")
    assert refused.json()["error"]["code"] == "openid_refused"
