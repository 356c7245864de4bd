# SPDX-License-Identifier: Apache-2.0
"""Kills `bido train` and `bido attack` (which trains the GAN first) at random moments, with SIGKILL, and resumes.

Every command runs in a fork of this process, so that a kill costs no second import of PyTorch. What comes
out must be, bit by bit, what an uninterrupted run gives.

python tests/kills.py FOLDER KILLS      # prints a JSON document: kills by stage, and whether all was equal
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from bido_ext.cli.app import app
from bido_ext.lab.experiments import presets
from bido_ext.lab.experiments.pipeline import load_data  # imported before the forks
from bido_ext.lab.models.checkpoint import load_checkpoint, weights_digest

SMOKE = presets.PRESETS["smoke"]
#: Long enough that most kills find a checkpoint to resume from, and that some do not.
LONGER = replace(
    SMOKE,
    prior=replace(SMOKE.prior, steps=160, checkpoint_every=10),
    attack=replace(SMOKE.attack, steps=80, checkpoint_every=8),
)


def command(stage: str, folder: Path) -> list[str]:
    common = ["--preset", "smoke", "--device", "cpu", "--json"]
    if stage == "train":
        return [
            "train",
            "--defence",
            "bido-hsic",
            "--epochs",
            "6",
            "--out",
            f"{folder}/target",
            *common,
        ]
    return [
        "attack", f"{folder}/target/model.pt", "--prior", f"{folder}/prior", "--out", f"{folder}/gmi",
        *common,
    ]  # fmt: skip


def start(arguments: list[str], log: Path) -> int:
    """Forks a process that runs the command; returns its id."""
    pid = os.fork()
    if pid:
        return pid
    try:
        os.setsid()
        out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(out, 1)
        os.dup2(out, 2)
        app(arguments, standalone_mode=False)
        os._exit(0)
    except BaseException as error:
        os.write(2, f"{error!r}\n".encode())
        os._exit(1)


def stage_of(folder: Path) -> str:
    """What was at work when the kill came, by the files that are there."""
    if not (folder / "target" / "model.pt").exists():
        return "train"
    return "attack" if (folder / "gmi").exists() else "gan"


def run_with_kills(
    stage: str, folder: Path, seconds: float, kills: int, chance: random.Random
) -> tuple[Counter[str], int]:
    """Runs one command to its end under at most ``kills`` kills; counts them, and the restarts."""
    killed: Counter[str] = Counter()
    restarts = 0
    while True:
        pid = start(command(stage, folder), folder / "log.txt")
        if sum(killed.values()) < kills:
            # A resumed run is shorter than a whole one: moments are drawn a little early.
            deadline = time.monotonic() + chance.uniform(0.02, 0.7) * seconds
            while time.monotonic() < deadline and os.waitpid(pid, os.WNOHANG) == (0, 0):
                time.sleep(0.005)
            try:
                os.kill(pid, signal.SIGKILL)
                alive = os.waitpid(pid, 0)[1] == signal.SIGKILL
            except (ProcessLookupError, ChildProcessError):
                alive = False
            if alive:
                killed[stage_of(folder)] += 1
                restarts += 1
                continue
            pid = start(command(stage, folder), folder / "log.txt")  # finished: finds it done
        status = os.waitpid(pid, 0)[1]
        if status:
            raise SystemExit(f"{stage} failed: {(folder / 'log.txt').read_text()[-3000:]}")
        return killed, restarts


def outcome(folder: Path) -> dict[str, Any]:
    """Everything that a run computes, as digests."""
    model = load_checkpoint(folder / "target" / "model.pt")
    gan = load_checkpoint(folder / "prior" / "gan.pt")
    found = load_checkpoint(folder / "gmi" / "reconstructions.pt")
    tensors = {
        **{f"model.{k}": v for k, v in model["state_dict"].items()},
        **{f"{part}.{k}": v for part in ("generator", "critic") for k, v in gan[part].items()},
        **{k: found[k] for k in ("images", "latents", "target_confidence")},
    }
    holder = torch.nn.Module()
    for i, (_, value) in enumerate(sorted(tensors.items())):
        holder.register_buffer(f"b{i}", value)
    numbers = (folder / "target" / "log.csv").read_text()
    return {
        "digest": weights_digest(holder),
        "tensors": len(tensors),
        "metrics": model["metrics"],
        "log": numbers,
        "history": gan["history"],
        "gan_step": gan["step"],
    }


def main(root: Path, kills: int, seed: int) -> dict[str, Any]:
    torch.set_num_threads(1)
    presets.PRESETS["smoke"] = LONGER
    load_data("synthetic")  # once before the forks
    chance = random.Random(seed)
    whole = root / "whole"
    whole.mkdir(parents=True)
    seconds = {}
    for stage in ("train", "attack"):
        began = time.monotonic()
        run_with_kills(stage, whole, 0, 0, chance)
        seconds[stage] = time.monotonic() - began
    expected = outcome(whole)
    killed: Counter[str] = Counter()
    runs = different = leftovers = 0
    while sum(killed.values()) < kills:
        folder = root / f"run{runs}"
        folder.mkdir()
        for stage in ("train", "attack"):
            left = min(kills - sum(killed.values()), chance.randint(1, 4))
            counted, _ = run_with_kills(stage, folder, seconds[stage], left, chance)
            killed += counted
        runs += 1
        different += outcome(folder) != expected
        leftovers += len(list(folder.rglob("*.part")))
    return {
        "kills": sum(killed.values()), "by_stage": dict(killed), "runs": runs, "different": different,
        "leftovers": leftovers,
        "seconds_uninterrupted": seconds, "tensors_compared": expected["tensors"],
    }  # fmt: skip


if __name__ == "__main__":
    folder, kills = Path(sys.argv[1]), int(sys.argv[2])
    seed = int(sys.argv[3]) if len(sys.argv) > 3 else 0
    print(json.dumps(main(folder, kills, seed), indent=2))
