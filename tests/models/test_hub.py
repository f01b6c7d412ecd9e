"""Loading by hub id, against a local server that speaks the hub's protocol."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from tests.waiting import DEADLINE

from foretrain.errors import ModelError
from foretrain.models.hub import resolve

pytestmark = pytest.mark.processes

MODEL = Path(__file__).parents[1] / "golden" / "chronos2" / "model"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
FILES = {
    **{path.name: path.read_bytes() for path in MODEL.iterdir()},
    "pytorch_model.bin": b"a pickle that must never be fetched",
}


class Hub(BaseHTTPRequestHandler):
    """One public repository, me/tiny; everything else is a 404 as the hub words it."""

    asked: list[str] = []  # noqa: RUF012  # shared on purpose: the test reads what was fetched

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, body: bool) -> None:
        path = self.path.split("?")[0].strip("/")
        if path.startswith("api/models/me/tiny/revision/") or path == "api/models/me/tiny":
            if path.rsplit("/", 1)[-1] not in ("main", COMMIT, "tiny"):
                self.send(404, b"{}", {"X-Error-Code": "RevisionNotFound"}, body)
                return
            facts = {"id": "me/tiny", "modelId": "me/tiny", "sha": COMMIT, "private": False, "gated": False,
                     "siblings": [{"rfilename": name} for name in FILES], "tags": [], "downloads": 0}  # fmt: skip
            self.send(200, json.dumps(facts).encode(), {"Content-Type": "application/json"}, body)
            return
        if path.startswith("api/models/me/tiny/tree/"):
            tree = [
                {"type": "file", "path": n, "size": len(c), "oid": hashlib.sha1(c).hexdigest()}
                for n, c in FILES.items()
            ]
            self.send(200, json.dumps(tree).encode(), {"Content-Type": "application/json"}, body)
            return
        if path.startswith("me/tiny/resolve/"):
            name = path.rsplit("/", 1)[-1]
            if body:
                self.asked.append(name)
            etag = hashlib.sha256(FILES[name]).hexdigest()
            self.send(200, FILES[name], {"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT}, body)
            return
        self.send(404, b'{"error":"Repository not found"}', {"X-Error-Code": "RepoNotFound"}, body)

    def send(self, code: int, content: bytes, headers: dict[str, str], body: bool) -> None:
        self.send_response(code)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Quiet."""


@pytest.fixture(scope="module")
def hub() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def load(hub: str, home: Path, code: str) -> subprocess.CompletedProcess[str]:
    """Run code in a new process: the hub library reads its settings on import."""
    env = {**os.environ, "HF_ENDPOINT": hub, "HF_HOME": str(home), "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1",
           "OMP_NUM_THREADS": "1"}  # fmt: skip
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "all_proxy", "HF_TOKEN"):
        env.pop(name, None)
    program = "import foretrain\nfrom foretrain.errors import ModelError\n" + code
    return subprocess.run(
        [sys.executable, "-c", program], env=env, capture_output=True, text=True, check=False, timeout=DEADLINE
    )


def test_a_hub_id_loads_and_then_loads_offline_and_no_pickle_is_fetched(hub: str, tmp_path: Path):
    Hub.asked.clear()
    code = "print(sum(p.numel() for p in foretrain.load('me/tiny', device='cpu'%s).network.parameters()))"
    online = load(hub, tmp_path, code % "")
    assert online.stdout.strip() == "40080", online.stderr
    assert set(Hub.asked) == {"config.json", "model.safetensors"}
    Hub.asked.clear()
    offline = load(hub, tmp_path, code % ", offline=True")
    assert offline.stdout.strip() == "40080", offline.stderr
    assert not Hub.asked


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("'me/none'", "no such repository on the hub"),
        ("'me/tiny', revision='v9'", "the hub has no such revision"),
        ("'me/tiny', offline=True", "run once without offline"),
    ],
)
def test_a_missing_repository_revision_or_download_is_one_clear_line(hub: str, tmp_path: Path, arguments, message):
    done = load(hub, tmp_path, f"try:\n    foretrain.load({arguments})\nexcept ModelError as error:\n    print(error)")
    assert message in done.stdout and len(done.stdout.splitlines()) == 1, done.stdout + done.stderr


@pytest.mark.parametrize("name", ["no/such/folder", "../up", "name with blanks", "C:\\model"])
def test_a_name_that_is_neither_folder_nor_hub_id_is_refused(name):
    with pytest.raises(ModelError, match="no such folder"):
        resolve(name)


@pytest.mark.parametrize("name", ["", " "])
def test_an_empty_name_is_refused_with_what_a_name_may_be(name):
    with pytest.raises(ModelError, match=r"no model is named .*a release or run folder, a hub id, or tiny"):
        resolve(name)


def test_a_run_folder_resolves_to_its_release(tmp_path: Path):
    (tmp_path / "run" / "release").mkdir(parents=True)
    assert resolve(tmp_path / "run") == tmp_path / "run"
    (tmp_path / "run" / "release" / "config.json").write_text("{}")
    assert resolve(tmp_path / "run") == tmp_path / "run" / "release" == resolve(tmp_path / "run" / "release")
