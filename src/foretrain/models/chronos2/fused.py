"""Chronos-2's layers as hand-written passes for float32 on a CPU: the plain layers' numbers, in less time and memory.

With Spec.dtype the products with weights are in bfloat16, as under autocast, and what feeds them is saved in it. All
else stays in float32: norms, rotation, scores, probabilities, the residual stream, sums over chunks, and the patch
embeddings. Weights are rounded after the gain of the norm is in them, once instead of twice.

Reasons: on a CPU torch has no fused RMS norm (its composite backward costs more than a matrix product), its attention
kernels are several times slower than batched products on sequences of tens of tokens, Bernoulli draws take 10-25% of a
step, and large temporaries cause page faults. Here the gain of a norm is multiplied into the next weights, only tensors
that the weight gradients need are saved, dropout masks are drawn again in the backward, rotary pairs are made adjacent
(a permutation of q's and k's rows that does not change scores) so that one complex product rotates them, and sequences
are processed in chunks that fit into cache.

# U x V sequences of L tokens (time: U rows, V = 1; group: U groups, V positions), D width, H heads, d head width,
# I = H * d, N <= L kept tokens, F feed-forward width
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from foretrain.nn.dropout import draw_seed, keep_mask, keep_scale

_CHUNK = 1 << 22  # elements of a chunk's widest temporary: 16 MB, which malloc reuses without a system call
_WEIGHTS, _OUTPUT, _INNER = range(3)  # positions of dropout in a layer


class Spec(NamedTuple):
    """Constants of a layer in one call."""

    heads: int
    eps: float
    rate: float  # dropout; 0 outside training
    record: bool  # True if a backward may follow
    dtype: torch.dtype | None = None  # of the products with weights; None = that of the hidden states


def attention(
    hidden: Tensor,
    norm: Tensor,
    weights: tuple[Tensor, Tensor, Tensor, Tensor],
    spec: Spec,
    *,
    turn: Tensor | None = None,
    mask: Tensor | None = None,
    keep: int | None = None,
) -> Tensor:
    """hidden + dropout(O(attention(RMS(hidden)))) for the last `keep` tokens of every sequence.

    hidden (U, V, L, D) of any strides; weights q, k, v (I, D) and o (D, I); turn (L, d/2) complex rotary factors; mask
    (U * V, 1, 1, L) added to the scores. Returns (U, V, N, D).
    """
    with _without_autocast(spec):
        return _Attention.apply(hidden, norm, *weights, turn, mask, keep or hidden.shape[2], spec)


def lone_attention(hidden: Tensor, norm: Tensor, value: Tensor, output: Tensor, spec: Spec) -> Tensor:
    """hidden + dropout(O(dropout per head(V(RMS(hidden))))): attention of single-variate rows. hidden (..., D)."""
    with _without_autocast(spec):
        return _Lone.apply(hidden, norm, value, output, spec)


def feed_forward(hidden: Tensor, norm: Tensor, inner: Tensor, outer: Tensor, spec: Spec) -> Tensor:
    """hidden + dropout(outer(dropout(relu(inner(RMS(hidden)))))). hidden (..., D), inner (F, D), outer (D, F)."""
    with _without_autocast(spec):
        return _FeedForward.apply(hidden, norm, inner, outer, spec)


def residual_block(
    x: Tensor, hidden: tuple[Tensor, Tensor], output: tuple[Tensor, Tensor], residual: tuple[Tensor, Tensor], spec: Spec
) -> Tensor:
    """dropout(output(relu(hidden(x)))) + residual(x), each a weight and a bias. x (..., c).

    Without regard to spec.dtype: what a model reads and what it says are not rounded to bfloat16.
    """
    with torch.autocast("cpu", enabled=False):
        return _ResidualBlock.apply(x, *hidden, *output, *residual, spec)


def rotary_factors(table: tuple[Tensor, Tensor]) -> Tensor:
    """cos + i sin (S, d/2) as complex numbers."""
    return torch.complex(*table)


# ---- shared parts -------------------------------------------------------------------------------------------------


def _without_autocast(spec: Spec) -> AbstractContextManager[object]:
    """Return a context in which torch casts nothing by itself."""
    return nullcontext() if spec.dtype is None else torch.autocast("cpu", enabled=False)


def _rounded(x: Tensor, spec: Spec) -> Tensor:
    """Return x in the type of the products."""
    return x if spec.dtype is None else x.to(spec.dtype)


def _chunks(count: int, elements: int) -> Iterator[slice]:
    """Return slices of 0..count whose widest temporary has about _CHUNK elements, `elements` for each index."""
    size = max(1, _CHUNK // max(elements, 1))
    size = -(-count // -(-count // size))  # equal parts instead of a short last one
    return (slice(first, min(first + size, count)) for first in range(0, count, size))


def _mask(like: Tensor, spec: Spec, seed: int, where: int, place: int) -> Tensor:
    """Return the dropout mask (0 or 1) of a chunk; equal arguments give equal masks."""
    return keep_mask(tuple(like.shape), spec.rate, seed, where, place, dtype=like.dtype)


def _normalise(x: Tensor, eps: float, out: Tensor) -> Tensor:
    """Write x / rms(x) into out; return 1 / rms (..., 1)."""
    inverse = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_().div_(x.shape[-1]).add_(eps).rsqrt_()
    torch.mul(x, inverse, out=out)
    return inverse


def _normalise_backward(grad: Tensor, normed: Tensor, inverse: Tensor) -> Tensor:
    """Return the gradient of x, divided by inverse, from that of normed = x * inverse; may overwrite grad."""
    grad = grad.to(inverse.dtype)
    dot = torch.mul(grad, normed).sum(-1, keepdim=True).div_(-normed.shape[-1])
    return grad.addcmul_(normed, dot)


def _accumulate(total: Tensor, a: Tensor, b: Tensor, first: bool) -> None:
    """Add a @ b to total, which is in float32 if they are not."""
    if a.dtype == total.dtype:
        total.addmm_(a, b, beta=0 if first else 1)
    elif first:
        total.copy_(a @ b)
    else:
        total.add_(a @ b)


def _turn(x: Tensor, factors: Tensor) -> None:
    """Rotate the adjacent pairs of x (n, L, c) by factors (L, c / 2), in place."""
    torch.view_as_complex(x.unflatten(-1, (-1, 2))).mul_(factors)


def _output(
    x: Tensor, inner: Tensor, weight: Tensor, spec: Spec, scale: float, seed: int, place: int, out: Tensor
) -> None:
    """out = x + dropout(scale * inner @ weight^T); inner (tokens, c), weight (D, c), x and out of any strides."""
    width = x.shape[-1]
    if not spec.rate and out.is_contiguous() and inner.dtype == x.dtype:
        torch.addmm(x.reshape(-1, width), inner, weight.t(), alpha=scale, out=out.view(-1, width))
        return
    update = (inner @ weight.t()).view(x.shape)
    if not spec.rate:
        torch.add(x, update, alpha=scale, out=out)
        return
    mask = _mask(x, spec, seed, _OUTPUT, place)
    torch.addcmul(x, update, mask, value=scale * keep_scale(spec.rate), out=out)


def _residual_grad(grad: Tensor, spec: Spec, seed: int, place: int) -> Tensor:
    """Return the gradient of _output's update, flat (tokens, D), in the type of the products."""
    if not spec.rate:
        return _rounded(grad, spec).reshape(-1, grad.shape[-1])
    mask = _mask(grad, spec, seed, _OUTPUT, place)
    return _rounded(mask.mul_(keep_scale(spec.rate)).mul_(grad), spec).view(-1, grad.shape[-1])


# ---- attention ----------------------------------------------------------------------------------------------------


class _Projected(NamedTuple):
    """Queries (n, N, I), keys and values (n, L, I) of some sequences; views, with all heads in the last axis."""

    q: Tensor
    k: Tensor
    v: Tensor


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden, norm, wq, wk, wv, wo, turn, mask, keep, spec):
        outer, inner, length, width = hidden.shape
        wide, heads, first = wq.shape[0], spec.heads, length - keep
        raw = torch.cat((_pairs(wq, turn, heads), _pairs(wk, turn, heads), wv))
        weight, output = _rounded(raw * norm, spec), _rounded(wo, spec)
        seed = draw_seed() if spec.rate else 0
        kept = outer * inner if spec.record else 0
        # Probabilities are saved if they are small compared with the other activations, else recomputed.
        remember = spec.record and heads * length <= 3 * width
        normed, inverse = weight.new_empty(kept, length, width), hidden.new_empty(kept, length, 1)
        flat = hidden.new_empty(kept * (keep + 2 * length) * wide)
        mixed = weight.new_empty(kept, keep, wide)
        weights = hidden.new_empty(kept * heads * keep * length if remember else 0)
        out = torch.empty_like(hidden) if keep == length else hidden.new_empty(outer, inner, keep, width)
        factors = None if turn is None else turn.repeat(1, 2 * heads)
        for place, part in enumerate(_chunks(outer, inner * length * max(3 * wide, heads * keep))):
            x, rows = hidden[part], slice(part.start * inner, part.stop * inner)
            count = rows.stop - rows.start
            x_normed = normed[rows] if kept else weight.new_empty(count, length, width)
            x_inverse = _normalise(x, spec.eps, x_normed.view(x.shape))
            here = _piece(flat, rows, (keep + 2 * length) * wide) if kept else None
            if here is None:
                here = hidden.new_empty(count * (keep + 2 * length) * wide)
            projected = _project(x_normed, weight, factors, keep, here)
            here = _piece(weights, rows, heads * keep * length) if remember else None
            found = _probabilities(projected, heads, None if mask is None else mask[rows], here)
            if spec.rate:
                found = found * _mask(found, spec, seed, _WEIGHTS, place)
            gathered = mixed[rows] if kept else weight.new_empty(count, keep, wide)
            for h, columns in enumerate(_columns(wide, heads)):
                gathered[..., columns] = torch.bmm(found[h], projected.v[..., columns])
            _output(
                x[:, :, first:], gathered.view(-1, wide), output, spec, keep_scale(spec.rate), seed, place, out[part]
            )
            if kept:
                inverse[rows] = x_inverse.view(count, length, 1)
        ctx.save_for_backward(normed, inverse, flat, mixed, weights, weight, raw, norm, output, factors, mask)
        ctx.facts = outer, inner, length, keep, spec, seed, hidden.stride(), turn
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        normed, inverse, flat, mixed, weights, weight, raw, norm, output, factors, mask = ctx.saved_tensors
        outer, inner, length, keep, spec, seed, strides, turn = ctx.facts
        (width, wide), heads, first = output.shape, spec.heads, length - keep
        out = torch.empty_strided((outer, inner, length, width), strides, dtype=grad.dtype, device=grad.device)
        g_weight, g_output = torch.empty_like(raw), raw.new_empty(width, wide)
        back = None if factors is None else factors.conj().resolve_conj()
        for place, part in enumerate(_chunks(outer, inner * length * max(3 * wide, heads * keep))):
            rows = slice(part.start * inner, part.stop * inner)
            count = rows.stop - rows.start
            update = _residual_grad(grad[part], spec, seed, place)
            _accumulate(g_output, update.t(), mixed[rows].view(-1, wide), place == 0)
            g_mixed = (update @ output).view(count, keep, wide).to(grad.dtype)
            projected = _views(_piece(flat, rows, (keep + 2 * length) * wide), count, keep, length, wide)
            if weights.numel():
                found = _piece(weights, rows, heads * keep * length).view(heads, count, keep, length)
            else:
                found = _probabilities(projected, heads, None if mask is None else mask[rows], None)
            g_flat = _attention_backward(g_mixed, projected, found, spec, seed, place)
            g_projected = _views(g_flat, count, keep, length, wide)
            _turn_projected(g_projected, back, g_flat)
            x = normed[rows]
            g_normed = _project_backward(_rounded(g_flat, spec), x, keep, weight, g_weight, place == 0)
            gx = _normalise_backward(g_normed, x, inverse[rows]).mul_(inverse[rows]).view(-1, inner, length, width)
            if keep < length:
                gx[:, :, first:] += grad[part]
                out[part] = gx
            else:
                torch.add(gx, grad[part], out=out[part])
        g_output.mul_(keep_scale(spec.rate))  # mixed is saved without it
        g_norm = (raw * g_weight).sum(0)
        gq, gk, gv = g_weight.mul_(norm).split(wide)
        gq, gk = _unpair(gq, turn, heads), _unpair(gk, turn, heads)
        return out, g_norm, gq, gk, gv, g_output, None, None, None, None


def _pairs(weight: Tensor, turn: Tensor | None, heads: int) -> Tensor:
    """Reorder the rows of a q or k weight so that the rotary pairs (i, i + d/2) of each head are adjacent."""
    if turn is None:
        return weight
    width = weight.shape[1]
    return weight.view(heads, 2, -1, width).transpose(1, 2).reshape(-1, width)


def _unpair(weight: Tensor, turn: Tensor | None, heads: int) -> Tensor:
    """Invert _pairs."""
    if turn is None:
        return weight
    width = weight.shape[1]
    return weight.view(heads, -1, 2, width).transpose(1, 2).reshape(-1, width)


def _columns(wide: int, heads: int) -> Iterator[slice]:
    """Return the columns of each head."""
    size = wide // heads
    return (slice(h * size, (h + 1) * size) for h in range(heads))


def _piece(flat: Tensor, rows: slice, each: int) -> Tensor:
    """Return the part of a flat buffer for some sequences, `each` elements per sequence."""
    return flat[rows.start * each : rows.stop * each]


def _views(flat: Tensor, count: int, keep: int, length: int, wide: int) -> _Projected:
    """Return views of queries, keys and values in a flat buffer of count * (N + 2 L) * I elements.

    With N = L they are the columns of one matrix, the result of one product; otherwise queries come first.
    """
    if keep == length:
        return _Projected(*flat.view(count, length, 3 * wide).split(wide, dim=-1))
    q, kv = flat.split([count * keep * wide, count * length * 2 * wide])
    return _Projected(q.view(count, keep, wide), *kv.view(count, length, 2 * wide).split(wide, dim=-1))


def _project(normed: Tensor, weight: Tensor, factors: Tensor | None, keep: int, flat: Tensor) -> _Projected:
    """Project normed (n, L, D) into flat: rotated queries of the last `keep` tokens, rotated keys and values of all."""
    count, length, width = normed.shape
    wide = weight.shape[0] // 3
    if keep == length:
        _product(normed.view(-1, width), weight.t(), flat.view(-1, 3 * wide))
    else:
        q, kv = flat.split([count * keep * wide, count * length * 2 * wide])
        _product(normed[:, length - keep :].reshape(-1, width), weight[:wide].t(), q.view(-1, wide))
        _product(normed.view(-1, width), weight[wide:].t(), kv.view(-1, 2 * wide))
    projected = _views(flat, count, keep, length, wide)
    _turn_projected(projected, factors, flat)
    return projected


def _product(a: Tensor, b: Tensor, out: Tensor) -> None:
    """Write a @ b into out, which may have a wider type."""
    if a.dtype == out.dtype:
        torch.mm(a, b, out=out)
    else:
        out.copy_(a @ b)


def _turn_projected(projected: _Projected, factors: Tensor | None, flat: Tensor) -> None:
    """Rotate queries and keys in place; factors (L, I) repeat each row of the table for every head of both."""
    if factors is None:
        return
    count, keep, wide = projected.q.shape
    length = projected.k.shape[1]
    if keep == length:
        _turn(flat.view(count, length, 3 * wide)[..., : 2 * wide], factors)
        return
    _turn(projected.q, factors[length - keep :, : wide // 2])
    _turn(projected.k, factors[:, : wide // 2])


def _project_backward(
    g_flat: Tensor, normed: Tensor, keep: int, weight: Tensor, g_weight: Tensor, first: bool
) -> Tensor:
    """Return the gradient of normed (n, L, D); that of the weights is added to g_weight."""
    count, length, width = normed.shape
    wide = weight.shape[0] // 3
    if keep == length:
        flat = g_flat.view(-1, 3 * wide)
        _accumulate(g_weight, flat.t(), normed.view(-1, width), first)
        return (flat @ weight).view(normed.shape)
    q, kv = g_flat.split([count * keep * wide, count * length * 2 * wide])
    q, kv = q.view(-1, wide), kv.view(-1, 2 * wide)
    _accumulate(g_weight[:wide], q.t(), normed[:, length - keep :].reshape(-1, width), first)
    _accumulate(g_weight[wide:], kv.t(), normed.view(-1, width), first)
    g_normed = (kv @ weight[wide:]).view(normed.shape)
    g_normed[:, length - keep :] += (q @ weight[:wide]).view(count, keep, width)
    return g_normed


def _probabilities(projected: _Projected, heads: int, mask: Tensor | None, flat: Tensor | None) -> Tensor:
    """Return softmax(q k^T + mask (n, 1, 1, L)), (H, n, N, L), in flat if given."""
    q, k, _ = projected
    count, keep, wide = q.shape
    shape = (heads, count, keep, k.shape[1])
    scores = q.new_empty(shape) if flat is None else flat.view(shape)
    for h, columns in enumerate(_columns(wide, heads)):
        torch.bmm(q[..., columns], k[..., columns].transpose(1, 2), out=scores[h])
    if mask is not None:
        scores.add_(mask.view(1, count, 1, -1))
    return torch.softmax(scores, -1, out=scores)


def _attention_backward(
    g_mixed: Tensor, projected: _Projected, weights: Tensor, spec: Spec, seed: int, place: int
) -> Tensor:
    """Return the gradients of q, k and v in the layout of _views, from that of the mixed values (n, N, I)."""
    q, k, v = projected
    (count, keep, wide), length = q.shape, k.shape[1]
    dropped, mask = weights, None
    if spec.rate:
        mask = _mask(weights, spec, seed, _WEIGHTS, place)
        dropped = weights * mask
        g_mixed.mul_(keep_scale(spec.rate))
    flat = q.new_empty(count * (keep + 2 * length) * wide)
    gq, gk, gv = _views(flat, count, keep, length, wide)
    g_weights = torch.empty_like(weights)
    for h, columns in enumerate(_columns(wide, spec.heads)):
        torch.bmm(g_mixed[..., columns], v[..., columns].transpose(1, 2), out=g_weights[h])
        gv[..., columns] = torch.bmm(dropped[h].transpose(1, 2), g_mixed[..., columns])
    if mask is not None:
        g_weights.mul_(mask)
    dot = torch.mul(g_weights, weights).sum(-1, keepdim=True)
    g_scores = g_weights.sub_(dot).mul_(weights)
    for h, columns in enumerate(_columns(wide, spec.heads)):
        gq[..., columns] = torch.bmm(g_scores[h], k[..., columns])
        gk[..., columns] = torch.bmm(g_scores[h].transpose(1, 2), q[..., columns])
    return flat


# ---- attention of single-variate rows -----------------------------------------------------------------------------


class _Lone(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden, norm, wv, wo, spec):
        width, wide = hidden.shape[-1], wv.shape[0]
        flat = hidden.reshape(-1, width)
        tokens = len(flat)
        value, output = _rounded(wv * norm, spec), _rounded(wo, spec)
        seed = draw_seed() if spec.rate else 0
        # Without dropout between them the two products are one matrix, worth computing if tokens outnumber its rows.
        merged = output @ value if not spec.rate and tokens > 2 * wide else None
        normed = value.new_empty(tokens if spec.record else 0, width)
        inverse = flat.new_empty(tokens if spec.record else 0, 1)
        values = value.new_empty(tokens if spec.record and merged is None else 0, wide)
        out = torch.empty_like(flat)
        for place, part in enumerate(_chunks(tokens, 2 * max(wide, width))):
            x = flat[part]
            x_normed = normed[part] if spec.record else normed.new_empty(x.shape)
            x_inverse = _normalise(x, spec.eps, x_normed)
            if merged is not None:
                _output(x, x_normed, merged, spec, 1.0, seed, place, out[part])
            else:
                found = values[part] if spec.record else value.new_empty(len(x), wide)
                torch.mm(x_normed, value.t(), out=found)
                _drop_heads(found, spec, seed, place)
                _output(x, found, output, spec, 1.0, seed, place, out[part])
            if spec.record:
                inverse[part] = x_inverse
        ctx.save_for_backward(normed, inverse, values, value, norm, wv, output, merged)
        ctx.facts = spec, seed
        return out.view(hidden.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        normed, inverse, values, value, norm, wv, output, merged = ctx.saved_tensors
        spec, seed = ctx.facts
        width, wide = output.shape
        flat = grad.reshape(-1, width)
        out = torch.empty_like(flat)
        g_value, g_output = torch.empty_like(wv), wv.new_empty(width, wide)
        g_merged = wv.new_empty(width, wide if merged is None else width)
        for place, part in enumerate(_chunks(len(flat), 2 * max(wide, width))):
            x, update = normed[part], _residual_grad(flat[part], spec, seed, place)
            if merged is not None:
                _accumulate(g_merged, update.t(), x, place == 0)
                g_normed = update @ merged
            else:
                _accumulate(g_output, update.t(), values[part], place == 0)
                g_found = update @ output
                _drop_heads(g_found, spec, seed, place)
                _accumulate(g_value, g_found.t(), x, place == 0)
                g_normed = g_found @ value
            g_normed = _normalise_backward(g_normed, x, inverse[part])
            torch.addcmul(flat[part], g_normed, inverse[part], out=out[part])
        if merged is not None:
            g_merged = _rounded(g_merged, spec)
            g_output, g_value = (g_merged @ value.t()).to(wv.dtype), (output.t() @ g_merged).to(wv.dtype)
        return out.view(grad.shape), (wv * g_value).sum(0), g_value.mul_(norm), g_output, None


def _drop_heads(x: Tensor, spec: Spec, seed: int, place: int) -> None:
    """Multiply each head's vector in x (tokens, I) by 0 or 1 / keep, in place: dropout of the only attention weight."""
    if not spec.rate:
        return
    shape, wide = (len(x), spec.heads, 1), torch.promote_types(x.dtype, torch.float32)  # keep_scale is not rounded
    mask = keep_mask(shape, spec.rate, seed, _WEIGHTS, place, dtype=wide).mul_(keep_scale(spec.rate))
    x.view(len(x), spec.heads, -1).mul_(mask)


# ---- feed forward -------------------------------------------------------------------------------------------------


class _FeedForward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden, norm, wi, wo, spec):
        width, wide = wo.shape
        flat = hidden.reshape(-1, width)
        tokens, seed, scale = len(flat), draw_seed() if spec.rate else 0, keep_scale(spec.rate)
        weight, outer = _rounded(wi * norm, spec), _rounded(wo, spec)
        normed = weight.new_empty(tokens if spec.record else 0, width)
        inverse = flat.new_empty(tokens if spec.record else 0, 1)
        active = weight.new_empty(tokens if spec.record else 0, wide)
        out = torch.empty_like(flat)
        for place, part in enumerate(_chunks(tokens, wide)):
            x = flat[part]
            x_normed = normed[part] if spec.record else normed.new_empty(x.shape)
            x_inverse = _normalise(x, spec.eps, x_normed)
            found = active[part] if spec.record else weight.new_empty(len(x), wide)
            torch.mm(x_normed, weight.t(), out=found)
            found.relu_()
            if spec.rate:
                found.mul_(_mask(found, spec, seed, _INNER, place))
            _output(x, found, outer, spec, scale, seed, place, out[part])
            if spec.record:
                inverse[part] = x_inverse
        ctx.save_for_backward(normed, inverse, active, weight, norm, wi, outer)
        ctx.facts = spec, seed
        return out.view(hidden.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        normed, inverse, active, weight, norm, wi, outer = ctx.saved_tensors
        spec, seed = ctx.facts
        width, wide = outer.shape
        flat = grad.reshape(-1, width)
        out = torch.empty_like(flat)
        g_inner, g_outer = torch.empty_like(wi), wi.new_empty(width, wide)
        scale, learns = keep_scale(spec.rate), any(ctx.needs_input_grad[1:4])  # False if an adapter freezes it
        for place, part in enumerate(_chunks(len(flat), wide)):
            x, found, update = normed[part], active[part], _residual_grad(flat[part], spec, seed, place)
            if learns:
                _accumulate(g_outer, update.t(), found, place == 0)
            g_found = update @ outer
            torch.ops.aten.threshold_backward.grad_input(g_found, found, 0, grad_input=g_found)
            if learns:
                _accumulate(g_inner, g_found.t(), x, place == 0)
            g_normed = _normalise_backward(g_found @ weight, x, inverse[part])
            torch.addcmul(flat[part], g_normed, inverse[part], value=scale, out=out[part])
        if not learns:
            return out.view(grad.shape), None, None, None, None
        g_inner.mul_(scale)
        return out.view(grad.shape), (wi * g_inner).sum(0), g_inner.mul_(norm), g_outer.mul_(scale), None


# ---- the patch embeddings -----------------------------------------------------------------------------------------


class _ResidualBlock(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, wh, bh, wo, bo, wr, br, spec):
        flat = x.reshape(-1, x.shape[-1])
        tokens, seed = len(flat), draw_seed() if spec.rate else 0
        active = flat.new_empty(tokens if spec.record else 0, len(wh))
        out = flat.new_empty(tokens, len(wo))
        for place, part in enumerate(_chunks(tokens, len(wh))):
            found = active[part] if spec.record else flat.new_empty(part.stop - part.start, len(wh))
            torch.addmm(bh, flat[part], wh.t(), out=found).relu_()
            if spec.rate:
                torch.addmm(br, flat[part], wr.t(), out=out[part])
                branch = torch.addmm(bo, found, wo.t())
                mask = _mask(branch, spec, seed, _OUTPUT, place)
                out[part].addcmul_(branch, mask, value=keep_scale(spec.rate))
            else:
                torch.addmm(br + bo, flat[part], wr.t(), out=out[part]).addmm_(found, wo.t())
        ctx.save_for_backward(flat, active, wh, wo, wr)
        ctx.facts = spec, seed, x.shape, ctx.needs_input_grad[0]
        return out.view(*x.shape[:-1], -1)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        flat, active, wh, wo, wr = ctx.saved_tensors
        spec, seed, shape, wants_input = ctx.facts
        flat_grad = grad.reshape(-1, grad.shape[-1])
        g_hidden, g_output, g_residual = torch.empty_like(wh), torch.empty_like(wo), torch.empty_like(wr)
        b_hidden, b_output = wh.new_zeros(len(wh)), wo.new_zeros(len(wo))
        out = torch.empty_like(flat) if wants_input else None
        for place, part in enumerate(_chunks(len(flat), len(wh))):
            x, found, whole = flat[part], active[part], flat_grad[part]
            branch = _residual_grad(whole, spec._replace(dtype=None), seed, place)
            _accumulate(g_output, branch.t(), found, place == 0)
            b_output += branch.sum(0)
            g_found = branch @ wo
            torch.ops.aten.threshold_backward.grad_input(g_found, found, 0, grad_input=g_found)
            _accumulate(g_hidden, g_found.t(), x, place == 0)
            b_hidden += g_found.sum(0)
            _accumulate(g_residual, whole.t(), x, place == 0)
            if out is not None:
                torch.mm(g_found, wh, out=out[part]).addmm_(whole, wr)
        b_residual = flat_grad.sum(0) if spec.rate else b_output
        out = None if out is None else out.view(shape)
        return out, g_hidden, b_hidden, g_output, b_output, g_residual, b_residual.clone(), None
