# SPDX-License-Identifier: Apache-2.0
"""Right or wrong: one family of functions, each implementation, dtype and precision, against float64.

Shapes are odd and aligned (a compiler makes other code where sizes are multiples of 16), and uninitialised
memory is NaN, so that an entry that no kernel wrote shows up. One line of JSON a check, written at once.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import torch

from bido_ext.serving.check import self_check
from bido_ext.serving.implementations import functions_of
from bido_ext.serving.row import ROWS, checked_ops

#: Beside the shapes of the self-check: aligned, and more columns than one block takes.
WIDE = (96, 4096)
SMALL = ((67, 130), (64, 128))


def shapes_of(op: str, implementation: str, small: bool) -> tuple[tuple[int, int], ...]:
    """Shapes of a family; small ones for the sanitizers."""
    if small:
        return SMALL
    return (*ROWS[op].shapes_of(implementation), WIDE)


def implementations_on_gpus(op: str) -> tuple[str, ...]:
    """Those that the chooser has, in its order."""
    return tuple(i.name for i in ROWS[op].on_gpu())


def verdict(
    op: str,
    implementation: str,
    dtype: torch.dtype,
    device: torch.device,
    precision: str,
    small: bool,
) -> tuple[str, str]:
    """("right" | "wrong" | "none", what was said)."""
    functions = functions_of(op, implementation)
    known = ROWS[op].get(implementation)
    lacking = None if known is None else known.lacking(device)
    if not functions or lacking:
        return "none", lacking or "no such kernel"
    torch.set_float32_matmul_precision(precision)
    try:
        shapes = shapes_of(op, implementation, small)
        self_check(
            op, functions, dtype, device, tf32=precision != "highest", shapes=shapes,
            implementation=implementation,
        )  # fmt: skip
        if device.type == "cuda":
            torch.cuda.synchronize(device)
    except Exception as error:  # a kernel may fail in any way; what it says is the result
        said = str(error).partition("\n")[0]
        return "wrong", f"{type(error).__name__}: {said}"
    return "right", ""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("family", choices=tuple(checked_ops()))
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--small", action="store_true", help="two small shapes, for sanitizers")
    options = parser.parse_args()
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = True  # type: ignore[attr-defined]
    device = torch.device(options.device)
    # On a CPU the reference stands in: that the check itself works is what the rehearsal shows.
    implementations: tuple[str, ...] = (
        ("reference", "composed")
        if device.type == "cpu"
        else (*implementations_on_gpus(options.family), "reference")
    )
    dtypes: tuple[torch.dtype, ...] = (torch.float32, torch.bfloat16, torch.float16)
    precisions: tuple[str, ...] = ("highest", "high")
    if options.small:  # a sanitizer slows all down many times: our compiled kernels first
        implementations = ("reference",) if device.type == "cpu" else ("cuda", "triton")
        dtypes, precisions = (torch.float32, torch.bfloat16), ("highest",)
    wrong = 0
    for implementation in implementations:
        for dtype in dtypes:
            for precision in precisions:
                start = time.monotonic()
                result, said = verdict(
                    options.family, implementation, dtype, device, precision, options.small
                )
                if result == "none":
                    continue
                wrong += result == "wrong"
                row = {
                    "op": options.family, "implementation": implementation,
                    "dtype": str(dtype).removeprefix("torch."), "precision": precision,
                    "verdict": result, "said": said, "seconds": round(time.monotonic() - start, 2),
                }  # fmt: skip
                with options.out.open("a") as file:
                    file.write(json.dumps(row) + "\n")
                print(*row.values(), flush=True)
                if said.startswith("AcceleratorError") or "CUDA error" in said:
                    print("the device is lost for this process; the rest of the family was not run")
                    return 1
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
