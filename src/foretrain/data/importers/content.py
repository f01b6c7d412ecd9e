"""The bytes of a file: unpack gzip, and recognise what is no table by its first bytes (pages, messages, archives)."""

from __future__ import annotations

import re
import zlib
from pathlib import Path

from foretrain.errors import DataError

LARGEST_UNCHECKED = 256 << 20  # bytes that packed ones may become, however few these are
_PIECE = 32 << 20  # bytes unpacked at once
MOST_RATIO = 200  # of unpacked to packed bytes beyond that; tables reach 50, formats 1,032
_MAGIC = (
    (b"%PDF", "a PDF document. Export the table as CSV."),
    (b"\xd0\xcf\x11\xe0", "an Excel workbook of the old kind (.xls). Save it as .xlsx or CSV."),
    (b"PK\x03\x04", "a zip archive or an Excel workbook. Rename it to .zip or .xlsx."),
    (b"PAR1", "a Parquet file. Rename it to .parquet."),
    (b"ARROW1", "a Feather file. Rename it to .feather."),
    (b"\x93NUMPY", "a numpy array. Rename it to .npy."),
    (b"\x89PNG", "a picture."),
    (b"\xff\xd8\xff", "a picture."),
    (b"\x89HDF", "an HDF5 file. Export the table as CSV or Parquet."),
    (b"SQLite format 3", "an SQLite database. Export the table as CSV or Parquet."),
    (b"BZh", "compressed with bzip2. Unpack it, or compress it with gzip."),
    (b"\xfd7zXZ", "compressed with xz. Unpack it, or compress it with gzip."),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd. Unpack it, or compress it with gzip."),
    (b"7z\xbc\xaf", "a 7z archive. Unpack it."),
    (b"Rar!", "a RAR archive. Unpack it."),
    (b"{\\rtf", "an RTF document. Export the table as CSV."),
)
_BEGINNINGS = tuple(magic for magic, _ in _MAGIC)
_MARKUP = re.compile(
    r"<(!doctype|html|head|body|title|table|script|div|span|center|h\d|br|hr|p|b|pre|!--|\?xml|\?php|error)(?=[\s>/\[-])",
    re.IGNORECASE,
)
_JSON = re.compile(r"\{\s*[\"'}]|\[\s*[\[{\"\]]")


def decompress(path: Path, raw: bytes) -> bytes:
    """Return the bytes of a file, unpacked if they are gzip. Raises DataError if these are damaged."""
    if raw[:2] != b"\x1f\x8b":
        return raw
    try:
        return _unpack(raw)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: damaged gzip file ({error}). Fetch it again.") from None


def is_bomb(size: int, packed: int) -> bool:
    """Return True if packed bytes claim to be so many more that they are made to fill the memory."""
    return size > LARGEST_UNCHECKED and size > MOST_RATIO * packed


def _unpack(raw: bytes) -> bytes:
    """Return the content of the members of a gzip file. Raises zlib.error, EOFError, or OSError for a bomb."""
    parts, size, rest = list[bytes](), 0, raw
    while rest[:2] == b"\x1f\x8b":
        unpacker = zlib.decompressobj(wbits=31)
        while not unpacker.eof:
            part = unpacker.decompress(rest, _PIECE)
            parts.append(part)
            size += len(part)
            packed = len(raw) - len(unpacker.unconsumed_tail or unpacker.unused_data)  # those read so far
            if is_bomb(size, packed):
                raise OSError(f"{packed:,} bytes unpack to more than {size:,}")
            if not part and not unpacker.unconsumed_tail and not unpacker.eof:
                raise EOFError("it ends in the middle")
            rest = unpacker.unconsumed_tail
        rest = unpacker.unused_data.lstrip(b"\0")
    return b"".join(parts)


def refuse_binary(path: Path, raw: bytes) -> None:
    """Raise DataError if the bytes are a document, an archive or another binary file, naming what it is."""
    if not raw.startswith(_BEGINNINGS):
        return
    for magic, what in _MAGIC:
        if raw.startswith(magic):
            raise DataError(f"{path}: this is no table of text but {what}")


def refuse_message(path: Path, text: str) -> None:
    """Raise DataError if a text begins like a page, or like JSON, as servers send instead of a table."""
    head = text[:4096].lstrip("\ufeff \t\r\n")
    shown = repr(" ".join(head.split())[:70])
    if _MARKUP.match(head):
        kind = "an XML document" if head.lower().startswith("<?xml") and "<html" not in head.lower() else "an HTML page"
        raise DataError(
            f"{path}: looks like {kind}, not like a table ({shown}). Fetch the file again, and open it to see what the "
            "server said."
        )
    if _JSON.match(head):
        raise DataError(
            f"{path}: holds JSON, not a table of text ({shown}). If this is a message of a server, fetch the file "
            "again; records are read from files named .json or .jsonl."
        )
    if "\x00" in head:
        way = "say its encoding, for example --encoding utf-16-le" if _every_second(head) else "export it as CSV"
        raise DataError(f"{path}: holds binary data, not text; {way}.")


def _every_second(head: str) -> bool:
    """Return True if every second character is NUL, as in UTF-16 text without a byte order mark."""
    return any(len(half) > 4 and set(half) == {"\x00"} for half in (head[:200:2], head[1:200:2]))
