# SPDX-License-Identifier: Apache-2.0
"""The scripts of docs/examples run on tiny random data, and BiDO adds at most five lines to each."""

from __future__ import annotations

import copy
import importlib.util
import re
import tempfile
import types
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import bido_ext as bx

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = sorted((ROOT / "docs" / "examples").glob("*.py"))
MARK = "# bido"


def load(name: str, source: str | None = None) -> types.ModuleType:
    path = ROOT / "docs" / "examples" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"example_{name}", path)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    exec(compile(source or path.read_text(), str(path), "exec"), module.__dict__)
    return module


def images(
    batch: int = 4, size: int = 8, steps: int = 2
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    torch.manual_seed(0)
    return [(torch.rand(batch, 3, size, size), torch.randint(10, (batch,))) for _ in range(steps)]


def run(name: str, module: types.ModuleType) -> list[nn.Module]:
    """What the example trains, on tiny data."""
    torch.manual_seed(0)
    train: Any = module.train
    if name == "torchvision_models":
        return [train("resnet18", images(size=32))]
    if name == "torchvision_models, large":
        return [
            train("vgg11_bn", images(batch=2, size=32, steps=1)),
            train("densenet121", images(batch=2, size=32, steps=1)),
            train("vit_b_16", images(batch=2, size=16, steps=1), image_size=16),
        ]
    if name == "timm_model":
        return [
            train("resnet10t", images(size=32)),
            train("vit_tiny_patch16_224", images(size=32), img_size=32),
        ]
    if name == "hugging_face_vit":
        small = module.ViTConfig(
            image_size=8, patch_size=4, hidden_size=12, num_hidden_layers=2, num_attention_heads=2,
            intermediate_size=16, num_labels=10,
        )  # fmt: skip
        return [train(small, images())]
    if name.startswith("lightning"):
        options = {
            "accelerator": "cpu", "logger": False, "enable_checkpointing": False,
            "enable_progress_bar": False, "enable_model_summary": False,
        }  # fmt: skip
        return [train(DataLoader(images(), batch_size=None), **options)]
    if name == "hugging_face_trainer":
        small = module.ViTConfig(
            image_size=8, patch_size=4, hidden_size=12, num_hidden_layers=2, num_attention_heads=2,
            intermediate_size=16, num_labels=10,
        )  # fmt: skip
        samples = [
            {"pixel_values": x, "labels": int(y)}
            for xs, ys in images(8)
            for x, y in zip(xs, ys, strict=True)
        ]
        with tempfile.TemporaryDirectory() as folder:
            return [train(small, samples, folder)]
    if name in ("accelerate_loop", "opacus_clipping"):
        x, y = (torch.cat(parts) for parts in zip(*images(8), strict=True))
        options = {"cpu": True} if name == "accelerate_loop" else {}
        return [train(DataLoader(TensorDataset(x, y), batch_size=8), **options)]
    if name in ("several_ranks", "fully_sharded"):
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
        try:
            return [train(images())]
        finally:
            dist.destroy_process_group()
    return [train(images())]


NEEDS = {"timm_model": "timm", "hugging_face_vit": "transformers", "lightning_module": "lightning",
         "lightning_callback": "lightning", "torchvision_models": "torchvision",
         "hugging_face_trainer": "accelerate", "accelerate_loop": "accelerate",
         "opacus_clipping": "opacus"}  # fmt: skip


@pytest.mark.parametrize("name", [path.stem for path in EXAMPLES])
@pytest.mark.filterwarnings("ignore")
def test_runs(name: str) -> None:
    if name in NEEDS:
        pytest.importorskip(NEEDS[name], reason=f"{NEEDS[name]} is not installed")
    for model in run(name, load(name)):
        assert all(torch.isfinite(p).all() for p in model.parameters())


@pytest.mark.slow
@pytest.mark.filterwarnings("error:FeatureTaps")
def test_large_torchvision_models_run() -> None:
    pytest.importorskip("torchvision")
    for model in run("torchvision_models, large", load("torchvision_models")):
        assert all(torch.isfinite(p).all() for p in model.parameters())


@pytest.mark.parametrize("name", [path.stem for path in EXAMPLES])
def test_adds_at_most_five_lines(name: str) -> None:
    text = (ROOT / "docs" / "examples" / f"{name}.py").read_text()
    marked = [line for line in text.splitlines() if MARK in line]
    assert 1 <= len(marked) <= 5
    rest = "\n".join(line for line in text.splitlines() if MARK not in line)
    code = re.sub(r"#.*", "", rest.split('"""')[2])
    assert not re.search(r"\bbx\.|bido_ext|\btaps\b|\bcriterion\b", code)
    compile(rest, name, "exec")


@pytest.mark.parametrize("name", ["plain_loop", "several_ranks"])
def test_without_the_lines_the_script_still_trains(name: str) -> None:
    text = (ROOT / "docs" / "examples" / f"{name}.py").read_text()
    rest = "\n".join(line for line in text.splitlines() if MARK not in line)
    (with_bido,), (without,) = run(name, load(name)), run(name, load(name, rest))
    pairs = list(zip(with_bido.parameters(), without.parameters(), strict=True))
    assert pairs
    assert any(not torch.equal(a, b) for a, b in pairs)


def test_opacus_sees_the_term_where_the_page_says_to_tap() -> None:
    """Per-sample gradients add up to those of the plain network, BiDO's share included."""
    opacus = pytest.importorskip("opacus", reason="opacus is not installed")
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    wrapped = opacus.GradSampleModule(copy.deepcopy(plain))
    x, y = torch.rand(12, 6), torch.randint(3, (12,))
    for model, layer in ((plain, "1"), (wrapped, "_module.1")):
        taps = bx.FeatureTaps(model, [layer])
        loss = nn.functional.cross_entropy(model(x), y)
        (loss + bx.BiDOLoss("hsic", 1e3, 3e3)(x, taps.features, y)).backward()
    alone = torch.autograd.grad(nn.functional.cross_entropy(plain(x), y), plain[0].weight)[0]
    both = plain[0].weight.grad
    assert (both - alone).norm() > 0.05 * alone.norm(), "BiDO's share is too small to be seen"
    weight = wrapped.get_parameter("_module.0.weight")
    torch.testing.assert_close(weight.grad_sample.mean(0), both)


def test_readme_shows_the_plain_loop() -> None:
    """The lines of README's first snippet are those of plain_loop.py, up to layer names and layout."""
    readme = (ROOT / "README.md").read_text()
    snippet = readme.split("```python")[1].split("```")[0]
    shown = {re.sub(r"\[.*?\]", "[]", line).strip() for line in snippet.splitlines()}
    example = (ROOT / "docs" / "examples" / "plain_loop.py").read_text()
    lines = [line.split("  # bido")[0].strip() for line in example.splitlines() if MARK in line]
    for line in lines[:-1]:
        assert re.sub(r"\[.*?\]", "[]", line) in shown, line
    assert any(
        line.startswith("loss = ") and "criterion(x, taps.features, y)" in line for line in shown
    )
    assert "criterion(x, taps.features, y)" in lines[-1]
