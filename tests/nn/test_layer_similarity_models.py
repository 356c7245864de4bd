# SPDX-License-Identifier: Apache-2.0
"""Which layers LayerSimilarity looks at, how it runs models, and how it leaves them."""

from __future__ import annotations

import warnings

import pytest
import torch
from similar_nets import ROWS, Twice, batches, net
from torch import Tensor, nn

import bido_ext as bx


def test_default_layers_are_those_that_give_features() -> None:
    model, (x,) = net(), batches(6)
    similarity = bx.LayerSimilarity(model)
    assert similarity.layers == ()
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # the batch norm that ReLU changes in place is left out
        similarity.update(x)
    assert similarity.layers == ("stem", "body.1", "body.3", "head", "dead")
    assert similarity.other_layers == similarity.layers


def test_default_layers_open_the_body_and_containers() -> None:
    class Classifier(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = net()
            self.head = nn.Linear(3, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.network(x))

    similarity = bx.LayerSimilarity(Classifier(), net(1))
    similarity.update(*batches(6))
    assert similarity.layers[:2] == ("network.stem", "network.body.1")
    assert similarity.layers[-1] == "head"
    assert similarity.other_layers[0] == "stem"
    with pytest.raises(ValueError, match="no child of Twice"):
        bx.LayerSimilarity(Twice()).update(torch.randn(6, 3))


def test_default_layers_of_torchvision_models() -> None:
    models = pytest.importorskip("torchvision.models")
    similarity = bx.LayerSimilarity(models.resnet18())
    similarity.update(torch.randn(4, 3, 32, 32))
    blocks = [f"layer{i}.{j}" for i in range(1, 5) for j in range(2)]
    assert list(similarity.layers) == ["conv1", "relu", "maxpool", *blocks, "avgpool", "fc"]
    similarity = bx.LayerSimilarity(models.VisionTransformer(16, 8, 3, 2, 12, 24, num_classes=5))
    similarity.update(torch.randn(4, 3, 16, 16))
    assert [n for n in similarity.layers if n.startswith("encoder.layers")]


def test_selectors_names_modules_predicate_and_iterators() -> None:
    model, (x,) = net(), batches(6)
    by_name = bx.LayerSimilarity(model, layers=["stem", "head"])
    for layers in (
        [model.stem, model.head],
        lambda name, module: name in ("stem", "head"),
        iter(["stem", "head"]),
    ):
        similarity = bx.LayerSimilarity(model, layers=layers)
        assert similarity.layers == similarity.other_layers == ("stem", "head")
        similarity.update(x)
    by_name.update(x)
    torch.testing.assert_close(similarity.compute().matrix, by_name.compute().matrix)


def test_model_is_as_before() -> None:
    model, (x,) = net().train(), batches(6)
    model.body[2].eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    similarity = bx.LayerSimilarity(model)
    similarity.update(x.requires_grad_())
    assert model.training
    assert model.body[0].training
    assert not model.body[2].training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert x.grad is None
    assert not similarity.compute().matrix.requires_grad
    assert model(x).requires_grad


def test_batches_of_a_loader_mappings_and_calls() -> None:
    model, (x,) = net(), batches(6)
    results = []
    for batch, call in (
        (x, None),
        ([x, torch.zeros(6)], None),
        ({"x": x}, None),
        ({"image": x}, lambda m, b: m(b["image"])),
    ):
        similarity = bx.LayerSimilarity(model, layers=["stem", "head"], call=call)
        similarity.update(batch)
        results.append(similarity.compute().matrix)
    assert all(torch.equal(result, results[0]) for result in results)
    with pytest.raises(TypeError, match="give call=lambda"):
        bx.LayerSimilarity(model).update(3)


@pytest.mark.filterwarnings("ignore:FeatureTaps")
def test_layer_that_does_not_run_is_named() -> None:
    model = net()
    model.add_module("unused", nn.Linear(2, 2))
    with pytest.raises(ValueError, match=r"layer\(s\) unused did not run"):
        bx.LayerSimilarity(model, layers=["stem", "unused"]).update(*batches(6))
    similarity = bx.LayerSimilarity(model)
    similarity.update(*batches(6))
    assert "unused" not in similarity.layers


def test_compiled_model_is_looked_at_as_the_module_inside() -> None:
    model, (x,) = net(), batches(6)
    compiled = torch.compile(model, backend="eager")
    compiled(x)
    similarity, plain = (
        bx.LayerSimilarity(compiled, layers=ROWS),
        bx.LayerSimilarity(model, layers=ROWS),
    )
    similarity.update(x)
    plain.update(x)
    assert torch.equal(similarity.compute().matrix, plain.compute().matrix)
