from __future__ import annotations

import pytest

from foretrain.data.market.sources import NoAnswerError, Patience, SymbolError


class Refusal(Exception):
    pass


def asking(errors: list[Exception], retries: int = 4):
    """Ask a source that raises errors and then answers; return what it said, the waits and the lines."""
    waits, lines, left = [], [], list(errors)

    def question() -> str:
        if left:
            raise left.pop(0)
        return "answer"

    patience = Patience(retries, sleep=waits.append, say=lines.append)
    try:
        answer = patience.ask("AAPL", question, lambda error: isinstance(error, OSError), Refusal)
    except (NoAnswerError, SymbolError) as error:
        answer = error
    return answer, waits, lines


def test_a_source_is_asked_again_after_ever_longer_waits():
    answer, waits, lines = asking([OSError("too many requests")] * 4)
    assert (answer, waits) == ("answer", [5, 15, 45, 90])
    assert lines[0] == "AAPL: too many requests; asked again in 5 s"


def test_a_source_that_never_answers_is_given_up():
    answer, waits, _ = asking([OSError("no route")] * 3, retries=2)
    assert isinstance(answer, NoAnswerError) and str(answer) == "no answer in 3 tries (no route)"
    assert waits == [5, 15]


def test_what_will_not_change_is_not_asked_again():
    answer, waits, _ = asking([Refusal("no such symbol.")])
    assert isinstance(answer, SymbolError) and (str(answer), waits) == ("no such symbol", [])
    answer, _, _ = asking([KeyError("timestamp")])
    assert str(answer) == "the package failed, KeyError: 'timestamp'"


def test_no_memory_is_no_fault_of_the_source():
    with pytest.raises(MemoryError):
        asking([MemoryError()])
