"""foretrain: train, fine-tune, evaluate and use time-series foundation models.

`import foretrain` is light: torch and pandas are imported when `load`, `fit`, `quick` or `read_table` is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["__version__", "fit", "load", "quick", "read_table"]

if TYPE_CHECKING:
    from foretrain.cli.quick_python import quick
    from foretrain.data.frames import read_table
    from foretrain.run.fit import fit
    from foretrain.run.opening import load

_LAZY = {
    "load": "foretrain.run.opening",
    "fit": "foretrain.run.fit",
    "quick": "foretrain.cli.quick_python",
    "read_table": "foretrain.data.frames",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'foretrain' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_LAZY[name]), name)
