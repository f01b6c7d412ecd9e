"""Models in the box: releases that the package itself holds, so that they need no download."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

from foretrain.notes import Code, Note

FOLDER = Path(__file__).parents[1] / "pretrained"
DEFAULT = "tiny"  # forecasts, and starts a fit, where no model is named


@cache
def shipped() -> dict[str, Path]:
    """Return the releases in the package by name."""
    return {folder.name: folder for folder in sorted(FOLDER.glob("*")) if (folder / "config.json").is_file()}


def default_model() -> str:
    """Return what stands for a model that is not named: DEFAULT, or its path if something here is called so."""
    return str(shipped()[DEFAULT]) if Path(DEFAULT).exists() else DEFAULT


def describe(name: str) -> str:
    """Return what a model in the box is: "tiny (chronos2, 1.31 million parameters, trained on synthetic series)"."""
    facts = json.loads((shipped()[name] / "release.json").read_text(encoding="utf-8"))
    about = facts["pretraining"]
    return f"{name} ({about['family']}, {about['parameters'] / 1e6:.2f} million parameters, trained on {about['data']})"


def default_note(use: str, other: str) -> Note:
    """Return the note that no model is named, so that DEFAULT does something; other: how to have another one."""
    return Note(Code.DEFAULT_MODEL, f"no model is named, so {describe(DEFAULT)} {use}; {other}.")
