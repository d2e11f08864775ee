"""Files: through HTTP, into the storage and out again, and gone when they should be."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from openapi import load_contract
from service_site import DATABASES, Site, make_site
from sqlalchemy import insert, select, update

from tunesmith.service.context import Context
from tunesmith.service.db.tables.accounts import PROJECTS
from tunesmith.service.db.tables.files import FILES
from tunesmith.service.db.tables.jobs import JOBS
from tunesmith.service.files import chores
from tunesmith.service.shared.files import find_file, keep_file, local_copy

ROWS = b'{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}\n' * 12
DAY = 86_400


@pytest.fixture(params=DATABASES)
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Site]:
    site = make_site(tmp_path, request.param)
    yield site
    site.context.database.close()


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Site]:
    site = make_site(tmp_path, limits={"file_bytes": 100_000, "batch_bytes": 1000})
    yield site
    site.context.database.close()


def send(client: httpx.Client, content: bytes = ROWS, name: str = "train.jsonl", **more: Any) -> httpx.Response:
    data = {"purpose": "fine-tune", **more.pop("data", {})}
    return client.post("/v1/files", files={"file": (name, content)}, data=data, **more)


def fits(method: str, path: str, answer: httpx.Response) -> Any:
    contract = load_contract()
    operation = contract.find(method, path)
    assert operation is not None
    assert answer.status_code == 200, answer.text
    assert contract.problems_of_answer(operation.answer, answer.json()) == []
    return answer.json()


def later(site: Site, seconds: float) -> Context:
    now = site.context.now
    return replace(site.context, now=lambda: now() + seconds)


def stored(site: Site) -> list[str]:
    """All files below the storage and the scratch folder."""
    places = [site.context.storage.walk("projects")]
    found = [one.path for place in places for one in place]
    return found + [path.name for path in site.context.scratch.iterdir()]


def age(site: Site, seconds: float) -> None:
    assert site.context.storage.local is not None
    for folder in (site.context.storage.local, site.context.scratch):
        for path in folder.rglob("*"):
            moment = site.context.now() - seconds
            os.utime(path, (moment, moment))


def test_a_file_comes_and_goes_as_the_contract_says(site: Site) -> None:
    client = site.client()
    assert fits("GET", "/files", client.get("/v1/files"))["data"] == []
    told = fits("POST", "/files", send(client))
    assert told["status"] == "processed"
    assert (told["bytes"], told["filename"], told["purpose"]) == (len(ROWS), "train.jsonl", "fine-tune")
    assert "expires_at" not in told
    path = f"/files/{told['id']}"
    assert fits("GET", path, client.get("/v1" + path)) == told
    for prefix in ("/v1", "/openai/v1", "/openai"):
        content = client.get(f"{prefix}{path}/content", params={"api-version": "2024-10-21"})
        assert content.content == ROWS
    assert content.headers["content-type"] == "application/octet-stream"
    assert content.headers["content-length"] == str(len(ROWS))
    assert fits("DELETE", path, client.delete("/v1" + path)) == {"id": told["id"], "object": "file", "deleted": True}
    for answer in (client.get("/v1" + path), client.get(f"/v1{path}/content"), client.delete("/v1" + path)):
        assert answer.status_code == 404


def test_lists_have_pages_orders_and_purposes(site: Site) -> None:
    client = site.client()
    names = [send(client, name=f"{at}.jsonl", data={"purpose": "batch" if at % 2 else "fine-tune"}) for at in range(5)]
    ids = [answer.json()["id"] for answer in names]
    first = fits("GET", "/files", client.get("/v1/files", params={"limit": 2}))
    assert ([one["id"] for one in first["data"]], first["has_more"]) == ([ids[4], ids[3]], True)
    rest = client.get("/v1/files", params={"after": first["last_id"]}).json()
    assert ([one["id"] for one in rest["data"]], rest["has_more"]) == ([ids[2], ids[1], ids[0]], False)
    oldest = client.get("/v1/files", params={"order": "asc", "purpose": "batch"}).json()
    assert [one["id"] for one in oldest["data"]] == [ids[1], ids[3]]
    for limit in (0, 10_001):
        assert client.get("/v1/files", params={"limit": limit}).status_code == 400


def test_another_project_sees_nothing(small: Site) -> None:
    told = send(small.client()).json()
    other = small.project("other").client()
    assert other.get("/v1/files").json()["data"] == []
    for answer in (
        other.get(f"/v1/files/{told['id']}"),
        other.get(f"/v1/files/{told['id']}/content"),
        other.delete(f"/v1/files/{told['id']}"),
        other.post(f"/tunesmith/v1/files/{told['id']}/check"),
    ):
        assert answer.status_code == 404
    assert send(small.client("inference")).status_code == 403


def form(*parts: tuple[str, bytes], boundary: bytes = b"mark") -> bytes:
    body = b"".join(b"--%s\r\n%s\r\n\r\n%s\r\n" % (boundary, head.encode(), content) for head, content in parts)
    return body + b"--%s--\r\n" % boundary


DISPOSITION = "content-disposition: form-data; name="
FILE = (DISPOSITION + '"file"; filename="a.jsonl"', b"{}\n")
PURPOSE = (DISPOSITION + '"purpose"', b"fine-tune")


def post(site: Site, body: bytes | Iterator[bytes], kind: str = "multipart/form-data; boundary=mark") -> httpx.Response:
    return site.client().post("/v1/files", content=body, headers={"content-type": kind})


def test_fields_come_in_any_order(small: Site) -> None:
    anchor = (DISPOSITION + '"expires_after[anchor]"', b"created_at")
    seconds = (DISPOSITION + '"expires_after[seconds]"', b"3600")
    for parts in ((FILE, PURPOSE, seconds, anchor), (anchor, PURPOSE, seconds, FILE)):
        told = post(small, form(*parts)).json()
        assert told["expires_at"] == told["created_at"] + 3600
        assert small.client().get(f"/v1/files/{told['id']}/content").content == b"{}\n"


def test_a_body_in_pieces_of_any_size_is_the_same(small: Site) -> None:
    content = bytes(range(256)) * 50 + b"\r\n--mar\r\n--\r\n"
    body = form((FILE[0], content), PURPOSE)
    for size in (1, 7, 4096):
        pieces = (body[at : at + size] for at in range(0, len(body), size))
        told = post(small, pieces).json()
        assert small.client().get(f"/v1/files/{told['id']}/content").content == content


ODD = (DISPOSITION + '"odd"', b"1")
ANCHOR = (DISPOSITION + '"expires_after[anchor]"', b"created_at")
NO_FORMS: tuple[tuple[bytes, str | None, str], ...] = (
    (form(PURPOSE), None, "missing_required_parameter"),
    (form(FILE), None, "missing_required_parameter"),
    (form(FILE, (PURPOSE[0], b"training")), None, "invalid_value"),
    (form(FILE, PURPOSE, ODD), None, "invalid_value"),
    (form(FILE, PURPOSE, ANCHOR), None, "missing_required_parameter"),
    (form(FILE, PURPOSE, FILE), None, "invalid_form"),
    (form(FILE, PURPOSE, PURPOSE), None, "invalid_form"),
    (form(FILE, (PURPOSE[0], b"x" * 20_000)), None, "invalid_form"),
    (form(FILE, PURPOSE, ODD).replace(b'"odd"', b'"\xff"'), None, "invalid_form"),
    (form(FILE, (PURPOSE[0], b"\xff")), None, "invalid_form"),
    (form((FILE[0], b""), PURPOSE), None, "empty_file"),
    (form(FILE, PURPOSE)[:-8], None, "incomplete_body"),
    (b"nothing of the kind", None, "invalid_form"),
    (b"{}", "application/json", "invalid_content_type"),
    (form(FILE, PURPOSE), "multipart/form-data", "invalid_content_type"),
    (form(FILE, PURPOSE), f"multipart/form-data; boundary={'m' * 1000}", "invalid_form"),
)


def test_what_is_no_form_leaves_nothing(small: Site) -> None:
    for body, kind, code in NO_FORMS:
        answer = post(small, body, kind or "multipart/form-data; boundary=mark")
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, code), body
        assert stored(small) == []


def test_a_large_file_is_refused_while_it_comes(small: Site) -> None:
    asked = []

    def endless() -> Iterator[bytes]:
        yield b"--mark\r\n" + FILE[0].encode() + b"\r\n\r\n"
        for _ in range(1000):
            asked.append(1)
            yield b"x" * 10_000

    answers = [send(small.client(), b"x" * 100_001), send(small.client(), b"x" * 2_000_000), post(small, endless())]
    answers.append(send(small.client(), b"x" * 1001, data={"purpose": "batch"}))
    for answer in answers:
        assert (answer.status_code, answer.json()["error"]["code"]) == (413, "file_too_large")
    assert stored(small) == []
    assert send(small.client(), b"x" * 100_000).status_code == 200


def test_a_project_has_so_much_storage_and_no_more(site: Site) -> None:
    project = site.project("small", storage_bytes=250)
    client = project.client()
    first = send(client, b"x" * 100).json()
    assert send(client, b"x" * 100).status_code == 200
    full = send(client, b"x" * 100)
    assert (full.status_code, full.json()["error"]["code"]) == (413, "project_storage_full")
    client.delete(f"/v1/files/{first['id']}")
    assert send(client, b"x" * 100).status_code == 200
    assert len(stored(site)) == 3


def test_many_at_once_do_not_share_the_last_room(site: Site) -> None:
    project = site.project("small", storage_bytes=250)
    key, answers = project.key(), []

    def one() -> None:
        answers.append(send(site.with_key(key), b"x" * 100).status_code)

    threads = [threading.Thread(target=one) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answers) == [200, 200, 413, 413, 413, 413]
    assert len(stored(site)) == 2


NAMES = (
    ("../../etc/passwd", "passwd"),
    ("C:\\data\\train.jsonl", "train.jsonl"),
    ('a"; x="b.jsonl', 'a"; x="b.jsonl'),
    ("zürich ☃.jsonl", "zürich ☃.jsonl"),
    ("x" * 300, "x" * 255),
    ("/", "file"),
)


def test_names_are_data_and_no_paths(small: Site) -> None:
    client = small.client()
    for given, kept in NAMES:
        head = DISPOSITION + '"file"; filename="' + given.replace("\\", "\\\\").replace('"', '\\"') + '"'
        told = post(small, form((head, b"{}"), PURPOSE)).json()
        assert told["filename"] == kept
        content = client.get(f"/v1/files/{told['id']}/content")
        told_name = content.headers["content-disposition"]
        assert told_name.startswith("attachment; filename*=UTF-8''")
        assert not set(' ";\r\n') & set(told_name.removeprefix("attachment; "))
        ending = ".jsonl" if kept.endswith(".jsonl") else ""
        assert f"projects/{small.default.id}/files/{told['id']}{ending}" in stored(small)


def test_a_lost_answer_does_not_make_two_files(site: Site) -> None:
    client = site.client()
    first = send(client, headers={"x-stainless-retry-count": "0"}).json()
    again = send(client, headers={"x-stainless-retry-count": "1"})
    assert again.json() == first
    assert again.headers["idempotency-replayed"] == "true"
    assert len(client.get("/v1/files").json()["data"]) == 1
    assert len(stored(site)) == 1
    assert send(client, headers={"x-stainless-retry-count": "0"}).json() != first


def test_a_full_disk_is_told_and_leaves_nothing(small: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    full = Path("/dev/full")
    monkeypatch.setattr("tunesmith.service.shared.receiving._opened", lambda _: full.open("wb"))
    answer = send(small.client())
    assert (answer.status_code, answer.json()["error"]["code"]) == (507, "output.disk_full")
    assert answer.headers["x-should-retry"] == "false"
    assert "disk is full" in answer.json()["error"]["message"]
    assert str(small.context.scratch) not in answer.text
    assert stored(small) == []


def test_object_storage_has_the_same_files(tmp_path: Path) -> None:
    site = make_site(tmp_path, storage=f"memory://files-{os.getpid()}")
    client = site.client()
    told = send(client).json()
    assert [path for path in stored(site) if not path.startswith("projects/")] == []
    assert client.get(f"/v1/files/{told['id']}/content").content == ROWS
    assert client.post(f"/tunesmith/v1/files/{told['id']}/check").json()["usable"]
    assert list(site.context.scratch.iterdir()) == []
    client.delete(f"/v1/files/{told['id']}")
    chores.remove_deleted_bytes(later(site, DAY))
    assert stored(site) == []
    site.context.database.close()


def test_bytes_stay_while_a_job_needs_them(site: Site) -> None:
    client = site.client()
    used, unused = send(client).json()["id"], send(client).json()["id"]
    job = _job(site, used)
    for name in (used, unused):
        client.delete(f"/v1/files/{name}")
    chores.remove_deleted_bytes(site.context)
    assert len(stored(site)) == 2, "a job may be in the making"
    chores.remove_deleted_bytes(later(site, 3600))
    with site.context.database.read() as connection:
        row = find_file(connection, site.default.id, used, even_deleted=True)
        assert [one.id for one in connection.execute(select(FILES))] == [used]
    with local_copy(site.context, row.place) as path:
        assert path.read_bytes() == ROWS
    with site.context.database.write() as connection:
        connection.execute(update(JOBS).where(JOBS.c.id == job).values(state="succeeded"))
    chores.remove_deleted_bytes(later(site, 3600))
    assert stored(site) == []


def _job(site: Site, training_file: str) -> str:
    row = {
        "id": "ftjob-1", "project_id": site.default.id, "created_at": 0, "created_by": "x", "model": "m", "seed": 1,
        "training_file": training_file, "method": {}, "hyperparameters": {}, "options": {}, "recipe": {},
        "state": "paused", "reason": "", "wish": "pause", "priority": 0, "result_files": [],
    }  # fmt: skip
    with site.context.database.write() as connection:
        connection.execute(insert(JOBS).values(**row))
    return "ftjob-1"


def test_files_expire_by_themselves(site: Site) -> None:
    client = site.client()
    hour = {"expires_after[anchor]": "created_at", "expires_after[seconds]": "3600"}
    short = send(client, data=hour).json()["id"]
    batch = send(client, data={"purpose": "batch"}).json()
    lasting = send(client).json()["id"]
    assert batch["expires_at"] == batch["created_at"] + 30 * DAY
    for seconds, left in ((3500, 3), (3700, 2), (31 * DAY, 1), (4000 * DAY, 1)):
        chores.expire_files(later(site, seconds))
        assert len(client.get("/v1/files").json()["data"]) == left
    assert client.get(f"/v1/files/{short}").status_code == 404
    assert client.get(f"/v1/files/{lasting}").status_code == 200


def test_nothing_is_kept_longer_than_was_agreed(site: Site) -> None:
    send(site.client())
    strict = site.project("strict", retention_days=2)
    send(strict.client())
    context = later(site, 3 * DAY)
    chores.expire_files(context)
    assert len(strict.client().get("/v1/files").json()["data"]) == 0
    assert len(site.client().get("/v1/files").json()["data"]) == 1
    chores.expire_files(replace(context, settings=site.context.settings.model_copy(update={"file_retention_days": 2})))
    assert len(site.client().get("/v1/files").json()["data"]) == 0


def test_leftovers_of_killed_processes_are_swept_up(small: Site, tmp_path: Path) -> None:
    told = send(small.client()).json()
    (tmp_path / "made").write_bytes(b"result")
    keep_file(small.context, small.default.id, "fine-tune-results", "results.csv", tmp_path / "made")
    for folder in ("files", "uploads/upload_1"):
        small.context.storage.write(f"projects/{small.default.id}/{folder}/file-lost", b"x")
    small.context.storage.write(f"projects/{small.default.id}/other/not-ours", b"x")
    (small.context.scratch / "form-1").write_bytes(b"x")
    (small.context.scratch / "file-1").mkdir()
    before = len(stored(small))
    sweep = (chores.remove_scratch, chores.remove_unnamed_bytes)
    for chore in sweep:
        chore(small.context)
    assert len(stored(small)) == before, "somebody may be about to write the row"
    age(small, 2 * DAY)
    for chore in sweep:
        chore(small.context)
    left = stored(small)
    assert len(left) == 3
    assert not any("lost" in path or "form" in path for path in left)
    assert small.client().get(f"/v1/files/{told['id']}/content").content == ROWS


def test_bytes_that_the_storage_lost_are_no_answer(small: Site) -> None:
    told = send(small.client()).json()
    (place,) = stored(small)
    small.context.storage.remove(place)
    assert small.client().get(f"/v1/files/{told['id']}/content").status_code == 404


def test_a_check_tells_rows_problems_and_the_split(small: Site) -> None:
    client = small.client()
    rows = b"".join(ROWS.splitlines(True)[0].replace(b'"a"', b'"%d"' % at) for at in range(20))
    good, bad = send(client, rows).json()["id"], send(client, rows + b'{"messages": []}\n').json()["id"]
    body = {"validation": 0.25, "split_seed": 3, "validation_file": good}
    told = client.post(f"/tunesmith/v1/files/{good}/check", json=body).json()
    assert (told["usable"], told["shape"], told["examples"]) == (True, "chat", 20)
    assert (told["split"]["training_rows"], told["split"]["validation_rows"]) == (15, 5)
    assert told["overlap"] == {"equal_rows": 20, "equal_prompts": 20}
    told = client.post(f"/tunesmith/v1/files/{bad}/check", json=body).json()
    assert not told["usable"]
    assert [(one["line"], one["code"]) for one in told["problems"]] == [(21, "missing_messages_list")]
    assert (told["split"], told["overlap"]) == (None, None)
    other = send(client, data={"purpose": "user_data"}).json()["id"]
    assert client.post(f"/tunesmith/v1/files/{other}/check").json()["error"]["code"] == "invalid_file_purpose"
    assert client.post(f"/tunesmith/v1/files/{good}/check", json={"method": "magic"}).status_code == 400


def test_a_table_keeps_its_kind(small: Site) -> None:
    table = b"text,label\n" + b"".join(b"text %d,good\n" % at for at in range(12))
    told = send(small.client(), table, "../Train.CSV").json()
    report = small.client().post(f"/tunesmith/v1/files/{told['id']}/check").json()
    assert (report["usable"], report["shape"], report["examples"]) == (True, "text_label", 12)
    (place,) = stored(small)
    assert place.endswith(f"{told['id']}.csv")


def test_a_project_that_is_lowered_takes_no_more(small: Site) -> None:
    client = small.client()
    send(client)
    with small.context.database.write() as connection:
        connection.execute(update(PROJECTS).where(PROJECTS.c.id == small.default.id).values(storage_bytes=10))
    assert send(client, b"x").status_code == 413
