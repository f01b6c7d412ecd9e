"""Chronos-2's layers as hand-written passes for float32 on a CPU: same numbers as the plain layers, less time and memory.

Why by hand: on a CPU torch has no fused RMS norm (its composite backward costs more than a matrix product), attention
kernels are several times slower than batched products on sequences of tens of tokens, Bernoulli draws are 10-25% of a
step, and big temporaries are page faults. Here the gain of a norm is multiplied into the next weights, only what the
weight gradients need is kept, dropout masks are drawn again in the backward, rotary pairs are laid side by side (a
permutation of q's and k's rows that no score can see) so that one complex product turns them, and work goes in chunks of
sequences that stay in cache.

# U x V sequences of L tokens (time: U rows, V = 1; group: U groups, V positions), D width, H heads, d head width,
# I = H * d, N <= L kept tokens, F feed-forward width
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from foretrain.nn.dropout import draw_seed, keep_mask, keep_scale

_CHUNK = 1 << 21  # elements of a chunk's widest temporary: 8 MB
_WEIGHTS, _OUTPUT, _INNER = range(3)  # places where dropout draws


class Spec(NamedTuple):
    """Fixed facts of a layer in one call."""

    heads: int
    eps: float
    rate: float  # dropout; 0 outside training
    record: bool  # will there be a backward?


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
    return _Attention.apply(hidden, norm, *weights, turn, mask, keep or hidden.shape[2], spec)


def lone_attention(hidden: Tensor, norm: Tensor, value: Tensor, output: Tensor, spec: Spec) -> Tensor:
    """hidden + dropout(O(dropout per head(V(RMS(hidden))))): attention of a sequence of one token. hidden (..., D)."""
    return _Lone.apply(hidden, norm, value, output, spec)


def feed_forward(hidden: Tensor, norm: Tensor, inner: Tensor, outer: Tensor, spec: Spec) -> Tensor:
    """hidden + dropout(outer(dropout(relu(inner(RMS(hidden)))))). hidden (..., D), inner (F, D), outer (D, F)."""
    return _FeedForward.apply(hidden, norm, inner, outer, spec)


def rotary_factors(table: tuple[Tensor, Tensor]) -> Tensor:
    """cos + i sin (S, d/2) as complex numbers."""
    return torch.complex(*table)


# ---- shared pieces ------------------------------------------------------------------------------------------------


def _chunks(count: int, elements: int) -> Iterator[slice]:
    """Slices of 0..count whose widest temporary has about _CHUNK elements; `elements` belong to one."""
    size = max(1, _CHUNK // max(elements, 1))
    size = -(-count // -(-count // size))  # equal parts rather than a short last one
    return (slice(first, min(first + size, count)) for first in range(0, count, size))


def _normalise(x: Tensor, eps: float, out: Tensor) -> Tensor:
    """Write x / rms(x) into out; returns 1 / rms (..., 1)."""
    inverse = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_().div_(x.shape[-1]).add_(eps).rsqrt_()
    torch.mul(x, inverse, out=out)
    return inverse


def _normalise_backward(grad: Tensor, normed: Tensor, inverse: Tensor) -> Tensor:
    """Gradient of x from that of normed = x * inverse, still to be multiplied by inverse; overwrites grad."""
    dot = torch.mul(grad, normed).sum(-1, keepdim=True).div_(-normed.shape[-1])
    return grad.addcmul_(normed, dot)


def _accumulate(total: Tensor, a: Tensor, b: Tensor, first: bool) -> None:
    total.addmm_(a, b, beta=0 if first else 1)


def _interleave(weight: Tensor, heads: int) -> Tensor:
    """Rows of a q or k weight so that rotary pairs (i, i + d/2) of each head lie side by side."""
    width = weight.shape[1]
    return weight.view(heads, 2, -1, width).transpose(1, 2).reshape(-1, width)


def _separate(weight: Tensor, heads: int) -> Tensor:
    """The inverse of _interleave."""
    width = weight.shape[1]
    return weight.view(heads, -1, 2, width).transpose(1, 2).reshape(-1, width)


def _complex(x: Tensor) -> Tensor:
    return torch.view_as_complex(x.unflatten(-1, (-1, 2)))


def _to_heads(x: Tensor, out: Tensor, turn: Tensor | None) -> None:
    """Copy (n, L, H, d) into (n, H, L, d), turning the pairs by turn (L, d/2)."""
    if turn is None:
        out.copy_(x.transpose(1, 2))
        return
    torch.mul(_complex(x).transpose(1, 2), turn, out=_complex(out))


def _from_heads(x: Tensor, out: Tensor, turn: Tensor | None) -> None:
    """Copy (n, H, L, d) into (n, L, H, d), turning the pairs by turn (L, d/2)."""
    if turn is None:
        out.copy_(x.transpose(1, 2))
        return
    torch.mul(_complex(x).transpose(1, 2), turn[:, None], out=_complex(out))


def _probabilities(q: Tensor, k: Tensor, mask: Tensor | None) -> Tensor:
    """Softmax of q k^T + mask: q (n, H, N, d), k (n, H, L, d), mask (n, 1, 1, L) -> (n*H, N, L)."""
    scores = torch.bmm(q.flatten(0, 1), k.flatten(0, 1).transpose(1, 2))
    if mask is not None:
        scores.view(*q.shape[:3], -1).add_(mask)
    return torch.softmax(scores, -1, out=scores)


def _add_residual(x: Tensor, update: Tensor, spec: Spec, seed: int, place: int, out: Tensor) -> None:
    """out = x + dropout(update); update is a flat (tokens, D) temporary."""
    if not spec.rate:
        torch.add(x, update.view(x.shape), out=out)
        return
    mask = keep_mask(tuple(x.shape), spec.rate, seed, _OUTPUT, place)
    torch.addcmul(x, update.view(x.shape), mask, value=keep_scale(spec.rate), out=out)


def _residual_grad(grad: Tensor, spec: Spec, seed: int, place: int) -> Tensor:
    """Gradient of the update in _add_residual, flat (tokens, D)."""
    if not spec.rate:
        return grad.reshape(-1, grad.shape[-1])
    mask = keep_mask(tuple(grad.shape), spec.rate, seed, _OUTPUT, place)
    return mask.mul_(keep_scale(spec.rate)).mul_(grad).view(-1, grad.shape[-1])


# ---- attention ----------------------------------------------------------------------------------------------------


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden, norm, wq, wk, wv, wo, turn, mask, keep, spec):
        outer, inner, length, width = hidden.shape
        sequences, wide, heads = outer * inner, wq.shape[0], spec.heads
        pairs = (lambda w: w) if turn is None else (lambda w: _interleave(w, heads))
        weight = torch.cat((pairs(wq), pairs(wk), wv)) * norm
        scale, seed = keep_scale(spec.rate), draw_seed() if spec.rate else 0
        kept = sequences if spec.record else 0
        normed = hidden.new_empty(kept, length, width)
        inverse = hidden.new_empty(kept, length, 1)
        q = hidden.new_empty(kept, heads, keep, wide // heads)
        kv = hidden.new_empty(2, kept, heads, length, wide // heads)
        mixed = hidden.new_empty(kept, keep, wide)
        out = torch.empty_like(hidden) if keep == length else hidden.new_empty(outer, inner, keep, width)
        late = None if turn is None else turn[length - keep :]
        for place, part in enumerate(_chunks(outer, inner * length * 3 * wide)):
            x = hidden[part]
            count = x.shape[0] * inner
            rows = slice(part.start * inner, part.stop * inner)
            x_normed = normed[rows] if kept else hidden.new_empty(count, length, width)
            x_inverse = _normalise(x, spec.eps, x_normed.view(x.shape))
            pq = q[rows] if kept else hidden.new_empty(count, heads, keep, wide // heads)
            pkv = kv[:, rows] if kept else hidden.new_empty(2, count, heads, length, wide // heads)
            _project(x_normed, weight, turn, late, pq, pkv)
            weights = _probabilities(pq, pkv[0], None if mask is None else mask[rows])
            if spec.rate:
                weights.mul_(keep_mask(tuple(weights.shape), spec.rate, seed, _WEIGHTS, place))
            values = pkv[1].flatten(0, 1)
            found = torch.baddbmm(weights.new_empty(len(values), keep, wide // heads), weights, values, beta=0,
                                  alpha=scale)  # fmt: skip
            gathered = mixed[rows] if kept else hidden.new_empty(count, keep, wide)
            _from_heads(found.view(pq.shape), gathered.view(count, keep, heads, -1), None)
            update = gathered.view(-1, wide) @ wo.t()
            _add_residual(x[:, :, length - keep :], update, spec, seed, place, out[part])
            if kept:
                inverse[rows] = x_inverse.view(count, length, 1)
        ctx.save_for_backward(normed, inverse, q, kv, mixed, weight, norm, wq, wk, wv, wo, turn, mask)
        ctx.facts = outer, inner, length, keep, spec, seed, hidden.stride()
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        normed, inverse, q, kv, mixed, weight, norm, wq, wk, wv, wo, turn, mask = ctx.saved_tensors
        outer, inner, length, keep, spec, seed, strides = ctx.facts
        width, wide, heads, scale = wo.shape[0], wq.shape[0], spec.heads, keep_scale(spec.rate)
        out = torch.empty_strided((outer, inner, length, width), strides, dtype=grad.dtype)
        g_weight, g_output = torch.empty_like(weight), torch.empty_like(wo)
        back = None if turn is None else turn.conj().resolve_conj()
        late = None if back is None else back[length - keep :]
        for place, part in enumerate(_chunks(outer, inner * length * 3 * wide)):
            rows = slice(part.start * inner, part.stop * inner)
            count = rows.stop - rows.start
            update = _residual_grad(grad[part], spec, seed, place)
            _accumulate(g_output, update.t(), mixed[rows].view(-1, wide), place == 0)
            g_found = torch.empty_like(q[rows])
            _to_heads((update @ wo).view(count, keep, heads, -1), g_found, None)
            pq, pk, pv = q[rows], kv[0, rows], kv[1, rows]
            weights = _probabilities(pq, pk, None if mask is None else mask[rows])
            gq, gkv = _attention_backward(weights, pq, pk, pv, g_found.flatten(0, 1), spec, seed, place, scale)
            flat_q = grad.new_empty(count, keep, heads, wide // heads)
            flat_kv = grad.new_empty(count, length, 2, heads, wide // heads)
            _from_heads(gq, flat_q, late)
            _from_heads(gkv[0], flat_kv[:, :, 0], back)
            _from_heads(gkv[1], flat_kv[:, :, 1], None)
            x = normed[rows]
            late_x = x[:, length - keep :].reshape(-1, width)
            _accumulate(g_weight[:wide], flat_q.view(-1, wide).t(), late_x, place == 0)
            _accumulate(g_weight[wide:], flat_kv.view(-1, 2 * wide).t(), x.view(-1, width), place == 0)
            g_normed = (flat_kv.view(-1, 2 * wide) @ weight[wide:]).view(count, length, width)
            g_normed[:, length - keep :] += (flat_q.view(-1, wide) @ weight[:wide]).view(count, keep, width)
            gx = _normalise_backward(g_normed, x, inverse[rows]).mul_(inverse[rows]).view(-1, inner, length, width)
            if keep < length:
                gx[:, :, length - keep :] += grad[part]
                out[part] = gx
            else:
                torch.add(gx, grad[part], out=out[part])
        pairs, apart = (_interleave, _separate) if turn is not None else (_same, _same)
        raw = torch.cat((pairs(wq, heads), pairs(wk, heads), wv))
        g_norm = (raw * g_weight).sum(0)
        gq, gk, gv = (g_weight * norm).split(wide)
        return out, g_norm, apart(gq, heads), apart(gk, heads), gv, g_output, None, None, None, None


def _same(weight: Tensor, heads: int) -> Tensor:
    return weight


def _project(
    normed: Tensor, weight: Tensor, turn: Tensor | None, late: Tensor | None, q: Tensor, kv: Tensor
) -> None:
    """q (n, H, N, d) of the last N tokens and k, v (2, n, H, L, d) of all, from normed (n, L, D)."""
    count, length, width = normed.shape
    heads, keep, wide = q.shape[1], q.shape[2], weight.shape[0] // 3
    if keep == length:
        flat = (normed.view(-1, width) @ weight.t()).view(count, length, 3, heads, -1)
        flat_q, flat_kv = flat[:, :, 0], flat[:, :, 1:]
    else:
        flat_q = (normed[:, length - keep :].reshape(-1, width) @ weight[:wide].t()).view(count, keep, heads, -1)
        flat_kv = (normed.view(-1, width) @ weight[wide:].t()).view(count, length, 2, heads, -1)
    _to_heads(flat_q, q, late)
    _to_heads(flat_kv[:, :, 0], kv[0], turn)
    _to_heads(flat_kv[:, :, 1], kv[1], None)


def _attention_backward(weights, q, k, v, grad, spec, seed, place, scale) -> tuple[Tensor, Tensor]:
    """Gradients of q (n, H, N, d) and of k, v (2, n, H, L, d) from that of the mixed values, grad (n*H, N, d)."""
    dropped, mask = weights, None
    if spec.rate:
        mask = keep_mask(tuple(weights.shape), spec.rate, seed, _WEIGHTS, place)
        dropped = weights * mask
        grad.mul_(scale)
    g_weights = torch.bmm(grad, v.flatten(0, 1).transpose(1, 2))
    if mask is not None:
        g_weights.mul_(mask)
    gkv = grad.new_empty(2, *k.shape)
    torch.bmm(dropped.transpose(1, 2), grad, out=gkv[1].view(-1, *k.shape[2:]))
    dot = torch.mul(g_weights, weights).sum(-1, keepdim=True)
    g_scores = g_weights.sub_(dot).mul_(weights)
    torch.bmm(g_scores.transpose(1, 2), q.flatten(0, 1), out=gkv[0].view(-1, *k.shape[2:]))
    return torch.bmm(g_scores, k.flatten(0, 1)).view(q.shape), gkv


# ---- a sequence of one token --------------------------------------------------------------------------------------


class _Lone(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden, norm, wv, wo, spec):
        width, wide = hidden.shape[-1], wv.shape[0]
        flat = hidden.reshape(-1, width)
        tokens = len(flat)
        value = wv * norm
        seed = draw_seed() if spec.rate else 0
        # Without dropout between them the two products are one matrix, worth forming once tokens outnumber its rows.
        merged = wo @ value if not spec.rate and tokens > 2 * wide else None
        normed = flat.new_empty(tokens if spec.record else 0, width)
        inverse = flat.new_empty(tokens if spec.record else 0, 1)
        values = flat.new_empty(tokens if spec.record and merged is None else 0, wide)
        out = torch.empty_like(flat)
        for place, part in enumerate(_chunks(tokens, 2 * max(wide, width))):
            x = flat[part]
            x_normed = normed[part] if spec.record else torch.empty_like(x)
            x_inverse = _normalise(x, spec.eps, x_normed)
            if merged is not None:
                update = x_normed @ merged.t()
            else:
                found = values[part] if spec.record else x.new_empty(len(x), wide)
                torch.mm(x_normed, value.t(), out=found)
                _drop_heads(found, spec, seed, place)
                update = found @ wo.t()
            _add_residual(x, update, spec, seed, place, out[part])
            if spec.record:
                inverse[part] = x_inverse
        ctx.save_for_backward(normed, inverse, values, value, norm, wv, wo, merged)
        ctx.facts = spec, seed
        return out.view(hidden.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        normed, inverse, values, value, norm, wv, wo, merged = ctx.saved_tensors
        spec, seed = ctx.facts
        width, wide = wo.shape
        flat = grad.reshape(-1, width)
        out = torch.empty_like(flat)
        g_value, g_output = torch.empty_like(value), torch.empty_like(wo)
        g_merged = None if merged is None else torch.empty_like(merged)
        for place, part in enumerate(_chunks(len(flat), 2 * max(wide, width))):
            x, update = normed[part], _residual_grad(flat[part], spec, seed, place)
            if merged is not None:
                _accumulate(g_merged, update.t(), x, place == 0)
                g_normed = update @ merged
            else:
                _accumulate(g_output, update.t(), values[part], place == 0)
                g_found = update @ wo
                _drop_heads(g_found, spec, seed, place)
                _accumulate(g_value, g_found.t(), x, place == 0)
                g_normed = g_found @ value
            g_normed = _normalise_backward(g_normed, x, inverse[part])
            torch.addcmul(flat[part], g_normed, inverse[part], out=out[part])
        if g_merged is not None:
            g_output, g_value = g_merged @ value.t(), wo.t() @ g_merged
        return out.view(grad.shape), (wv * g_value).sum(0), g_value.mul_(norm), g_output, None


def _drop_heads(x: Tensor, spec: Spec, seed: int, place: int) -> None:
    """Multiply each head's (tokens, H, d) vector by 0 or 1 / keep, in place: the dropped weight of a lone token."""
    if not spec.rate:
        return
    mask = keep_mask((len(x), spec.heads, 1), spec.rate, seed, _WEIGHTS, place).mul_(keep_scale(spec.rate))
    x.view(len(x), spec.heads, -1).mul_(mask)


# ---- feed forward -------------------------------------------------------------------------------------------------


class _FeedForward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden, norm, wi, wo, spec):
        width, wide = wo.shape
        flat = hidden.reshape(-1, width)
        tokens, seed, scale = len(flat), draw_seed() if spec.rate else 0, keep_scale(spec.rate)
        weight = wi * norm
        normed = flat.new_empty(tokens if spec.record else 0, width)
        inverse = flat.new_empty(tokens if spec.record else 0, 1)
        active = flat.new_empty(tokens if spec.record else 0, wide)
        out = torch.empty_like(flat)
        for place, part in enumerate(_chunks(tokens, wide)):
            x = flat[part]
            x_normed = normed[part] if spec.record else torch.empty_like(x)
            x_inverse = _normalise(x, spec.eps, x_normed)
            found = active[part] if spec.record else x.new_empty(len(x), wide)
            torch.mm(x_normed, weight.t(), out=found)
            found.relu_()
            if spec.rate:
                found.mul_(keep_mask(tuple(found.shape), spec.rate, seed, _INNER, place))
            update = torch.addmm(x, found, wo.t(), beta=0, alpha=scale)
            _add_residual(x, update, spec, seed, place, out[part])
            if spec.record:
                inverse[part] = x_inverse
        ctx.save_for_backward(normed, inverse, active, weight, norm, wi, wo)
        ctx.facts = spec, seed
        return out.view(hidden.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        normed, inverse, active, weight, norm, wi, wo = ctx.saved_tensors
        spec, seed = ctx.facts
        width, wide = wo.shape
        flat = grad.reshape(-1, width)
        out = torch.empty_like(flat)
        g_inner, g_outer = torch.empty_like(weight), torch.empty_like(wo)
        scale = keep_scale(spec.rate)
        for place, part in enumerate(_chunks(len(flat), wide)):
            x, found, update = normed[part], active[part], _residual_grad(flat[part], spec, seed, place)
            _accumulate(g_outer, update.t(), found, place == 0)
            g_found = update @ wo
            torch.ops.aten.threshold_backward.grad_input(g_found, found, 0, grad_input=g_found)
            _accumulate(g_inner, g_found.t(), x, place == 0)
            g_normed = _normalise_backward(g_found @ weight, x, inverse[part])
            torch.addcmul(flat[part], g_normed, inverse[part], value=scale, out=out[part])
        g_inner.mul_(scale)
        return out.view(grad.shape), (wi * g_inner).sum(0), g_inner.mul_(norm), g_outer.mul_(scale), None
