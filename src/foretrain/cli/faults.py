"""A line instead of silence where a page of a mapped file cannot be read (SIGBUS).

Readers look at the sizes of files before (data/mapped.py), so this is for what shrinks between two looks, and for a
disk that fails while a mapped page is read. Python's own handlers run between two instructions of Python, to which the
process would never come: this one is called by the kernel, in the thread that failed, through ctypes. It may do little:
it writes a line and ends the process, as the signal would have done, without closing anything.
"""

from __future__ import annotations

import ctypes
import faulthandler
import os
import signal
import sys

from foretrain.printing import printable

_UNKNOWN = (
    "a file that is mapped into memory cannot be read (SIGBUS): it became shorter while it was read, or its disk "
    "fails. Look at the system's log, then repeat the command (a run: --resume)."
)
_keep: list[object] = []  # the handler, for as long as the process lives


def name_bus_errors() -> None:
    """Let this process end by exit code 2 and a line that names the file, where a mapped page cannot be read.

    Nothing is done where faulthandler is enabled, or where C's signal() cannot be called.
    """
    if faulthandler.is_enabled() or _keep:
        return
    kind = ctypes.CFUNCTYPE(None, ctypes.c_int)
    try:
        install = ctypes.CDLL(None).signal
    except (OSError, AttributeError):
        return
    install.argtypes, install.restype = (ctypes.c_int, kind), ctypes.c_void_p
    _keep.append(handler := kind(_ended))
    install(signal.SIGBUS, handler)


def _ended(number: int) -> None:
    try:
        mapped = sys.modules.get("foretrain.data.mapped")
        text = (mapped.shortened() if mapped is not None else None) or _UNKNOWN
        os.write(2, f"error: {printable(text)}\n".encode(errors="replace"))
    finally:
        os._exit(2)
