# SPDX-License-Identifier: Apache-2.0
"""The kernels of BiDOLoss: of the input X, of every layer Z_j and of the labels Y."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from torch import Tensor

from bido_ext.ops.bandwidth import Sigma, check_sigma, check_value
from bido_ext.ops.kernels import Gaussian, Kernel, Linear
from bido_ext.ops.learnable_sigma import sigmas_of
from bido_ext.ops.measure import check_kernel

DEFAULT_SIGMA = 5.0
SigmaOfLoss = Sigma | Mapping[str, Sigma]


@dataclass(frozen=True)
class LossKernels:
    """Which kernel each variable of a step gets.

    Attributes:
        x: Of the input.
        z: Of every layer, or a kernel for each layer by its name.
        y: Of labels and targets alike. Nothing depends on their dtype or values: one-hot, mixup and smoothed
            labels are what integer labels are.
    """

    x: Kernel
    z: Kernel | Mapping[str, Kernel]
    y: Kernel

    def of(self, layers: Iterable[str]) -> list[Kernel]:
        """Of the input, the layers and the targets, in this order.

        Raises:
            ValueError: A layer has no bandwidth of its own, or a learnt one has left what is allowed.
        """
        for name, sigma in self._learnt():
            check_value(sigma, name)
        if isinstance(self.z, Kernel):
            return [self.x, *(self.z for _ in layers), self.y]
        names = list(layers)
        if missing := [name for name in names if name not in self.z]:
            raise ValueError(
                f"sigma is a dict without an entry for layer(s) {', '.join(missing)}; it has "
                f"{', '.join(self.z)}. Add the missing, or give one number for all."
            )
        return [self.x, *(self.z[name] for name in names), self.y]

    def sigmas(self) -> list[Tensor]:
        """The bandwidths that want a gradient, each once."""
        layers = [self.z] if isinstance(self.z, Kernel) else list(self.z.values())
        return sigmas_of([self.x, *layers, self.y])

    def _learnt(self) -> Iterator[tuple[str, Tensor]]:
        """The bandwidths that want a gradient, with the words that name them in an error."""
        named: list[tuple[str, object]] = [("sigma of X", self.x), ("sigma of Y", self.y)]
        if isinstance(self.z, Kernel):
            named += [("sigma", self.z)]
        else:
            named += [(f"sigma['{name}']", kernel) for name, kernel in self.z.items()]
        for name, kernel in reversed(named):
            for sigma in sigmas_of([kernel]):
                yield name, sigma

    def describe(self) -> str:
        """The same text on ranks with other devices."""
        parts = [f"kernel_x={_describe(self.x)}"]
        if isinstance(self.z, Kernel):
            parts.append(f"kernel_z={_describe(self.z)}")
        else:
            each = ", ".join(f"{name}: {_describe(k)}" for name, k in self.z.items())
            parts.append(f"kernel_z={{{each}}}")
        return ", ".join([*parts, f"kernel_y={_describe(self.y)}"])


def loss_kernels(
    sigma: object, kernel_x: Kernel | None, kernel_z: Kernel | None, kernel_y: Kernel | None
) -> LossKernels:
    """The kernels from the arguments of BiDOLoss.

    Raises:
        TypeError, ValueError: An argument is none of what is allowed, or sigma would have no effect.
    """
    for name, kernel in (("kernel_x", kernel_x), ("kernel_z", kernel_z), ("kernel_y", kernel_y)):
        check_kernel(kernel, name)
        for learnt in sigmas_of([kernel]):
            check_leaf(learnt, f"sigma of {name}")
    if isinstance(sigma, Mapping):
        each = _by_layer(sigma)
        if kernel_z is not None:
            raise ValueError(
                "sigma is a dict of the layers' bandwidths and kernel_z their kernel: give one of the two."
            )
        return LossKernels(kernel_x or Gaussian(DEFAULT_SIGMA), each, kernel_y or Linear())
    check_leaf(sigma, "sigma")
    gaussian = Gaussian(sigma)  # type: ignore[arg-type]  # checked there
    changed = isinstance(sigma, (str, Tensor)) or sigma != DEFAULT_SIGMA
    if kernel_x is not None and kernel_z is not None and changed:
        raise ValueError(
            f"sigma={sigma} has no effect where kernel_x and kernel_z are given: leave it out, and give the "
            "bandwidths to the kernels, as in Gaussian(sigma=3.0)."
        )
    return LossKernels(kernel_x or gaussian, kernel_z or gaussian, kernel_y or Linear())


def _by_layer(sigma: Mapping[object, object]) -> dict[str, Kernel]:
    if not sigma:
        raise ValueError("sigma is an empty dict: give a bandwidth for every layer, or a number.")
    kernels: dict[str, Kernel] = {}
    for name, value in sigma.items():
        if not isinstance(name, str):
            raise TypeError(
                f"sigma must be a dict from layer names to bandwidths, got {type(name).__name__} as a name."
            )
        check_leaf(value, f"sigma['{name}']")
        kernels[name] = Gaussian(check_sigma(value, f"sigma['{name}']"))
    return kernels


def _describe(kernel: Kernel) -> str:
    if kernel.kind is None:  # what a user's kernel holds may differ in text, not in meaning
        return type(kernel).__name__
    settings = (
        f"{name}={_number(value) if isinstance(value, Tensor) else value}"
        for name, value in vars(kernel).items()
    )
    return f"{type(kernel).__name__}({', '.join(settings)})"


def _number(sigma: Tensor) -> str:
    return f"{float(sigma.detach())}{' (learnable)' if sigma.requires_grad else ''}"


def check_leaf(sigma: object, name: str) -> None:
    """A bandwidth that was computed belongs to one step, and the loss lives for many."""
    if isinstance(sigma, Tensor) and sigma.requires_grad and not sigma.is_leaf:
        raise ValueError(
            f"{name} was computed from other tensors, whose graph serves one backward: give an nn.Parameter, "
            "or call bx.hsic(x, z, sigma=...) and the others with a new one in each step."
        )
