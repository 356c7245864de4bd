# SPDX-License-Identifier: Apache-2.0
"""The identity sampler: which images come together, from labels alone."""

import pytest
import torch

from bido_ext.lab.data import IdentityBatches


def _labels(*counts):
    return torch.tensor([label for label, count in enumerate(counts) for _ in range(count)])


def _epoch(sampler, seed=0):
    return sampler.epoch(torch.Generator().manual_seed(seed))


def test_a_batch_has_four_images_of_each_of_sixteen_people():
    labels = _labels(*[27] * 40)
    sampler = IdentityBatches(labels, 64, 4)
    batches = _epoch(sampler)
    for batch in batches:
        people, counts = labels[batch].unique(return_counts=True)
        assert len(people) == 16
        assert counts.tolist() == [4] * 16
        assert len(batch.unique()) == 64
    seen = torch.cat(batches)
    assert len(seen.unique()) == len(seen), "no image twice in an epoch"
    # 6 groups of 4 of the 27 images: 24 used at most, and few groups are left over at the end.
    assert len(sampler) == 40 * 6 // 16
    assert 0 <= len(sampler) - len(batches) <= 3
    assert torch.bincount(labels[seen]).max() == 24


def test_people_with_few_images_are_repeated():
    labels = _labels(1, 3, 4, 9)
    batches = _epoch(IdentityBatches(labels, 16, 4))
    assert len(batches) == 1
    assert torch.bincount(labels[batches[0]]).tolist() == [4, 4, 4, 4]
    assert (batches[0] == 0).sum() == 4, "the only image of the first person"


def test_labels_need_no_order_and_the_generator_decides():
    labels = _labels(*[8] * 6)[torch.randperm(48)]
    sampler = IdentityBatches(labels, 8, 4)
    first, again, other = _epoch(sampler), _epoch(sampler), _epoch(sampler, 1)
    assert all(map(torch.equal, first, again))
    assert not all(map(torch.equal, first, other))


def test_bad_arguments():
    with pytest.raises(ValueError, match="multiple of per_identity=4, got 30"):
        IdentityBatches(_labels(8, 8), 30, 4)
    with pytest.raises(ValueError, match="takes 16 identities, the training set has 3"):
        IdentityBatches(_labels(8, 8, 8), 64, 4)
