"""Puts the shipped configs, the folder configs/ of a clone, into the package as foretrain/configs.

pyproject.toml says the rest; package data can only be taken from below src/foretrain.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

CONFIGS = Path("configs")


class BuildWithConfigs(build_py):
    """build_py that also copies the configs. An editable installation needs no copy: it reads the clone's."""

    def run(self) -> None:
        """Build the package."""
        super().run()
        if self.editable_mode:
            return
        built = Path(self.build_lib) / "foretrain" / "configs"
        shutil.rmtree(built, ignore_errors=True)  # an earlier build may have configs that are gone
        for path in self._configs():
            target = built / path.relative_to(CONFIGS)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)

    def get_source_files(self) -> list[str]:
        """Return what a source distribution holds of the package."""
        return [*super().get_source_files(), *map(str, self._configs())]

    @staticmethod
    def _configs() -> list[Path]:
        return sorted(CONFIGS.rglob("*.yaml"))


setup(cmdclass={"build_py": BuildWithConfigs})
