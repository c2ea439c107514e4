"""The order of images and batches, against the plain procedures that they implement."""

from __future__ import annotations

import itertools

import numpy as np
import torch

from transfer.training.sampler import (
    GroupedBatches,
    rank_share,
    repeat_factors,
    repeated_order,
    training_order,
)


def take(batches: GroupedBatches, count: int) -> list:
    return list(itertools.islice(iter(batches), count))


def test_order_is_concatenated_permutations() -> None:
    generator = torch.Generator()
    generator.manual_seed(5)
    expected = torch.cat([torch.randperm(7, generator=generator) for _ in range(3)]).tolist()
    assert list(itertools.islice(training_order(7, 5), 21)) == expected


def test_ranks_take_turns() -> None:
    landscape = [False] * 7
    whole = list(itertools.islice(training_order(7, 0), 24))
    for rank in range(3):
        batches = GroupedBatches(landscape, batch_size=2, seed=0, rank=rank, world_size=3)
        pairs = [pair for batch in take(batches, 4) for pair in batch]
        assert [index for _, index in pairs] == whole[rank::3]
        assert [position for position, _ in pairs] == list(range(rank, 24, 3))


def test_groups_by_shape_and_loses_nothing() -> None:
    landscape = [i % 3 == 0 for i in range(10)]
    # The procedure on a list: two waiting lines, a batch leaves when its line is full.
    waiting: dict[bool, list] = {True: [], False: []}
    expected = []
    for position, index in enumerate(itertools.islice(training_order(10, 1), 200)):
        line = waiting[landscape[index]]
        line.append((position, index))
        if len(line) == 4:
            expected.append(line[:])
            line.clear()
    found = take(GroupedBatches(landscape, batch_size=4, seed=1), len(expected))
    assert found == expected
    assert all(len({landscape[i] for _, i in batch}) == 1 for batch in found)


def test_without_grouping_batches_are_consecutive() -> None:
    batches = GroupedBatches([True, False, True], batch_size=2, seed=2, grouping=False)
    flat = [pair[0] for batch in take(batches, 5) for pair in batch]
    assert flat == list(range(10))


def test_resumes_at_any_batch() -> None:
    landscape = [i % 2 == 0 for i in range(9)]
    whole = take(GroupedBatches(landscape, batch_size=2, seed=3), 12)
    later = GroupedBatches(landscape, batch_size=2, seed=3, start_batch=5)
    assert take(later, 7) == whole[5:]


def test_rare_classes_are_repeated_by_the_root_of_their_rarity() -> None:
    images, classes = np.array([0, 0, 1, 2, 3, 3, 3]), np.array([0, 0, 0, 0, 0, 1, 1])
    factors = repeat_factors(images, classes, 5, threshold=0.8, sqrt=True)
    # Class 0 is in 4 of 5 images, class 1 in one of them; the last image has no object.
    torch.testing.assert_close(factors, torch.tensor([1.0, 1.0, 1.0, 2.0, 1.0]))
    factors = repeat_factors(images, classes, 5, threshold=0.8, sqrt=False)
    torch.testing.assert_close(factors, torch.tensor([1.0, 1.0, 1.0, 4.0, 1.0]))


def test_a_fraction_of_a_repeat_comes_in_that_share_of_the_epochs() -> None:
    factors, epochs = torch.tensor([1.0, 2.25, 1.0]), 400
    order = list(itertools.islice(repeated_order(factors, 0), int(4.25 * epochs)))
    assert abs(order.count(1) / epochs - 2.25) < 0.1
    assert abs(order.count(0) / epochs - 1.0) < 0.05


def test_repeats_are_resumed_and_shared_by_ranks() -> None:
    factors, wide = torch.tensor([1.5, 1.0, 3.25, 1.0]), [True, False, True, False]
    whole = list(itertools.islice(repeated_order(factors, 3), 60))
    for rank in range(2):
        keys = {"batch_size": 2, "seed": 3, "rank": rank, "world_size": 2, "factors": factors}
        flat = [
            i for batch in take(GroupedBatches(wide, grouping=False, **keys), 9) for _, i in batch
        ]
        assert flat == whole[rank::2][:18]
        grouped = take(GroupedBatches(wide, **keys), 12)
        assert take(GroupedBatches(wide, start_batch=5, **keys), 7) == grouped[5:]


def test_shares_cover_the_test_set() -> None:
    shares = [rank_share(10, rank, 4) for rank in range(4)]
    assert [len(share) for share in shares] == [3, 3, 2, 2]
    assert [i for share in shares for i in share] == list(range(10))
