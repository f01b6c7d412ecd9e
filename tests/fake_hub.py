"""A hub of repositories and a proxy before it, on this machine: what huggingface_hub asks, answered from memory."""

from __future__ import annotations

import hashlib
import json
import re
import select
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Repository:
    """A repository, its files at one commit, and how its server fails.

    large: names that end so are listed with a sha256, as files in LFS are. listed: sizes and names beside the files'
    own. lies: content that is sent in place of a file's. cuts: bytes after which the connection ends, once each; after
    the last one the answer is 500 while `down` is set.
    """

    files: dict[str, bytes]
    kind: str = "models"
    commit: str = COMMIT
    large: str = ".parquet"
    gated: bool = False
    ranges: bool = True
    listed: list[dict[str, Any]] = field(default_factory=list)
    lies: dict[str, bytes] = field(default_factory=dict)
    cuts: dict[str, list[int]] = field(default_factory=dict)
    down: set[str] = field(default_factory=set)

    def tree(self, folder: str) -> list[dict[str, Any]]:
        """The files of a folder as the hub lists them."""
        named = [self._entry(name, content) for name, content in self.files.items()]
        return [entry for entry in named if not folder or entry["path"].startswith(f"{folder}/")] + self.listed

    def _entry(self, name: str, content: bytes) -> dict[str, Any]:
        blob = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
        entry: dict[str, Any] = {"type": "file", "path": name, "size": len(content), "oid": blob}
        if name.endswith(self.large):
            entry["lfs"] = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 100}
        return entry


class FakeHub(ThreadingHTTPServer):
    """Repositories by id; what is asked for a file is noted as (its path, the range)."""

    daemon_threads = True

    def __init__(self, repositories: dict[str, Repository]) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.repositories = repositories
        self.asked: list[tuple[str, str | None]] = []
        self.tokens: list[str | None] = []

    @property
    def address(self) -> str:
        """Its URL."""
        return f"http://127.0.0.1:{self.server_port}"


class _Answer(BaseHTTPRequestHandler):
    """The hub's answers; what it does not have is a 404 as the hub words it."""

    server: FakeHub

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, body: bool) -> None:
        self.server.tokens.append(self.headers.get("Authorization"))
        path = unquote(self.path.split("?")[0]).strip("/")
        api = re.fullmatch(r"api/(models|datasets)/([^/]+/[^/]+)(?:/(revision|tree)/([^/]+)/?(.*))?", path)
        file = re.fullmatch(r"(datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
        kind = api[1] if api else "datasets" if file and file[1] else "models"
        repository = self.server.repositories.get((api or file or "   ")[2])
        if repository is None or repository.kind != kind:
            self.send(404, b'{"error":"Repository not found"}', {"X-Error-Code": "RepoNotFound"}, body)
        elif ((api and api[4]) or (file and file[3]) or "main") not in ("main", repository.commit):
            self.send(404, b"{}", {"X-Error-Code": "RevisionNotFound"}, body)
        elif repository.gated:
            self.send(403, b"{}", {"X-Error-Code": "GatedRepo"}, body)
        elif api and api[3] == "tree":
            self.send_tree(repository, api[5], body)
        elif api:
            facts = {"id": api[2], "modelId": api[2], "sha": repository.commit, "private": False, "gated": False,
                     "siblings": [{"rfilename": name} for name in repository.files], "tags": [],
                     "downloads": 0}  # fmt: skip
            self.send(200, json.dumps(facts).encode(), {"Content-Type": "application/json"}, body)
        elif file:
            self.send_file(repository, file[4], body)

    def send_tree(self, repository: Repository, folder: str, body: bool) -> None:
        entries = repository.tree(folder)
        if not entries:
            self.send(404, b'{"error":"not there"}', {"X-Error-Code": "EntryNotFound"}, body)
            return
        self.send(200, json.dumps(entries).encode(), {"Content-Type": "application/json"}, body)

    def send_file(self, repository: Repository, name: str, body: bool) -> None:
        wanted = self.headers.get("Range")
        if body:
            self.server.asked.append((name, wanted))
        if name not in repository.files:
            self.send(404, b"{}", {"X-Error-Code": "EntryNotFound"}, body)
            return
        if name in repository.down and not repository.cuts.get(name):
            self.send(500, b"{}", {}, body)
            return
        content = repository.lies.get(name, repository.files[name])
        etag = hashlib.sha256(content).hexdigest()
        headers = {"ETag": f'"{etag}"', "X-Repo-Commit": repository.commit}
        begin = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and repository.ranges else 0
        if begin:
            headers["Content-Range"] = f"bytes {begin}-{len(content) - 1}/{len(content)}"
        self.send(206 if begin else 200, content[begin:], headers, body, repository.cuts.get(name))

    def send(
        self, code: int, content: bytes, headers: dict[str, str], body: bool, cuts: list[int] | None = None
    ) -> None:
        self.send_response(code)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            self.wfile.write(content[: cuts.pop(0)] if cuts else content)
            self.close_connection = True

    def log_message(self, *_: object) -> None:
        """Quiet."""


class ConnectProxy(ThreadingHTTPServer):
    """A proxy that opens tunnels to one port of this machine, whatever host is asked for, and notes the hosts."""

    daemon_threads = True

    def __init__(self, port: int) -> None:
        super().__init__(("127.0.0.1", 0), _Tunnel)
        self.port = port
        self.hosts: list[str] = []
        self.accounts: list[str | None] = []


class _Tunnel(BaseHTTPRequestHandler):
    server: ConnectProxy

    def do_CONNECT(self) -> None:
        self.server.hosts.append(self.path)
        self.server.accounts.append(self.headers.get("Proxy-Authorization"))
        with socket.create_connection(("127.0.0.1", self.server.port)) as far:
            self.send_response(200)
            self.end_headers()
            ends = {self.connection: far, far: self.connection}
            while True:
                for end in select.select(list(ends), [], [])[0]:
                    arrived = end.recv(65536)
                    if not arrived:
                        return
                    ends[end].sendall(arrived)

    def log_message(self, *_: object) -> None:
        """Quiet."""


@contextmanager
def serving(server: ThreadingHTTPServer, certificate: str | None = None) -> Iterator[Any]:
    """Serve while the block runs; with a certificate, over TLS."""
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
