"""What an installed wheel holds."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

pytestmark = pytest.mark.processes

ROOT = Path(__file__).parents[1]


def run(*command: str | Path, **environment: str) -> str:
    """What a command prints."""
    done = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """A virtual environment with the wheel alone, made without a network from a copy of what the wheel is built of."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    for name in ("src", "configs"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check")
    run(*pip, "wheel", source, "--no-deps", "--no-build-isolation", "--quiet", "--wheel-dir", folder / "dist")
    (wheel,) = (folder / "dist").glob("foretrain-*.whl")
    venv.create(folder / "venv", with_pip=False, symlinks=True)
    run(*pip, "--python", folder / "venv", "install", "--no-deps", "--no-index", "--quiet", wheel)
    return folder / "venv"


def test_an_installed_wheel_finds_every_config(installed):
    """With the other packages of this environment: PYTHONPATH adds them after the new environment's own."""
    names = sorted(path.relative_to(ROOT / "configs").as_posix() for path in (ROOT / "configs").rglob("*.yaml"))
    code = (
        "import sys\nfrom foretrain.run.config import shipped_config\n"
        "for name in sys.argv[1:]: print(shipped_config(name))"
    )
    (packages,) = installed.glob("lib/python*/site-packages")
    path = os.pathsep.join([str(packages), sysconfig.get_path("purelib")])
    found = run(installed / "bin" / "python", "-c", code, *names, PYTHONPATH=path).splitlines()
    configs = installed / "share" / "foretrain" / "configs"
    assert [Path(line) for line in found] == [configs / name for name in names]
    for name in names:
        assert (configs / name).read_bytes() == (ROOT / "configs" / name).read_bytes()


def test_an_installed_wheel_holds_what_is_no_code(installed):
    (package,) = installed.glob("lib/python*/site-packages/foretrain")
    for path in (ROOT / "src" / "foretrain").rglob("*"):
        if path.suffix == ".md" or path.name == "py.typed" or (path.is_file() and "pretrained" in path.parts):
            assert (package / path.relative_to(ROOT / "src" / "foretrain")).is_file(), path
