# SPDX-License-Identifier: Apache-2.0
"""Which layers of a model are looked at if nobody chooses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

#: Containers stand for what they contain; the others repeat their input in evaluation mode.
_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
_REPEATS = (nn.Identity, nn.Flatten, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d,
            nn.AlphaDropout, nn.FeatureAlphaDropout)  # fmt: skip


def candidate_layers(model: nn.Module) -> list[str]:
    """Names of the model's building blocks, in the order of its modules.

    These are its children. A container (Sequential, ModuleList, ModuleDict) stands for its own children,
    and so does a child with more than half of the model's parameters that has children: the body of a
    classifier, the encoder of a transformer. Identity, Flatten and dropout are left out.
    """
    half = _size(model) / 2
    names: list[str] = []

    def take(prefix: str, module: nn.Module) -> None:
        for name, child in module.named_children():
            opened = isinstance(child, _CONTAINERS) or _size(child) > half
            if opened and next(child.children(), None) is not None:
                take(f"{prefix}{name}.", child)
            elif not isinstance(child, _REPEATS + _CONTAINERS):
                names.append(f"{prefix}{name}")

    take("", model)
    known = dict(model.named_modules())  # without the second names of shared modules
    return [name for name in names if name in known]


def layers_with_features(
    model: nn.Module, names: list[str], run: Callable[[], object]
) -> list[str]:
    """Those of ``names`` that can be compared, in the order in which they run.

    Found by one call of ``run``, a forward pass of the model.

    A layer counts if its last output is one floating-point tensor with as many rows as those of most
    layers, and is not changed in place afterwards (as the output of a batch norm before
    ``ReLU(inplace=True)``, which is then the same as the ReLU's).
    """
    last: dict[str, Tensor] = {}
    versions: dict[str, int] = {}

    def note(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            last.pop(name, None)
            if isinstance(output, Tensor) and output.is_floating_point() and output.dim() > 1:
                last[name] = output
                versions[name] = -1 if output.is_inference() else output._version

        return hook

    modules = dict(model.named_modules())
    handles = [modules[name].register_forward_hook(note(name)) for name in names]
    try:
        run()
    finally:
        for handle in handles:
            handle.remove()
    kept = {name: z for name, z in last.items() if z.is_inference() or z._version == versions[name]}
    counts = [z.shape[0] for z in kept.values()]
    rows = max(set(counts), key=lambda n: (counts.count(n), n), default=0)
    return [name for name, z in kept.items() if z.shape[0] == rows]


def _size(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())
