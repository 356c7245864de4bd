# SPDX-License-Identifier: Apache-2.0
"""Reconstructions per second: ``python -m benchmarks.attack_throughput --attack gmi``.

bido_ext's batched search against the published loop (``published_attacks``) on the same networks,
all restarts and classes of one attack, a few steps each: a step's cost does not depend on its
number.  GMI's two are checked to walk the same path first.  Rates are for ``--published-steps``.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch

from benchmarks.machine import machine_line
from benchmarks.published_attacks import published_gmi, published_ked
from benchmarks.results import Record, default_path, save
from bido_ext._counted import counted
from bido_ext.lab.attacks import Critic, Gan, Generator, GmiConfig, KedConfig, invert, invert_ked
from bido_ext.lab.attacks.ked import KedGan, TargetDiscriminator
from bido_ext.lab.attacks.rows import Rows
from bido_ext.lab.models import build_model
from bido_ext.lab.models.checkpoint import weights_digest
from bido_ext.serving.measure import MIN_ROUNDS, interleaved

OWN, PUBLISHED, FROZEN = "bido_ext", "published loop", "published loop, weights frozen"
# Classes attacked together, arch and image shape of the published experiments.
SETUPS = {"mnist": (5, "mcnn", (1, 32, 32)), "faces": (60, "vgg16", (3, 64, 64))}
PUBLISHED_STEPS = {("gmi", "mnist"): 3000, ("gmi", "faces"): 2000, "ked": 5000}


class WrongPathError(RuntimeError):
    """The two loops do not find the same latents, so their times do not compare."""


def run(
    attack: str,
    setup: str,
    *,
    restarts: int,
    steps: int,
    batch_size: int,
    threads: int,
    rounds: int,
    width: float = 1.0,
    minimum_rounds: int = MIN_ROUNDS,
) -> Record:
    """Measure one attack; see the module.

    Raises:
        WrongPathError: bido_ext's GMI and the published loop part.
    """
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    group, arch, shape = SETUPS[setup]
    target = build_model(arch, group).eval()
    calls = (_gmi if attack == "gmi" else _ked)(
        target, group, shape, width, restarts=restarts, steps=steps, batch_size=batch_size
    )
    taken = interleaved(calls, rounds, minimum_rounds=minimum_rounds)
    count = restarts * group
    full = PUBLISHED_STEPS.get((attack, setup), PUBLISHED_STEPS.get(attack))
    assert isinstance(full, int)
    rows = []
    for name, time in taken.items():
        rows.append(
            {
                "name": name,
                "median_ms": 1e3 * time.median,
                "q20_ms": 1e3 * time.q20,
                "q80_ms": 1e3 * time.q80,
                "steps_of_a_row_per_s": count * steps / time.median,
                "reconstructions_per_s": count * steps / time.median / full,
                "times_published": taken[PUBLISHED].median / time.median,
            }
        )
    return {
        "spec": {
            "name": f"attack_throughput_{attack}_{setup}",
            "n": count,
            "dims": list(shape),
            "num_classes": group,
            "restarts": restarts,
            "steps": steps,
            "published_steps": full,
            "batch_size": batch_size,
            "width": width,
            "target": arch,
        },
        "dtype": "float32",
        "threads": threads,
        "rounds": rounds,
        "floor": {"what": PUBLISHED, "ms": 1e3 * taken[PUBLISHED].median},
        "rows": rows,
        "machine": machine_line("cpu"),
    }


Calls = dict[str, Callable[[], object]]


def _gmi(
    target: torch.nn.Module,
    group: int,
    shape: tuple[int, int, int],
    width: float,
    *,
    restarts: int,
    steps: int,
    batch_size: int,
) -> Calls:
    prior = Gan(Generator(width, shape).eval(), Critic(width, shape).eval(), [], 0.0, Path())
    lr = 2e-2
    config = GmiConfig(steps=steps, lr=lr / group, restarts=restarts, batch_size=batch_size)
    own = partial(invert, config, target, prior, range(group), progress=False)
    starts = Rows.of(range(group), restarts, group, 0).starts(100).unflatten(0, (restarts, group))
    published = partial(
        published_gmi, target, prior.generator, prior.critic, starts, torch.arange(group),
        steps=steps, lr=lr,
    )  # fmt: skip
    ours, theirs = own().latents, published()
    # The prior term is a mean there and a sum here, which lr / group makes the same.
    moved = float((theirs - starts.clamp(-1, 1)).abs().max())
    apart = float((ours - theirs).abs().max())
    if not apart <= 1e-2 * moved:
        raise WrongPathError(f"latents differ by {apart:.2e} after moving by {moved:.2e}")
    return {OWN: own, PUBLISHED: published, FROZEN: partial(published, frozen=True)}


def _ked(
    target: torch.nn.Module,
    group: int,
    shape: tuple[int, int, int],
    width: float,
    *,
    restarts: int,
    steps: int,
    batch_size: int,
) -> Calls:
    generator = Generator(width, shape).eval()
    discriminator = TargetDiscriminator(group, width, shape).eval()
    prior = KedGan(generator, discriminator, weights_digest(target), [], 0.0, Path())
    config = KedConfig(steps=steps, restarts=restarts, samples=1, batch_size=batch_size)
    own = partial(invert_ked, config, target, prior, range(group), progress=False)
    published = partial(
        published_ked, target, generator, discriminator, torch.arange(group), steps=steps,
        restarts=restarts,
    )  # fmt: skip
    return {OWN: own, PUBLISHED: published, FROZEN: partial(published, frozen=True)}


def text(record: Record) -> str:
    """The record as lines to print."""
    spec = record["spec"]
    lines = [
        f"{spec['name']}: {spec['n']} rows, {spec['steps']} steps, {counted(record['threads'], 'thread')}"
    ]
    lines += [
        f"  {row['name']:<32} {row['steps_of_a_row_per_s']:9.1f} row-steps/s  "
        f"{3600 * row['reconstructions_per_s']:9.1f} reconstructions/h  "
        f"{row['times_published']:.2f} x published"
        for row in record["rows"]
    ]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures and prints; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.attack_throughput", description=__doc__
    )
    parser.add_argument("--attack", choices=["gmi", "ked"], default="gmi")
    parser.add_argument("--setup", choices=list(SETUPS), default="mnist")
    parser.add_argument("--restarts", type=int, default=20)
    parser.add_argument("--steps", type=int, default=2, help="of a search (default 2)")
    parser.add_argument("--batch-size", type=int, default=100)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=MIN_ROUNDS)
    parser.add_argument("--json", type=Path, help="file (default benchmarks/results/<device>/...)")
    options = parser.parse_args(arguments)
    try:
        record = run(
            options.attack,
            options.setup,
            restarts=options.restarts,
            steps=options.steps,
            batch_size=options.batch_size,
            threads=options.threads,
            rounds=options.rounds,
        )
    except WrongPathError as error:
        print(f"refused: {error}", file=sys.stderr)
        return 1
    print(text(record))
    name = record["spec"]["name"]
    save(options.json or default_path(name, "cpu"), name, [record])
    return 0


if __name__ == "__main__":
    sys.exit(main())
