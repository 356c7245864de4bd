# SPDX-License-Identifier: Apache-2.0
"""Numbers with their noun: "1 thread", "2 threads"."""


def counted(number: int, noun: str, plural: str = "") -> str:
    """``number`` and ``noun``, which gets an s where it is not one; ``plural`` for other endings."""
    return f"{number} {noun if number == 1 else plural or noun + 's'}"
