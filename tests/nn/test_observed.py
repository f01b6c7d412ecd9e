from __future__ import annotations

import torch

from foretrain.nn.observed import forward_fill, last_observed

NAN = float("nan")


def test_the_last_observed_value_of_a_row_is_found_and_an_empty_row_has_none():
    found = last_observed(torch.tensor([[1.0, 2.0, NAN], [NAN, NAN, NAN], [NAN, NAN, 4.0]]))
    torch.testing.assert_close(found, torch.tensor([[2.0], [NAN], [4.0]]), rtol=0, atol=0, equal_nan=True)


def test_gaps_are_filled_from_the_left_and_the_start_from_what_came_before():
    values, observed = torch.tensor([[5.0, 2.0, 3.0, 4.0]]), torch.tensor([[False, True, False, True]])
    filled = forward_fill(values, observed)
    torch.testing.assert_close(filled, torch.tensor([[NAN, 2.0, 2.0, 4.0]]), rtol=0, atol=0, equal_nan=True)
    assert forward_fill(values, observed, torch.tensor([[9.0]])).tolist() == [[9.0, 2.0, 2.0, 4.0]]
