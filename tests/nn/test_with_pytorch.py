# SPDX-License-Identifier: Apache-2.0
"""BiDO together with what else PyTorch offers: compile, export, checkpointing, transforms, accumulation, layouts."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from oracle import relative_error
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.utils.checkpoint import checkpoint

import bido_ext as bx

MEASURES = ["hsic", "nhsic", "coco", "cka"]
LAYERS = ["1", "3"]
each_measure = pytest.mark.parametrize("measure", MEASURES)


def a_model() -> nn.Sequential:
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3)
    ).double()


def a_batch(n: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(n)
    return torch.rand(n, 1, 6, 6, generator=generator, dtype=torch.float64), torch.arange(n) % 3


def a_step(model: nn.Module, measure: str) -> Callable[[Tensor, Tensor], Tensor]:
    taps, criterion = bx.FeatureTaps(model, LAYERS), bx.BiDOLoss(measure, 0.1, 1.0)

    def step(x: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(model(x), y) + criterion(x, taps.features, y)

    return step


def gradients(model: nn.Module) -> Tensor:
    return torch.cat([p.grad.flatten() for p in model.parameters()])  # type: ignore[union-attr]


@each_measure
def test_compile_with_a_dynamic_batch(measure: str) -> None:
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    model, rival = a_model(), a_model()
    step, eager = a_step(model, measure), a_step(rival, measure)
    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    for n in (24, 60, 41, 100, 33):
        x, y = a_batch(n)
        for t in (x, y):
            torch._dynamo.mark_dynamic(t, 0)
        loss, want = compiled(x, y), eager(x, y)
        loss.backward()
        want.backward()
        assert relative_error(loss.detach(), want.detach()) < 1e-9
    assert relative_error(gradients(model), gradients(rival)) < 1e-7
    # One for the first step, before the taps hold anything, and one for every n after it.
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] <= 2


@each_measure
def test_gradients_accumulate(measure: str) -> None:
    model, rival = a_model(), a_model()
    step, other = a_step(model, measure), a_step(rival, measure)
    total = torch.zeros(())
    for n in (12, 20):
        (step(*a_batch(n)) / 2).backward()
        total = total + other(*a_batch(n)) / 2
    total.backward()
    assert relative_error(gradients(model), gradients(rival)) < 1e-9


@each_measure
def test_channels_last_model(measure: str) -> None:
    model, rival = a_model(), a_model()
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    x, y = a_batch(12)
    a_step(model, measure)(x.contiguous(memory_format=torch.channels_last), y).backward()
    a_step(rival, measure)(x, y).backward()
    assert relative_error(gradients(model), gradients(rival)) < 1e-7


class Checkpointed(nn.Module):
    """Its first layers run again in the backward."""

    def __init__(self, reentrant: bool) -> None:
        super().__init__()
        self.early = nn.Sequential(nn.Linear(36, 9), nn.Tanh(), nn.Linear(9, 6), nn.Tanh())
        self.head = nn.Linear(6, 3)
        self.reentrant = reentrant

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1)
        if self.reentrant:
            x = x.requires_grad_()
        return self.head(checkpoint(self.early, x, use_reentrant=self.reentrant))


@each_measure
def test_activation_checkpointing(measure: str) -> None:
    x, y = a_batch(12)
    torch.manual_seed(0)
    model = Checkpointed(False).double()
    plain = copy.deepcopy(model)
    plain.forward = lambda x: plain.head(plain.early(x.flatten(1)))  # type: ignore[method-assign]
    for net in (model, plain):
        taps = bx.FeatureTaps(net, ["early.1", "early.3"])
        loss = F.cross_entropy(net(x), y) + bx.BiDOLoss(measure)(x, taps.features, y)
        kept = dict(taps.features)
        loss.backward()
        # The second run of the layers leaves what the first one left.
        assert all(taps.features[name] is z for name, z in kept.items())
    assert relative_error(gradients(model), gradients(plain)) < 1e-9


def test_a_reentrant_checkpoint_is_refused() -> None:
    x, y = a_batch(12)
    model = Checkpointed(True).double()
    taps = bx.FeatureTaps(model, ["early.1"])
    loss = F.cross_entropy(model(x.clone()), y) + bx.BiDOLoss("hsic")(x, taps.features, y)
    with pytest.raises(
        RuntimeError, match=r"layer 'early.1' runs inside checkpoint\(use_reentrant"
    ):
        loss.backward()


def test_export_has_no_trace_of_the_taps() -> None:
    x, _ = a_batch(4)
    plain = torch.export.export(a_model().eval(), (x,))
    tapped = a_model().eval()
    taps = bx.FeatureTaps(tapped, LAYERS)
    with_hooks = torch.export.export(tapped, (x,))
    assert taps.features == {}
    taps.remove()
    without = torch.export.export(tapped, (x,))
    for program in (with_hooks, without):
        assert program.graph_module.code == plain.graph_module.code
        assert program.graph_signature == plain.graph_signature
        torch.testing.assert_close(program.module()(x), tapped(x))
    # Stack traces hold the path of this file, which may have "bido" in it: no more of them than without taps.
    assert mentions(exported(without)) == mentions(exported(plain))


def test_a_defended_model_is_pickled_without_hooks() -> None:
    model = a_model()
    before = mentions(pickled(model))
    with bx.FeatureTaps(model, LAYERS):
        model(a_batch(4)[0])
        assert mentions(pickled(model)) > before  # hooks that do nothing
    assert mentions(pickled(model)) == before


def exported(program: torch.export.ExportedProgram) -> bytes:
    file = io.BytesIO()
    torch.export.save(program, file)
    return file.getvalue()


def pickled(model: torch.nn.Module) -> bytes:
    file = io.BytesIO()
    torch.save(model, file)
    return file.getvalue()


def mentions(content: bytes) -> int:
    return content.count(b"bido")


def functions_of(measure: str) -> list[Callable[[Tensor], Tensor]]:
    """The measure with labels and with features, and the loss, each a function of features (12, 5)."""
    f, y, other = getattr(bx, measure), torch.arange(12) % 3, torch.rand(12, 4).double()
    x, labels = a_batch(12)
    criterion = bx.BiDOLoss(measure)
    return [
        lambda z: f(z, y),
        lambda z: f(other, z),
        lambda z: criterion(x.double(), {"a": z, "b": z.tanh()}, labels),
    ]


@each_measure
def test_transforms_are_the_ordinary_derivative(measure: str) -> None:
    Z = torch.rand(3, 12, 5).double()
    z, tangent = Z[0], torch.randn(12, 5).double()
    for f in functions_of(measure):
        (expected,) = torch.autograd.grad(f(leaf := z.clone().requires_grad_()), leaf)
        same = partial(torch.testing.assert_close, rtol=1e-12, atol=1e-14)
        along = (expected * tangent).sum()
        same(torch.func.grad(f)(z), expected)
        same(torch.func.jacrev(f)(z), expected)
        same(torch.func.jacfwd(f)(z), expected)
        same(torch.func.vjp(f, z)[1](torch.tensor(2.0).double())[0], 2 * expected)
        same(torch.func.jvp(f, (z,), (tangent,))[1], along)
        with forward_ad.dual_level():
            dual = f(forward_ad.make_dual(z, tangent))
            same(forward_ad.unpack_dual(dual).tangent, along)
        same(torch.func.vmap(f)(Z), torch.stack([f(one) for one in Z]))
        same(torch.func.vmap(torch.func.grad(f))(Z)[0], expected)
        (batched,) = torch.autograd.grad(
            torch.func.vmap(f)(leaf := Z.clone().requires_grad_()).sum(), leaf
        )
        same(batched[0], expected)


@each_measure
def test_second_derivatives_by_transforms_are_refused(measure: str) -> None:
    z = torch.rand(12, 5).double()
    for f in functions_of(measure):
        for second in (torch.func.hessian(f), torch.func.jacfwd(torch.func.grad(f))):
            with pytest.raises(RuntimeError, match="second derivative is not supported"):
                second(z)


def test_a_functional_model_under_grad() -> None:
    x, y = a_batch(12)
    model, criterion = a_model().double(), bx.BiDOLoss("nhsic")
    taps = bx.FeatureTaps(model, LAYERS)
    parameters = {k: p.detach() for k, p in model.named_parameters()}

    def loss(parameters: dict[str, Tensor]) -> Tensor:
        torch.func.functional_call(model, parameters, (x.double(),))
        return criterion(x.double(), taps.features, y)

    grads = torch.func.grad(loss)(parameters)
    steps = criterion._guard.steps
    model(x.double())
    criterion(x.double(), taps.features, y).backward()
    for name, p in model.named_parameters():
        if p.grad is not None:
            torch.testing.assert_close(grads[name], p.grad, rtol=1e-10, atol=1e-14)
    assert float(grads[next(iter(grads))].abs().max()) > 0
    assert steps == 1  # the product made again is no step of its own


def test_transforms_keep_the_checks_and_the_guard() -> None:
    z = torch.rand(12, 5)
    with pytest.raises(ValueError, match="got 12 and 3"):
        torch.func.grad(lambda t: bx.hsic(t, torch.arange(3)))(z)
    x, y = a_batch(12)
    with pytest.raises(ValueError, match="NaN or Inf in step 1"):
        torch.func.grad(lambda t: bx.BiDOLoss()(x, {"fc": t}, y))(z * float("nan"))


def test_transforms_of_the_matrix_ops() -> None:
    x = torch.rand(3, 7, 4).double()
    K = torch.func.vmap(bx.gaussian_gram)(x)
    torch.testing.assert_close(K[1], bx.gaussian_gram(x[1]))
    torch.testing.assert_close(torch.func.vmap(bx.double_center)(K)[2], bx.double_center(K[2]))
    weights = torch.randn(7, 7).double()
    for f, argument in ((bx.gaussian_gram, x[0]), (bx.double_center, K[0])):
        leaf = argument.clone().requires_grad_()
        (expected,) = torch.autograd.grad((f(leaf) * weights).sum(), leaf)
        found = torch.func.grad(lambda t, f=f: (f(t) * weights).sum())(argument)
        torch.testing.assert_close(found, expected)
        with pytest.raises(RuntimeError, match="only functions with a 0-d result"):
            torch.func.jvp(f, (argument,), (argument,))


def test_functional_call() -> None:
    x, y = a_batch(12)
    model = a_model()
    taps, criterion = bx.FeatureTaps(model, LAYERS), bx.BiDOLoss("hsic")
    parameters = {k: (2 * p.detach()).requires_grad_() for k, p in model.named_parameters()}
    torch.func.functional_call(model, parameters, (x,))
    grads = torch.autograd.grad(
        criterion(x, taps.features, y), list(parameters.values()), allow_unused=True
    )
    assert float(grads[0].abs().max()) > 0
    assert all(p.grad is None for p in model.parameters())


def test_the_guard_names_step_layer_and_term() -> None:
    x, y = a_batch(12)
    z = torch.rand(12, 5)
    criterion = bx.BiDOLoss("hsic")
    for _ in range(2):
        criterion(x, {"fc": z}, y)
    bad = z.clone()
    bad[3, 2] = float("inf")
    with pytest.raises(
        ValueError, match=r"features of layer 'fc' contain\(s\) NaN or Inf in step 3"
    ):
        criterion(x, {"fc": bad}, y)
    with pytest.raises(ValueError, match=r"d\(X, Z\) of layer 'fc' is not finite .*\(step 4\)"):
        criterion(x, {"fc": z.double() * 1e200}, y)
    assert torch.isnan(bx.BiDOLoss("hsic", guard=False)(x, {"fc": bad}, y))
    with pytest.raises(ValueError, match="step 1"):
        bx.BiDOLoss("hsic", guard=True)(x, {"fc": bad}, y)
    with pytest.raises(TypeError, match="guard must be True, False or None, got str"):
        bx.BiDOLoss(guard="yes")  # type: ignore[arg-type]
