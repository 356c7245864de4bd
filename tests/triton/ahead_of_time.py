# SPDX-License-Identifier: Apache-2.0
"""Compiles every Triton kernel for an architecture without a GPU, exactly as its launcher would.

``python tests/triton/ahead_of_time.py 90 1`` runs the launchers on tensors of the CPU with a stand-in
for the driver, so that each launch compiles and nothing runs. It prints one JSON line per compiled
kernel: registers, stack and local memory as the assembler reports them, and the tensor-core
instructions. ``90 1 bfloat16``: of one dtype. ``tma 90``: the kernels of TMA alone; ``tma_hsic 90``: those of
the backward of hsic.
"""

from __future__ import annotations

import importlib
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime.driver import driver
from triton.runtime.jit import JITFunction

from bido_ext.reference.kernel_entries import (
    ENERGY,
    GAUSSIAN,
    INVERSE_MULTIQUADRIC,
    LABELS,
    LAPLACIAN,
    LINEAR,
    RATIONAL_QUADRATIC,
)
from bido_ext.triton_kernels import (
    double_center,
    features,
    gaussian_gram,
    gram_panel,
    gram_stack,
    hsic,
    hsic_tma,
    launch,
    product_epilogue,
    split_gram,
    tma_gram,
    tma_weighted_product,
    weighted_product,
)

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
TOOLS = Path(triton.__file__).parent / "backends/nvidia/bin"


class StandInDriver:
    """What a launch asks of the driver before it compiles."""

    def __init__(self, target: GPUTarget) -> None:
        self.target = target

    def get_current_target(self) -> GPUTarget:
        return self.target

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0


@contextmanager
def compiling(capability: int) -> Iterator[list[tuple[str, Any]]]:
    """Every launch compiles for ``capability`` and is recorded instead of run."""
    compiled: list[tuple[str, Any]] = []
    run = JITFunction.run

    def compile_only(self: JITFunction, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> Any:
        kernel = run(self, *args, grid=grid, warmup=True, **kwargs)
        compiled.append((self.fn.__name__, kernel))
        return kernel

    driver.set_active(StandInDriver(GPUTarget("cuda", capability, 32)))
    with mock.patch.object(JITFunction, "run", compile_only):
        yield compiled


def launch_everything(dtype: torch.dtype, config_index: int, aligned: bool) -> None:
    """One launch of every kernel that takes features of ``dtype``; tuned kernels with their config."""

    def pick(name: str, candidates: Any, run: Any, key: Any, x: Any, out: Any) -> Any:
        return candidates[min(config_index, len(candidates) - 1)]

    with (
        mock.patch.object(gram_panel, "tuned", pick),
        mock.patch.object(weighted_product, "tuned", pick),
    ):
        launch_group(256, [512, 512], ([1, 1], [0, 2]), [1], dtype, unbiased=False)
        if aligned:  # panels of the kernels that have branches of their own
            for kind in (LAPLACIAN, ENERGY, RATIONAL_QUADRATIC, INVERSE_MULTIQUADRIC):
                x = torch.zeros(256, 512, dtype=dtype)
                (f,) = features.features_of([x], [kind])
                row, out = torch.ones(2, dtype=torch.float64), torch.empty(256, 256)
                gram_panel.gram_panel(f, torch.empty(256), row, out)
                launch_epilogue(256, kind)
        if (
            config_index == 0
        ):  # Triton makes other code of a 1, and of sizes that are no multiple of 16
            launch_group(1, [1, 1], ([0], [1]), [0], dtype, unbiased=False)
            launch_group(70, [37, 9], ([0], [1]), [0, 1], dtype, unbiased=True)


def launch_group(
    n: int, dims: list[int], pairs: tuple[list[int], list[int]], wanted: list[int],
    dtype: torch.dtype, unbiased: bool,
) -> None:  # fmt: skip
    x, z = (torch.zeros(n, d, dtype=dtype) for d in dims)
    labels = torch.zeros(n, dtype=torch.int64)
    parameters = torch.ones(3, dtype=torch.float64)
    group, kinds = [x, z, labels], [GAUSSIAN, GAUSSIAN, LABELS]
    K = gaussian_gram.gaussian_gram(x, parameters[:1], False)
    gaussian_gram.gaussian_gram_backward(K, K, x, parameters[:1], False)
    double_center.double_center(K)
    launch_epilogue(n, GAUSSIAN)
    stack = gram_stack.gram_stack(group, parameters, kinds)
    gram_stack.gram_stack_backward(stack[:2], stack[:2], group[:2], parameters[:2], kinds[:2])
    for tile, kept in ((n, -1), (max(1, n // 4), 0)):
        values, sums, tiles = hsic.hsic(group, parameters, kinds, *pairs, unbiased, tile, kept)
        hsic.hsic_backward(
            values, group, parameters, sums, tiles, kinds, *pairs, unbiased, tile, wanted
        )


def launch_epilogue(n: int, kind: int) -> None:
    """After a product of PyTorch's, in float32 whatever the features are."""
    panel, norms, parameter = torch.zeros(n, n), torch.zeros(n), torch.ones(2)
    product_epilogue.entries_of_products(panel, norms, 0, parameter, kind)
    product_epilogue.weights_of_entries(panel, panel, 0, parameter, kind)


def launches_of_a_step() -> dict[str, list[str]]:
    """The kernels of value and gradient of one BiDO step with HSIC, VGG16 shapes, n = 64."""
    n, dims = 64, [12288, 65536, 32768, 16384, 8192, 2048]
    group = [torch.zeros(n, d) for d in dims] + [torch.zeros(n, dtype=torch.int64)]
    parameters, kinds = torch.ones(7, dtype=torch.float64), [GAUSSIAN] * 6 + [LABELS]
    pairs = ([j for j in range(1, 6) for _ in range(2)], [0, 6] * 5)
    with compiling(90) as compiled:
        values, sums, kept = hsic.hsic(group, parameters, kinds, *pairs, False, 512, -1)
        forward = len(compiled)
        hsic.hsic_backward(
            values, group, parameters, sums, kept, kinds, *pairs, False, 512, [1, 2, 3, 4, 5]
        )
    names = [name for name, _ in compiled]
    return {"forward": names[:forward], "backward": names[forward:]}


def kernels_of_groups() -> list[list[tuple[str, int]]]:
    """Names and lengths of the code of the kernels of HSIC that know the group, for 9 and 33 variables."""
    found = []
    for m in (9, 33):
        group = [torch.zeros(64, 64) for _ in range(m - 1)] + [torch.zeros(64, dtype=torch.int64)]
        parameters, kinds = torch.ones(m, dtype=torch.float64), [GAUSSIAN] * (m - 1) + [LABELS]
        layers = list(range(1, m - 1))
        pairs = ([j for j in layers for _ in range(2)], [0, m - 1] * len(layers))
        with compiling(90) as compiled:
            values, sums, kept = hsic.hsic(group, parameters, kinds, *pairs, False, 512, -1)
            hsic.hsic_backward(
                values, group, parameters, sums, kept, kinds, *pairs, False, 512, layers
            )
        found.append(sorted((n, len(k.asm["ptx"])) for n, k in compiled if n.startswith(OF_GROUPS)))
    return found


#: Kernels that loop over variables or pairs.
OF_GROUPS = ("pair_sums", "column_sums", "hsic_")


def resources(cubin: bytes) -> dict[str, int]:
    """Registers, stack and local memory of a compiled kernel."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        told = subprocess.run(
            [str(TOOLS / "cuobjdump"), "-res-usage", file.name],
            capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip
    found = re.search(r"REG:(\d+) STACK:(\d+).*?LOCAL:(\d+)", told)
    assert found, told
    return dict(zip(("registers", "stack", "local"), map(int, found.groups()), strict=True))


def instructions(cubin: bytes) -> str:
    """The machine code, in words."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        return subprocess.run(
            [str(TOOLS / "cuobjdump"), "-sass", file.name],
            capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip


def fact_of_tma(name: str, kernel: Any, **more: object) -> dict[str, object]:
    """What a compiled kernel takes, and whether the copy engine and the tensor cores are in it."""
    sass, ptx = instructions(kernel.asm["cubin"]), kernel.asm["ptx"]
    return {
        "kernel": name, **more, "shared": kernel.metadata.shared, **resources(kernel.asm["cubin"]),
        "wgmma": ptx.count("wgmma.mma_async"), "tcgen05": ptx.count("tcgen05.mma"),
        "bulk": ptx.count("cp.async.bulk.tensor"), "UTMALDG": sass.count("UTMALDG"),
        "HGMMA": sass.count("HGMMA"),
    }  # fmt: skip


def main_tma_hsic(capability: int, every: bool) -> None:
    """The backward of hsic with weights and features carried by TMA: at float32 accuracy with its first block
    shape, or also in TF32, of half precision, of the linear kernel, with all shapes."""
    n, d = 4096, 2048
    cases = [(torch.float32, "highest", GAUSSIAN)]
    if every:
        cases += [
            (torch.float32, "high", GAUSSIAN), (torch.float32, "high", LINEAR),
            (torch.bfloat16, "highest", GAUSSIAN), (torch.float16, "high", GAUSSIAN),
        ]  # fmt: skip
    for dtype, precision, kind in cases:
        torch.set_float32_matmul_precision(precision)
        x, labels = torch.empty(n, d, dtype=dtype), torch.empty(n, dtype=torch.int64)
        grad, parameters = torch.ones(1, dtype=torch.float64), torch.ones(2, dtype=torch.float64)
        sums, kept = torch.empty(2, n, dtype=torch.float64), torch.empty(1, 1, n, n)
        for place in range(2 if every else 1):

            def pick(name: str, candidates: Any, *rest: Any, place: int = place) -> Any:
                return candidates[place]

            with (
                mock.patch.object(tma_weighted_product, "tuned", pick),
                compiling(capability) as compiled,
            ):
                hsic_tma.hsic_backward(
                    grad, [x, labels], parameters, sums, kept, [kind, LABELS], [0], [1], False, n,
                    [0],
                )  # fmt: skip
            for name, kernel in compiled:
                fact = fact_of_tma(
                    name, kernel, dtype=str(dtype), precision=precision, kind=kind, place=place
                )
                print(json.dumps(fact), flush=True)


def main_tma(capability: int, every: bool) -> None:
    """The kernels with operands carried by TMA: the Gaussian in bfloat16, or all kernels, dtypes and configs."""
    n, d, parameter = 4096, 2048, torch.ones(2, dtype=torch.float64)
    kinds = [GAUSSIAN]
    if every:
        kinds += [LINEAR, INVERSE_MULTIQUADRIC, RATIONAL_QUADRATIC]
    cases = [(torch.bfloat16, "highest")]
    if every:
        cases += [(torch.float32, "highest"), (torch.float32, "high"), (torch.float16, "highest")]
    for dtype, precision in cases:
        torch.set_float32_matmul_precision(precision)
        for kind in kinds:
            with compiling(capability) as prepared:
                (f,) = features.features_of([torch.empty(n, d, dtype=dtype)], [kind])
                operands = tma_gram.operands_of(f, torch.empty(n))
            for config in tma_gram.configs_for(operands, kind)[: None if every else 1]:
                minus_one = [True, False] if every and kind == GAUSSIAN else [True]
                for wanted in minus_one:
                    with compiling(capability) as compiled:
                        tma_gram._launch(f, operands, parameter, torch.empty(n, n), wanted, config)
                    passes = [one for one in prepared if one[0] == "squared_norms_kernel"]
                    for name, kernel in [*passes, *compiled]:
                        fact = fact_of_tma(
                            name, kernel, dtype=str(dtype), precision=precision, kind=kind,
                            config=str(config),
                        )  # fmt: skip
                        print(json.dumps(fact), flush=True)


def main(capability: int, configs: int, dtypes: Sequence[torch.dtype] = DTYPES) -> None:
    for module in ("bido_ext", features.__name__, launch.__name__, split_gram.__name__):
        importlib.import_module(module)
    seen = set()
    for dtype in dtypes:
        for precision in ("highest", "high") if dtype == torch.float32 else ("highest",):
            torch.set_float32_matmul_precision(precision)
            for config_index, aligned in [(0, False), *((c, True) for c in range(configs))]:
                with compiling(capability) as compiled:
                    launch_everything(dtype, config_index, aligned)
                for name, kernel in compiled:
                    if kernel.hash in seen:
                        continue
                    seen.add(kernel.hash)
                    ptx = kernel.asm["ptx"]
                    fact = {
                        "kernel": name, "dtype": str(dtype), "precision": precision,
                        "config": config_index, "aligned": aligned,
                        "warps": kernel.metadata.num_warps, "shared": kernel.metadata.shared,
                        **resources(kernel.asm["cubin"]), "wgmma": ptx.count("wgmma.mma_async"),
                        "mma": ptx.count("mma.sync"), "tcgen05": ptx.count("tcgen05.mma"),
                    }  # fmt: skip
                    print(json.dumps(fact), flush=True)


if __name__ == "__main__":
    if sys.argv[1] == "step":
        print(json.dumps(launches_of_a_step()))
    elif sys.argv[1] == "groups":
        print(json.dumps(kernels_of_groups()))
    elif sys.argv[1] == "tma":
        main_tma(int(sys.argv[2]), sys.argv[3:] == ["every"])
    elif sys.argv[1] == "tma_hsic":
        main_tma_hsic(int(sys.argv[2]), sys.argv[3:] == ["every"])
    else:
        named = [getattr(torch, name) for name in sys.argv[3:]]
        main(int(sys.argv[1]), int(sys.argv[2]), named or DTYPES)
