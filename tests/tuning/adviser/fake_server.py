"""A local server of chat completions: it checks requests as a strict one does, and answers by a script.

A step of the script is a Reply, or a function of the request's JSON that returns one. What it received stands in
`requests` and, byte for byte, in `received`.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

FIELDS = {
    "model", "messages", "response_format", "max_completion_tokens", "max_tokens", "stream", "stream_options",
}  # fmt: skip
USAGE = {"prompt_tokens": 1000, "completion_tokens": 200, "total_tokens": 1200}


@dataclass
class Reply:
    """One answer. body: sent as it is, instead of a completion; hang: nothing is sent until the server closes."""

    content: str | None = None
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes | None = None
    refusal: str | None = None
    finish_reason: str | None = "stop"
    usage: dict[str, Any] | None = field(default_factory=lambda: dict(USAGE))
    hang: bool = False
    drip: bool = False  # a byte of the headers every 0.05 s, so that no time-out between two bytes ends it
    cut_after: int | None = None  # events of a stream, after which the connection ends


Step = Reply | Callable[[dict[str, Any]], Reply]


def suggest(*candidates: Any, **more: Any) -> Reply:
    """The answer with candidates."""
    return Reply(json.dumps({"suggestions": list(candidates)}), **more)


def failure(status: int, message: str, headers: dict[str, str] | None = None, **more: Any) -> Reply:
    """An error as the protocol has it."""
    error = {"message": message, "type": "error", "param": None, "code": None} | more
    return Reply(status=status, body=json.dumps({"error": error}).encode(), headers=headers or {})


class FakeServer:
    """A server on 127.0.0.1; its script ends with an error 418 for each further request."""

    def __init__(self, script: Iterable[Step] = (), *, refuses: tuple[str, ...] = ()) -> None:
        self.script, self.refuses = list(script), refuses
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.received = b""
        self.faults: list[str] = []
        self.closing = threading.Event()
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}/v1"

    def __enter__(self) -> FakeServer:
        threading.Thread(target=self._http.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.closing.set()
        self._http.shutdown()
        self._http.server_close()

    def take(self, body: dict[str, Any]) -> Reply:
        """Return the next answer."""
        self.requests.append(body)
        self.faults += faults(body)
        told = json.dumps(body.get("response_format", {}))
        for word in self.refuses:
            if f'"{word}"' in told or word in body:
                return failure(400, f"Unsupported: '{word}' is not permitted.", param=word, code="unsupported")
        if not self.script:
            return failure(418, "the script has ended")
        step = self.script.pop(0)
        return step(body) if callable(step) else step


def faults(body: dict[str, Any]) -> list[str]:
    """What a strict server would refuse in a request."""
    found = [f"unknown field {name}" for name in body.keys() - FIELDS]
    if not isinstance(body.get("model"), str):
        found.append("model is no text")
    for message in body.get("messages", ()):
        if set(message) != {"role", "content"} or message["role"] not in ("system", "user"):
            found.append(f"message {message!r}"[:80])
    if {"max_tokens", "max_completion_tokens"} <= body.keys():
        found.append("both limits of tokens")
    if "stream_options" in body and body.get("stream") is not True:
        found.append("stream_options without a stream")
    form = body.get("response_format", {})
    schema = form.get("json_schema", {})
    if form.get("type") != "json_schema" or schema.get("strict") is not True:
        found.append("no strict schema")
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", schema.get("name", "")):
        found.append("name of the schema")
    return found + strict_faults(schema.get("schema", {}), "$")


def strict_faults(node: dict[str, Any], place: str) -> list[str]:
    """Breaches of the rules of strict schemas, below a node."""
    found = [] if "type" in node or "anyOf" in node else [f"{place} has no type"]
    if node.get("type") == "object":
        if node.get("additionalProperties") is not False:
            found.append(f"{place} allows more properties")
        if sorted(node.get("required", ())) != sorted(node["properties"]):
            found.append(f"{place} does not require all properties")
        for key, child in node["properties"].items():
            found += strict_faults(child, f"{place}.{key}")
    if node.get("type") == "array":
        found += strict_faults(node["items"], f"{place}[]")
    for number, child in enumerate(node.get("anyOf", ())):
        found += strict_faults(child, f"{place}|{number}")
    return found


def _handler(server: FakeServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *words: object) -> None:
            pass

        def do_POST(self) -> None:
            data = self.rfile.read(int(self.headers["Content-Length"]))
            server.received += f"{self.requestline}\n{self.headers}".encode() + data
            server.headers.append({key.lower(): value for key, value in self.headers.items()})
            if self.path != "/v1/chat/completions":
                server.faults.append(f"path {self.path}")
            body = json.loads(data)
            try:
                self._answer(server.take(body), body)
            except OSError:  # the client has gone, as after a time-out
                self.close_connection = True

        def _answer(self, reply: Reply, body: dict[str, Any]) -> None:
            if reply.hang:
                server.closing.wait(60)
                self.close_connection = True
                return
            if reply.drip:
                self._drip()
                return
            if reply.body is None and body.get("stream"):
                self._stream(reply, bool(body.get("stream_options")))
                return
            data = reply.body if reply.body is not None else json.dumps(completion(reply, body["model"])).encode()
            self.send_response(reply.status)
            headers = {"Content-Type": "application/json", "Content-Length": str(len(data))} | reply.headers
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data)

        def _drip(self) -> None:
            self.close_connection = True
            self.wfile.write(b"HTTP/1.1 200 OK\r\nX-Slow: ")
            while not server.closing.is_set():
                self.wfile.write(b"x")
                self.wfile.flush()
                time.sleep(0.05)

        def _stream(self, reply: Reply, usage: bool) -> None:
            self.close_connection = True
            self.send_response(reply.status)
            self.send_header("Content-Type", "text/event-stream")
            self.send_header("Connection", "close")
            self.end_headers()
            for event in events(reply, usage)[: reply.cut_after]:
                self.wfile.write(b"data: " + event.encode() + b"\n\n")
                self.wfile.flush()

    return Handler


def completion(reply: Reply, model: str) -> dict[str, Any]:
    """The body of an answer that is not streamed."""
    message = {"role": "assistant", "content": reply.content, "refusal": reply.refusal}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": reply.finish_reason}
    found = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": model, "choices": [choice]}
    return found if reply.usage is None else found | {"usage": reply.usage}


def events(reply: Reply, usage: bool) -> list[str]:
    """The data of an answer's server-sent events."""
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "fake"}

    def chunk(delta: dict[str, Any], finish: str | None = None, **more: Any) -> str:
        return json.dumps(head | {"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]} | more)

    text = reply.content or ""
    parts = [text[k : k + 7] for k in range(0, len(text), 7)]
    found = [chunk({"role": "assistant", "content": ""}), *(chunk({"content": part}) for part in parts)]
    if reply.refusal:
        found += [chunk({"refusal": part}) for part in (reply.refusal[:5], reply.refusal[5:])]
    found.append(chunk({}, reply.finish_reason))
    if usage and reply.usage is not None:
        found.append(json.dumps(head | {"choices": [], "usage": reply.usage}))
    return [*found, "[DONE]"]
