"""Luck that depends on what it is for, not on when it is asked: a hash of the seed and a name.

So one message more or less leaves the luck of all others as it was.
"""

from __future__ import annotations

from hashlib import blake2b

_SCALE = 1 / (1 << 64)


class Chance:
    """Numbers between 0 and 1, the same for the same words."""

    def __init__(self, seed: int) -> None:
        self._key = seed.to_bytes(8, "big", signed=True)

    def of(self, *words: str | int) -> float:
        text = "\0".join(map(str, words)).encode()
        return int.from_bytes(blake2b(text, digest_size=8, key=self._key).digest(), "big") * _SCALE

    def between(self, low: float, high: float, *words: str | int) -> float:
        return low + (high - low) * self.of(*words)
