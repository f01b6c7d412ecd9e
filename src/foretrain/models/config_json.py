"""Reading the config.json of a release."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from foretrain.errors import ModelError


def read_config_json(path: Path) -> dict[str, Any]:
    """Return the JSON object in a config.json. Raises ModelError if the file is missing or holds anything else."""
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError(f"{path}: no such file; a release holds config.json and model.safetensors.") from None
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}: cannot be read as JSON ({' '.join(str(error).split())}).") from None
    if not isinstance(raw, dict):
        raise ModelError(f"{path}: not a JSON object.")
    return raw
