"""Stacks: tokens read in pieces against tokens read at once, forks against copies."""

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


def after(stack: CachedBlocks, new: torch.Tensor) -> torch.Tensor:
    """(N, S, D) states of one more token in a fork of the stack."""
    return stack.fork(new.shape[1], 1).extend(new)[:, :, 0]


@pytest.mark.parametrize("pieces", [[1] * 8, [8], [3, 1, 4]])
def test_tokens_read_in_pieces_are_those_read_at_once(blocks, pieces):
    x = tokens(ROWS, TOKENS)
    whole = CachedBlocks(blocks, None).prefill(x)
    stack = CachedBlocks(blocks, None)
    found = [stack.prefill(x[:, : TOKENS - 8])]
    for piece in pieces:
        begin = sum(part.shape[1] for part in found)
        found.append(stack.extend(x[:, None, begin : begin + piece])[:, 0])
    torch.testing.assert_close(torch.cat(found, 1), whole, rtol=1e-5, atol=1e-5)


def test_rows_grow_by_as_many_tokens_as_they_have(blocks):
    x, stack = tokens(ROWS, TOKENS), CachedBlocks(blocks, None)
    lengths, begin = torch.tensor([5, 2, 5]), 0
    stack.prefill(x[:, :5], lengths)
    for counts in ([1, 3, 0], [0, 0, 2], [4, 1, 1]):
        new = torch.stack([x[row, n : n + max(counts)] for row, n in enumerate(lengths.tolist())])
        stack.extend(new[:, None], torch.tensor(counts))
        lengths = lengths + torch.tensor(counts)
    new = tokens(ROWS, 2, 1, seed=1)
    found = after(stack, new)
    for row, length in enumerate(lengths.tolist()):
        for sample in range(2):
            begin = torch.cat((x[row, :length], new[row, sample]))[None]
            expected = CachedBlocks(blocks, None).prefill(begin)[0, -1]
            torch.testing.assert_close(found[row, sample], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("ragged", [False, True])
def test_what_is_forgotten_was_out_of_sight(blocks, ragged):
    """Once over a window of 6, in pieces of 1 and 3, with and without freeing slots."""
    kept, freed = (CachedBlocks(blocks, 6) for _ in range(2))
    x = tokens(ROWS, 40)
    lengths = torch.tensor([6, 3, 5]) if ragged else None
    for stack in (kept, freed):
        stack.prefill(x[:, :6], lengths)
    for step in range(6, 37, 4):
        counts = torch.tensor([[1, 3], [1, 0], [0, 2]]).T if ragged else [None, None]
        for begin, size, count in ((step, 1, counts[0]), (step + 1, 3, counts[1])):
            found = [stack.extend(x[:, None, begin : begin + size], count) for stack in (kept, freed)]
            freed.evict()
            torch.testing.assert_close(*found, rtol=1e-5, atol=1e-5)
            new = tokens(ROWS, 2, 1, seed=step)
            torch.testing.assert_close(after(kept, new), after(freed, new), rtol=1e-5, atol=1e-5)
    assert kept.length == 6 + 32 and freed.length < 12


def test_a_fork_leaves_its_origin_alone_and_samples_each_other(blocks):
    x, stack = tokens(ROWS, 10), CachedBlocks(blocks, None)
    stack.prefill(x)
    new = tokens(ROWS, 4, 3, seed=2)
    found = stack.fork(4, 3).extend(new)
    assert stack.length == 10 and stack.next_position == 10
    for sample in range(4):
        expected = CachedBlocks(blocks, None).prefill(torch.cat((x, new[:, sample]), 1))[:, -3:]
        torch.testing.assert_close(found[:, sample], expected, rtol=1e-5, atol=1e-5)
