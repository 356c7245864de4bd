# SPDX-License-Identifier: Apache-2.0
"""Arenas: every defence against every attack, in one table, from a file of ``bido list arenas``."""

from .load import arena_names, load_arena
from .run import ArenaPlace, ArenaSweep, run_arena, run_one, sweeps_of, write_table
from .schema import Arena, ArenaAttack, ArenaModel

__all__ = [
    "Arena",
    "ArenaAttack",
    "ArenaModel",
    "ArenaPlace",
    "ArenaSweep",
    "arena_names",
    "load_arena",
    "run_arena",
    "run_one",
    "sweeps_of",
    "write_table",
]
