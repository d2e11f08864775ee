"""Uploads: a file in parts, whole or not at all."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from openapi import load_contract
from service_site import DATABASES, Site, make_site
from sqlalchemy import update

from tunesmith.service.db.tables.files import UPLOADS
from tunesmith.service.uploads import chores

PARTS = (b"first " * 100, b"second " * 100, b"third " * 100)
WHOLE = b"".join(PARTS)


@pytest.fixture(params=DATABASES)
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Site]:
    site = make_site(tmp_path, request.param, limits={"part_bytes": 1000, "upload_bytes": 100_000, "file_bytes": 100})
    yield site
    site.context.database.close()


@pytest.fixture
def plain(tmp_path: Path) -> Iterator[Site]:
    site = make_site(tmp_path, limits={"part_bytes": 1000, "upload_bytes": 100_000, "file_bytes": 100})
    yield site
    site.context.database.close()


def begin(client: httpx.Client, size: int = len(WHOLE), **more: Any) -> httpx.Response:
    body = {"filename": "train.jsonl", "purpose": "fine-tune", "bytes": size, "mime_type": "text/jsonl", **more}
    return client.post("/v1/uploads", json=body)


def send(client: httpx.Client, upload: str, content: bytes, **more: Any) -> httpx.Response:
    return client.post(f"/v1/uploads/{upload}/parts", files={"data": ("part", content)}, **more)


def fits(path: str, answer: httpx.Response) -> Any:
    contract = load_contract()
    operation = contract.find("POST", path)
    assert operation is not None
    assert answer.status_code == 200, answer.text
    assert contract.problems_of_answer(operation.answer, answer.json()) == []
    return answer.json()


def stored(site: Site) -> list[str]:
    return [one.path for one in site.context.storage.walk("projects")] + [
        path.name for path in site.context.scratch.iterdir()
    ]


def ready(client: httpx.Client, **more: Any) -> tuple[str, list[str]]:
    upload = begin(client, **more).json()["id"]
    return upload, [send(client, upload, part).json()["id"] for part in PARTS]


def test_parts_become_a_file_in_the_order_that_is_asked_for(site: Site) -> None:
    client = site.client()
    upload = fits("/uploads", begin(client, expires_after={"anchor": "created_at", "seconds": 7200}))
    assert (upload["status"], upload["expires_at"] - upload["created_at"]) == ("pending", 3600)
    path = f"/uploads/{upload['id']}"
    parts = {part: fits(f"{path}/parts", send(client, upload["id"], part))["id"] for part in reversed(PARTS)}
    extra = send(client, upload["id"], b"not wanted").json()["id"]
    body = {"part_ids": [parts[part] for part in PARTS], "md5": hashlib.md5(WHOLE).hexdigest().upper()}
    done = fits(f"{path}/complete", client.post(f"/v1{path}/complete", json=body))
    assert extra not in body["part_ids"]
    file = done["file"]
    assert (done["status"], file["bytes"], file["filename"]) == ("completed", len(WHOLE), "train.jsonl")
    assert file["expires_at"] == file["created_at"] + 7200
    assert client.get(f"/v1/files/{file['id']}/content").content == WHOLE
    assert stored(site) == [f"projects/{site.default.id}/files/{file['id']}.jsonl"]
    assert client.post(f"/v1{path}/complete", json=body).json() == done
    assert len(client.get("/v1/files").json()["data"]) == 1
    assert send(client, upload["id"], b"late").json()["error"]["code"] == "upload_not_pending"
    assert client.post(f"/v1{path}/cancel").status_code == 400


def test_completing_at_once_makes_one_file(site: Site) -> None:
    client = site.client()
    upload, parts = ready(client)
    key = site.default.key()

    def complete(_: int) -> httpx.Response:
        own = site.with_key(key)
        answer = own.post(f"/v1/uploads/{upload}/complete", json={"part_ids": parts})
        # The parts are gone where another was faster; OpenAI's clients try again then.
        return own.post(f"/v1/uploads/{upload}/complete", json={"part_ids": parts}) if answer.is_error else answer

    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(complete, range(4)))
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.json()["file"]["id"] for answer in answers}) == 1
    assert len(stored(site)) == 1


def test_what_is_not_the_announced_file_is_refused_and_can_be_mended(plain: Site) -> None:
    client = plain.client()
    upload, parts = ready(client)
    other = ready(client)[1]
    for body, code in (
        ({"part_ids": parts[:2]}, "upload_size_mismatch"),
        ({"part_ids": [*parts[:2], other[2]]}, "invalid_part"),
        ({"part_ids": [*parts, parts[0]]}, "invalid_part"),
        ({"part_ids": parts[::-1], "md5": hashlib.md5(WHOLE).hexdigest()}, "upload_md5_mismatch"),
        ({"part_ids": parts, "md5": "x"}, "invalid_value"),
        ({"part_ids": []}, "invalid_value"),
    ):
        answer = client.post(f"/v1/uploads/{upload}/complete", json=body)
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, code)
    assert len(stored(plain)) == 6
    assert client.post(f"/v1/uploads/{upload}/complete", json={"part_ids": parts}).status_code == 200


def test_a_cancelled_upload_is_gone(site: Site) -> None:
    client = site.client()
    upload, parts = ready(client)
    told = fits(f"/uploads/{upload}/cancel", client.post(f"/v1/uploads/{upload}/cancel"))
    assert told["status"] == "cancelled"
    assert client.post(f"/v1/uploads/{upload}/cancel").json() == told
    assert stored(site) == []
    answer = client.post(f"/v1/uploads/{upload}/complete", json={"part_ids": parts})
    assert answer.json()["error"]["code"] == "upload_not_pending"


def test_an_upload_has_an_hour(site: Site) -> None:
    client = site.client()
    upload, parts = ready(client)
    finished = ready(client)
    client.post(f"/v1/uploads/{finished[0]}/complete", json={"part_ids": finished[1]})
    chores.expire_uploads(site.context)
    assert len(stored(site)) == 4
    with site.context.database.write() as connection:
        connection.execute(update(UPLOADS).values(expires_at=site.context.now() - 1))
    answer = client.post(f"/v1/uploads/{upload}/complete", json={"part_ids": parts})
    assert "is expired" in answer.json()["error"]["message"]
    chores.expire_uploads(site.context)
    assert len(stored(site)) == 1
    now = site.context.now
    chores.expire_uploads(replace(site.context, now=lambda: now() + 31 * 86_400))
    assert client.post(f"/v1/uploads/{upload}/cancel").status_code == 404


def test_limits_hold_for_parts_and_for_the_whole(plain: Site) -> None:
    client = plain.client()
    assert begin(client, 100_001).json()["error"]["code"] == "file_too_large"
    for size in (0, -1):
        assert begin(client, size).status_code == 400
    assert begin(client, purpose="magic").json()["error"]["param"] == "purpose"
    upload = begin(client).json()["id"]
    answer = send(client, upload, b"x" * 1001)
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "part_too_large")
    assert send(client, upload, b"").json()["error"]["code"] == "empty_file"
    assert send(client, "upload_1", b"x").status_code == 404
    assert client.post(f"/v1/uploads/{upload}/parts", json={}).status_code == 400
    assert stored(plain) == []


def test_parts_count_as_the_projects_storage(plain: Site) -> None:
    client = plain.project("small", storage_bytes=1500).client()
    assert begin(client, 1501).json()["error"]["code"] == "project_storage_full"
    upload = begin(client, 1500).json()["id"]
    assert send(client, upload, b"x" * 900).status_code == 200
    assert send(client, upload, b"x" * 601).json()["error"]["code"] == "project_storage_full"
    part = send(client, upload, b"x" * 600)
    assert part.status_code == 200
    client.post(f"/v1/uploads/{upload}/cancel")
    assert begin(client, 1500).status_code == 200


def test_a_lost_answer_makes_no_second_part(plain: Site) -> None:
    client = plain.client()
    upload = begin(client).json()["id"]
    first = send(client, upload, PARTS[0], headers={"x-stainless-retry-count": "0"})
    again = send(client, upload, PARTS[0], headers={"x-stainless-retry-count": "1"})
    assert again.json() == first.json()
    assert len(stored(plain)) == 1


def test_another_project_sees_no_upload(plain: Site) -> None:
    upload, parts = ready(plain.client())
    other = plain.project("other").client()
    assert send(other, upload, b"x").status_code == 404
    assert other.post(f"/v1/uploads/{upload}/complete", json={"part_ids": parts}).status_code == 404
    assert other.post(f"/v1/uploads/{upload}/cancel").status_code == 404


def test_object_storage_joins_parts_too(tmp_path: Path) -> None:
    site = make_site(tmp_path, storage=f"memory://uploads-{tmp_path.name}")
    client = site.client()
    upload, parts = ready(client)
    told = client.post(f"/v1/uploads/{upload}/complete", json={"part_ids": parts}).json()
    assert client.get(f"/v1/files/{told['file']['id']}/content").content == WHOLE
    assert len(stored(site)) == 1
    site.context.database.close()
