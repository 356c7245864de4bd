# SPDX-License-Identifier: Apache-2.0
"""Entry point of the command ``bido``; the one module that works without the extra ``lab``."""

from __future__ import annotations

import os
import sys

from bido_ext.cli import MISSING_LAB


def main() -> None:
    """Run ``bido``; exit code 0: done, 1: failure, 2: bad input."""
    rest_between_loops()
    try:
        from bido_ext.cli.app import app
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("bido_ext"):
            raise
        print(MISSING_LAB.format(name=error.name), file=sys.stderr)
        sys.exit(1)
    app()


def rest_between_loops() -> None:
    """Lets idle OpenMP threads sleep instead of spin; only before PyTorch is imported, and if nobody chose.

    Beside another busy process, spinning threads keep the working ones off the cores.
    """
    if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"} & set(os.environ):
        os.environ["OMP_WAIT_POLICY"] = "passive"


if __name__ == "__main__":
    main()
