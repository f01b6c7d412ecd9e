"""HTML pages that stand alone: styles and pictures inside, no scripts, nothing fetched."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from typing import Any

from foretrain.printing import printable


def page(title: str, body: Sequence[str]) -> str:
    """Return a page of parts that are HTML already."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{esc(title)}</title><style>{_CSS}</style></head>\n<body><main>\n"
        + "\n".join(body)
        + "\n</main></body></html>\n"
    )


def rows_table(header: list[str], rows: list[str]) -> str:
    """Return a table of rows that are HTML already; the header too."""
    texts = ("verdict", "candidate")  # columns of text, aligned to the left
    head = "".join(f"<th{' class=text' if text.startswith(texts) else ''}>{text}</th>" for text in header)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'


def facts_table(facts: list[tuple[str, Any]]) -> str:
    """Return a table of names and values, which are escaped."""
    rows = "".join(f'<tr><th>{esc(name)}</th><td class="text">{esc(value)}</td></tr>' for name, value in facts)
    return f'<div class="scroll"><table class="facts"><tbody>{rows}</tbody></table></div>'


def remark(text: str) -> str:
    """Return a paragraph in small letters."""
    return f'<p class="note">{esc(text)}</p>'


def section(title: str, picture: bytes | None, alt: str, note: str = "") -> str:
    """Return a heading, a picture (PNG) and a note; "" without a picture."""
    if picture is None:
        return ""
    data = base64.b64encode(picture).decode()
    text = remark(note) if note else ""
    return f'<h2>{esc(title)}</h2><img alt="{esc(alt)}" src="data:image/png;base64,{data}">{text}'


def esc(text: str) -> str:
    """Return a text of others as HTML."""
    return html.escape(printable(str(text)), quote=True)


_CSS = """
:root{color-scheme:light}
body{margin:0;background:#f4f6f8;color:#1f2933;
 font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"DejaVu Sans",sans-serif}
main{max-width:1080px;margin:0 auto;padding:24px 28px 64px;background:#fff;box-shadow:0 0 0 1px #e4e7eb}
h1{font-size:1.7rem;line-height:1.25;margin:.2em 0 .6em;overflow-wrap:anywhere}
h2{font-size:1.2rem;margin:2em 0 .6em}
img{display:block;max-width:100%;height:auto;margin:0 auto}
.banner{background:#7a1f00;color:#fff;font-weight:700;text-align:center;padding:10px;
 margin:-24px -28px 20px;letter-spacing:.02em}
.verdict{border-left:8px solid #8a949e;background:#f4f6f8;padding:14px 18px;font-size:1.12rem}
.verdict span{color:#52606d;font-size:.92rem}
.verdict.promotion{margin-top:8px;font-size:1rem}
.verdict.better{border-color:#0072b2;background:#e8f3fa}
.verdict.worse{border-color:#d55e00;background:#fdf0e6}
.warning{border-left:8px solid #d55e00;background:#fdf0e6;padding:10px 18px;font-weight:600}
.note{color:#52606d;font-size:.9rem}
.scroll{overflow-x:auto}
table{border-collapse:collapse;font-size:.92rem;font-variant-numeric:tabular-nums;min-width:50%}
th,td{padding:6px 12px;border-bottom:1px solid #e4e7eb;text-align:right;vertical-align:top}
tbody th,thead th:first-child,.text{text-align:left!important}
tbody th{font-weight:500;min-width:7em;overflow-wrap:anywhere}
thead th{vertical-align:bottom;border-bottom:2px solid #9aa5b1}
th small{display:block;font-weight:400;color:#52606d;max-width:9em;margin-left:auto}
tr.model{background:#eef5fa}
tr.model th{font-weight:700}
td.best{font-weight:700}
i{display:inline-block;width:.75em;height:.75em;border-radius:50%;margin-right:.5em}
table.facts th{white-space:nowrap;overflow-wrap:normal}
table.facts td{overflow-wrap:anywhere}
pre{background:#f4f6f8;padding:12px 16px;overflow-x:auto;white-space:pre-wrap;overflow-wrap:anywhere}
summary{cursor:pointer;font-weight:600;margin:.4em 0}
"""
