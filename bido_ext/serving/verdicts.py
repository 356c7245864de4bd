# SPDX-License-Identifier: Apache-2.0
"""What checks and measurements found on a device, kept on disk with the versions they were made with."""

from __future__ import annotations

import functools
import warnings
from typing import Any

import torch

from bido_ext import _disk_cache
from bido_ext._precision import tf32_allowed
from bido_ext.serving import check, libraries, process
from bido_ext.serving.row import Function

#: What is stored of a kernel after whose check the device was lost.
BROKE = "broke the device"
#: Op, implementation, dtype, TF32, device -> largest relative error, or in words why it does not serve.
_checked: dict[tuple[object, ...], float | str] = {}
#: What was measured in, or read by, this process.
_measured: dict[str, dict[str, Any]] = {}


def forget() -> None:
    """As a new process would begin."""
    _checked.clear()
    _measured.clear()


def device_name(device: torch.device) -> str:
    """Of a device type, or of a GPU with its architecture."""
    if device.type != "cuda":
        return device.type
    capability = "sm_{}{}".format(*torch.cuda.get_device_capability(device))
    return f"{torch.cuda.get_device_name(device)} {capability}"


@functools.cache
def _driver() -> str:
    try:
        driver = torch._C._cuda_getDriverVersion  # type: ignore[attr-defined]
        return str(driver()) if torch.cuda.is_available() else "none"
    except (AttributeError, RuntimeError):
        return "unknown"


def stored_as(*key: object) -> str:
    """A fact with the versions that it holds for."""
    versions = (
        libraries.digest(), torch.__version__, torch.version.cuda, torch.version.hip,
        libraries.triton_version(), _driver(),
    )  # fmt: skip
    return "/".join(map(str, (*key, *versions)))


def capturing(device: torch.device) -> bool:
    """Whether a CUDA graph is being recorded: nothing may be read back."""
    return device.type == "cuda" and torch.cuda.is_current_stream_capturing()


def passes(
    op: str,
    implementation: str,
    functions: dict[str, Function],
    dtype: torch.dtype,
    device: torch.device,
) -> bool:
    """Whether an implementation has passed its check here; runs it at first use."""
    tf32 = tf32_allowed()
    key = (op, implementation, str(dtype), tf32, device_name(device))
    if key not in _checked:
        stored = stored_as(*key)
        known = _disk_cache.read("self_checks").get(stored)
        if isinstance(known, float):
            _checked[key] = known
        elif capturing(device):
            warnings.warn(
                f"bido_ext::{op}: the {implementation} implementation cannot be checked during a graph "
                "capture; it does not serve there. Call the op once before the capture.",
                stacklevel=2,
            )
            return False
        elif known == BROKE or process.has_died(known):
            _checked[key] = (
                "an earlier check of it broke the device or did not live to its end (to try again, remove "
                f"{_disk_cache.directory() / 'self_checks'})"
            )
        else:
            _checked[key] = _check(op, implementation, functions, dtype, device, stored)
        if isinstance(_checked[key], str):
            warnings.warn(
                f"bido_ext::{op}: the {implementation} implementation failed its self-check on "
                f"{device_name(device)} ({dtype}) and is not used: {_checked[key]}",
                RuntimeWarning,
                stacklevel=2,
            )
    return isinstance(_checked[key], float)


def error_of(op: str, implementation: str, dtype: torch.dtype, device: torch.device) -> float | str:
    """What the check found: the largest relative error, or the reason; "not checked"."""
    key = (op, implementation, str(dtype), tf32_allowed(), device_name(device))
    return _checked.get(key, "not checked")


def _check(
    op: str,
    implementation: str,
    functions: dict[str, Function],
    dtype: torch.dtype,
    device: torch.device,
    stored: str,
) -> float | str:
    if not lives(device):
        # Lost before this check: nothing can be learnt here, and no kernel is to blame.
        raise RuntimeError(
            f"bido_ext::{op}: {device} computes nothing in this process any more (a CUDA error). Start the "
            "process again."
        )
    # A kernel that breaks the device ends the process: the next one has to know.
    ended: object = process.this_process()
    _disk_cache.update("self_checks", stored, ended)
    try:
        ended = "interrupted"
        found = check.outcome(op, functions, dtype, device, tf32_allowed(), implementation)
        ended = found if isinstance(found, float) else "failed"
        if ended == "failed" and not lives(device):
            ended = BROKE
            raise RuntimeError(
                f"bido_ext::{op}: the {implementation} implementation ({dtype}) broke the device in its "
                f"self-check: {found}. CUDA is lost for this process. Start again: it is refused from now on."
            )
    finally:
        _disk_cache.update("self_checks", stored, ended)
    return found


def lives(device: torch.device) -> bool:
    """Whether the device still computes: after an illegal access every further call in a process fails."""
    try:
        return bool((torch.ones(2, device=device) + 1).cpu().sum() == 4)
    except Exception:
        return False


def measured(*key: object) -> dict[str, Any] | None:
    """The times of a bucket, {implementation: milliseconds or words}; None where nothing was measured."""
    stored = stored_as(*key)
    if stored not in _measured:
        known = _disk_cache.read_one("measurements", stored)
        if not isinstance(known, dict):
            return None
        _measured[stored] = known
    return _measured[stored]


def keep_measured(times: dict[str, Any], *key: object) -> None:
    """Keeps the times of a bucket."""
    stored = stored_as(*key)
    _measured[stored] = times
    _disk_cache.update("measurements", stored, times)


def all_measured(device: torch.device) -> list[tuple[str, dict[str, Any]]]:
    """What is known of a device with these versions: (op/dtype/TF32/rows/width, times)."""
    end = f"/{stored_as(device_name(device))}"
    facts = _disk_cache.read("measurements")
    return [(key.removesuffix(end), times) for key, times in facts.items() if key.endswith(end)]
