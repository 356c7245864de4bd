# SPDX-License-Identifier: Apache-2.0
"""LPIPS with weights from a file: the network of torchmetrics, in our batches."""

from __future__ import annotations

import pytest
import torch
import torchvision

from bido_ext.lab.judging import PrivateReference, load_lpips
from bido_ext.lab.judging.perceptual import lpips_distance, lpips_to_nearest

pytest.importorskip("torchmetrics")


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "alexnet.pth"
    torch.save(torchvision.models.alexnet(weights=None).state_dict(), path)
    return path


def test_the_body_is_that_of_the_file_and_the_distance_the_formula(weights):
    network = load_lpips(weights)
    features = torch.load(weights)
    first, second = torch.rand(3, 3, 48, 48), torch.rand(3, 3, 48, 48)
    # The formula by hand, with torchvision's own layers under the file's weights.
    body = torchvision.models.alexnet(weights=None)
    body.load_state_dict(features)
    shift = torch.tensor([-0.030, -0.088, -0.188]).view(1, 3, 1, 1)
    scale = torch.tensor([0.458, 0.448, 0.450]).view(1, 3, 1, 1)
    total = torch.zeros(3)
    left, right = ((2 * x - 1 - shift) / scale for x in (first, second))
    stops = {1: 0, 4: 1, 7: 2, 9: 3, 11: 4}
    with torch.no_grad():
        for index, layer in enumerate(body.features[:12].eval()):
            left, right = layer(left), layer(right)
            if index in stops:
                a, b = (x / (x.square().sum(1, keepdim=True) + 1e-8).sqrt() for x in (left, right))
                weight = network.get_submodule(f"lin{stops[index]}").state_dict()["model.1.weight"]
                total += ((a - b).square() * weight.view(1, -1, 1, 1)).sum(1).mean((1, 2))
    torch.testing.assert_close(lpips_distance(network, first, second).float(), total)


def test_a_copy_is_at_zero_and_the_nearest_is_taken(weights):
    network = load_lpips(weights)
    private = torch.rand(40, 1, 32, 32)
    labels = torch.arange(40) % 2
    reference = PrivateReference(private, labels, private.flatten(1))
    copies = private[[7, 12]]
    told = lpips_to_nearest(network, copies, copies.flatten(1), labels[[7, 12]], reference)
    torch.testing.assert_close(told, torch.zeros(2, dtype=torch.float64))
    assert (lpips_distance(network, private[:2], private[2:4]) > 1e-4).all()


def test_other_files_are_refused(tmp_path):
    torch.save({"a": torch.ones(2)}, tmp_path / "a.pt")
    with pytest.raises(ValueError, match="neither torchvision's VGG16 nor its AlexNet"):
        load_lpips(tmp_path / "a.pt")
    state = torchvision.models.alexnet(weights=None).state_dict()
    del state["features.0.bias"]
    torch.save(state, tmp_path / "b.pt")
    with pytest.raises(ValueError, match="does not hold the weights of LPIPS's body"):
        load_lpips(tmp_path / "b.pt")
