"""Random damage: of bytes, of the values in JSON, YAML and CSV text, of headers, and inside compressed files.

Every function is a pure function of the file and of the random generator that is passed in.
"""

from __future__ import annotations

import gzip
import io
import json
import random
import re
import struct
import zipfile
from collections.abc import Callable
from typing import Any

import yaml

Mutate = Callable[[bytes, random.Random], bytes]

WORDS = [b"\x00", b"\xff", b",", b"\n", b'"', b"-1", b"1e999", b"NaN", b"[", b"{", b"&a", b"*a", b"=", b"\x1b[31m"]
WORDS += [b"9" * 400, b"2024-13-45", b"null", b"true", b"../x", b"\xed\xa0\x80", b"\r", b"\t", b"[" * 300]

# Values as they are written in JSON. No path of them can be written to, should a command take one as its output.
NUMBERS = ["-1", "0", "1", "2", "0.5", "-0.0", "1e-320", "1e308", "-1e308", "1e400", "NaN", "Infinity", "-Infinity"]
NUMBERS += ["1000000000", "1000000000000", "9223372036854775807", "9223372036854775808", "-9223372036854775809"]
NUMBERS += ["18446744073709551616", "9" * 5000]
TEXTS = [
    '""',
    '"x"',
    '" "',
    '"\\u0000"',
    '"../x"',
    '"/proc/version"',
    '"."',
    '"nan"',
    '"-5"',
    '"\\ud800"',
    '"\\n\\u001b[31m"',
]
TEXTS += ['"' + "x" * 5000 + '"', '"2024-13-45"', '"1"', '"float32"', '"auto"', '"none"', '"\\u202e"', '"a.b.c"', '"0"']
OTHERS = ["null", "true", "false", "[]", "{}", "[null]", "[[1]]", '{"a": 1}', "[1, 2, 3]", '["x", "x"]', "[0.1, NaN]"]
OTHERS += ["[" * 200 + "]" * 200, '{"a":' * 200 + "1" + "}" * 200, "[" + "0," * 5000 + "0]"]
YAML_ONLY = [
    "2024-13-45",
    "2024-01-01",
    "0o777",
    "!!python/object:os.system [x]",
    "&a [*a]",
    "*b",
    ".inf",
    ".nan",
    "1_0",
]
YAML_ONLY += ["1:30", "yes", "? x", "|", "{", "@", "%x", "!!binary aGk=", "!!set {a}", "{<<: {a: 1}}", "~", "'", "!x y"]
CELLS = [
    "",
    "nan",
    "inf",
    "-inf",
    "1e400",
    "1e308",
    "-1e308",
    "9" * 400,
    "0x1f",
    "1,5",
    "1.234,5",
    "1_000",
    "=1+1",
    "#N/A",
]
CELLS += [
    "2024-13-45",
    "2024-01-01T00:00:00+99:99",
    "0001-01-01",
    "9999-12-31 23:59:59",
    "1e18",
    "-1",
    "\x00",
    "\x1b[2J",
]
CELLS += [
    "é" * 300,
    '"',
    '""',
    " ",
    "True",
    "1970-01-01",
    "2262-04-12",
    "24:00",
    "NaT",
    "\ufeff",
    "\u202e",
    "9223372036854775808",
]
PLAIN = re.compile("[\x20-\x7e]*")


def bytes_damaged(raw: bytes, rng: random.Random) -> bytes:
    """Return a file with one to four mutations of its bytes."""
    data = bytearray(raw)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(data) + 1)
        size = min(rng.choice((1, 1, 2, 4, 16, 64, 512)), len(data) - at)
        way = rng.randrange(8)
        if way == 0 and at < len(data):
            data[at] ^= 1 << rng.randrange(8)
        elif way == 1 and at < len(data):
            data[at] = rng.randrange(256)
        elif way == 2:
            del data[at : at + size]
        elif way == 3:
            data[at:at] = data[at : at + size]
        elif way == 4:
            data[at : at + size] = bytes(size)
        elif way == 5:
            data[at:at] = rng.choice(WORDS)
        elif way == 6:
            data[at : at + size] = rng.choice(WORDS)
        elif rng.random() < 0.3:
            del data[at:]
        if not data:
            break
    return bytes(data)


def places(tree: Any) -> list[tuple[Any, Any]]:
    """Return every (container, key or index) of a tree of dicts and lists."""
    found, level = [], [tree]
    while level:
        here = level.pop()
        keys = list(here) if isinstance(here, dict) else range(len(here))
        found += [(here, key) for key in keys]
        level += [here[key] for key in keys if isinstance(here[key], dict | list)]
    return found


def value_like(old: Any, rng: random.Random) -> str:
    """Return a hostile value as JSON text; numbers are often replaced by one near to them."""
    if isinstance(old, int | float) and not isinstance(old, bool) and rng.random() < 0.4:
        near = (old + 1, old - 1, -old, old * 2, old / 2, old * 10**9, old + 0.5, float(old))
        return json.dumps(rng.choice(near))
    if isinstance(old, str) and rng.random() < 0.3:
        return json.dumps(rng.choice((old + "x", old[1:], old.upper(), old * 3, old[::-1], f"{old}/../{old}")))
    return rng.choice(rng.choice((NUMBERS, TEXTS, OTHERS)))


def tree_damaged(tree: Any, rng: random.Random, extra: list[str]) -> tuple[Any, list[str]]:
    """Change one to three places of a tree; return it, and the texts that its placeholders @@0@@, ... stand for."""
    texts: list[str] = []

    def raw(text: str) -> str:
        texts.append(text)
        return f"@@{len(texts) - 1}@@"

    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        found = places(tree) if isinstance(tree, dict | list) else []
        if not found or rng.random() < 0.02:
            return raw(value_like(tree, rng)), texts
        container, key = rng.choice(found)
        way = rng.random()
        if way < 0.12:
            del container[key]
        elif way < 0.2 and isinstance(container, dict):
            container[str(key) + "x"] = container.pop(key)
        elif way < 0.27:
            other, its = rng.choice(found)
            container[key] = json.loads(json.dumps(other[its], default=str))
        elif way < 0.32 and isinstance(container, list):
            container.append(container[key])
        elif extra and way < 0.5:
            container[key] = raw(rng.choice(extra))
        else:
            container[key] = raw(value_like(container[key], rng))
    return tree, texts


def json_damaged(raw: bytes, rng: random.Random) -> bytes:
    """Return a JSON file with one to three changed values, keys or members."""
    tree, texts = tree_damaged(json.loads(raw), rng, [])
    text = json.dumps(tree)
    for number, value in enumerate(texts):
        text = text.replace(f'"@@{number}@@"', value)
    return text.encode("utf-8", "surrogatepass")


def lines_damaged(raw: bytes, rng: random.Random) -> bytes:
    """Return a file of JSON lines with one changed line."""
    lines = raw.splitlines()
    at = rng.randrange(len(lines))
    lines[at] = json_damaged(lines[at], rng)
    return b"\n".join(lines) + b"\n"


def yaml_damaged(raw: bytes, rng: random.Random) -> bytes:
    """Return a YAML file with one to three changed values, keys or members."""
    tree, texts = tree_damaged(yaml.safe_load(raw), rng, YAML_ONLY)
    text = yaml.safe_dump(tree, sort_keys=False)
    for number, value in enumerate(texts):
        text = text.replace(f"'@@{number}@@'", value)
    return text.encode("utf-8", "surrogatepass")


def cells_damaged(raw: bytes, rng: random.Random) -> bytes:
    """Return delimited text with changed cells, lines or columns."""
    text = raw.decode("utf-8")
    mark = "\t" if "\t" in text else ","
    rows = [line.split(mark) for line in text.splitlines()]
    for _ in range(rng.choice((1, 1, 2, 4))):
        row = rng.choice(rows) if rng.random() < 0.8 else rows[0]
        column, way = rng.randrange(len(rows[0])), rng.randrange(8)
        if way < 4 and column < len(row):
            row[column] = rng.choice(CELLS)
        elif way == 4:
            word = rng.choice(CELLS)
            for each in rows[1:]:
                if column < len(each):
                    each[column] = word
        elif way == 5:
            for each in rows:
                each.append(each[min(column, len(each) - 1)] if each else "")
        elif way == 6:
            rows.insert(rng.randrange(len(rows)), list(row))
        elif row:
            del row[-1]
            row = row or [""]
    return "\n".join(mark.join(row) for row in rows).encode("utf-8", "surrogatepass") + b"\n"


def monash_damaged(raw: bytes, rng: random.Random) -> bytes:
    """Return a .tsf file with one to three changed words of its header, fields, values or lines."""
    lines = raw.decode("utf-8").splitlines()
    for _ in range(rng.randint(1, 3)):
        at, way = rng.randrange(len(lines)), rng.randrange(8)
        mark = " " if lines[at].startswith(("@", "#")) else rng.choice(":,")
        words = lines[at].split(mark)
        place = rng.randrange(len(words))
        if way < 4:
            words[place] = rng.choice((*CELLS, "?", "string", "weekly", "999999_years", str(10**12), "1,2", "a:b"))
        elif way == 4:
            del words[place]
        elif way == 5:
            words.insert(place, words[place])
        lines[at] = mark.join(words)
        if way == 6:
            lines.insert(rng.randrange(len(lines)), lines[at])
        elif way == 7 and len(lines) > 1:
            del lines[at]
    return "\n".join(lines).encode("utf-8", "surrogatepass") + b"\n"


def header_damaged(raw: bytes, rng: random.Random) -> bytes:
    """Return a safetensors file with changed values in its header, or another length of it."""
    (size,) = struct.unpack("<Q", raw[:8])
    header = json_damaged(raw[8 : 8 + size], rng)
    length = (
        len(header) if rng.random() < 0.8 else rng.choice((0, 1, 2**31, 2**63, 2**64 - 1, len(header) + 8, 64 << 30))
    )
    return struct.pack("<Q", length) + header + raw[8 + size :]


def npy_header_damaged(raw: bytes, rng: random.Random) -> bytes:
    """Return an npy file with another shape, type or order in its header."""
    size = int.from_bytes(raw[8:10], "little")
    shape = rng.choice(
        ("()", "(0,)", "(1,)", f"({10**12},)", "(-1,)", "(3, 0)", "(2**70,)", f"({2**63},)", "(1,)*40", "3")
    )
    kind = rng.choice(
        ("<f8", "|O", "<M8[us]", "|S5", "<U3", ">f4", "|b1", "<c16", "<f2", "<f16", "V8", "x", "<i8", "<u8")
    )
    shape = rng.choice((shape, "(3, 60)", "(60, 3)", "(180,)", "(2, 90, 1)"))
    text = f"{{'descr': '{kind}', 'fortran_order': {rng.choice(('False', 'True', '1'))}, 'shape': {shape}, }}"
    header = text.ljust(max(size - 1, len(text))) + "\n"
    return raw[:8] + len(header).to_bytes(2, "little") + header.encode() + raw[10 + size :]


def inside_gzip(inner: Mutate) -> Mutate:
    """Return the mutation of what a gzip file holds."""
    return lambda raw, rng: gzip.compress(inner(gzip.decompress(raw), rng), mtime=0)


def inside_zip(inner: Mutate) -> Mutate:
    """Return the mutation of one member of a zip, whose sums are correct afterwards; sometimes of its name."""

    def mutate(raw: bytes, rng: random.Random) -> bytes:
        made = io.BytesIO()
        with zipfile.ZipFile(io.BytesIO(raw)) as old, zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as new:
            names = old.namelist()
            chosen = rng.choice(names)
            for name in names:
                content, stored = old.read(name), name
                if name == chosen and rng.random() < 0.1:
                    stored = rng.choice(("../x.csv", "/x.csv", " ", "x", name * 2, f"{name}/", "a" * 300, "\u202e.csv"))
                elif name == chosen:
                    content = inner(content, rng)
                new.writestr(stored, content)
        return made.getvalue()

    return mutate
