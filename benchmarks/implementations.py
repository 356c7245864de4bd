# SPDX-License-Identifier: Apache-2.0
"""Triton, CUDA C++, PyTorch's products and the reference side by side.

    python -m benchmarks.implementations --device cuda

One group of variables per shape, forward and backward of each function family as the contracts call them,
each checked against the float64 reference first. On a CUDA device few samples are also timed as a graph replay,
where launches cost least.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.input_sets import Rotation, how_many, told
from benchmarks.machine import machine_line
from benchmarks.results import Record, default_path, save
from bido_ext._precision import tf32_allowed
from bido_ext.reference.kernel_entries import GAUSSIAN, LABELS
from bido_ext.serving import implementations as serving
from bido_ext.serving.check import self_check
from bido_ext.serving.choose import step_of
from bido_ext.serving.comparison import SelfCheckError
from bido_ext.serving.measure import MIN_ROUNDS, clock_of, interleaved, is_cuda
from bido_ext.serving.row import CONTRACTS, ROWS, checked_ops

#: (n, widths): the step of VGG16 and pairs of large batches, what tells most first.
VGG16 = (12288, 65536, 32768, 16384, 8192, 2048)
SHAPES = ((1024, VGG16), (4096, (2048, 2048)), (64, VGG16), (256, VGG16), (8192, (2048, 2048)))
#: Up to here a step is timed as the replay of a CUDA graph as well.
GRAPH_UP_TO = 256
#: Sets of inputs that are captured: a capture takes a tenth of a second.
GRAPH_SETS = 4
EPS = 1e-5


@dataclass(frozen=True)
class Step:
    """X, hidden layers and labels, with the pairs of BiDO."""

    group: list[Tensor]
    parameters: Tensor
    kinds: list[int]
    first: list[int]
    second: list[int]
    wanted: list[int]

    @property
    def n(self) -> int:
        """Samples."""
        return self.group[0].shape[0]

    def copy(self) -> Step:
        """The same numbers elsewhere in memory."""
        return replace(self, group=[v.clone() for v in self.group])


def make_step(n: int, widths: Sequence[int], dtype: torch.dtype, device: str) -> Step:
    """Random features on the device; the first variable stands for X."""
    generator = torch.Generator().manual_seed(n)
    group = [torch.rand((n, d), generator=generator).to(device, dtype) for d in widths]
    parameters = torch.tensor([1 / (50 * d) for d in widths] + [1.0], dtype=torch.float64)
    layers = list(range(1, len(widths)))
    labels = len(widths)
    return Step(
        [*group, (torch.arange(n) % max(2, n // 4)).to(device)],
        parameters.to(device),
        [GAUSSIAN] * labels + [LABELS],
        [i for i in layers for _ in (0, 1)],
        [0, labels] * len(layers),
        layers,
    )


def arguments_of(op: str, s: Step) -> dict[str, Any]:
    """The arguments of an op's forward on a step; gaussian_gram and double_center on its last layer."""
    known = {
        "variables": s.group, "parameters": s.parameters, "kinds": s.kinds, "first": s.first,
        "second": s.second, "wanted": s.wanted, "unbiased": False, "tile": s.n, "kept_tiles": -1,
        "eps": EPS, "wide": True, "norm": "fro", "x": s.group[-2], "gamma": s.parameters[-2],
        "minus_one": True, "K": torch.rand((s.n, s.n), device=s.parameters.device),
    }  # fmt: skip
    return {name: known[name] for name in CONTRACTS[ROWS[op].functions[0]].arguments}


def bytes_of_family(op: str, s: Step) -> int:
    """Of what a family reads: the features, or of one layer and the matrices made of it."""
    square = 4 * s.n * s.n
    if op == "double_center":
        return square
    read = [s.group[-2]] if op == "gaussian_gram" else s.group[:-1]
    features = sum(v.numel() * v.element_size() for v in read)
    return features + (square if op == "gaussian_gram" else 0)


def as_graph(call: Callable[[], object]) -> Callable[[], object]:
    """The replay of a call that was captured once."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            call()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return graph.replay


def implementations_of(op: str) -> list[str]:
    """The reference, and all that the chooser has on a GPU."""
    return ["reference", *(i.name for i in ROWS[op].on_gpu())]


def run_family(op: str, s: Step, dtype: torch.dtype, device: str, rounds: int) -> Record:
    """Times what passes the self-check; the floor is the fastest."""
    calls: dict[str, Callable[[], object]] = {}
    rows: list[dict[str, Any]] = []
    tf32 = tf32_allowed()
    size = bytes_of_family(op, s)
    turns = Rotation(range(how_many(size, device)))
    sets = [s, *(s.copy() for _ in turns.sets[1:])]
    graphs = Rotation(range(min(len(sets), GRAPH_SETS)))
    for name in implementations_of(op):
        functions, known = serving.functions_of(op, name), ROWS[op].get(name)
        if not functions or (known is not None and known.refusal(arguments_of(op, s))):
            continue
        try:
            self_check(op, functions, dtype, torch.device(device), tf32=tf32, implementation=name)
            on_sets = [step_of(ROWS[op], functions, arguments_of(op, one)) for one in sets]
            on_sets[0]()
        except (SelfCheckError, RuntimeError, NotImplementedError) as error:
            rows.append({"name": name, "refusal": str(error).splitlines()[0]})
            continue
        calls[name] = turns.call(lambda i, own=on_sets: own[i]())  # type: ignore[misc]
        if is_cuda(device) and s.n <= GRAPH_UP_TO and name != "reference":
            try:
                replays = [as_graph(on_sets[i]) for i in graphs.sets]
            except RuntimeError as error:  # the eager times still count
                said = str(error).splitlines()[0]
                rows.append({"name": f"{name}, graph", "refusal": f"not captured: {said}"})
                continue
            calls[f"{name}, graph"] = graphs.call(lambda i, own=replays: own[i]())  # type: ignore[misc]
    taken = interleaved(calls, rounds, device=device, minimum_rounds=min(rounds, MIN_ROUNDS))
    fastest = min(time.median for time in taken.values())
    rows += [
        {
            "name": name, "refusal": None, "median_ms": 1e3 * time.median, "q20_ms": 1e3 * time.q20,
            "q80_ms": 1e3 * time.q80, "times_floor": time.median / fastest,
            "input_sets": told(
                len((graphs if name.endswith(", graph") else turns).sets), size, device
            ),
        }
        for name, time in taken.items()
    ]  # fmt: skip
    dims = [v.shape[1] for v in s.group if v.dim() == 2]
    return {
        "spec": {"name": f"implementations_{op}", "n": s.n, "dims": dims, "num_classes": 0},
        "dtype": str(dtype).removeprefix("torch.") + (" (tf32)" if tf32 else ""),
        "threads": torch.get_num_threads(),
        "rounds": rounds,
        "clock": clock_of(device),
        "floor": {"what": "the fastest implementation", "ms": 1e3 * fastest},
        "rows": rows,
        "machine": machine_line(device),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures and prints; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.implementations", description=__doc__
    )
    parser.add_argument("--device", default="cuda")
    parser.add_argument(
        "--ops", nargs="+", choices=tuple(checked_ops()), default=tuple(checked_ops())
    )
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--precision", default="highest", choices=("highest", "high"))
    parser.add_argument("--rounds", type=int, default=MIN_ROUNDS)
    parser.add_argument(
        "--smoke", action="store_true", help="one tiny shape, no file unless --json"
    )
    parser.add_argument("--json", type=Path, help="file (default benchmarks/results/<device>/...)")
    options = parser.parse_args(arguments)
    torch.set_float32_matmul_precision(options.precision)
    shapes = ((24, (40, 30, 20)),) if options.smoke else SHAPES
    for n, widths in shapes:
        for dtype in (getattr(torch, name) for name in options.dtypes):
            step = make_step(n, widths, dtype, options.device)
            for op in options.ops:
                record = run_family(op, step, dtype, options.device, options.rounds)
                for row in record["rows"]:
                    told = (
                        row["refusal"]
                        or f"{row['median_ms']:.3f} ms, {row['times_floor']:.2f} x fastest"
                    )
                    print(f"{op}  n = {n}  {record['dtype']}  {row['name']}: {told}", flush=True)
                path = options.json or default_path("implementations", options.device)
                if options.json or not options.smoke:
                    save(path, "implementations", [record])
    return 0


if __name__ == "__main__":
    sys.exit(main())
