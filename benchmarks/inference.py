"""Tokens a second, time to the first token and memory of serving, ours and others', in one run.

    python -m benchmarks.inference [--gguf FILE] [--onnx FOLDER] [--prompt-tokens 200] [--new-tokens 64]

One base and four adapters of different ranks; 1, 8 and 32 clients that each ask again as soon as they have an answer;
prompts of the same lengths for all sides. Sides: ours through HTTP; ``transformers.generate`` with PEFT, one request
after the other; where a file or a folder is named, llama.cpp (``tunesmith export --to gguf``) and the ONNX Runtime
GenAI (``--to onnx``), both on the base alone. The sides take turns within each number of clients.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import torch

from benchmarks.machine import conditions, host_class, keep, print_table
from tunesmith.catalog.cache import prepared_folder
from tunesmith.catalog.resolve import resolve_model
from tunesmith.jobs.inference_process import start_inference
from tunesmith.wire.serving import ServedModel

RANKS = {"rank-4": 4, "rank-8": 8, "rank-16": 16, "rank-32": 32}
BASE = "base"


@dataclass(frozen=True)
class Seen:
    """What clients saw: each request's seconds to the first token and to the last, all tokens, and all seconds."""

    first: list[float]
    whole: list[float]
    tokens: int
    seconds: float
    peak_memory_bytes: int

    def row(self) -> dict[str, float]:
        """The numbers that are told."""
        return {
            "tokens_per_second": self.tokens / self.seconds,
            "first_token_p50_seconds": float(np.quantile(self.first, 0.5)),
            "first_token_p99_seconds": float(np.quantile(self.first, 0.99)),
            "request_p50_seconds": float(np.quantile(self.whole, 0.5)),
            "request_p99_seconds": float(np.quantile(self.whole, 0.99)),
            "peak_memory_gib": self.peak_memory_bytes / 2**30,
            "requests": len(self.first),
        }


def main() -> None:
    """Measure, print and keep."""
    options = _options()
    before = conditions()
    base = prepared_folder(resolve_model(options.model, Path("runs")))
    assert base is not None, f"fetch it first: tunesmith models fetch {options.model}"
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="tunesmith-benchmark-") as scratch:
        adapters = make_adapters(base, Path(scratch))
        for clients in options.clients:
            for name, side in sides(options, base, adapters, Path(scratch), clients).items():
                requests = make_requests(options, clients, mixed=name in ("ours", "generate"))
                results[f"{name}, {clients} clients"] = row = side(requests).row()
                print_table({"side": name, "clients": clients, **row})
                print(flush=True)
    job = {"prompt_tokens": options.prompt_tokens, "new_tokens": options.new_tokens, "adapter_ranks": RANKS}
    result = {"job": job, "measured": results, "conditions": before, "host_class": host_class()}
    if not options.no_keep:
        print(f"kept in {keep('inference', result).name}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Serving, ours and others'.")
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--gguf", type=Path, help="a GGUF file of the base, for llama.cpp")
    parser.add_argument("--onnx", type=Path, help="an exported folder of the base, for the ONNX Runtime GenAI")
    parser.add_argument("--prompt-tokens", type=int, default=200)
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--rounds", type=int, default=3, help="requests of each client, at least 8 in all")
    parser.add_argument("--no-keep", action="store_true", help="print only")
    return parser.parse_args()


def make_adapters(base: Path, scratch: Path) -> dict[str, Path]:
    """Four adapters of all linear layers with drawn weights; what they say does not matter here."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    torch.manual_seed(0)
    tuned: Any = None
    for name, rank in RANKS.items():
        config = LoraConfig(r=rank, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM")
        if tuned is None:
            tuned = get_peft_model(model, config, adapter_name=name)
        else:
            tuned.add_adapter(name, config)
    for parameter_name, parameter in tuned.named_parameters():
        if "lora_B" in parameter_name:
            # Small, so that texts stay texts.
            parameter.data.mul_(0.02)
    tuned.save_pretrained(scratch)
    return {name: scratch / name for name in RANKS}


def make_requests(options: argparse.Namespace, clients: int, *, mixed: bool) -> list[dict[str, Any]]:
    """Prompts of drawn tokens, all different, over the adapters in turn."""
    source = random.Random(0)
    count = max(8, clients * options.rounds)
    names = list(RANKS)
    return [
        {
            "model": names[at % len(names)] if mixed else BASE,
            "prompt": [source.randrange(100, 40_000) for _ in range(options.prompt_tokens)],
            "new": options.new_tokens,
        }
        for at in range(count)
    ]


def sides(
    options: argparse.Namespace, base: Path, adapters: dict[str, Path], scratch: Path, clients: int
) -> dict[str, Callable[[list[dict[str, Any]]], Seen]]:
    """Who takes part, each as a function of the requests."""
    placed = {name: str(path) for name, path in adapters.items()}
    found: dict[str, Callable[[list[dict[str, Any]]], Seen]] = {
        "ours": lambda requests: ours(base, adapters, requests, clients),
        "generate": lambda requests: in_line(
            {"side": "generate", "base": str(base), "adapters": placed}, requests, clients, scratch
        ),
    }
    if options.onnx is not None:
        found["genai"] = lambda requests: in_line(
            {"side": "genai", "base": str(options.onnx)}, requests, clients, scratch
        )
    if options.gguf is not None:
        found["llama.cpp"] = lambda requests: llama(options.gguf, requests, clients, scratch)
    return found


def ours(base: Path, adapters: dict[str, Path], requests: list[dict[str, Any]], clients: int) -> Seen:
    """Tunesmith's server with the base and all adapters."""
    models = [ServedModel(BASE, base), *(ServedModel(name, base, path) for name, path in adapters.items())]
    with start_inference(models, rows_at_once=max(8, clients)) as process:
        headers = {"Authorization": f"Bearer {process.token}"}
        # Adapters are loaded by their first request.
        warm = [{"model": name, "prompt": [1, 2, 3], "new": 2} for name in (BASE, *adapters)]
        ask_all(process.base_url, headers, warm, 1)
        first, whole, tokens, seconds = ask_all(process.base_url, headers, requests, clients)
        memory = psutil.Process(process.pid).memory_info()
        peak = getattr(memory, "peak_wset", memory.rss)
        return Seen(first, whole, tokens, seconds, max(peak, _high_water(process.pid)))


def llama(file: Path, requests: list[dict[str, Any]], clients: int, scratch: Path) -> Seen:
    """llama.cpp's server on the base."""
    job = {"side": "llama.cpp", "base": str(file), "concurrency": clients, "threads": torch.get_num_threads()}
    path = scratch / "llama.json"
    path.write_text(json.dumps(job), encoding="utf-8")
    command = [sys.executable, "-m", "benchmarks.answering", str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        address = json.loads(process.stdout.readline())["address"]
        ask_all(address, {}, [{"model": BASE, "prompt": [1, 2, 3], "new": 2}], 1)
        first, whole, tokens, seconds = ask_all(address, {}, requests, clients)
        process.stdin.close()
        peak = json.loads(process.stdout.readline())["peak_memory_bytes"]
    return Seen(first, whole, tokens, seconds, peak)


def in_line(job: dict[str, Any], requests: list[dict[str, Any]], clients: int, scratch: Path) -> Seen:
    """A side that answers one request after the other, as so many clients see it.

    With n clients that ask again at once, request i comes when request i - n is answered, and waits for its turn.
    """
    path = scratch / "line.json"
    path.write_text(json.dumps({**job, "requests": requests}), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.answering", str(path)], stdout=subprocess.PIPE, text=True, check=True
    )
    told = json.loads(done.stdout.splitlines()[-1])
    ends, first, whole = [0.0], [], []
    for at, (to_first, to_last, _) in enumerate(told["requests"]):
        came = ends[at + 1 - clients] if at >= clients else 0.0
        first.append(ends[-1] + to_first - came)
        whole.append(ends[-1] + to_last - came)
        ends.append(ends[-1] + to_last)
    tokens = sum(int(count) for _, _, count in told["requests"])
    return Seen(first, whole, tokens, ends[-1], told["peak_memory_bytes"])


def ask_all(
    address: str, headers: dict[str, str], requests: Sequence[dict[str, Any]], clients: int
) -> tuple[list[float], list[float], int, float]:
    """Ask a server by so many clients; first-token and whole seconds of each request, tokens, and all seconds."""
    waiting = iter(requests)
    lock = threading.Lock()
    first: list[float] = []
    whole: list[float] = []
    tokens = 0

    def client() -> None:
        nonlocal tokens
        # llama.cpp's server closes connections after a stream, so every side gets a new one for each request.
        limits = httpx.Limits(max_keepalive_connections=0)
        with httpx.Client(base_url=address, headers=headers, timeout=600, trust_env=False, limits=limits) as http:
            while True:
                with lock:
                    request = next(waiting, None)
                if request is None:
                    return
                seen = _ask(http, request)
                with lock:
                    first.append(seen[0])
                    whole.append(seen[1])
                    tokens += seen[2]

    start = time.perf_counter()
    threads = [threading.Thread(target=client) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return first, whole, tokens, time.perf_counter() - start


def _ask(http: httpx.Client, request: dict[str, Any]) -> tuple[float, float, int]:
    body = {
        "model": request["model"],
        "prompt": request["prompt"],
        "max_tokens": request["new"],
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
        # Nobody may end early.
        "logit_bias": {"0": -100, "2": -100},
        "ignore_eos": True,
    }
    start = time.perf_counter()
    first, tokens = None, 0
    with http.stream("POST", "/v1/completions", json=body) as answer:
        answer.raise_for_status()
        for line in answer.iter_lines():
            if not line.startswith("data: {"):
                continue
            data = json.loads(line[6:])
            if first is None and data["choices"]:
                first = time.perf_counter() - start
            if data.get("usage"):
                tokens = int(data["usage"]["completion_tokens"])
    assert first is not None
    return first, time.perf_counter() - start, tokens


def _high_water(pid: int) -> int:
    """The most memory that a process held so far, where the system says it."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM")), 0)


if __name__ == "__main__":
    main()
