"""Names of random streams as numbers; needs no torch."""

import hashlib


def key(seed: int, purpose: str, *counters: int) -> int:
    """A 63-bit key for the stream of that name; equal names give equal keys on every machine."""
    name = "/".join(map(str, (seed, purpose, *counters)))
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little") >> 1
