# SPDX-License-Identifier: Apache-2.0
"""One attack shared by 1, 2 and 4 processes: ``python -m benchmarks.attack_ranks MODEL --prior GAN``.

Each number of processes runs the command ``bido attack`` under torchrun with one thread a process.
The search is timed, without start and generator.  The reconstructions are compared with those of
one process: rows do not touch, so they differ by rounding alone.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.machine import machine_line
from benchmarks.results import Record, default_path, save

NAME = "attack_ranks"
#: Largest difference of a pixel in [-1, 1] to that of one process.
SAME = 1e-3


class DifferentError(RuntimeError):
    """Another number of processes found other images, so their times do not compare."""


def attack(ranks: int, arguments: Sequence[str], out: Path) -> None:
    """Run ``bido attack`` in ``ranks`` processes; raises CalledProcessError with its messages."""
    start = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    command = [sys.executable, *(start if ranks > 1 else []), "-m", "bido_ext", "attack"]
    subprocess.run(
        [*command, *arguments, "--out", str(out), "--device", "cpu", "--json"],
        env={**os.environ, "OMP_NUM_THREADS": "1"}, check=True, stdout=subprocess.DEVNULL,
    )  # fmt: skip


def run(
    model: Path, prior: Path, ranks: Sequence[int], settings: Sequence[str], preset: str = "quick"
) -> Record:
    """Measure GMI on one classifier; see the module.

    Args:
        model: ``model.pt`` of ``bido train``.
        prior: Folder of the generator; it is trained there by the first run if it is not there yet.
        ranks: Numbers of processes; the first is what the others are compared with.
        settings: NAME=VALUE of the search.
        preset: Of the attack.

    Raises:
        DifferentError: The images differ by more than rounding.
    """
    from bido_ext.lab.attacks.reconstructions import load_reconstructions

    arguments = [str(model), "--attack", "gmi", "--prior", str(prior), "--preset", preset]
    arguments += [word for setting in settings for word in ("--set", setting)]
    seconds, apart = [], []
    with tempfile.TemporaryDirectory() as folder:
        found = []
        for count in ranks:
            out = Path(folder, str(count))
            attack(count, arguments, out)
            stage = json.loads((out / "stage.json").read_text())
            found.append(load_reconstructions(out / "reconstructions.pt").images)
            seconds.append(stage["outcome"]["seconds"])
            apart.append(float((found[-1] - found[0]).abs().max()))
            if not apart[-1] <= SAME:
                raise DifferentError(f"{count} processes: a pixel differs by {apart[-1]:.1e}")
    return {
        "spec": {
            "name": NAME,
            "n": len(found[0]),
            "dims": list(found[0].shape[1:]),
            "attack": "gmi",
            "settings": stage["config"]["settings"],
        },
        "dtype": "float32",
        "threads": 1,
        "rounds": 1,
        "floor": {"what": f"{ranks[0]} process(es)", "ms": 1e3 * seconds[0]},
        "rows": [
            {
                "name": f"{count} processes",
                "ranks": count,
                "median_ms": 1e3 * took,
                "times_as_fast": seconds[0] / took,
                "largest_difference_of_a_pixel": far,
            }
            for count, took, far in zip(ranks, seconds, apart, strict=True)
        ],
        "machine": machine_line("cpu"),
    }


def text(record: Record) -> str:
    """The record as lines to print."""
    lines = [f"{record['spec']['n']} rows of {record['spec']['attack']}, one thread a process"]
    lines += [
        f"  {row['ranks']:>2} processes  {row['median_ms'] / 1e3:8.1f} s  "
        f"{row['times_as_fast']:5.2f} times as fast  "
        f"largest difference of a pixel {row['largest_difference_of_a_pixel']:.1e}"
        for row in record["rows"]
    ]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures and prints; returns the exit code."""
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{NAME}", description=__doc__)
    parser.add_argument("model", type=Path, help="model.pt of bido train")
    parser.add_argument("--prior", type=Path, required=True, help="folder of its generator")
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--set", action="append", default=[], help="NAME=VALUE of the search")
    parser.add_argument("--json", type=Path, help="file (default benchmarks/results/<device>/...)")
    options = parser.parse_args(arguments)
    try:
        record = run(options.model, options.prior, options.ranks, options.set)
    except DifferentError as error:
        print(f"refused: {error}", file=sys.stderr)
        return 1
    print(text(record))
    save(options.json or default_path(NAME, "cpu"), NAME, [record])
    return 0


if __name__ == "__main__":
    sys.exit(main())
