"""What the pages add to the service beyond HTML: rows as the model's own tokenizer cuts them, before a job is made."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from service_jobs import chat_rows, jobs_site, upload
from tiny_models import tiny_model_folder


@pytest.mark.slow
def test_an_estimate_shows_rows_as_tokens_and_not_where_they_lie(tmp_path: Path) -> None:
    site = jobs_site(tmp_path, model=tiny_model_folder("llama", tmp_path / "tiny"))
    file_id = upload(site.default, chat_rows(12))
    body = {"model": "tiny", "training_file": file_id, "tunesmith": {"preview": True, "max_length": 128}}
    with site.client() as client:
        assert client.post("/tunesmith/v1/estimates", json={**body, "tunesmith": {}}).json()["rows"] == []
        # The second time its counts are remembered.
        for _ in range(2):
            answer = client.post("/tunesmith/v1/estimates", json=body)
            found = answer.json()
            assert (answer.status_code, found["guessed"], len(found["rows"])) == (200, False, 5), found
            for row in found["rows"]:
                learned = "".join(one["text"] for one in row["tokens"] if one["trained"])
                assert '{"queue":' in learned
                assert "ticket" not in learned
                assert "ticket" in "".join(one["text"] for one in row["tokens"])
                assert row["line"] >= 1
            assert str(tmp_path) not in answer.text
        wrong = client.post("/tunesmith/v1/estimates", json={**body, "tunesmith": {"preview": 5}})
        assert (wrong.status_code, wrong.json()["error"]["param"]) == (400, "tunesmith.preview")
    site.context.database.close()


@pytest.mark.slow
def test_of_pairs_the_worse_answer_is_shown_as_avoided(tmp_path: Path) -> None:
    site = jobs_site(tmp_path, model=tiny_model_folder("llama", tmp_path / "tiny"))
    pairs = [
        json.dumps(
            {
                "input": {"messages": [{"role": "user", "content": f"Where is parcel {number}?"}]},
                "preferred_output": [{"role": "assistant", "content": "On its way."}],
                "non_preferred_output": [{"role": "assistant", "content": "No idea."}],
            }
        )
        for number in range(12)
    ]
    body = {
        "model": "tiny",
        "training_file": upload(site.default, pairs),
        "method": {"type": "dpo"},
        "tunesmith": {"preview": True, "max_length": 128},
    }
    with site.client() as client:
        answer = client.post("/tunesmith/v1/estimates", json=body)
    assert answer.status_code == 200, answer.text
    shown = [
        (row["avoided"], "".join(one["text"] for one in row["tokens"] if one["trained"]))
        for row in answer.json()["rows"]
    ]
    assert [avoided for avoided, _ in shown] == [False, True, False, True, False]
    assert all(text.startswith("No idea." if avoided else "On its way.") for avoided, text in shown)
    site.context.database.close()
