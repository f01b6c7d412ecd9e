"""Arrays in .npy and .npz files: what their headers claim is compared with what is there before anything is read.

The kind of a file is told by its first bytes, not by its name.
"""

from __future__ import annotations

import math
import tokenize
import zipfile
from pathlib import Path
from typing import IO

import numpy as np
from numpy.lib import format as npy

from foretrain.data.importers.content import is_bomb
from foretrain.errors import DataError
from foretrain.reading import unpacking

_ZIP, _NPY = b"PK", b"\x93NUMPY"


class _BadArray(ValueError):
    """Why an array cannot be read."""


def read_arrays(path: Path) -> tuple[dict[str, np.ndarray], bool]:
    """Return the arrays of a file by name ("" in a .npy file), and whether it is an archive. Raises DataError."""
    try:
        with path.open("rb") as file:
            start = file.read(len(_NPY))
            file.seek(0)
            if start == _NPY:
                return {"": _array(file, path.stat().st_size)}, False
            if start[:2] != _ZIP:
                raise _BadArray("it begins like neither a .npy nor a .npz file")
            with unpacking(), zipfile.ZipFile(file) as archive:
                arrays = {name.removesuffix(".npy"): _member(archive, name) for name in archive.namelist()}
                if not arrays:
                    raise _BadArray("it holds no arrays")
                return arrays, True
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}.") from None
    except (ValueError, EOFError, SyntaxError, tokenize.TokenError, TypeError, OverflowError, MemoryError) as error:
        why = " ".join(str(error).split())[:120] or type(error).__name__
        raise DataError(f"{path}: no arrays of numbers that can be read ({why}). Write the file again.") from None


def _member(archive: zipfile.ZipFile, name: str) -> np.ndarray:
    entry = archive.getinfo(name)
    if not name.endswith(".npy"):
        raise _BadArray(f"member {name!r} is no array")
    if is_bomb(entry.file_size, entry.compress_size):
        raise _BadArray(f"member {name!r} claims {entry.file_size:,} bytes in {entry.compress_size:,}")
    with archive.open(entry) as file:
        return _array(file, entry.file_size)


def _array(file: IO[bytes], size: int) -> np.ndarray:
    """Return the array of a .npy file of `size` bytes."""
    version = npy.read_magic(file)
    if version not in ((1, 0), (2, 0), (3, 0)):
        raise _BadArray(f"version {version} of the format")
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, fortran, dtype = read(file)
    if dtype.hasobject:
        raise _BadArray("it holds objects, which only pickle reads")
    claimed, held = math.prod(shape) * dtype.itemsize, size - file.tell()
    if claimed != held:
        raise _BadArray(f"its header says shape {shape} of {dtype}, {claimed:,} bytes, and {held:,} follow")
    if not claimed:
        raise _BadArray(f"shape {shape} holds no values")
    flat = np.frombuffer(file.read(held), dtype)
    return flat.reshape(shape[::-1]).T if fortran else flat.reshape(shape)
