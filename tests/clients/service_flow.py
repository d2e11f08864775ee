"""The whole flow of tuning and use by OpenAI's own package, as its pages do it: sync or async, OpenAI or Azure.

What was seen is printed as JSON. The same calls serve both kinds of client: what is awaitable is awaited.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import openai

BASE = os.environ["MODEL"]
ROWS = Path(os.environ["ROWS"])
OPTIONS = json.loads(os.environ.get("OPTIONS", "{}"))
ENCODER = os.environ.get("ENCODER")
POLL_SECONDS = float(os.environ.get("POLL_SECONDS", "0.5"))
MOST_SECONDS = float(os.environ.get("MOST_SECONDS", "120"))
ASKED = [{"role": "user", "content": "Where is my parcel?"}]
PLAIN = {"messages": ASKED, "temperature": 0, "max_tokens": 6}


def new_client() -> Any:
    """The client that the environment asks for."""
    names = {"sync": ("OpenAI", "AzureOpenAI"), "async": ("AsyncOpenAI", "AsyncAzureOpenAI")}[os.environ["MODE"]]
    if os.environ["KIND"] == "azure":
        made = getattr(openai, names[1])
        return made(
            azure_endpoint=os.environ["ROOT"], api_key=os.environ["API_KEY"], api_version="2024-10-21", max_retries=0
        )
    made = getattr(openai, names[0])
    return made(base_url=f"{os.environ['ROOT']}{os.environ['PREFIX']}", api_key=os.environ["API_KEY"], max_retries=0)


async def got(value: Any) -> Any:
    return await value if inspect.isawaitable(value) else value


async def every(pages: Any) -> list[Any]:
    """All items of all pages, or all pieces of a stream."""
    if hasattr(pages, "__aiter__"):
        return [item async for item in pages]
    pages = await got(pages)
    return [item async for item in pages] if hasattr(pages, "__aiter__") else list(pages)


async def until(ask: Callable[[], Any], ended: tuple[str, ...]) -> Any:
    """Ask until the status is one of those, or far too much time has gone."""
    deadline = time.monotonic() + MOST_SECONDS
    while True:
        found = await got(ask())
        if found.status in ended or time.monotonic() > deadline:
            return found
        await asyncio.sleep(POLL_SECONDS)


async def steer(client: Any, seen: dict[str, Any]) -> None:
    """Preferences are to be learned, and the job is paused, resumed and cancelled; it is found by its metadata."""
    pairs = [
        {
            "input": {"messages": [{"role": "user", "content": f"{ASKED[0]['content']} {number}"}]},
            "preferred_output": [{"role": "assistant", "content": "On its way."}],
            "non_preferred_output": [{"role": "assistant", "content": "Ask somebody else."}],
        }
        for number in range(10)
    ]
    data = "\n".join(json.dumps(pair) for pair in pairs).encode()
    file = await got(client.files.create(file=("pairs.jsonl", data), purpose="fine-tune"))
    metadata = {"of": file.id, "kind": "dpo"}
    asked = {
        "model": BASE,
        "training_file": file.id,
        "metadata": metadata,
        "method": {"type": "dpo", "dpo": {"hyperparameters": {"beta": 0.2, "n_epochs": 50}}},
    }
    jobs = client.fine_tuning.jobs
    job = await got(jobs.create(**asked, extra_body={"tunesmith": OPTIONS}))
    await got(jobs.pause(job.id))
    seen["method"] = [job.method.type, job.method.dpo.hyperparameters.beta]
    paused = await until(lambda: jobs.retrieve(job.id), ("paused", "failed", "succeeded"))
    resumed = await got(jobs.resume(job.id))
    await got(jobs.cancel(job.id))
    cancelled = await until(lambda: jobs.retrieve(job.id), ("cancelled", "failed", "succeeded"))
    seen["steered"] = [paused.status, resumed.status, cancelled.status]
    found = [one.id for one in await every(jobs.list(metadata=metadata))]
    without = [one.id for one in await every(jobs.list(extra_query={"metadata": "null"}))]
    seen["by_metadata"] = [found == [job.id], job.id in without]


async def tune(client: Any, seen: dict[str, Any]) -> Any:
    """Upload, tune, and look at everything that a job leaves."""
    with ROWS.open("rb") as rows:
        file = await got(client.files.create(file=rows, purpose="fine-tune"))
    processed = await got(client.files.wait_for_processing(file.id, poll_interval=0.2))
    seen["file"] = [file.id.startswith("file-"), processed.status, processed.purpose]
    asked = {
        "model": BASE,
        "training_file": file.id,
        "suffix": "mine",
        "seed": 7,
        "metadata": {"for": "the test"},
        "method": {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 1}}},
        "extra_body": {"tunesmith": OPTIONS},
        "extra_headers": {"Idempotency-Key": f"flow-{os.environ['MODE']}-{file.id}"},
    }
    job = await got(client.fine_tuning.jobs.create(**asked))
    again = await got(client.fine_tuning.jobs.create(**asked))
    seen["twice"] = job.id == again.id
    seen["listed"] = job.id in [one.id for one in await every(client.fine_tuning.jobs.list(limit=1))]
    # One job trains at a time: the other one waits, and costs no time.
    await steer(client, seen)
    ended = ("succeeded", "failed", "cancelled")
    job = await until(lambda: client.fine_tuning.jobs.retrieve(job.id), ended)
    seen["status"] = [job.status, job.error.message if job.error else None]
    if job.status != "succeeded":
        return job
    seen["trained_tokens"] = (job.trained_tokens or 0) > 0
    parameters = job.method.supervised.hyperparameters
    seen["resolved"] = [isinstance(parameters.n_epochs, int), isinstance(parameters.batch_size, int)]
    events = await every(client.fine_tuning.jobs.list_events(job.id, limit=2))
    seen["events"] = [event.message for event in reversed(events)]
    seen["metrics"] = sum(event.type == "metrics" for event in events)
    results = await got(client.files.content(job.result_files[0]))
    seen["results"] = results.text.splitlines()[0].split(",")
    return job


async def share(client: Any, checkpoint: str, seen: dict[str, Any]) -> None:
    """Another project may use a checkpoint, and may not any more."""
    permissions = client.fine_tuning.checkpoints.permissions
    other = os.environ["OTHER_PROJECT"]
    made = await every(permissions.create(checkpoint, project_ids=[other]))
    listed = await got(permissions.retrieve(checkpoint, project_id=other))
    gone = await got(permissions.delete(made[0].id, fine_tuned_model_checkpoint=checkpoint))
    left = await got(permissions.retrieve(checkpoint))
    ids = [[one.id for one in page] for page in (made, listed.data)]
    seen["shared"] = [made[0].project_id == other, ids[0] == ids[1], gone.deleted, left.data]


async def use(client: Any, job: Any, seen: dict[str, Any]) -> None:
    """Ask the tuned model and its checkpoints."""
    name = job.fine_tuned_model
    seen["name"] = name
    seen["model"] = (await got(client.models.retrieve(name))).id
    seen["in_list"] = name in [model.id for model in await every(client.models.list())]
    whole = await got(client.chat.completions.create(model=name, **PLAIN))
    options = {"stream": True, "stream_options": {"include_usage": True}}
    chunks = await every(client.chat.completions.create(model=name, **options, **PLAIN))
    seen["text"] = whole.choices[0].message.content
    seen["streamed"] = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    seen["usage"] = chunks[-1].usage.total_tokens == whole.usage.total_tokens
    checkpoints = await every(client.fine_tuning.jobs.checkpoints.list(job.id))
    seen["checkpoints"] = [point.fine_tuned_model_checkpoint for point in checkpoints]
    if checkpoints:
        at = await got(client.chat.completions.create(model=seen["checkpoints"][-1], **PLAIN))
        seen["of_checkpoint"] = at.choices[0].message.content is not None
        await share(client, seen["checkpoints"][-1], seen)
    completed = await got(client.completions.create(model=name, prompt="Dear", max_tokens=3, temperature=0))
    seen["completion"] = completed.choices[0].text is not None
    if ENCODER:
        vectors = await got(client.embeddings.create(model=ENCODER, input=["a parcel", "a refund"]))
        seen["embeddings"] = [len(vectors.data), len(vectors.data[0].embedding) > 8]


async def upload_in_parts(client: Any, seen: dict[str, Any]) -> None:
    """A file in two parts."""
    data = ROWS.read_bytes()
    asked = {"bytes": len(data), "filename": "rows.jsonl", "mime_type": "application/jsonl", "purpose": "fine-tune"}
    upload = await got(client.uploads.create(**asked))
    half = len(data) // 2
    parts = [(await got(client.uploads.parts.create(upload.id, data=piece))).id for piece in (data[:half], data[half:])]
    done = await got(client.uploads.complete(upload.id, part_ids=parts))
    content = await got(client.files.content(done.file.id))
    seen["upload"] = [done.status, content.content == data]
    seen["deleted"] = (await got(client.files.delete(done.file.id))).deleted


async def answer_a_batch(client: Any, name: str, seen: dict[str, Any]) -> None:
    """Two requests of a file, one of which cannot be."""
    bodies = ({"model": name, **PLAIN}, {"model": name, **PLAIN, "temperature": 9})
    lines = [
        {"custom_id": str(number), "method": "POST", "url": "/v1/chat/completions", "body": body}
        for number, body in enumerate(bodies)
    ]
    data = "\n".join(json.dumps(line) for line in lines).encode()
    file = await got(client.files.create(file=("batch.jsonl", data), purpose="batch"))
    asked = {"input_file_id": file.id, "endpoint": "/v1/chat/completions", "completion_window": "24h"}
    batch = await got(client.batches.create(**asked))
    ended = ("completed", "failed", "expired", "cancelled")
    batch = await until(lambda: client.batches.retrieve(batch.id), ended)
    counts = batch.request_counts
    seen["batch"] = [batch.status, counts.total, counts.completed, counts.failed]
    if batch.status == "failed":
        seen["batch_errors"] = [error.message for error in batch.errors.data]
    if batch.output_file_id:
        output = await got(client.files.content(batch.output_file_id))
        first = json.loads(output.text.splitlines()[0])
        seen["batch_answer"] = first["response"]["body"]["choices"][0]["message"]["content"]


async def refusals(client: Any, name: str, seen: dict[str, Any]) -> None:
    """Errors are those that the package knows."""
    calls = {
        "model": lambda: client.chat.completions.create(model="nobody", **PLAIN),
        "key": client.with_options(api_key="wrong").models.list,
        "job": lambda: client.fine_tuning.jobs.retrieve("ftjob-none"),
        "deleted": lambda: client.chat.completions.create(model=name, **PLAIN),
    }
    seen["gone"] = (await got(client.models.delete(name))).deleted
    seen["errors"] = {}
    for word, call in calls.items():
        try:
            await got(call())
        except openai.APIStatusError as error:
            seen["errors"][word] = [type(error).__name__, error.status_code, error.code]


async def main() -> None:
    seen: dict[str, Any] = {"version": openai.__version__}
    client = new_client()
    try:
        job = await tune(client, seen)
        if job.status == "succeeded":
            await use(client, job, seen)
            await upload_in_parts(client, seen)
            await answer_a_batch(client, job.fine_tuned_model, seen)
            await refusals(client, job.fine_tuned_model, seen)
    finally:
        await got(client.close())
        print(json.dumps(seen))


asyncio.run(main())
