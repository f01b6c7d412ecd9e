"""Reading the config.json of a release."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from foretrain.errors import ModelError
from foretrain.reading import read_object


def read_config_json(path: Path) -> dict[str, Any]:
    """Return the JSON object in a config.json. Raises ModelError if the file is missing or holds anything else."""
    try:
        return read_object(path)
    except FileNotFoundError:
        raise ModelError(f"{path}: no such file; a release holds config.json and model.safetensors.") from None
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}: cannot be read as JSON ({' '.join(str(error).split())}).") from None
