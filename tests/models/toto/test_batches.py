"""Windows as batches: padding on the left, covariates one patch ahead, labels apart."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from foretrain.data.windows import Window, Windows, stack_windows
from foretrain.models.toto.batches import collate, exogenous, known_ahead, sequence
from foretrain.nn.layout import RowLayout

PATCH, HORIZON = 4, 6


def window(steps: int, key: int = 0, *, past: int = 1, known: int = 1, horizon: int = HORIZON) -> Window:
    """Row r counts up from 100 r, so that a value identifies its step."""
    values = np.arange(steps + horizon, dtype=np.float32) + 100 * np.arange(2 + past + known)[:, None]
    return Window(values[:, :steps], 2, past, values[:, steps:], key=key)


def windows(*steps: int, **how: int) -> Windows:
    return stack_windows([window(s, k, **how) for k, s in enumerate(steps)], how.get("horizon", HORIZON))


def test_contexts_are_padded_in_front_to_whole_patches():
    batch = collate(windows(8, 5, known=0), PATCH, 4096)
    assert batch["context"].shape == (6, 8)
    assert torch.equal(batch["context"][0], torch.arange(8.0))
    assert torch.equal(batch["context"][3], torch.tensor([0.0, 0.0, 0.0, 0.0, 1.0, 2.0, 3.0, 4.0]))
    assert torch.equal(batch["observed"][3], torch.arange(8) >= 3)


def test_only_the_newest_steps_are_kept():
    batch = collate(windows(20, known=0), PATCH, 8)
    assert torch.equal(batch["context"][0], torch.arange(12.0, 20.0))


def test_masks_are_present_if_something_is_missing_or_windows_are_static():
    assert not {"observed", "late"} & collate(windows(8, known=0), PATCH, 4096).keys()
    partly = collate(windows(7, known=0), PATCH, 4096)
    assert "observed" in partly and "late" not in partly
    assert "late" in collate(windows(8, 4, known=0), PATCH, 4096)
    assert {"observed", "late"} < collate(replace(windows(8, known=0), static_shapes=True), PATCH, 4096).keys()


def test_infinite_values_were_not_observed():
    given = windows(8, known=0)
    given.context[0, 3] = np.inf
    batch = collate(given, PATCH, 4096)
    assert not batch["observed"][0, 3] and batch["context"][0, 3] == 0


@pytest.mark.parametrize(("horizon", "left"), [(6, 2), (4, 0), (2, 0)])
def test_covariates_known_ahead_are_shifted_one_patch_earlier(horizon, left):
    batch = collate(windows(8, horizon=horizon), PATCH, 4096)
    assert batch["known_rows"].tolist() == [3]
    expected = torch.arange(304.0, 312.0)
    seen = torch.arange(8) < 4 + min(horizon, 4)
    assert torch.equal(batch["context"][3], torch.where(seen, expected, 0.0))
    assert "observed" in batch if horizon < 4 else "observed" not in batch
    assert torch.equal(batch["future_known"], torch.arange(312.0, 312.0 + left)[None])
    assert exogenous(batch).tolist() == [False, False, False, True]


def test_known_values_after_the_cutoff_are_read_in_place_of_forecasts():
    ahead = known_ahead(collate(windows(8), PATCH, 4096), 5)
    assert ahead[3].tolist() == [312.0, 313.0, 313.0, 313.0, 313.0]  # no more of it is known
    assert ahead[:3].isnan().all()
    short = known_ahead(collate(windows(8, horizon=4), PATCH, 4096), 5)
    assert short[3].tolist() == [311.0] * 5
    nothing = windows(8)
    nothing.context[3], nothing.future[3] = np.nan, np.nan
    assert known_ahead(collate(nothing, PATCH, 4096), 5).isnan().all()
    assert known_ahead(collate(windows(8, known=0), PATCH, 4096), 5) is None


def test_labels_are_of_targets_alone():
    batch = collate(windows(8), PATCH, 4096)
    assert batch["target_rows"].tolist() == [0, 1]
    assert torch.equal(batch["future_target"][1], torch.arange(108.0, 114.0))
    assert "target_rows" not in collate(windows(8, past=0, known=0), PATCH, 4096)


def test_a_sequence_joins_the_future_padded_to_whole_patches():
    whole = sequence(collate(windows(8), PATCH, 4096), PATCH)
    assert whole.values.shape == whole.observed.shape == (4, 16)
    assert torch.equal(whole.values[1, :14], torch.arange(100.0, 114.0)) and whole.observed[1, :14].all()
    assert not whole.observed[1, 14:].any()
    assert not whole.observed[2, 8:].any()  # past covariates
    assert torch.equal(whole.values[3, :10], torch.arange(304.0, 314.0)) and not whole.observed[3, 10:].any()


def test_a_sequence_of_one_patch_ahead_is_complete_where_its_context_is():
    assert sequence(collate(windows(8, horizon=4), PATCH, 4096), PATCH).complete
    assert not sequence(collate(windows(8, horizon=6), PATCH, 4096), PATCH).complete
    assert not sequence(collate(windows(7, known=0, horizon=4), PATCH, 4096), PATCH).complete


def test_rows_have_their_windows_layout_and_different_keys():
    batch = collate(windows(8, 8, past=0, known=0), PATCH, 4096)
    layout = RowLayout.from_tensors(batch)
    assert [rows.tolist() for rows in layout.members] == [[[0, 1], [2, 3]]]
    assert len(batch["key"].unique()) == 4


def test_blanked_steps_are_counted_for_compat_alone():
    given = stack_windows([window(8), window(8, known=0), window(8, known=2)], HORIZON)
    assert "blanked" not in collate(given, PATCH, 4096)
    blanked = collate(given, PATCH, 4096, compat=True)["blanked"]
    assert blanked.tolist() == [1] * 4 + [0] * 3 + [2] * 5
