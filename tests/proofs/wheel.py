"""The first minutes from a wheel: build, install into a new environment, forecast a CSV in an empty folder, train a
shipped config by its name there, and ask the doctor; offline, in a folder with blanks and umlauts in its name.

    python tests/proofs/wheel.py [--download]

The new environment takes the other packages from this interpreter's or, with --download, from pip's index. The forecast
runs in a namespace without a network (Linux `unshare`), and where there is none, under a hook that fails on any socket.
The home folder is a new one, too. Prints the sizes of wheel and sdist, the commands' output and the forecast's
seconds; fails if that takes more than 10 CPU seconds, which a busy machine does not change, without a picture, or if a
shipped config is missing.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import time
import venv
import zipfile
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[2]
PLACE = "Ein Ort für alles"
MOST_SECONDS, MOST_BYTES = 10.0, 10_000_000
REFUSE = """\
import sys
def refuse(event, details):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.bind"): raise RuntimeError(event)
sys.addaudithook(refuse)
"""


def run(*command: object, **more: object) -> str:
    """Run a command and return what it prints."""
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False, **more)  # type: ignore
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, command))} failed:\n{done.stdout}{done.stderr}")
    return done.stdout + done.stderr


def build(folder: Path) -> tuple[Path, Path]:
    """Build wheel and sdist of a copy of the repository, without a network. Returns both files."""
    source = folder / "source"
    for name in ("src", "configs"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for kind in ("sdist", "wheel"):
        code = f"from setuptools import build_meta; build_meta.build_{kind}({str(folder / 'dist')!r})"
        run(sys.executable, "-c", code, cwd=source)
    (wheel,), (sdist,) = (folder / "dist").glob("*.whl"), (folder / "dist").glob("*.tar.gz")
    return wheel, sdist


def install(wheel: Path, folder: Path, download: bool) -> Path:
    """Install a wheel into a new environment. Returns its folder of programs."""
    venv.create(folder, with_pip=download, symlinks=True)
    programs = folder / "bin"
    if download:
        run(programs / "python", "-m", "pip", "install", "--quiet", wheel)
        return programs
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", folder)
    run(*pip, "install", "--no-deps", "--no-index", "--quiet", wheel)
    (packages,) = folder.glob("lib/python*/site-packages")
    (packages / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return programs


def offline(programs: Path, folder: Path) -> tuple[list[str], dict[str, str]]:
    """Return the head of a command that has no network, and its environment."""
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "HF_HUB_OFFLINE")}
    environment["HOME"] = str(folder / "home")
    unshare = shutil.which("unshare")
    if unshare and subprocess.run([unshare, "-rn", "true"], capture_output=True, check=False).returncode == 0:
        return [unshare, "-rn", str(programs / "foretrain")], environment
    (folder / "sitecustomize.py").write_text(REFUSE)
    return [str(programs / "foretrain")], environment | {"PYTHONPATH": str(folder)}


def cpu_seconds() -> float:
    """Return user and system time of all finished children."""
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    return spent.ru_utime + spent.ru_stime


def main() -> None:
    """Run the proof."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--download", action="store_true", help="install dependencies from pip's index")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / PLACE
        folder.mkdir()
        wheel, sdist = build(folder)
        held = zipfile.ZipFile(wheel).namelist()
        with tarfile.open(sdist) as archive:
            packed = archive.getnames()
        for path in (ROOT / "src" / "foretrain" / "pretrained").rglob("*.*"):
            name = path.relative_to(ROOT / "src").as_posix()
            assert name in held, f"the wheel lacks {name}"
            assert any(entry.endswith(f"/src/{name}") for entry in packed), f"the sdist lacks {name}"
        for path in (ROOT / "configs").rglob("*.yaml"):
            name = path.relative_to(ROOT).as_posix()
            assert f"foretrain/{name}" in held, f"the wheel lacks {name}"
            assert any(entry.endswith(f"/{name}") for entry in packed), f"the sdist lacks {name}"
        for file in (wheel, sdist):
            print(f"{file.name}: {file.stat().st_size:,} bytes")
            assert file.stat().st_size <= MOST_BYTES
        programs = install(wheel, folder / "venv", options.download)
        head, environment = offline(programs, folder)
        empty = folder / "empty"
        empty.mkdir()
        months = np.arange("2012-01", "2024-01", dtype="datetime64[M]")
        values = 100 + np.arange(144) + 20 * np.sin(np.arange(144) * np.pi / 6)
        lines = [f"{month},{value:.2f}" for month, value in zip(months, values, strict=True)]
        (empty / "sales.csv").write_text("\n".join(["month,sales", *lines]) + "\n")
        began, used = time.perf_counter(), cpu_seconds()
        print(run(*head, "forecast", "sales.csv", cwd=empty, env=environment), end="")
        seconds, used = time.perf_counter() - began, cpu_seconds() - used
        picture = (empty / "sales-forecast.png").read_bytes()
        assert picture.startswith(b"\x89PNG") and len(picture) > 10_000
        assert len((empty / "sales-forecast.csv").read_text().splitlines()) == 19
        how = "no network" if "unshare" in head[0] else "no socket"
        print(f"{seconds:.1f} s, {used:.1f} s of CPU; picture of {len(picture):,} bytes; {how}")
        assert used < MOST_SECONDS, f"{used:.1f} s of CPU; at most {MOST_SECONDS:.0f}"
        by_name(head, environment, folder / "another")


def by_name(head: list[str], environment: dict[str, str], empty: Path) -> None:
    """Train, list and generate in an empty folder, with nothing but names of shipped configs; ask the doctor."""
    empty.mkdir()
    commands = (
        ["config", "list"],
        ["train", "debug", "training.max_steps=3", "optimizer.schedule.warmup_steps=0"],
        ["train", "configs/kronos/debug.yaml", "--dry-run"],
        ["data", "generate", "synthetic/mixture", "--out", "series", "--num-series", "20", "--workers", "2"],
        ["evaluate", "runs/debug", "--data", "series", "--num-windows", "2"],
    )
    for command in commands:
        said = run(*head, *command, cwd=empty, env=environment)
        print(f"foretrain {shlex.join(command)}: {said.strip().splitlines()[-1]}")
    assert (empty / "runs" / "debug" / "release" / "model.safetensors").is_file()
    report = subprocess.run([*head, "doctor", "--json"], cwd=empty, env=environment, capture_output=True, check=False)
    findings = json.loads(report.stdout)["findings"]
    print("\n".join(f"doctor: {f['state']} {f['topic']}: {f['fact']}" for f in findings if f["state"] != "ok"))
    assert all(f["state"] == "ok" for f in findings if f["topic"] in ("packages", "configs", "model in the box"))


if __name__ == "__main__":
    main()
