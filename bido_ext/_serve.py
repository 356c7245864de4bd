# SPDX-License-Identifier: Apache-2.0
"""Which implementation serves an op on a GPU: recorded first, then checked, else the reference. On a CPU the
kernels of ``bido_cpu`` serve, and nhsic and coco have a choice there (:func:`call_cpu`).

In this order, per op, dtype and device:

1. what a recorded run on that architecture shows right and fastest (:data:`RECORDED`);
2. ``triton``, then ``cuda``, after the first-use self-check on the device itself. The verdict is kept on
   disk with the versions; a kernel that fails is refused with one warning, and the next in order serves;
3. ``reference``.

``BIDO_EXT_BACKEND`` forces one; then nothing else may serve, and what it lacks raises.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import importlib.util
import os
import platform
import threading
import warnings
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bido_ext import _disk_cache
from bido_ext._float64 import resolved
from bido_ext._precision import tf32_allowed
from bido_ext._self_check import FAMILIES, self_check
from bido_ext.reference.kernel_entries import GAUSSIAN, GRAM, INVERSE_MULTIQUADRIC, LABELS, LINEAR

Function = Callable[..., Any]

#: (op, compute capability) -> implementations that recorded runs under benchmarks/results/ show right,
#: fastest first. Empty: no run on hardware is recorded yet.
RECORDED: dict[tuple[str, str], tuple[str, ...]] = {}
#: What is tried, in order, where nothing is recorded.
UNRECORDED = ("triton", "cuda")
#: The largest batch whose nhsic the CUDA kernel takes (csrc/cuda/nhsic_kernel.cu).
SMALL_NHSIC = 128
#: What :func:`call_cpu` serves: all but what is right in every dtype as it is.
ON_CPU = (
    *(name for op, names in FAMILIES.items() if op != "double_center" for name in names),
    "coco",
    "coco_backward",
)
#: Compositions with a kernel on the CPU (:func:`cpu_kernel_takes`), and whether it may serve; tests of the
#: compositions say no.
CPU_OPTIONAL = ("nhsic", "nhsic_backward", "coco", "coco_backward")
CPU_OPTIONAL_KERNELS = True
#: Most variables and most pairs of a group in the CUDA C++ kernels of hsic and nhsic
#: (csrc/cuda/hsic_entries.cuh).
MOST_IN_GROUP = 64
#: Entries from row to row from which on 128 rows, a block of the Triton kernels, are out of 32 bits.
WIDEST_ROW = 1 << 24
#: Compositions of other ops, for which a kernel is a special case: where none serves, a forced one too, the
#: composition does.
OPTIONAL = ("nhsic", "nhsic_backward")
#: Where the arguments of a function have its variables and the first ones of its pairs.
GROUPED = {"hsic": (0, 3), "hsic_backward": (1, 6), "nhsic": (0, 3), "nhsic_backward": (1, 7)}
#: Where the kinds of the variables are, and those that the Triton and CUDA kernels have.
KINDS_AT = {
    "gram_stack": 2,
    "gram_stack_backward": 4,
    "hsic": 2,
    "hsic_backward": 5,
    "nhsic": 2,
    "nhsic_backward": 6,
}
KINDS_OF = {
    "triton": tuple(range(GRAM + 1)),
    "cuda": (GAUSSIAN, LINEAR, INVERSE_MULTIQUADRIC, LABELS, GRAM),
}
FAMILY_OF = {name: family for family, names in FAMILIES.items() for name in names}

#: What is stored of a kernel after whose check the device was lost.
BROKE = "broke the device"
_verdicts: dict[tuple[object, ...], str | None] = {}
_defaults: dict[str, Function] = {}


def has_triton() -> bool:
    """Whether Triton can be imported."""
    return importlib.util.find_spec("triton") is not None


def set_default(name: str, default: Function) -> None:
    """The reference implementation of a function."""
    _defaults[name] = default


def functions_of(op: str, implementation: str) -> dict[str, Function]:
    """What an implementation has for an op, by function name; empty where it has nothing."""
    names = FAMILIES[op]
    if implementation == "triton":
        module = f"bido_ext.triton_kernels.{op}"
        if not has_triton() or importlib.util.find_spec(module) is None:
            return {}
        return {name: getattr(importlib.import_module(module), name) for name in names}
    if implementation == "cuda":
        return {name: _cuda_function(name) for name in names if hasattr(torch.ops.bido_cuda, name)}
    return {name: _defaults[name] for name in names}


@functools.cache
def _cuda_function(name: str) -> Function:
    """A function of the CUDA C++ library, told the precision that the stable ABI cannot ask for."""
    kernel = getattr(torch.ops.bido_cuda, name)
    if name == "double_center":
        return kernel  # type: ignore[no-any-return]

    def function(*args: Any) -> Any:
        return kernel(*args, tf32_allowed())

    function.__name__ = function.__qualname__ = f"bido_cuda.{name}"
    return function


def serves(
    name: str, implementation: str, dtypes: Collection[torch.dtype], args: Sequence[Any] = ()
) -> bool:
    """Whether an implementation takes such features, and these arguments, at all."""
    if implementation not in ("triton", "cuda"):
        return True
    if torch.float64 in dtypes and name != "double_center":
        return False
    if name in KINDS_AT and args and not set(args[KINDS_AT[name]]) <= set(KINDS_OF[implementation]):
        return False
    if implementation == "triton" and any(
        t.dim() == 2 and max(t.stride(0), t.shape[1]) >= WIDEST_ROW for t in _tensors_of(args)
    ):
        return False
    if implementation == "cuda" and name in GROUPED and args:
        variables, first = args[GROUPED[name][0]], args[GROUPED[name][1]]
        if max(len(variables), len(first)) > MOST_IN_GROUP:
            return False
    return is_small(name, args) if name in OPTIONAL and args else True


def is_small(name: str, args: Sequence[Any]) -> bool:
    """Whether the CUDA kernel of nhsic takes the arguments: few samples, algebra in float64."""
    if name == "nhsic":
        variables, wide = args[0], args[6]
        return wide and variables[0].shape[0] <= SMALL_NHSIC  # type: ignore[no-any-return]
    inverses = args[4]
    return inverses.dtype == torch.float64 and inverses.shape[-1] <= SMALL_NHSIC  # type: ignore[no-any-return]


def cpu_kernel_takes(name: str, args: Sequence[Any]) -> bool:
    """Whether the kernels of nhsic and coco in csrc/cpu take the arguments: algebra in float64, and of coco
    the Frobenius norm."""
    if (name == "nhsic" and LINEAR in args[2]) or (name == "nhsic_backward" and LINEAR in args[6]):
        return False  # its factor comes from the features
    if name.startswith("coco"):
        wide, norm = (args[6], args[5]) if name == "coco" else (args[10], args[9])
        return bool(wide and norm == "fro")
    return bool(args[6] if name == "nhsic" else args[4].dtype == torch.float64)


def call_cpu(name: str, forced: str | None, *args: Any) -> Any:
    """The function that serves on the CPU; what float32 does not resolve, in float64."""
    return resolved(name, functools.partial(_cpu_function, forced), args)


def _cpu_function(forced: str | None, name: str, args: Sequence[Any], failed: bool) -> Function:
    """The C++ kernel if there is one that takes the arguments, else the composition or the reference.

    Args:
        forced: BIDO_EXT_BACKEND.
        failed: float32 has failed: these are float64 features, which no Triton kernel takes.
    """
    if forced == "triton" and name in FAMILY_OF and not failed:
        return choose(name, _features(args)[1], torch.device("cpu"), forced, args)
    if forced == "triton":
        return _defaults[name]
    if forced == "reference" or not hasattr(torch.ops.bido_cpu, name):
        return _defaults[name]
    if name in CPU_OPTIONAL and not (CPU_OPTIONAL_KERNELS and cpu_kernel_takes(name, args)):
        return _defaults[name]
    return getattr(torch.ops.bido_cpu, name)  # type: ignore[no-any-return]


def call(name: str, forced: str | None, *args: Any) -> Any:
    """Calls the function ``name`` of the implementation that serves its arguments."""
    device, dtypes = _features(args)
    return choose(name, dtypes, device, forced, args)(*args)


def _features(args: Sequence[Any]) -> tuple[torch.device, set[torch.dtype]]:
    """The device of a call and the floating dtypes of its features (0-d tensors are parameters)."""
    tensors = _tensors_of(args)
    floating = {t.dtype for t in tensors if t.is_floating_point() and t.dim() > 0}
    return tensors[0].device, floating or {torch.float32}


def _tensors_of(args: Sequence[Any]) -> list[Tensor]:
    """The variables of a group where there is one, else all tensors."""
    tensors: list[Tensor] = []
    for arg in args:
        if isinstance(arg, Tensor):
            tensors.append(arg)
        elif isinstance(arg, (list, tuple)) and any(isinstance(t, Tensor) for t in arg):
            return list(arg)  # theirs alone count
    return tensors


def choose(
    name: str,
    dtypes: Collection[torch.dtype],
    device: torch.device,
    forced: str | None = None,
    args: Sequence[Any] = (),
) -> Function:
    """The function that serves ``name`` for features of ``dtypes`` on ``device``."""
    op = FAMILY_OF[name]
    if forced is not None:
        return _forced(name, op, "cuda" if forced == "native" else forced, dtypes, args)
    recorded = RECORDED.get((op, _architecture(device)), ())
    for implementation in (*recorded, *UNRECORDED):
        functions = functions_of(op, implementation)
        if name not in functions or not serves(name, implementation, dtypes, args):
            continue
        if implementation in recorded or all(
            passes(op, implementation, functions, dtype, device) for dtype in dtypes
        ):
            return functions[name]
    return _defaults[name]


def _forced(
    name: str,
    op: str,
    implementation: str,
    dtypes: Collection[torch.dtype],
    args: Sequence[Any],
) -> Function:
    functions = functions_of(op, implementation)
    able = name in functions and serves(name, implementation, dtypes, args)
    if not able and name in OPTIONAL:
        return _defaults[name]
    if name not in functions:
        raise NotImplementedError(
            f"BIDO_EXT_BACKEND: bido_ext::{name} has no {implementation} kernel. Unset it to let another "
            "implementation serve (python -m bido_ext lists them)."
        )
    if not able:
        raise NotImplementedError(
            f"BIDO_EXT_BACKEND: the {implementation} kernels do not take float64 features (bido_ext::{name})"
            + (f" nor rows of {WIDEST_ROW} entries and more" if implementation == "triton" else "")
            + ". Unset it, or use float32."
        )
    return functions[name]


def passes(
    op: str,
    implementation: str,
    functions: dict[str, Function],
    dtype: torch.dtype,
    device: torch.device,
) -> bool:
    """Whether an implementation has passed its self-check here; runs it at first use."""
    tf32 = tf32_allowed()
    key = (op, implementation, str(dtype), tf32, _device_name(device))
    if key not in _verdicts:
        versions = (
            _kernels_digest(), torch.__version__, torch.version.cuda, torch.version.hip, _triton_version(),
        )  # fmt: skip
        stored = "/".join(map(str, (*key, *versions)))
        known = _disk_cache.read("self_checks").get(stored)
        if known == "passed":
            _verdicts[key] = None
        elif _capturing(device):
            warnings.warn(
                f"bido_ext::{op}: the {implementation} kernels cannot be checked during a graph capture; the "
                "reference serves. Call the op once before the capture.",
                stacklevel=2,
            )
            return False
        else:
            if known == BROKE or _died(known):
                _verdicts[key] = (
                    "an earlier check of it broke the device or did not live to its end (to try again, remove "
                    f"{_disk_cache.directory() / 'self_checks'})"
                )
            else:
                if not _lives(device):
                    # Lost before this check: nothing can be learnt here, and no kernel is to blame.
                    raise RuntimeError(
                        f"bido_ext::{op}: {device} computes nothing in this process any more (a CUDA error)."
                        " Start the process again."
                    )
                # A kernel that breaks the device ends the process: the next one has to know.
                ended = f"running in {os.getpid()} on {platform.node()}"
                _disk_cache.update("self_checks", stored, ended)
                try:
                    ended = "interrupted"
                    _verdicts[key] = _problem(op, functions, dtype, device, tf32)
                    ended = "passed" if _verdicts[key] is None else "failed"
                    if ended == "failed" and not _lives(device):
                        ended = BROKE
                        raise RuntimeError(
                            f"bido_ext::{op}: the {implementation} kernel ({dtype}) broke the device in its "
                            f"self-check: {_verdicts[key]}. CUDA is lost for this process. Start again: "
                            "the kernel is refused from now on."
                        )
                finally:
                    _disk_cache.update("self_checks", stored, ended)
            if _verdicts[key] is not None:
                warnings.warn(
                    f"bido_ext::{op}: the {implementation} kernel failed its self-check on "
                    f"{_device_name(device)} ({dtype}) and is not used: {_verdicts[key]}",
                    RuntimeWarning,
                    stacklevel=2,
                )
    return _verdicts[key] is None


def _lives(device: torch.device) -> bool:
    """Whether the device still computes: after an illegal access every further call in a process fails."""
    try:
        return bool((torch.ones(2, device=device) + 1).cpu().sum() == 4)
    except Exception:
        return False


def _died(known: object) -> bool:
    """Whether what is stored tells of a check whose process is gone; a failed one is tried again."""
    if not isinstance(known, str) or not known.startswith("running in "):
        return False
    process, _, node = known.removeprefix("running in ").partition(" on ")
    if node != platform.node():
        return False  # its process cannot be looked for from here
    try:
        os.kill(int(process), 0)
    except ProcessLookupError:
        return True
    except (PermissionError, ValueError):
        return False
    return False  # another process is at it just now


def _problem(
    op: str, functions: dict[str, Function], dtype: torch.dtype, device: torch.device, tf32: bool
) -> str | None:
    problem: list[str] = []

    def check() -> None:
        try:
            self_check(op, functions, dtype, device, tf32=tf32)
        except Exception as error:  # whatever a kernel does wrong, another one can serve
            said = str(error).splitlines()
            problem.append(f"{type(error).__name__}: {said[0] if said else ''}")

    # In a thread of its own: inside of an op autograd, which the check needs, is switched off.
    thread = threading.Thread(target=check, name="bido_ext self-check")
    thread.start()
    thread.join()
    return problem[0] if problem else None


def _capturing(device: torch.device) -> bool:
    return device.type == "cuda" and torch.cuda.is_current_stream_capturing()


def _architecture(device: torch.device) -> str:
    if device.type != "cuda":
        return device.type
    return "sm_{}{}".format(*torch.cuda.get_device_capability(device))


def _device_name(device: torch.device) -> str:
    if device.type != "cuda":
        return device.type
    return f"{torch.cuda.get_device_name(device)} {_architecture(device)}"


@functools.cache
def _kernels_digest() -> str:
    """Of the kernels themselves: an edited or rebuilt one inherits no verdict."""
    digest = hashlib.sha256()
    package = Path(__file__).parent
    for path in sorted([*package.glob("triton_kernels/*.py"), *package.glob("bido_cuda.so")]):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


@functools.cache
def _triton_version() -> str:
    return str(importlib.import_module("triton").__version__) if has_triton() else "none"
