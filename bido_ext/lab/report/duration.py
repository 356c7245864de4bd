# SPDX-License-Identifier: Apache-2.0
"""Times for people."""


def duration(seconds: float) -> str:
    """Seconds as "0.4 s", "42 s", "3 min 05 s" or "2 h 10 min"."""
    if seconds < 1:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
