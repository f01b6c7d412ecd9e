"""What runs with the user's rights runs no code of files, and what knows the user's secrets writes none of them.

One process runs every verb (tests/every_verb.py), watched, with secrets in its environment and a hub that refuses.
"""

from __future__ import annotations

import base64
import gzip
import io
import json
import os
import re
import subprocess
import sys
import threading
import zipfile
import zlib
from collections.abc import Iterator
from datetime import date, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.waiting import DEADLINE

ROOT = Path(__file__).parents[1]
SECRETS = {
    name: f"{word}/+={number}q7Zk"  # no part of it occurs by chance, and it differs where it is quoted
    for number, (name, word) in enumerate(
        {
            "HF_TOKEN": "hf_Canary", "AWS_SECRET_ACCESS_KEY": "awsCanary", "WANDB_API_KEY": "wandbCanary",
            "MLFLOW_TRACKING_PASSWORD": "mlflowCanary", "MASTER_PASSWORD": "masterCanary", "PROXY": "proxyCanary",
            "ON_THE_LINE": "lineCanary",
        }.items()
    )
}  # fmt: skip


class Refusing(BaseHTTPRequestHandler):
    """A hub and the proxy before it, which quotes the request in each answer.

    It refuses all but me/broken, which it lists but does not hand out, and me/portal, where the answer is a page.
    """

    def do_GET(self) -> None:
        """Answer."""
        said = " ".join(f"{name}: {value}" for name, value in self.headers.items())
        content, code = json.dumps({"error": said}), 403
        if "me/portal" in self.path:
            content, code = f"<html>Log in. {said}</html>", 200
        elif "me/broken" in self.path and "/resolve/" not in self.path:
            files = [{"type": "file", "path": "config.json", "rfilename": "config.json", "size": 2, "oid": "0" * 40}]
            content, code = json.dumps(files if "/tree/" in self.path else {"id": "me/broken", "sha": "0" * 40}), 200
        self.send_response(code)
        for name, value in {"X-Error-Message": said, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content.encode())

    do_HEAD = do_GET

    def log_message(self, *_: object) -> None:
        """Quiet."""


class Ran(NamedTuple):
    """What a process did that ran every verb."""

    folder: Path
    printed: str
    watched: list[str]


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ran]:
    """A folder in which every verb has run, what was printed, and what was watched."""
    folder = tmp_path_factory.mktemp("verbs")
    days = [date(2024, 1, 1) + timedelta(day) for day in range(160)]
    sales = 50 + 9 * np.sin(np.arange(160) * 2 * np.pi / 7) + np.random.default_rng(0).normal(0, 1, 160)
    rows = [f"{day},{value:.3f}" for day, value in zip(days, sales, strict=True)]
    (folder / "sales.csv").write_text("\n".join(["day,sales", *rows]) + "\n")
    rows = [f"ACME,{day},2025-01-01,1,100.0,0.02,0.01" for day in days[:15]]
    (folder / "predictions.csv").write_text("\n".join(["S,D,M,H,L,Y,F", *rows]) + "\n")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Refusing)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"127.0.0.1:{server.server_port}"
    proxy = f"http://me:{quote(SECRETS['PROXY'], safe='')}@{address}"
    environment = {
        **{name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")},
        **SECRETS, "http_proxy": proxy, "https_proxy": proxy, "HTTP_PROXY": proxy, "HF_ENDPOINT": f"http://{address}",
        "HF_HOME": str(folder / "hub"), "HF_HUB_OFFLINE": "0", "OMP_NUM_THREADS": "1", "TMPDIR": str(folder),
        "XDG_CACHE_HOME": str(folder / "cache"),
    }  # fmt: skip
    command = [sys.executable, "-m", "tests.every_verb", str(folder)]
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=DEADLINE, check=False
    )
    server.shutdown()
    assert done.returncode == 0, done.stderr[-3000:]
    yield Ran(folder, done.stdout + done.stderr, json.loads((folder / "watched.json").read_text()))


@pytest.mark.processes
def test_no_verb_unpickles_anything_or_starts_a_shell(ran: Ran):
    """The one thing that is seen is the proof that unpickling would be."""
    assert ran.watched == ["collections.OrderedDict for no file of foretrain", "pickle.loads for no file of foretrain"]


@pytest.mark.processes
def test_no_secret_is_printed(ran: Ran):
    assert "me/refused: no such folder, and not downloaded before (HfHubHTTPError: " in ran.printed
    assert "me/portal: the hub could not be read (JSONDecodeError: " in ran.printed
    assert "http://***@localhost/x: no such folder" in ran.printed
    assert found(ran.printed.encode()) == set()


@pytest.mark.processes
def test_no_file_holds_a_secret(ran: Ran):
    files = [path for path in ran.folder.rglob("*") if path.is_file()]
    kinds = {path.suffix for path in files}
    assert kinds >= {".safetensors", ".arrow", ".png", ".svg", ".html", ".json", ".jsonl", ".log", ".yaml", ".parquet"}
    assert any("tfevents" in path.name for path in files)
    assert "KeyError: (" in (ran.folder / "report-1.txt").read_text() != (ran.folder / "report-0.txt").read_text()
    assert {path.relative_to(ran.folder): names for path in files if (names := found(path.read_bytes()))} == {}


def found(content: bytes) -> set[str]:
    """Names of the secrets that bytes hold: as they are, quoted as in an address or JSON, in hex or base64."""
    looked_at = list(unpacked(content))
    return {name for name, secret in SECRETS.items() for form in forms(secret) for text in looked_at if form in text}


def forms(secret: str) -> set[bytes]:
    """Ways to write a secret. Base64 also as a part of a longer text: its inner letters at each of three offsets."""
    raw = secret.encode()
    inner = {base64.b64encode(b"-" * shift + raw)[4:-4] for shift in range(3)}
    quoted = {quote(secret, safe=safe).encode() for safe in ("", "/", "/+=")}
    return {raw, raw.hex().encode(), json.dumps(secret)[1:-1].encode(), *quoted, *inner}


def unpacked(content: bytes) -> Iterator[bytes]:
    """Bytes, and what is packed into them: members of zip, gzip, text of PNG, columns of Parquet, pictures of HTML."""
    yield content
    if content[:2] == b"PK":
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            for name in archive.namelist():
                yield from unpacked(archive.read(name))
    elif content[:2] == b"\x1f\x8b":
        yield from unpacked(gzip.decompress(content))
    elif content[:4] == b"\x89PNG":
        place = 8
        while place < len(content):
            length, kind = int.from_bytes(content[place : place + 4], "big"), content[place + 4 : place + 8]
            if kind in (b"zTXt", b"iTXt"):
                _, _, packed = content[place + 8 : place + 8 + length].partition(b"\0")
                yield zlib.decompress(packed[1:]) if kind == b"zTXt" else packed
            place += length + 12
    elif content[:4] == b"PAR1":
        table = pq.read_table(io.BytesIO(content))
        yield repr((table.to_pydict(), table.schema.metadata)).encode()
    else:
        for picture in re.findall(rb"base64,([A-Za-z0-9+/=]+)", content):
            yield from unpacked(base64.b64decode(picture))


def picture_with(text: bytes) -> bytes:
    """The head of a PNG with a packed text."""
    chunk = b"zTXtComment\0\0" + zlib.compress(text)
    return b"\x89PNG\r\n\x1a\n" + (len(chunk) - 4).to_bytes(4, "big") + chunk + b"\0\0\0\0"


def zip_with(text: bytes) -> bytes:
    """A zip with a packed member."""
    with zipfile.ZipFile(packed := io.BytesIO(), "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.txt", text)
    return packed.getvalue()


def table_with(text: bytes) -> bytes:
    """A compressed Parquet file with a cell."""
    pq.write_table(pa.table({"a": [text.decode()]}), packed := io.BytesIO(), compression="zstd")
    return packed.getvalue()


@pytest.mark.parametrize(
    "hide",
    [
        lambda text: b"x" + text, lambda text: b"xy" + base64.b64encode(b"user:" + text) + b"z", gzip.compress,
        lambda text: quote(text.decode(), safe="").encode(), picture_with, zip_with, table_with,
        lambda text: b'<img src="data:image/png;base64,' + base64.b64encode(picture_with(text)) + b'">',
    ],
)  # fmt: skip
def test_a_secret_is_found_wherever_it_hides(hide):
    assert found(hide(SECRETS["HF_TOKEN"].encode())) == {"HF_TOKEN"}
    assert found(hide(b"harmless text, long enough to be packed")) == set()
