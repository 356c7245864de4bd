# SPDX-License-Identifier: Apache-2.0
"""``python -m bido_ext``: which implementation serves each op on each device, why, and what to fix."""

import os
import sys

import torch

import bido_ext
from bido_ext.diagnosis import verdict
from bido_ext.serving.report import backends_text


def main() -> None:
    """Prints versions, the op x device table, and "all good" or what to fix."""
    info = bido_ext.build_info()
    print(f"bido_ext {bido_ext.__version__}, PyTorch {torch.__version__}")
    if info:
        cuda = (
            f"{info['cuda_compiler']} for {info['cuda_architectures']}"
            if info["cuda_compiler"]
            else "none"
        )
        print(
            f"built with {info['compiler']}, PyTorch {info['torch_at_build']} headers, "
            f"CUDA: {cuda}; runs on PyTorch {info['oldest_torch']} or newer"
        )
    else:
        print("no compiled parts: every op runs as plain PyTorch")
    print(backends_text(bido_ext.backends()))
    print(verdict())


if __name__ == "__main__":
    if sys.argv[1:]:  # as under torchrun -m bido_ext
        from bido_ext.cli.main import main as command_line

        command_line()
    try:
        main()
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever read the table has seen enough; the interpreter's own flush at exit must not fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
