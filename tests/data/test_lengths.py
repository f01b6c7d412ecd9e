from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from foretrain.config import build
from foretrain.data.config import DataConfig
from foretrain.data.lengths import NONE, remedies, rows_needed
from foretrain.data.source import TrainingSource
from foretrain.data.store import Corpus
from foretrain.errors import DataError

THOUSAND = [(f"{k}", np.ones((1, 1000), np.float32), None) for k in range(3)]


def config(**options) -> DataConfig:
    return build(DataConfig, {"corpora": [{"path": "unused"}], **options})


def refusal(items=THOUSAND, **options) -> str:
    with pytest.raises(DataError) as caught:
        TrainingSource(config(**options), 0, [Corpus.from_arrays("files", items, ["x"])])
    return str(caught.value)


FINE_TUNING = {"context_length": 4096, "prediction_length": 64, "stride": 64, "sampling": "epoch"}


def test_whole_windows_longer_than_every_file_are_refused_with_lengths_that_work():
    """Full windows, as Kronos asks for them: 1,000 rows less 64 + 64 of validation and test and 64 of the future."""
    text = refusal(**FINE_TUNING, min_context=4096)
    assert "the longest has 1,000 rows; needed are 4,288 (min_context 4,096 + prediction_length 64 +" in text
    assert "data.context_length=808 data.min_context=808  # whole contexts" in text
    assert "data.min_context=808  # contexts padded to 4,096" in text


def test_without_a_least_context_long_windows_are_padded_on_short_files():
    made = TrainingSource(config(**FINE_TUNING), 0, [Corpus.from_arrays("files", THOUSAND, ["x"])])
    assert made.windows(0, 4).context.shape == (4, 4096)


def test_a_horizon_that_is_too_long_is_refused_with_the_longest_that_works():
    text = refusal(context_length=512, prediction_length=300)  # needs 4 x 300
    assert "data.min_context=100  # contexts padded to 512" in text
    assert "\n  data.prediction_length=250\n" in text
    assert "data.min_prediction_length=100  # shorter futures for the newest windows" in text


def test_the_median_length_is_reported_if_one_series_is_longer():
    items = [(f"{k}", np.ones((1, 40 if k else 1000), np.float32), None) for k in range(5)]
    assert "Half of its series have 40 rows or more" in refusal(items, **FINE_TUNING, min_context=4096)


def test_series_that_are_all_held_out_are_not_called_short():
    assert "all of its 3 series are held out (data.holdout_fraction 0.999999)" in refusal(
        context_length=8, prediction_length=2, holdout_fraction=0.999999
    )


def test_a_least_number_of_rows_that_no_series_has_is_named():
    text = refusal(context_length=8, prediction_length=2, min_rows=2000)
    assert re.search(r"data.min_rows asks for 2000.* would work, each line alone:\n  data.min_rows=1000$", text)


def test_parts_that_leave_nothing_to_train_on_are_refused_with_the_longest_that_work():
    """The lengths of Kronos' two stages on files of 1,000 rows."""
    text = refusal(context_length=512, min_context=512, prediction_length=48, validation_steps=960, test_steps=960)
    assert "would work, each line alone:\n  data.validation_steps=220 data.test_steps=220  # at most: smaller" in text
    assert [text.count(word) for word in ("validation_steps=", "min_context=")] == [1, 0]


def test_one_part_that_is_too_long_is_shortened_alone():
    text = refusal(context_length=512, min_context=512, prediction_length=48, validation_steps=48, test_steps=960)
    assert "data.test_steps=392  # at most" in text and "data.validation_steps" not in text


def test_where_parts_and_lengths_are_too_long_both_are_shortened():
    text = refusal(context_length=2048, min_context=2048, prediction_length=48, validation_steps=960, test_steps=960)
    assert "data.prediction_length=48 data.min_context=48 data.validation_steps=48 data.test_steps=48" in text


def test_a_series_too_short_for_any_setting_has_no_remedy():
    assert refusal([("a", np.ones((1, 3)), None)], **FINE_TUNING).endswith(NONE)


lengths = st.integers(1, 60)


@settings(max_examples=300, deadline=None)
@given(rows=st.integers(1, 150), data=st.data())
def test_every_remedy_finds_a_window_and_is_the_smallest_change(rows, data):
    optional = st.one_of(st.none(), lengths)
    tree = {"context_length": data.draw(lengths), "prediction_length": data.draw(lengths)}
    for key in ("min_context", "min_prediction_length", "validation_steps", "test_steps", "min_rows"):
        tree |= {key: data.draw(optional)}
    try:
        found = DataConfig(corpora=({"path": "unused"},), **tree)
    except ValidationError:
        return
    for way in remedies(found, rows):
        changed = {**tree, **way}
        corpus = Corpus.from_arrays("m", [("a", np.ones((1, rows)), None)], ["x"])
        assert len(TrainingSource(config(**changed), 0, [corpus]).windows(0, 1)) == 1
        if len(way) == 1 and "min_rows" not in way:
            key, value = next(iter(way.items()))
            assert rows_needed(found.model_copy(update={key: value + 1})) > rows
