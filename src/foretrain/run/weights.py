"""Whether the weights that a run starts from are there."""

from __future__ import annotations

from pathlib import Path

from foretrain.config import leaves
from foretrain.errors import ModelError
from foretrain.models.hub import resolve
from foretrain.run.config import RunConfig

# (what a config names, its revision): the weights of a run and of the frozen parts of its model
Named = tuple[str, str | None]
_REMEDY = ("run once without offline", "check the connection, or give a local folder")


def named_weights(config: RunConfig) -> list[Named]:
    """Return every release that the model section names by a folder or hub id."""
    tree, found = config.model.model_dump(mode="json"), list[Named]()
    for key, value, rule in leaves(type(config.model), tree):
        if rule.on_resume == "fingerprint" and value and not key.endswith("revision"):
            found.append((value, tree.get("revision" if key == "model_id" else f"{key}_revision")))
    return found


def missing_weights(config: RunConfig) -> list[str]:
    """Return a message for each release named by the model section that is not on this machine and not on the hub, or
    that holds no weights. Downloads nothing."""
    return [problem for name, revision in named_weights(config) if (problem := _problem(name, revision))]


def _problem(name: str, revision: str | None) -> str:
    try:
        folder = resolve(name, revision, offline=True)
    except ModelError as error:
        return "" if _on_hub(name, revision) else str(error).replace(*_REMEDY)
    return "" if any(Path(folder).glob("*.safetensors")) else f"{folder}: holds no weights (*.safetensors)."


def _on_hub(name: str, revision: str | None) -> bool:
    """Return True if the hub can be asked and has the repository."""
    import huggingface_hub as hub

    try:
        hub.model_info(name, revision=revision, timeout=5)
    except Exception:  # offline, no connection, no such repository: the classes depend on the version
        return False
    return True
