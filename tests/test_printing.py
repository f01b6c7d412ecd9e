"""Text of others on terminals and in pictures: shown, never obeyed."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from foretrain.cli import main
from foretrain.cli.commands import command_line, progress_bar
from foretrain.data.inspection import plot_corpus
from foretrain.data.store import Corpus, CorpusWriter
from foretrain.printing import PrintableStream, printable, printable_output, without_secrets

HOSTILE = "x\x1b[31mred\x07\x9b2J\u202egnp\u2028\x00"
SHOWN = "x\\x1b[31mred\\x07\\x9b2J\\u202egnp\\u2028\\x00"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_what_acts_is_written_as_its_code_and_everything_else_stays() -> None:
    assert printable(HOSTILE) == SHOWN
    assert printable("half \udce9 of a pair") == "half \\udce9 of a pair"
    usual = "Zürich\t12.5 %\n\U0001f600 ￥ \u200f"
    assert printable(usual) == usual
    printable("\ud800").encode()


def test_what_is_printed_while_a_command_runs_is_printable(capsys) -> None:
    with printable_output():
        print(HOSTILE)
        print(HOSTILE, file=sys.stderr)
        sys.stdout.writelines([HOSTILE, "\n"])
        assert not sys.stdout.isatty() and sys.stdout.encoding
    captured = capsys.readouterr()
    assert captured.out == f"{SHOWN}\n{SHOWN}\n" and captured.err == f"{SHOWN}\n"


def test_rich_colours_a_terminal_and_escapes_what_it_is_given() -> None:
    from foretrain.training.monitor import RunConsole

    raw = Terminal()
    console = RunConsole(file=PrintableStream(raw), force_terminal=True, color_system="standard", highlight=False)
    console.print(HOSTILE, style="red", markup=False)
    assert "\x1b[31mx\\x1b[31mred" in raw.getvalue() and "\x9b" not in raw.getvalue()


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    name = HOSTILE.replace("\x00", "") + "$\\frac{$"
    with CorpusWriter(tmp_path / "c", [name, "b"], time="steps") as writer:
        for k in range(3):
            writer.append(f"{k}{name}", np.random.default_rng(k).normal(size=(2, 60)))
    return tmp_path / "c"


def test_a_progress_bar_on_a_terminal_acts_and_what_is_printed_beside_it_does_not(monkeypatch) -> None:
    raw = Terminal()
    monkeypatch.setattr(sys, "stderr", raw)
    monkeypatch.setenv("TERM", "xterm")
    with printable_output(), progress_bar("importing") as advance:
        advance(1, 2, "")
        print(HOSTILE, file=sys.stderr)
    assert "\x1b[?25l" in raw.getvalue() and "\\x1b[?25l" not in raw.getvalue()
    assert SHOWN in raw.getvalue()


def test_names_of_a_corpus_reach_a_terminal_and_a_picture_printable(corpus: Path, monkeypatch, capfd) -> None:
    monkeypatch.setattr(sys, "argv", ["foretrain", "data", "inspect", str(corpus)])
    with pytest.raises(SystemExit):
        main()
    shown = capfd.readouterr().out
    assert "\x1b" not in shown and "\\x1b[31mred" in shown
    picture = corpus.parent / "p.svg"
    plot_corpus(Corpus.open(corpus), picture)
    text = picture.read_text()
    ElementTree.fromstring(text)
    assert "\x1b" not in text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("read http://me:p%40ss@host/x, then https://token@host", "read http://***@host/x, then https://***@host"),
        ("--url=ftp://a:b/c@d@host/x", "--url=ftp://***@host/x"),
        ("Authorization: Bearer hf_abc Host: h; {'authorization': 'Basic bWU6cA=='}",
         "Authorization: Bearer *** Host: h; {'authorization': 'Basic ***"),
        ("token=abcdefgh-long and abcdefgh", "token=*** and ***"),
        ("https://host/a?b=c, me@host, short, Basic reading", "https://host/a?b=c, me@host, short, Basic reading"),
    ],
)  # fmt: skip
def test_secrets_are_taken_out_of_a_text_and_nothing_else(monkeypatch, text: str, shown: str) -> None:
    monkeypatch.setenv("MY_API_KEY", "abcdefgh")
    monkeypatch.setenv("HF_TOKEN", "abcdefgh-long")
    monkeypatch.setenv("DB_PASSWORD", "short")  # too short to be told from a word
    assert without_secrets(text) == shown


def test_the_command_that_reports_record_has_no_password(monkeypatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/bin/foretrain", "evaluate", "http://me:secret@host/x", "--out", "a b"])
    assert command_line() == "foretrain evaluate 'http://***@host/x' --out 'a b'"
