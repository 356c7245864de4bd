# SPDX-License-Identifier: Apache-2.0
"""The kernels that only many samples reach, on a GPU: whole symmetric matrices by tiles, several panels of weights.

The self-check has a few hundred rows and so never runs them. Here every function of the Triton and the CUDA C++
implementation meets a float64 truth of plain PyTorch on the device. nhsic is missing: its kernel takes at most
128 rows. The checker itself is proven on the CPU, with the reference as the implementation and with faults;
tests/gpu_kernels runs it on the emulated kernels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from oracle import readable
from torch import Tensor

from bido_ext import reference
from bido_ext.reference.kernel_entries import GAUSSIAN, INVERSE_MULTIQUADRIC, LABELS, LINEAR
from bido_ext.serving.comparison import TOLERANCES
from bido_ext.serving.implementations import functions_of

Functions = Mapping[str, Callable[..., Any]]
#: A single entry may be this many times as wrong, beside the largest: one that nobody wrote is far more.
ONE_ENTRY = 8.0


class LargeCheck:
    """Compares an implementation at one size with the truth.

    Attributes:
        functions: By the names of the contracts.
        symmetric: Whether Gram matrices must equal their transposes bit by bit, as those of kernels do.
    """

    def __init__(
        self, functions: Functions, n: int, d: int, dtype: torch.dtype, device: str, *,
        tf32: bool = False, symmetric: bool = True,
    ) -> None:  # fmt: skip
        self.f, self.n, self.d, self.dtype, self.device = functions, n, d, dtype, device
        self.symmetric = symmetric
        kind = "half" if dtype.itemsize == 2 else "tf32" if tf32 else "float32"
        self.values, self.grads = TOLERANCES[kind]
        # The linear kernel centers half-precision features in float32, whose products may be TF32 then.
        self.linear = TOLERANCES["tf32"][0] if tf32 else self.values
        self.generator = torch.Generator().manual_seed(n + d)

    def random(self, *shape: int) -> Tensor:
        return torch.rand(shape, generator=self.generator, dtype=torch.float64)

    def features(self) -> Tensor:
        x = (self.random(self.n, self.d) + 1).to(self.dtype)
        x[self.n // 2] = x[0]  # duplicate rows: a zero distance off the diagonal
        return x.to(self.device)

    def numbers(self, *values: float) -> Tensor:
        return torch.tensor(values, dtype=torch.float64, device=self.device)

    def noise(self, *shape: int) -> Tensor:
        return (self.random(*shape) - 0.5).to(self.device)

    def compare(self, what: str, got: Tensor, wanted: Tensor, allowed: float) -> None:
        assert got.shape == wanted.shape, what
        wanted = wanted.detach()
        difference = got.detach().double() - wanted
        error = float(difference.norm() / wanted.norm())
        worst = float(difference.abs().max() / wanted.abs().max())
        assert error <= allowed, f"{what} is off by {error:.1e}, allowed {allowed:.0e}"  # NaN fails
        assert worst <= ONE_ENTRY * allowed, f"an entry of {what} is off by {worst:.1e}"

    def check_gram(self, what: str, got: Tensor, wanted: Tensor, allowed: float) -> None:
        self.compare(what, got, wanted, allowed)
        if self.symmetric:
            assert torch.equal(got, got.T), f"{what} is not symmetric"

    def run(self, family: str) -> None:
        assert torch.empty(1000, device=self.device).isnan().all(), "outputs are not poisoned"
        getattr(self, family)()

    def gaussian_gram(self) -> None:
        x, gamma = self.features(), self.numbers(1 / (50 * self.d))[0]
        for minus_one in (True, False):
            wide = x.double().requires_grad_()
            wanted = reference.gaussian_gram(wide, gamma, minus_one)
            got = self.f["gaussian_gram"](x, gamma, minus_one)
            self.check_gram("gaussian_gram", got, wanted, self.values)
            assert torch.equal(got.diagonal(), torch.full_like(got[0], 0.0 if minus_one else 1.0))
            g = self.noise(self.n, self.n)
            (wanted_grad,) = torch.autograd.grad(wanted, wide, g)
            back = self.f["gaussian_gram_backward"](g.float(), got, x, gamma, minus_one)
            assert back.dtype == self.dtype
            self.compare("gaussian_gram_backward", back, wanted_grad, self.grads)

    def gram_stack(self) -> None:
        x, labels = self.features(), torch.arange(self.n, device=self.device) % 7
        group, kinds = [x, x[:, : self.d // 2], x], [GAUSSIAN, LINEAR, INVERSE_MULTIQUADRIC]
        parameters = self.numbers(1 / (50 * self.d), 1, 1, 0.5)
        wide = [v.double().requires_grad_() for v in group]
        wanted = reference.gram_stack([*wide, labels], parameters, [*kinds, LABELS])
        stack = self.f["gram_stack"]([*group, labels], parameters, [*kinds, LABELS])
        for k in range(4):
            if (
                k == LINEAR
            ):  # which depends on where a kernel puts the origin, but for its centered matrix
                got, want = (reference.double_center(K[k].double()) for K in (stack, wanted))
                self.compare(f"gram_stack, kernel {k}", got, want, self.linear)
            else:
                self.check_gram(f"gram_stack, kernel {k}", stack[k], wanted[k], self.values)
        g = self.noise(3, self.n, self.n)
        g[LINEAR] = reference.double_center(g[LINEAR])
        grads = torch.autograd.grad(wanted[:3], wide, list(g))
        back = self.f["gram_stack_backward"](g.float(), stack[:3], group, parameters[:3], kinds)
        for k in range(3):
            assert back[k].dtype == self.dtype
            self.compare(f"gram_stack_backward, kernel {k}", back[k], grads[k], self.grads)

    def double_center(self) -> None:
        K = self.noise(self.n, self.n).float() + 1
        for matrix in (K, K.T):
            wanted = reference.double_center(matrix.double())
            self.compare("double_center", self.f["double_center"](matrix), wanted, 1e-5)

    def hsic(self) -> None:
        n, x = self.n, self.features()
        z = (x * self.random(1, self.d).to(self.device)).to(self.dtype)
        group, kinds = [x, z, torch.arange(n, device=self.device) % 7], [GAUSSIAN, GAUSSIAN, LABELS]
        parameters = self.numbers(1 / (50 * self.d), 1 / (50 * self.d), 1)
        first, second, wanted = [1, 1], [0, 2], [0, 1]
        wide = [v.double().requires_grad_() for v in group[:2]]
        stack = reference.gram_stack([*wide, group[2]], parameters, kinds)
        for unbiased in (False, True):
            values = torch.stack(
                [
                    reference.hsic(stack[a], stack[b], unbiased)
                    for a, b in zip(first, second, strict=True)
                ]
            )
            # Gradients of one or so: what is below 6e-8 float16 does not hold.
            g = self.numbers(0.3, -1.0)
            sizes = torch.autograd.grad(values, wide, g, retain_graph=True)
            g = g / max(float(grad.abs().max()) for grad in sizes)
            grads = torch.autograd.grad(values, wide, g, retain_graph=True)
            # All kept, two panels, several with a ragged last one.
            for tile, kept_tiles in ((n, -1), (n // 2, 0), (n // 5 + 3, 0)):
                args = (kinds, first, second, unbiased, tile)
                got, sums, kept = self.f["hsic"](group, parameters, *args, kept_tiles)
                # The unbiased value is a small difference of sums.
                self.compare("hsic", got, values, (10 if unbiased else 1) * self.values)
                if self.symmetric and kept_tiles == -1:
                    for k, K in enumerate(kept.view(2, n, n)):
                        self.check_gram(f"the kept matrix {k}", K, stack[k], self.values)
                back = self.f["hsic_backward"](g, group, parameters, sums, kept, *args, wanted)
                for k in wanted:
                    assert back[k].dtype == self.dtype
                    self.compare(f"hsic_backward, tile {tile}", back[k], grads[k], self.grads)


FAMILIES = ("gaussian_gram", "gram_stack", "double_center", "hsic")


@contextmanager
def products(precision: str) -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


@pytest.mark.gpu
@pytest.mark.parametrize("implementation", ["triton", "cuda"])
@pytest.mark.parametrize("family", FAMILIES)
# Whole matrices instead of shared columns, on most GPUs; and a second panel of weights on all.
@pytest.mark.parametrize(("n", "d"), [(1500, 70), (1500, 128), (4200, 70), (4200, 128)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=readable)
@pytest.mark.parametrize("precision", ["highest", "high"])
def test_many_samples(
    implementation: str, family: str, n: int, d: int, dtype: torch.dtype, precision: str
) -> None:
    functions = functions_of(family, implementation)
    if not functions:
        pytest.skip(f"{implementation} has no kernel for {family}, or was not built")
    with products(precision):
        LargeCheck(functions, n, d, dtype, "cuda", tf32=precision == "high").run(family)


def reference_functions() -> dict[str, Callable[..., Any]]:
    return {name: f for op in FAMILIES for name, f in functions_of(op, "reference").items()}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=readable)
def test_the_checker_passes_the_reference(family: str, dtype: torch.dtype) -> None:
    LargeCheck(reference_functions(), 150, 70, dtype, "cpu", symmetric=False).run(family)


def spoiled(f: Callable[..., Any], fault: str) -> Callable[..., Any]:
    """A function with one fault in its first output, or in the last of a list of gradients."""

    def function(*args: Any) -> Any:
        result = f(*args)
        if isinstance(result, list):
            result = [*result[:-1], result[-1].clone()]
            target = result[-1]
        elif isinstance(result, tuple):
            result = (result[0].clone(), *result[1:])
            target = result[0]
        else:
            target = result = result.clone()
        last = target.view(-1)[-2:]  # beside the diagonal of a Gram matrix
        last[0] = float("nan") if fault == "unwritten" else last[0] + target.abs().max() / 5
        return result

    return function


@pytest.mark.parametrize("fault", ["unwritten", "wrong"])
@pytest.mark.parametrize("name", [
    "gaussian_gram", "gaussian_gram_backward", "gram_stack", "gram_stack_backward", "double_center", "hsic",
    "hsic_backward",
])  # fmt: skip
def test_the_checker_fails_on_one_wrong_entry(name: str, fault: str) -> None:
    functions = reference_functions()
    functions[name] = spoiled(functions[name], fault)
    with pytest.raises(AssertionError, match=f"{name}.* is off"):
        LargeCheck(functions, 150, 70, torch.float32, "cpu", symmetric=False).run(
            name.removesuffix("_backward")
        )


def test_the_checker_fails_on_a_matrix_that_is_not_symmetric() -> None:
    functions = reference_functions()
    exact = functions["gaussian_gram"]

    def one_bit_off(*args: Any) -> Tensor:
        K = exact(*args)
        K = torch.triu(K) + torch.triu(K, 1).T
        K[-1, 0] = torch.nextafter(K[-1, 0], torch.ones(()))
        return K

    functions["gaussian_gram"] = one_bit_off
    with pytest.raises(AssertionError, match="gaussian_gram is not symmetric"):
        LargeCheck(functions, 150, 70, torch.float32, "cpu").run("gaussian_gram")
