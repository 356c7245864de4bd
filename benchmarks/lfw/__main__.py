# SPDX-License-Identifier: Apache-2.0
"""Run the table: ``python -m benchmarks.lfw --data ../shared/data/lfwcrop64.zip``.

Called again, it continues where it stopped: every classifier and every attack is a stage of its own.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

import torch

from benchmarks.lfw.cells import CELLS
from benchmarks.lfw.parallel import rows_of
from benchmarks.lfw.pictures import save_pictures
from benchmarks.lfw.run import open_run
from benchmarks.lfw.table import table, write_tables

RESULTS = Path(__file__).parents[1] / "results" / "lfw"
DOCUMENT = Path(__file__).parents[2] / "docs" / "lfw.md"


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.lfw", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="lfwcrop64.zip")
    parser.add_argument("--work", type=Path, default=Path("runs/lfw"), help="models, images")
    parser.add_argument("--results", type=Path, default=RESULTS, help="numbers and picture")
    parser.add_argument(
        "--judge-python", type=Path, default=Path("runs/judge-venv/bin/python"), help="has dlib"
    )
    parser.add_argument("--epochs", type=int, default=35)
    parser.add_argument("--threads", type=int, default=1, help="of each process")
    parser.add_argument("--jobs", type=int, default=1, help="processes that share the classifiers")
    parser.add_argument("--only", help="cells whose name begins so; the results stay untouched")
    parser.add_argument(
        "--keep", action="store_true", help="recorded rows with all of their attacks stay"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    make_run = partial(
        open_run, arguments.data, arguments.work, arguments.judge_python, arguments.epochs
    )
    run, jobs = make_run(), arguments.jobs
    cells = [cell for cell in CELLS if cell.name.startswith(arguments.only or "")]
    where = arguments.work / "part" if arguments.only else arguments.results
    rows = partial(rows_of, make_run, jobs=jobs) if jobs > 1 else None
    run.all(cells, where / "results.json", arguments.keep, rows)
    save_pictures(run.judge, arguments.work, cells, where / "reconstructions.png")
    print(table(run.document))
    if not arguments.only:
        write_tables(run.document, DOCUMENT)


if __name__ == "__main__":
    main()
