"""What an installed wheel holds."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
from pathlib import Path

import pytest

pytestmark = pytest.mark.processes

ROOT = Path(__file__).parents[1]


def run(*command: str | Path, cwd: Path | None = None, **environment: str) -> str:
    """What a command prints."""
    done = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, timeout=300, cwd=cwd)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """A virtual environment with the wheel alone, made without a network from a copy of what the wheel is built of."""
    folder = tmp_path_factory.mktemp("wheel") / "mit Lücken"
    folder.mkdir()
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


def test_an_installed_wheel_opens_every_config_by_name_in_any_folder(installed, tmp_path):
    """With the other packages of this environment: PYTHONPATH adds them after the new environment's own."""
    files = sorted((ROOT / "configs").rglob("*.yaml"))
    names = [path.relative_to(ROOT / "configs").with_suffix("").as_posix() for path in files]
    code = (
        "import sys\nfrom foretrain.run.shipped import shipped_config\n"
        "for name in sys.argv[1:]: print(shipped_config(name))"
    )
    (packages,) = installed.glob("lib/python*/site-packages")
    path = os.pathsep.join([str(packages), sysconfig.get_path("purelib")])
    python = installed / "bin" / "python"
    found = [Path(line) for line in run(python, "-c", code, *names, PYTHONPATH=path, cwd=tmp_path).splitlines()]
    assert found == [packages / "foretrain" / "configs" / f"{name}.yaml" for name in names]
    assert [place.read_bytes() for place in found] == [file.read_bytes() for file in files]
    listed = run(installed / "bin" / "foretrain", "config", "list", PYTHONPATH=path, cwd=tmp_path)
    assert sorted(re.findall(r"^  (\S+)  +\S", listed, flags=re.M)) == sorted(names)
    assert not (installed / "share" / "foretrain").exists()


def test_a_source_distribution_holds_the_configs(installed):
    source = installed.parent / "source"
    code = "from setuptools import build_meta; print(build_meta.build_sdist('dist'))"
    name = run(sys.executable, "-c", code, cwd=source).splitlines()[-1]
    with tarfile.open(source / "dist" / name) as archive:
        held = {member.partition("/")[2] for member in archive.getnames()}
    assert held >= {path.relative_to(ROOT).as_posix() for path in (ROOT / "configs").rglob("*.yaml")}


def test_an_installed_wheel_holds_what_is_no_code(installed):
    (package,) = installed.glob("lib/python*/site-packages/foretrain")
    for path in (ROOT / "src" / "foretrain").rglob("*"):
        shipped = path.name == "py.typed" or (path.is_file() and "pretrained" in path.parts)
        if shipped or path.suffix in (".md", ".yaml", ".csv"):
            assert (package / path.relative_to(ROOT / "src" / "foretrain")).is_file(), path
