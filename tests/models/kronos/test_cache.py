"""CachedBlocks: tokens read in chunks against tokens read at once, forks against full passes."""

from __future__ import annotations

import pytest
import torch
from tests.models.kronos import plain

from foretrain.models.kronos.cache import CachedBlocks

pytestmark = pytest.mark.usefixtures("no_autograd")

ROWS, TOKENS, WIDTH = 3, 24, 16


@pytest.fixture
def no_autograd():
    with torch.inference_mode():
        yield


@pytest.fixture
def blocks():
    return plain.networks()[0].transformer


def tokens(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, WIDTH, generator=torch.Generator().manual_seed(seed))


def after(cached: CachedBlocks, new: torch.Tensor) -> torch.Tensor:
    """Hidden states (N, S, D) of one more token in a fork."""
    return cached.fork(new.shape[1], 1).extend(new)[:, :, 0]


@pytest.mark.parametrize("chunks", [[1] * 8, [8], [3, 1, 4]])
def test_tokens_read_in_chunks_have_the_states_of_one_pass(blocks, chunks):
    x = tokens(ROWS, TOKENS)
    whole = CachedBlocks(blocks, None).prefill(x)
    cached = CachedBlocks(blocks, None)
    found = [cached.prefill(x[:, : TOKENS - 8])]
    for chunk in chunks:
        begin = sum(part.shape[1] for part in found)
        found.append(cached.extend(x[:, None, begin : begin + chunk])[:, 0])
    torch.testing.assert_close(torch.cat(found, 1), whole, rtol=1e-5, atol=1e-5)


def test_rows_may_append_different_numbers_of_tokens(blocks):
    x, cached = tokens(ROWS, TOKENS), CachedBlocks(blocks, None)
    lengths, begin = torch.tensor([5, 2, 5]), 0
    cached.prefill(x[:, :5], lengths)
    for counts in ([1, 3, 0], [0, 0, 2], [4, 1, 1]):
        new = torch.stack([x[row, n : n + max(counts)] for row, n in enumerate(lengths.tolist())])
        cached.extend(new[:, None], torch.tensor(counts))
        lengths = lengths + torch.tensor(counts)
    new = tokens(ROWS, 2, 1, seed=1)
    found = after(cached, new)
    for row, length in enumerate(lengths.tolist()):
        for sample in range(2):
            begin = torch.cat((x[row, :length], new[row, sample]))[None]
            expected = CachedBlocks(blocks, None).prefill(begin)[0, -1]
            torch.testing.assert_close(found[row, sample], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("ragged", [False, True])
def test_evicted_tokens_were_masked(blocks, ragged):
    """A window of 6, chunks of 1 and 3, with and without evicting slots."""
    full, evicting = (CachedBlocks(blocks, 6) for _ in range(2))
    x = tokens(ROWS, 40)
    lengths = torch.tensor([6, 3, 5]) if ragged else None
    for cached in (full, evicting):
        cached.prefill(x[:, :6], lengths)
    for step in range(6, 37, 4):
        counts = torch.tensor([[1, 3], [1, 0], [0, 2]]).T if ragged else [None, None]
        for begin, size, count in ((step, 1, counts[0]), (step + 1, 3, counts[1])):
            found = [cached.extend(x[:, None, begin : begin + size], count) for cached in (full, evicting)]
            evicting.evict()
            torch.testing.assert_close(*found, rtol=1e-5, atol=1e-5)
            new = tokens(ROWS, 2, 1, seed=step)
            torch.testing.assert_close(after(full, new), after(evicting, new), rtol=1e-5, atol=1e-5)
    assert full.length == 6 + 32 and evicting.length < 12


def test_a_fork_does_not_change_its_origin_and_samples_are_independent(blocks):
    x, cached = tokens(ROWS, 10), CachedBlocks(blocks, None)
    cached.prefill(x)
    new = tokens(ROWS, 4, 3, seed=2)
    found = cached.fork(4, 3).extend(new)
    assert cached.length == 10 and cached.next_position == 10
    for sample in range(4):
        expected = CachedBlocks(blocks, None).prefill(torch.cat((x, new[:, sample]), 1))[:, -3:]
        torch.testing.assert_close(found[:, sample], expected, rtol=1e-5, atol=1e-5)
