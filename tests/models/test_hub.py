"""Loading by hub id, against a local server that speaks the hub's protocol."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.fake_hub import FakeHub, Repository, serving
from tests.waiting import DEADLINE

from foretrain.errors import ModelError
from foretrain.models.hub import resolve

pytestmark = pytest.mark.processes

MODEL = Path(__file__).parents[1] / "golden" / "chronos2" / "model"
FILES = {
    **{path.name: path.read_bytes() for path in MODEL.iterdir()},
    "pytorch_model.bin": b"a pickle that must never be fetched",
}


@pytest.fixture(scope="module")
def server() -> Iterator[FakeHub]:
    with serving(FakeHub({"me/tiny": Repository(FILES)})) as hub:
        yield hub


@pytest.fixture
def hub(server: FakeHub) -> str:
    server.asked.clear()
    return server.address


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


def test_a_hub_id_loads_and_then_loads_offline_and_no_pickle_is_fetched(hub: str, server: FakeHub, tmp_path: Path):
    code = "print(sum(p.numel() for p in foretrain.load('me/tiny', device='cpu'%s).network.parameters()))"
    online = load(hub, tmp_path, code % "")
    assert online.stdout.strip() == "40080", online.stderr
    assert {name for name, _ in server.asked} == {"config.json", "model.safetensors"}
    server.asked.clear()
    offline = load(hub, tmp_path, code % ", offline=True")
    assert offline.stdout.strip() == "40080", offline.stderr
    assert not server.asked


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
