"""Configs as data files: every folder below configs/. pyproject.toml, which says the rest, could only list them."""

from pathlib import Path

from setuptools import setup

FOLDERS = sorted({path.parent for path in Path("configs").rglob("*.yaml")})
setup(data_files=[(f"share/foretrain/{f.as_posix()}", sorted(map(str, f.glob("*.yaml")))) for f in FOLDERS])
