"""Stands in for `python -m tunesmith.inference` where only its coming and going matters; it is there at once.

It answers with how it was called. A model whose name begins with ``broken`` cannot be loaded. A request's ``user`` may
be ``die``, ``die midway`` of a stream, ``slow``, ``late``, or ``endless``, which goes on until it is stopped.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from tunesmith.runs.parent import watch_parent
from tunesmith.wire.serving import REQUEST_HEADER, STOP_PATH, STOPPED

_stopping: dict[str, threading.Event] = {}


class _Answers(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    token = ""

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.headers["Authorization"] != f"Bearer {self.token}":
            self._say(401, {"error": {"message": "no", "type": "authentication_error", "param": None, "code": None}})
            return
        if body.get("user") == "die":
            os._exit(9)
        if body.get("stream"):
            self._stream(body)
            return
        if body.get("user") == "slow":
            time.sleep(0.2)
        if body.get("user") == "late":
            time.sleep(4.0)
        if body.get("user") == "endless":
            self._write_until_stopped()
            return
        words = f"{body['model']} says {len(body.get('messages', []))}"
        usage = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
        self._say(200, {**_said(self.path, words), "model": body["model"], "usage": usage})

    def do_DELETE(self) -> None:
        event = _stopping.get(self.path.removeprefix(f"{STOP_PATH}/"))
        if event is not None:
            event.set()
        self._say(404 if event is None else 200, {})

    def _write_until_stopped(self) -> None:
        # As a long prompt: who stops it at once is not known yet.
        time.sleep(0.5)
        event = _stopping[self.headers[REQUEST_HEADER]] = threading.Event()
        event.wait(60)
        self._say(STOPPED, {"usage": {"prompt_tokens": 30, "completion_tokens": 7, "total_tokens": 37}})

    def _stream(self, body: dict[str, object]) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        for at in range(100):
            usage = {"prompt_tokens": 3, "completion_tokens": at + 1, "total_tokens": at + 4}
            chunk = {"id": "c", "model": body["model"], "choices": [{"index": 0, "delta": {"content": "x"}}]}
            self.wfile.write(b"data: " + json.dumps({**chunk, "usage": usage}).encode() + b"\n\n")
            self.wfile.flush()
            if body.get("user") == "die midway" and at == 5:
                os._exit(9)
        self.wfile.write(b"data: [DONE]\n\n")

    def _say(self, status: int, body: object) -> None:
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


def _said(path: str, words: str) -> dict[str, object]:
    """An answer of a path in OpenAI's form, but for its model and use."""
    if path == "/v1/embeddings":
        return {"object": "list", "data": [{"object": "embedding", "index": 0, "embedding": [0.0, 1.0]}]}
    told: dict[str, object] = {"index": 0, "finish_reason": "stop", "logprobs": None}
    if path == "/v1/completions":
        return {"id": "cmpl-1", "object": "text_completion", "created": 1, "choices": [{**told, "text": words}]}
    message = {"role": "assistant", "content": words, "refusal": None}
    return {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "choices": [{**told, "message": message}]}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--service", type=Path)
    parser.add_argument("--ready-file", type=Path)
    parser.add_argument("--host")
    parser.add_argument("--parent-pid", type=int)
    options = parser.parse_args()
    watch_parent(options.parent_pid, lambda: os._exit(0))
    service = json.loads(options.service.read_text())
    name = service["models"][0]["name"]
    if name.startswith("broken"):
        sys.exit("the weights are torn")
    _Answers.token = service["keys"]["service"]
    server = ThreadingHTTPServer((options.host, 0), _Answers)
    ready = options.ready_file.with_suffix(".part")
    ready.write_text(json.dumps({"port": server.server_port, "pid": os.getpid()}))
    ready.rename(options.ready_file)
    server.serve_forever()


if __name__ == "__main__":
    main()
