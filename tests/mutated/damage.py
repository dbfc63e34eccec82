"""Changes to bytes that need no knowledge of the format."""

import random

# Lengths, counts and times that programs get wrong: borders of the integer types, and zero.
NUMBERS = (0, 1, 2, 3, 7, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 10**6, 2**31 - 1, 2**31, 2**32 - 2, 2**32 - 1)


def number(rng: random.Random, size: int, order: str = "big") -> bytes:
    """An awkward number in `size` bytes."""
    value = rng.choice((*NUMBERS, 2**62, 2**63, 2**64 - 1, rng.randrange(256**size)))
    return (value % 256**size).to_bytes(size, order)  # type: ignore[arg-type]


def place(data: bytes, rng: random.Random) -> int:
    """A position, most often near the start, where headers are."""
    return int(len(data) * rng.random() ** 3)


def damaged(data: bytes, rng: random.Random) -> tuple[bytes, str]:
    """Bytes flipped, overwritten, removed, repeated, moved or cut off; and what was done, in words."""
    if not data:
        return rng.randbytes(rng.randrange(1, 40)), "made of random bytes"
    start = place(data, rng)
    length = min(rng.choice((1, 2, 4, 8, 64, 1000, len(data) // 3 + 1)), len(data) - start)
    stop = start + length
    span = data[start:stop]
    match rng.randrange(7):
        case 0:
            changed = bytearray(data)
            for _ in range(rng.choice((1, 1, 3, 20))):
                changed[place(data, rng)] ^= 1 << rng.randrange(8)
            return bytes(changed), "bits flipped"
        case 1:
            size = min(rng.choice((1, 2, 4, 8)), length)
            value = number(rng, size, rng.choice(("big", "little")))
            return data[:start] + value + data[start + size :], f"{value.hex()} written at {start}"
        case 2:
            return data[:start] + rng.randbytes(length) + data[stop:], f"{length} random bytes written at {start}"
        case 3:
            return data[:start] + data[stop:], f"{length} bytes removed at {start}"
        case 4:
            return data[:stop] + span * rng.choice((1, 5)) + data[stop:], f"{length} bytes repeated at {start}"
        case 5:
            rest = data[:start] + data[stop:]
            to = place(rest, rng)
            return rest[:to] + span + rest[to:], f"{length} bytes moved from {start} to {to}"
        case _:
            return data[:start], f"cut off at {start}"
