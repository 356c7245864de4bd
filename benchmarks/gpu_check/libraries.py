# SPDX-License-Identifier: Apache-2.0
"""Which compiled libraries gpu_check runs: of gpu-bundle/, as built in place, or built now where none fits.

A bundle for another Python, PyTorch, processor or card, or of other sources, is never taken. Where nvcc is at
hand and the budget leaves enough for the steps, libraries are built for this card instead; else one line says
what to run.
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
import json
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.gpu_bundle import BUNDLE, PACKAGE, ROOT, BundleError, here
from benchmarks.gpu_check.card import Capability, architecture_for, name_of, runs_on
from benchmarks.gpu_check.process import run_limited

#: Seconds that a build may take; one for sm_90a took 180 on two idle cores.
BUILD = 240.0
#: Seconds that must remain for the steps, or nothing is built.
STEPS_NEED = 300.0
#: What the libraries that gpu_check built in place are made for.
BUILT = ROOT / "build" / "gpu-check.json"


def misfit(made_for: dict[str, Any], wanted: dict[str, str], card: Capability | None) -> str:
    """Why a bundle does not serve this process on this card (None: no card to serve), or ""."""
    if made_for["sources"] != wanted["sources"]:
        return "it was made from other sources than this checkout's"
    for what, name in (("python", "Python"), ("torch", "PyTorch"), ("machine", "the processor")):
        if made_for[what] != wanted[what]:
            return f"it was made for {name} {made_for[what]}, this is {wanted[what]}"
    return card_misfit(made_for["archs"].split(";"), card)


def card_misfit(architectures: list[str], card: Capability | None) -> str:
    """Why no code of ``architectures`` runs on the card, or ""."""
    if card is None or runs_on(architectures, card):
        return ""
    held = ", ".join(f"sm_{name}" for name in architectures) or "no GPU"
    return f"it holds code for {held}, this card is {name_of(card)}"


def take_bundle(
    card: Capability | None, bundle: Path = BUNDLE, package: Path = PACKAGE, built: Path = BUILT
) -> str:
    """Puts the bundle's libraries beside the package; returns where the libraries come from.

    Raises:
        BundleError: There is a bundle that does not fit, or nothing compiled at all, or only for another card.
    """
    wanted = here()
    if built.exists():
        facts = json.loads(built.read_text())
        own = card is None or facts["archs"] == architecture_for(card)
        if own and not misfit(facts, wanted, card):
            return f"libraries that gpu_check built here for {facts['archs']}"
    facts_file = bundle / "bundle.json"
    if not facts_file.exists():
        return _in_place(card, package)
    made_for = {"machine": "unknown", **json.loads(facts_file.read_text())}
    if reason := misfit(made_for, wanted, card):
        arch = architecture_for(card) if card else made_for["archs"]
        raise BundleError(
            f"gpu-bundle/ does not fit: {reason}. Run 'make gpu-bundle BUNDLE_PYTHON={wanted['python']} "
            f"BUNDLE_TORCH={wanted['torch']} BUNDLE_ARCHS={arch}' where nvcc is, or here 'rm -r gpu-bundle && "
            f"BIDO_CUDA_ARCHS={arch} python setup.py build_ext --inplace'."
        )
    built.unlink(missing_ok=True)
    for name in made_for["files"]:
        fresh = package / f".{name}.new"
        shutil.copy2(bundle / name, fresh)
        os.replace(fresh, package / name)
    how = runs_on(made_for["archs"].split(";"), card) if card else ""
    return (
        f"libraries of gpu-bundle/, made for Python {made_for['python']}, PyTorch {made_for['torch']} and "
        f"{made_for['archs']}" + (f", running as {how}" if how else "")
    )


def _in_place(card: Capability | None, package: Path) -> str:
    tag = f"cpython-{sys.version_info[0]}{sys.version_info[1]}-"
    modules = [path for path in package.glob("_C.*.so") if tag in path.name]
    arch = architecture_for(card) if card else "native"
    build = f"'BIDO_CUDA_ARCHS={arch} python setup.py build_ext --inplace'"
    if not modules:
        raise BundleError(
            "nothing is compiled for this Python, and there is no gpu-bundle/. "
            f"Run {build} here, or 'make gpu-bundle' elsewhere and bring the folder."
        )
    if card is None or not (package / "bido_cuda.so").exists():
        return "libraries as they were built here"
    architectures = architectures_of(modules[0])
    if reason := card_misfit(architectures, card):
        raise BundleError(f"bido_cuda.so as it was built here does not fit: {reason}. Run {build}.")
    return f"libraries as they were built here, running as {runs_on(architectures, card)}"


def architectures_of(module: Path) -> list[str]:
    """What bido_cuda was built for, as the module _C beside it knows; needs no PyTorch."""
    loader = importlib.machinery.ExtensionFileLoader("_C", str(module))
    spec = importlib.util.spec_from_file_location("_C", module, loader=loader)
    assert spec is not None
    facts = importlib.util.module_from_spec(spec)
    loader.exec_module(facts)
    return str(facts.build_info()["cuda_architectures"]).split()


def build_here(card: Capability, left: float, built: Path = BUILT) -> str:
    """Builds in place for the card, within BUILD seconds of ``left``; returns what was done.

    Raises:
        BundleError: There is no nvcc, too little time, or the build failed or took too long.
    """
    if shutil.which("nvcc") is None:
        raise BundleError("there is no nvcc to build with here.")
    if left < BUILD + STEPS_NEED:
        raise BundleError(
            f"a build takes up to {BUILD:g} s, which --budget {BUILD + STEPS_NEED + 10:g} would allow."
        )
    arch = architecture_for(card)
    start = time.monotonic()
    ended = run_limited(
        ["env", f"BIDO_CUDA_ARCHS={arch}", sys.executable, "setup.py", "-q", "build_ext", "--inplace"],
        BUILD, cwd=ROOT,
    )  # fmt: skip
    if ended.exit != 0:
        how = "was stopped" if ended.exit is None else f"ended with {ended.exit}"
        last = (ended.said.strip().splitlines() or ["no message"])[-1]
        raise BundleError(f"the build for {arch} {how} after {ended.seconds} s: {last[:200]}")
    built.parent.mkdir(exist_ok=True)
    built.write_text(json.dumps({**here(), "archs": arch}) + "\n")
    return f"libraries built here for {arch} in {time.monotonic() - start:.0f} s"


def libraries_for(card: Capability | None, left: float) -> str:
    """Takes what fits, else builds it, else says in one line why neither; returns what serves.

    Raises:
        BundleError: Nothing fits.
    """
    try:
        return take_bundle(card)
    except BundleError as refusal:
        if card is None:
            raise
        try:
            return f"{build_here(card, left)} ({str(refusal).partition('. ')[0]})"
        except BundleError as no_build:
            raise BundleError(f"{refusal} Not built here: {no_build}") from None
