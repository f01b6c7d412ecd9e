"""`make sbom`: what an installation of foretrain consists of, as CycloneDX JSON.

    cyclonedx-py environment --pyproject pyproject.toml .venv | python -m tools.sbom > sbom.json

Takes the list of this interpreter's whole environment and leaves what foretrain's own requirements reach. Neither its
extras nor the tools of development are part of an installation.
"""

from __future__ import annotations

import json
import sys
from importlib.metadata import requires
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PROJECT = "foretrain"


def main() -> None:
    """Read the list of an environment from stdin and write that of an installation to stdout."""
    json.dump(pruned(json.load(sys.stdin), reached(PROJECT) - {PROJECT}), sys.stdout, indent=1)
    print()


def reached(name: str) -> set[str]:
    """Return a distribution's canonical name and those of all that it requires on this machine, over any steps."""
    seen, ahead = set[tuple[str, str]](), [(name, "")]
    while ahead:
        found = ahead.pop()
        if found in seen:
            continue
        seen.add(found)
        for needed in map(Requirement, requires(found[0]) or ()):
            if needed.marker is None or needed.marker.evaluate({"extra": found[1]}):
                ahead += [(str(canonicalize_name(needed.name)), extra) for extra in ("", *needed.extras)]
    return {name for name, _ in seen}


def pruned(bom: dict[str, Any], names: set[str]) -> dict[str, Any]:
    """Return a CycloneDX document with the components of these canonical names, and the edges between them.

    Raises ValueError if a name is no component.
    """
    components = [part for part in bom["components"] if canonicalize_name(part["name"]) in names]
    if missing := names - {canonicalize_name(part["name"]) for part in components}:
        raise ValueError(f"not in the list of the environment: {', '.join(sorted(missing))}")
    kept = {part["bom-ref"] for part in components} | {bom["metadata"]["component"]["bom-ref"]}
    edges = [
        {**edge, "dependsOn": [ref for ref in edge.get("dependsOn", ()) if ref in kept]}
        for edge in bom["dependencies"]
        if edge["ref"] in kept
    ]
    return {**bom, "components": components, "dependencies": edges}


if __name__ == "__main__":
    main()
