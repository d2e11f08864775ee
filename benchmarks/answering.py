"""Sides of the inference benchmark: one process each, one base, a queue of prompts for it and its adapters.

    python -m benchmarks.answering job.json

The job names the side and its folders. ``generate`` and ``genai`` answer one request after the other and print, for
each, the seconds to its first token and to its last, and how many it wrote; what several clients would see of them
follows exactly, since the requests stand in a line. ``llama.cpp`` prints the address on which it listens.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path
from typing import Any


def main() -> None:
    """Do the job of the file that is named on the command line."""
    job = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    {"generate": generate, "genai": genai, "llama.cpp": llama}[job["side"]](job)


def generate(job: dict[str, Any]) -> None:
    """Transformers with PEFT: ``model.generate``, the adapter set before each request."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM
    from transformers.generation.streamers import BaseStreamer

    class FirstToken(BaseStreamer):
        """Notes when the first token comes; the prompt is handed over first."""

        def __init__(self) -> None:
            self.calls = 0
            self.first = 0.0

        def put(self, value: torch.Tensor) -> None:  # noqa: ARG002
            self.calls += 1
            if self.calls == 2:
                self.first = time.perf_counter()

        def end(self) -> None:
            return

    model: Any = AutoModelForCausalLM.from_pretrained(job["base"], dtype=torch.float32)
    names = list(job["adapters"])
    for name in names:
        place = job["adapters"][name]
        if isinstance(model, PeftModel):
            model.load_adapter(place, name)
        else:
            model = PeftModel.from_pretrained(model, place, adapter_name=name)
    model.eval()
    done = []
    with torch.inference_mode():
        for request in job["requests"]:
            if request["model"] in names:
                model.set_adapter(request["model"])
            ids = torch.tensor([request["prompt"]])
            first = FirstToken()
            start = time.perf_counter()
            out = model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=request["new"],
                min_new_tokens=request["new"],
                do_sample=False,
                pad_token_id=0,
                streamer=first,
            )
            end = time.perf_counter()
            done.append([first.first - start, end - start, out.shape[1] - ids.shape[1]])
    _tell(done)


def genai(job: dict[str, Any]) -> None:
    """The ONNX Runtime GenAI on an exported base, without adapters."""
    import onnxruntime_genai as og

    model = og.Model(job["base"])
    done = []
    for request in job["requests"]:
        parameters = og.GeneratorParams(model)
        length = len(request["prompt"]) + request["new"]
        parameters.set_search_options(max_length=length, min_length=length, do_sample=False)
        generator = og.Generator(model, parameters)
        start = time.perf_counter()
        generator.append_tokens(request["prompt"])
        generator.generate_next_token()
        first, written = time.perf_counter() - start, 1
        while written < request["new"] and not generator.is_done():
            generator.generate_next_token()
            written += 1
        done.append([first, time.perf_counter() - start, written])
    _tell(done)


def llama(job: dict[str, Any]) -> None:
    """llama.cpp's own server, which batches; without adapters. Ends when its standard input does."""
    import xllamacpp

    settings = xllamacpp.CommonParams()
    settings.model.path = job["base"]
    settings.n_parallel = job["concurrency"]
    settings.n_ctx = 1024 * job["concurrency"]
    settings.cpuparams.n_threads = settings.cpuparams_batch.n_threads = job["threads"]
    settings.verbosity = -1
    server = xllamacpp.Server(settings)
    print(json.dumps({"address": server.listening_address}), flush=True)
    sys.stdin.read()
    print(json.dumps({"peak_memory_bytes": _peak_bytes()}), flush=True)


def _tell(done: list[list[float]]) -> None:
    print(json.dumps({"requests": done, "peak_memory_bytes": _peak_bytes()}))


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    main()
