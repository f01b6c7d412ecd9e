"""Files of lines that several processes append to: what a killed one left of a line is no line."""

from __future__ import annotations

import os
from typing import BinaryIO


def drop_torn_line(file: BinaryIO) -> int:
    """Truncate what follows the last whole line of a file that is open for reading and writing. Returns its size."""
    size = end = file.seek(0, os.SEEK_END)
    while end:
        start = max(0, end - 65536)
        file.seek(start)
        found = file.read(end - start).rfind(b"\n")
        if found >= 0:
            end = start + found + 1
            break
        end = start
    if end < size:
        file.truncate(end)
    return end
