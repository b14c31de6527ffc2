"""The counter-based random numbers behind every draw.

Philox4x32-10 (Salmon, Moraes, Dror, Shaw: "Parallel Random Numbers: As Easy as 1, 2, 3", SC11) turns a 64-bit key and
a 128-bit counter into 128 random bits. There is no generator state to keep, copy or advance: a draw is a function of
what it is for, so a sequence that is resumed, forked or batched with others draws the same numbers.

    key      seed, low and high 32 bits
    counter  position (low, high 32 bits), choice, SAMPLING_STREAM
             of noise: position, choice, NOISE_STREAM + token
    uniform  53 bits of the first two output words, (word0 << 32 | word1) >> 11, times 2^-53: in [0, 1)

`native/sampler_random.hpp` computes the same numbers.
"""

from __future__ import annotations

SAMPLING_STREAM = 0x77696E67
"""Last counter word of token draws ("wing" in ASCII); another use of the same seed takes another constant."""

NOISE_STREAM = 0x6E000000
"""The same for noise ("n" in ASCII), of up to 2^24 tokens."""

_MASK32 = 0xFFFFFFFF
_ROUNDS = 10
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_KEY_STEPS = (0x9E3779B9, 0xBB67AE85)


def philox4x32(counter: tuple[int, int, int, int], key: tuple[int, int]) -> tuple[int, int, int, int]:
    """Four random 32-bit words for a counter of four and a key of two 32-bit words."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(_ROUNDS):
        product0, product1 = _MULTIPLIERS[0] * c0, _MULTIPLIERS[1] * c2
        c0, c1, c2, c3 = (
            (product1 >> 32) ^ c1 ^ k0,
            product1 & _MASK32,
            (product0 >> 32) ^ c3 ^ k1,
            product0 & _MASK32,
        )
        k0, k1 = (k0 + _KEY_STEPS[0]) & _MASK32, (k1 + _KEY_STEPS[1]) & _MASK32
    return c0, c1, c2, c3


def uniform(seed: int, choice: int, position: int) -> float:
    """The random number in [0, 1) of one token draw: 64-bit seed, 32-bit choice, 64-bit position."""
    return _number(seed, choice, position, SAMPLING_STREAM)


def noise(seed: int, choice: int, position: int, token: int) -> float:
    """The random number in [0, 1) of one token's noise at one position."""
    return _number(seed, choice, position, NOISE_STREAM + token)


def _number(seed: int, choice: int, position: int, stream: int) -> float:
    counter = (position & _MASK32, position >> 32 & _MASK32, choice & _MASK32, stream & _MASK32)
    word0, word1, _, _ = philox4x32(counter, (seed & _MASK32, seed >> 32 & _MASK32))
    return ((word0 << 32 | word1) >> 11) * 2.0**-53
