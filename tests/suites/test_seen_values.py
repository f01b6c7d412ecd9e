"""Windows of several tasks in the corpora that several models were trained on."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from tests.data.test_lineage import update, write
from tests.suites.tasks import series, task
from tests.suites.test_contamination import corpus, walk

from foretrain.data.importers import import_corpus
from foretrain.data.store import Corpus
from foretrain.errors import ConfigError
from foretrain.forecasting.ancestry import Ancestry
from foretrain.suites import seen_values
from foretrain.suites.known_windows import LENGTH
from foretrain.suites.seen_values import TrainingPart, compare_all, compare_values, parts_of_models
from foretrain.suites.windows import windows_of


def recorded(of: Corpus, test_steps: int = 0, **more) -> dict:
    return {"corpora": [{"name": "mine", "fingerprint": of.fingerprint}], "data": {"test_steps": test_steps}} | more


def test_long_horizons_are_looked_for_in_pieces_and_each_variate_is_a_window():
    both = np.stack([walk(300, 0), walk(300, 1)])
    wide = [series(both, variates=("a", "b"))]
    found = compare_values(task(horizon=80), wide, [TrainingPart(corpus(walk(300, 1)[:250]))])
    assert (found.scored, found.found) == (2, 1)  # the truth from 220 on


def by_loops(of, items, horizon: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Windows that end in the truth, then those of history."""
    scored, history, first = [], [], {}
    for cut in windows_of(of, items):
        first[cut.series] = min(cut.cutoff, first.get(cut.series, cut.cutoff))
        for values in items[cut.series].values:
            stops = range(cut.cutoff + horizon, cut.cutoff, -LENGTH)
            scored += [values[stop - LENGTH : stop] for stop in stops if stop >= LENGTH]
    for index, cutoff in first.items():
        for values in items[index].values:
            stops = range(cutoff, max(cutoff - 8 * LENGTH, LENGTH - 1), -LENGTH)
            history += [values[stop - LENGTH : stop] for stop in stops]
    return scored, history


@pytest.mark.parametrize(("rule", "horizon"), [("gift-eval", 3), ("gift-eval", 70), ("fev", 40), ("offset", 33)])
def test_what_is_looked_for_is_what_loops_cut(rule: str, horizon: int):
    of = task(rule=rule, horizon=horizon, num_windows=2, min_context=5)
    lengths = (300, 150, 20 + 2 * horizon, 9 + horizon) if rule == "fev" else (300, 150, 20 + 2 * horizon)
    items = [
        series(np.stack([walk(n, 2 * k), walk(n, 2 * k + 1)]), item=str(k), variates=("a", "b"))
        for k, n in enumerate(lengths)
    ]
    wanted = seen_values._wanted(of, items, most=10_000)
    scored, history = by_loops(of, items, horizon)
    rows = [row.tobytes() for row in wanted.windows]
    assert Counter(rows[: len(scored)]) == Counter(row.tobytes() for row in scored)
    assert Counter(rows[len(scored) :]) == Counter(row.tobytes() for row in history)
    assert (wanted.owner[: len(scored)] >= 0).all() and (wanted.owner[len(scored) :] == -1).all()
    assert wanted.scored == 2 * len(windows_of(of, items))
    assert wanted.scored - wanted.without == len(np.unique(wanted.owner[: len(scored)]))
    few = seen_values._wanted(of, items, most=5)
    assert len(few.windows) == 5 and {row.tobytes() for row in few.windows} <= set(rows)


def test_windows_that_no_value_can_tell_are_counted():
    flat = [series(np.ones(50)), series(np.arange(10.0))]
    found = compare_values(task(), flat, [TrainingPart(corpus(np.ones(60)))])
    assert (found.scored, found.found, found.left_out, found.windows) == (0, 0, 2, 2)


def test_of_too_many_values_a_sample_of_series_is_compared():
    small, mine = task(horizon=4), [series(walk(300, 500))]
    many = [TrainingPart(corpus(*(walk(100, k) for k in range(60))))]
    found = compare_values(small, mine, many, most_values=3_000)
    assert 0 < found.values < 5_000 and found.of_values == 6_000
    assert found == compare_values(small, mine, many, most_values=3_000)


def test_each_series_is_read_once_for_all_tasks_and_models(monkeypatch):
    first, second = task(horizon=4), task(rule="gift-eval", horizon=4)
    second = type(second)("other", second.suite_name, second.suite, second.definition)
    held, other = corpus(walk(300, 0), walk(300, 1)), corpus(walk(300, 9))
    reads, values = list[tuple[int, int]](), Corpus.values
    monkeypatch.setattr(Corpus, "values", lambda self, k: reads.append((id(self), k)) or values(self, k))
    tasks = [(first, [series(walk(300, 0))]), (second, [series(walk(300, 9)), series(walk(300, 1))])]
    until = np.array([296, 300])
    found = compare_all(tasks, {"a": [TrainingPart(held, until)], "b": [TrainingPart(held), TrainingPart(other)]})
    assert sorted(reads) == sorted({(id(held), 0), (id(held), 1), (id(other), 0)})
    each = {key: (one.found, one.scored, one.earlier > 0, one.of_values) for key, one in found.items()}
    assert each == {
        ("a", ("test", "small")): (0, 1, True, 600),  # the truth was held out
        ("b", ("test", "small")): (1, 1, True, 900),
        ("a", ("test", "other")): (8, 16, True, 600),  # of two items with eight windows
        ("b", ("test", "other")): (16, 16, True, 900),
    }


def test_a_corpus_counts_for_models_that_record_it_else_for_those_without_a_whole_record():
    mine, other = corpus(walk(300, 0)), corpus(walk(300, 9))
    open_ancestor = recorded(other, ancestry=Ancestry(unknown=("model",)).to_json())
    facts = {"naive": None, "trained": recorded(mine, test_steps=4), "function": {}, "tuned": open_ancestor}
    found = parts_of_models(facts, [mine])
    assert {model: [(part.recorded, part.rows) for part in parts] for model, parts in found.items()} == {
        "trained": [(True, np.array([296]))]
    }
    stranger = corpus(walk(300, 77))
    found = parts_of_models(facts, [stranger])
    assert {model: [part.recorded for part in parts] for model, parts in found.items()} == {
        "function": [False], "tuned": [False]
    }  # fmt: skip
    with pytest.raises(ConfigError, match="--trained-on mine: counts for no model here"):
        parts_of_models({"naive": None, "trained": recorded(mine)}, [mine, stranger])


def test_of_an_updated_corpus_the_rows_of_then_count(tmp_path):
    write(tmp_path / "in", "a", 100)
    import_corpus([tmp_path / "in"], tmp_path / "out")
    then = Corpus.open(tmp_path / "out")
    write(tmp_path / "in", "a", 130)
    now = update(tmp_path / "in", tmp_path / "out")
    (part,) = parts_of_models({"trained": recorded(then, test_steps=10)}, [now])["trained"]
    assert part.recorded and part.rows is not None and part.rows.tolist() == [90]
    assert part.fingerprints == [now.fingerprint, then.fingerprint]
