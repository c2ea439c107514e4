"""The loader: draws do not depend on workers and processes; exact resume, disjoint ranks."""

from __future__ import annotations

import itertools
import logging
from pathlib import Path

import numpy as np
import pytest
import torch

from pretrain.common.errors import InputError
from pretrain.data import loader as loader_module
from pretrain.data.crops import CropSpec
from pretrain.data.datasets import ImageDataset, open_images
from pretrain.data.loader import (
    AHEAD_BYTES,
    MOST_AHEAD,
    Batch,
    CropLoader,
    batches_ahead,
    draw_seed,
    shared_bytes,
)


@pytest.fixture
def data(classes_folder: Path) -> ImageDataset:
    return open_images(f"folder:{classes_folder}:train")


def make(data: ImageDataset, **changes: object) -> CropLoader:
    settings = {"crops": [CropSpec(8), CropSpec(8)], "batch_size": 5, "seed": 3, **changes}
    return CropLoader(data, **settings)


def same(one: list[Batch], two: list[Batch]) -> bool:
    return len(one) == len(two) and all(
        all(torch.equal(x, y) for x, y in zip(a.crops, b.crops, strict=True))
        and torch.equal(a.labels, b.labels)
        and torch.equal(a.index, b.index)
        for a, b in zip(one, two)
    )


def test_batches(data: ImageDataset) -> None:
    loader = make(data)
    batches = list(loader.epoch(0))
    assert loader.steps_per_epoch == len(batches) == 4
    assert [crop.shape for crop in batches[0].crops] == [(5, 3, 8, 8)] * 2
    assert batches[0].crops[0].dtype == torch.uint8
    index = torch.cat([batch.index for batch in batches])
    assert len(index.unique()) == 20
    labels = torch.cat([batch.labels for batch in batches])
    assert labels.tolist() == [data.labels[i] for i in index.tolist()]
    assert not torch.equal(batches[0].crops[0], batches[0].crops[1]), "each view has its crop"


def test_pixels_come_from_the_image(data: ImageDataset) -> None:
    loader = make(data, crops=[CropSpec(20, (1.0, 1.0), (1.2, 1.2), "bicubic")])
    batch = next(loader.epoch(0))
    for crop, index in zip(batch.crops[0], batch.index.tolist()):
        expected = np.asarray(data.read(index).resize((20, 20), 3))
        assert np.array_equal(crop.permute(1, 2, 0).numpy(), expected)


def test_epochs_and_seeds_differ(data: ImageDataset) -> None:
    first = list(make(data).epoch(0))
    assert same(first, list(make(data).epoch(0)))
    assert not same(first, list(make(data).epoch(1)))
    assert not same(first, list(make(data, seed=4).epoch(0)))


def test_no_two_crops_have_one_draw() -> None:
    """ImageNet's largest index, hundreds of epochs, a dozen views, the substitute's draw (-1)."""
    ranges = (0, 1, 2, 7), (0, 1, 2, 99, 799), (0, 1, 2, 1023, 1_281_166), (-1, 0, 1, 11)
    keys = list(itertools.product(*ranges))
    assert len({draw_seed(*key) for key in keys}) == len(keys)


def test_workers_and_resume(data: ImageDataset) -> None:
    """With workers the same batches; from a step on the same rest; also after a broken epoch."""
    whole = {epoch: list(make(data).epoch(epoch)) for epoch in (0, 1)}
    assert same(list(make(data).epoch(1, 2)), whole[1][2:])
    assert list(make(data).epoch(1, 4)) == []
    loader = make(data, num_workers=2)
    state = torch.get_rng_state()
    assert same(list(loader.epoch(0)), whole[0])
    assert torch.equal(state, torch.get_rng_state()), "torch's own generator is left alone"
    next(loader.epoch(0))  # an epoch that is given up
    assert same(list(loader.epoch(1, 1)), whole[1][1:])


@pytest.mark.parametrize("num_workers", [0, 2])
def test_steps_go_through_the_epochs(data: ImageDataset, num_workers: int) -> None:
    """From any step on, they are what the epochs give one after the other."""
    whole = [batch for epoch in range(3) for batch in make(data).epoch(epoch)]
    loader = make(data, num_workers=num_workers)
    assert same(list(loader.steps(0, 12)), whole)
    assert same(list(loader.steps(3, 9)), whole[3:9])
    assert list(loader.steps(5, 5)) == []


def test_workers_do_not_wait_at_the_end_of_an_epoch(data: ImageDataset) -> None:
    """When the last batch of an epoch is given out, batches of the next one are asked for."""
    loader = make(data, num_workers=2)
    assert loader._workers is not None
    batches = loader.steps(0, 8)
    for _ in range(loader.steps_per_epoch):
        next(batches)
    running = loader._workers._iterator
    assert running is not None and running._send_idx == 8, "all of the next epoch"


def test_ranks_share_the_global_batch(data: ImageDataset) -> None:
    whole = list(make(data, batch_size=6).epoch(1))
    ranks = [list(make(data, batch_size=2, rank=r, world_size=3).epoch(1)) for r in range(3)]
    assert [len(batches) for batches in ranks] == [4, 4, 4]
    for step, batch in enumerate(whole):
        merged = {
            int(i): crop
            for batches in ranks
            for i, crop in zip(batches[step].index, torch.stack(batches[step].crops, 1))
        }
        assert sorted(merged) == sorted(batch.index.tolist()), "disjoint, and together the batch"
        for i, crop in zip(batch.index, torch.stack(batch.crops, 1)):
            assert torch.equal(crop, merged[int(i)]), "draws do not depend on the processes"


def test_last_batch_kept(data: ImageDataset) -> None:
    loader = make(data, drop_last=False)
    assert [len(batch.index) for batch in loader.epoch(0)] == [5, 5, 5, 5, 4]
    assert loader.steps_per_epoch == 5
    ranks = [make(data, drop_last=False, rank=r, world_size=2, batch_size=5) for r in (0, 1)]
    lengths = [[len(batch.index) for batch in loader.epoch(0)] for loader in ranks]
    assert lengths == [[5, 5, 2], [5, 5, 2]]


def test_shared_crop(data: ImageDataset) -> None:
    loader = make(data, crops=[CropSpec(8)] * 3, same_crop=[None, 0, None])
    crops = next(loader.epoch(0)).crops
    assert torch.equal(crops[0], crops[1]) and not torch.equal(crops[0], crops[2])


@pytest.mark.parametrize("num_workers", [0, 1])
def test_crops_of_two_sizes(data: ImageDataset, num_workers: int) -> None:
    """A view's crop does not depend on the size of the others."""
    loader = make(data, crops=[CropSpec(8), CropSpec(6), CropSpec(8)], num_workers=num_workers)
    mixed = next(loader.epoch(0)).crops
    assert [crop.shape[-1] for crop in mixed] == [8, 6, 8]
    plain = next(make(data, crops=[CropSpec(8)] * 3).epoch(0)).crops
    assert torch.equal(mixed[0], plain[0]) and torch.equal(mixed[2], plain[2])


def test_cached(data: ImageDataset) -> None:
    assert same(list(make(data, cache_decoded=True).epoch(0)), list(make(data).epoch(0)))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_corrupt_images_are_replaced(
    num_workers: int, classes_folder: Path, data: ImageDataset, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("003", "007"):
        (classes_folder / "train" / "cat" / f"{name}.jpg").write_bytes(b"broken")
    loader = make(data, batch_size=24, max_corrupt=2, num_workers=num_workers)
    with caplog.at_level(logging.WARNING):
        first = list(loader.epoch(0))
        list(loader.epoch(1))
    assert len([r for r in caplog.records if "unreadable" in r.message]) == 2, "once per image"
    assert sorted(Path(name).stem for name in loader.corrupt) == ["003", "007"]
    assert len(first[0].index) == 24 and not {3, 7} & set(first[0].index.tolist())
    assert first[0].labels.tolist() == [data.labels[i] for i in first[0].index.tolist()]
    assert same(first, list(make(data, batch_size=24, max_corrupt=2).epoch(0)))


@pytest.mark.parametrize("num_workers", [0, 1])
def test_too_many_corrupt_images(
    num_workers: int, classes_folder: Path, data: ImageDataset
) -> None:
    for name in ("003", "007"):
        (classes_folder / "train" / "cat" / f"{name}.jpg").write_bytes(b"broken")
    loader = make(data, batch_size=24, max_corrupt=1, num_workers=num_workers)
    told = "2 unreadable .* the 1 of DATALOADER.MAX_CORRUPT; .*; the last: .*cat/00[37]"
    with pytest.raises(InputError, match=told):
        list(loader.epoch(0))


@pytest.mark.parametrize("num_workers", [0, 1])
def test_nothing_readable(num_workers: int, classes_folder: Path, data: ImageDataset) -> None:
    for path in classes_folder.rglob("*.jpg"):
        path.write_bytes(b"broken")
    with pytest.raises(InputError, match="in a row; .*; the last: .*jpg") as error:
        list(make(data, max_corrupt=1000, num_workers=num_workers).epoch(0))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "wrong, match",
    [
        ({"batch_size": 25}, "24 images do not fill one global batch of 25"),
        ({"crops": [CropSpec(8), CropSpec(9)], "same_crop": [None, 0]}, "not 8 and 9 px"),
        ({"same_crop": [0, None]}, "earlier view"),
        ({"same_crop": [None]}, "1 entries for 2 views"),
    ],
)
def test_bad_settings(wrong: dict, match: str, data: ImageDataset) -> None:
    with pytest.raises(InputError, match=match):
        make(data, **wrong)


def test_to_device(data: ImageDataset) -> None:
    batch = next(make(data).epoch(0))
    moved = batch.to(torch.device("cpu"))
    assert same([moved], [batch])


@pytest.mark.parametrize(
    "sizes, batch_size, workers, ahead",
    [
        ([224] * 2, 64, 2, 4),  # 147 MiB
        ([224] * 2, 512, 4, 3),
        ([224] * 2, 512, 8, 1),  # 4 would be 4.6 GiB
        ([224] * 3, 512, 8, 1),
        ([224] * 2 + [96] * 10, 1024, 16, 1),  # one for each worker is more than the limit
    ],
)
def test_waiting_batches_are_bounded_by_bytes(
    sizes: list[int], batch_size: int, workers: int, ahead: int
) -> None:
    crops = [CropSpec(size) for size in sizes]
    assert batches_ahead(crops, batch_size, workers) == ahead
    found = shared_bytes(crops, batch_size, workers)
    assert found == ahead * workers * batch_size * 3 * sum(size * size for size in sizes)
    assert found <= AHEAD_BYTES or ahead == 1
    assert ahead == MOST_AHEAD or found * (ahead + 1) > AHEAD_BYTES * ahead, "as many as fit"
    assert shared_bytes(crops, batch_size, 0) == 0


def test_a_loader_keeps_to_the_bytes(data: ImageDataset) -> None:
    """Batches of 5 images, two views of 8 px: 1,920 bytes."""
    for ahead_bytes, ahead in ((1, 1), (2 * 3 * 1920, 3), (1 << 30, 4)):
        loader = make(data, num_workers=2, ahead_bytes=ahead_bytes)
        assert loader._workers is not None and loader._workers.prefetch_factor == ahead


@pytest.mark.parametrize("num_workers", [0, 1])
@pytest.mark.parametrize("cached", [False, True])
def test_crops_resized_by_torch(data: ImageDataset, num_workers: int, cached: bool) -> None:
    """The same boxes of the same images; only the edges of a crop may differ."""
    more = {"num_workers": num_workers, "cache_decoded": cached, "resize": "torch"}
    crops = [CropSpec(20, (0.9, 1.0))] * 2
    for ours, theirs in zip(
        make(data, crops=crops, **more).epoch(1), make(data, crops=crops).epoch(1)
    ):
        assert torch.equal(ours.index, theirs.index)
        for one, other in zip(ours.crops, theirs.crops):
            inside = (one.int() - other.int()).abs()[:, :, 3:-3, 3:-3]
            assert one.shape == other.shape and inside.max() <= 1
            assert one.stride() == other.stride()


def test_corrupt_images_are_replaced_under_torch_too(
    classes_folder: Path, data: ImageDataset
) -> None:
    (classes_folder / "train" / "cat" / "003.jpg").write_bytes(b"broken")
    loader = make(data, batch_size=24, max_corrupt=1, resize="torch")
    assert [Path(name).stem for batch in loader.epoch(0) for name in loader.corrupt] == ["003"]
    with pytest.raises(InputError, match="unknown way to resize 'torc'"):
        make(data, resize="torc")


@pytest.mark.parametrize("resize", ["pillow", "torch"])
def test_images_decoded_together_are_cropped_as_alone(
    resize: str, data: ImageDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same for any number of images that a worker decodes before it crops them: one, two
    or three, or the whole batch."""
    one = list(make(data, resize=resize).epoch(0))
    size = data.read_pixels(0).nbytes
    for limit in (1, 2 * size, 3 * size):
        monkeypatch.setattr(loader_module, "DECODED_BYTES", limit)
        assert same(one, list(make(data, resize=resize).epoch(0)))
