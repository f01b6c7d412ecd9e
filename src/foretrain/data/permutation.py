"""Counter-based random numbers and permutations: pure functions of (seed, counter) without any generator state."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from foretrain.data.windows import IntArray

U64 = npt.NDArray[np.uint64]

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX2 = np.uint64(0x94D049BB133111EB)
_MASK = (1 << 64) - 1
_ROUNDS = 4  # enough for a pseudo-random permutation (Luby and Rackoff); must be even, see _feistel
BLOCK = 4096  # consecutive indices that are stored together on disk
BLOCKS_MIXED = 16  # blocks shuffled with one another: the number of places on disk that are read at a time


def _mix(x: U64) -> U64:
    """The finaliser of splitmix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014)."""
    x = (x ^ (x >> np.uint64(30))) * _MIX1
    x = (x ^ (x >> np.uint64(27))) * _MIX2
    return x ^ (x >> np.uint64(31))


def _mix_int(x: int) -> int:
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & _MASK
    return x ^ (x >> 31)


def derive(*parts: int) -> int:
    """Return a 64-bit key hashed from several integers; a change of any part gives an unrelated key."""
    key = 0x243F6A8885A308D3
    for part in parts:
        key = _mix_int((key + 0x9E3779B97F4A7C15 + _mix_int(part & _MASK)) & _MASK)
    return key


def hash64(key: int | U64, counter: npt.ArrayLike) -> U64:
    """Return 64 random bits for each counter under a key, or under keys that broadcast against the counters."""
    k = np.asarray(key, np.uint64)
    return _mix(_mix(np.asarray(counter).astype(np.uint64) * _GOLDEN + k) + k)


def uniform(key: int | U64, counter: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Return one number in [0, 1) with 53 random bits for each counter."""
    return (hash64(key, counter) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def below(key: int | U64, counter: npt.ArrayLike, bound: npt.ArrayLike) -> IntArray:
    """Return one integer in [0, bound) for each counter; bounds up to 2**53 broadcast against the counters."""
    limit = np.asarray(bound)
    drawn = (uniform(key, counter) * limit).astype(np.int64)
    return np.minimum(drawn, limit - 1)  # a product can round up to the bound


def permute(key: int | U64, index: IntArray, size: int | IntArray) -> IntArray:
    """Apply a keyed permutation of range(size) to each index; key and size may be given per element.

    A Feistel network on as many bits as size needs, applied again until the value is inside the range (cycle walking).
    """
    limit = np.asarray(size, np.int64)
    # frexp's exponent is the bit length; two bits at least, so that both halves exist
    bits = np.maximum(np.frexp((limit - 1).astype(np.float64))[1], 2).astype(np.uint64)
    network = np.asarray(key, np.uint64), bits
    out = _feistel(np.asarray(index, np.int64).astype(np.uint64), *network)
    limit = limit.astype(np.uint64)
    outside = np.flatnonzero(out >= limit)
    while len(outside):
        here = [part[outside] if part.ndim else part for part in (*network, limit)]
        out[outside] = _feistel(out[outside], here[0], here[1])
        outside = outside[out[outside] >= here[2]]
    return out.astype(np.int64)


def _feistel(value: U64, key: U64, bits: U64) -> U64:
    """A bijection of range(2**bits); its halves may differ by a bit, so an even number of rounds puts them back."""
    one = np.uint64(1)
    low = bits >> one
    masks = (one << (bits - low)) - one, (one << low) - one
    left, right = value >> low, value & masks[1]
    for number in range(_ROUNDS):
        left, right = right, left ^ (_mix(right * _GOLDEN + (key + np.uint64(number))) & masks[number % 2])
    return (left << low) | right


def permute_blocks(
    key: int, position: IntArray, size: int, *, block: int = BLOCK, blocks_mixed: int = BLOCKS_MIXED
) -> IntArray:
    """Apply a keyed permutation of range(size) that maps nearby positions into few blocks of consecutive indices.

    Blocks are permuted, then every blocks_mixed neighbouring blocks are shuffled together. Up to block x blocks_mixed
    indices this is one full shuffle. The shorter last block is handled by cycle walking.
    """
    pool = block * blocks_mixed
    if size <= pool:
        return permute(derive(key, 0), position, size)
    out = _blockwise(key, np.asarray(position, np.int64), size, block, pool)
    outside = np.flatnonzero(out >= size)
    while len(outside):
        out[outside] = _blockwise(key, out[outside], size, block, pool)
        outside = outside[out[outside] >= size]
    return out


def _blockwise(key: int, position: IntArray, size: int, block: int, pool: int) -> IntArray:
    num_blocks = -(-size // block)
    padded = num_blocks * block
    group = position // pool
    begin = group * pool
    inside = permute(hash64(derive(key, 1), group), position - begin, np.minimum(pool, padded - begin))
    shuffled = begin + inside
    where = permute(derive(key, 2), shuffled // block, num_blocks)
    return where * block + shuffled % block
