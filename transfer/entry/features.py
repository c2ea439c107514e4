"""Frozen features of one's own images, and the kNN score of such features.

Legend: N images, D features, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from pretrain.common.distributed import process_device
from pretrain.common.errors import InputError
from pretrain.common.resources import cores
from pretrain.data.pictures import Pictures, open_pictures
from transfer.checkpoints.build import build_frozen_backbone
from transfer.classification.crops import ImageTransform
from transfer.classification.features import extract
from transfer.classification.features.formats import choose_formats
from transfer.classification.protocols.knn import check_temperatures, evaluate_knn
from transfer.classification.splits import Split, check_same_classes
from transfer.entry.given_weights import GivenWeights, as_weights


@dataclass(frozen=True)
class ImageFeatures:
    """Holds the features of some images.

    Attributes:
        values: (N, D) float32 (float16 after a pass in half precision), one row for each image; not
            to be written to.
        labels: (N,) int64, -1 for an image without a class; they index `classes`.
        classes: the names of the class folders; () if there are none.
        names: names of the images, usually their paths.
    """

    values: Tensor = field(repr=False)
    labels: Tensor = field(repr=False)
    classes: tuple[str, ...]
    names: tuple[str, ...] = field(repr=False)

    def __len__(self) -> int:
        return len(self.labels)


def build_backbone(weights: GivenWeights, *, trainable: bool = False) -> nn.Module:
    """Returns the backbone with the weights, as a torch module that computes features (N, D).

    Its input (N, 3, H, W) is what `weights.preprocess.apply` makes of RGB images, uint8 or float in
    [0, 1]. `.out_dim` is D; a ResNet also has `forward_stages`, which returns its four maps.

    Args:
        weights: what `transfer.read_weights` returns, or a file.
        trainable: in training mode and with gradients, to be fine-tuned; else frozen.

    Raises:
        InputError: the file cannot be read.

    Example:
        >>> import torch, transfer
        >>> weights = transfer.read_weights("random", backbone="resnet18")
        >>> backbone = transfer.build_backbone(weights)
        >>> images = torch.zeros(2, 3, 64, 64, dtype=torch.uint8)
        >>> backbone(weights.preprocess.apply(images)).shape
        torch.Size([2, 512])
    """
    backbone = build_frozen_backbone(as_weights(weights))
    return backbone.train().requires_grad_(True) if trainable else backbone


def extract_features(
    weights: GivenWeights,
    images: Pictures,
    *,
    size: int = 224,
    resize: int | None = None,
    interpolation: str = "bilinear",
    batch_size: int = 64,
    num_workers: int | None = None,
    device: str | None = None,
    precision: str = "auto",
    cache: str = "",
) -> ImageFeatures:
    """Returns the pooled features of images, in their order, by the frozen backbone.

    Args:
        weights: what `transfer.read_weights` returns, or a file.
        images: a folder of images or of class folders, a data set's name ("cifar10:test"), or a
            list of PIL images and paths.
        size: side of the central crop in pixels.
        resize: the shorter side before the crop, in pixels; None: 8/7 of `size`, as 256 for 224.
        interpolation: bilinear or bicubic.
        batch_size: images of one forward pass.
        num_workers: processes that decode images; None: as many as this process has cores, but none
            for few images.
        device: such as "cuda:0"; None: the GPU if there is one.
        precision: precision of the forward pass: fp32, bf16 or fp16; auto: fp32 on a CPU, and bf16
            (fp16 if it has no bf16) on a GPU, whose features are kept in fp16.
        cache: a folder in which features are kept for the next call; "": they are not kept.

    Raises:
        InputError: the weights or the images cannot be read, or features are not finite.

    Example:
        >>> import transfer
        >>> weights = transfer.read_weights("random", backbone="tiny_resnet")
        >>> found = transfer.extract_features(weights, "digits/digits_cls/test", size=32, resize=32)
        >>> found.values.shape, found.classes[:3]
        (torch.Size([10, 128]), ('0', '1', '2'))
    """
    found = as_weights(weights)
    opened = open_pictures(images)
    labels = torch.from_numpy(opened.labels)
    name = images if isinstance(images, str) else "the given images"
    split = Split(str(name), opened, labels, tuple(opened.classes), opened.left_out)
    transform = ImageTransform(
        round(size * 8 / 7) if resize is None else resize, size, interpolation
    )
    place = process_device() if device is None else torch.device(device)
    workers = (cores() if len(split) > batch_size else 0) if num_workers is None else num_workers
    precision, storage = choose_formats(precision, "auto", place)
    values = extract.extract_features(
        found,
        split,
        transform,
        device=place,
        batch_size=batch_size,
        num_workers=workers,
        cache_dir=cache,
        precision=precision,
        storage=storage,
    ).values
    names = tuple(opened.name(index) for index in range(len(opened)))
    return ImageFeatures(values, labels, tuple(opened.classes), names)


def knn_score(
    train: ImageFeatures,
    test: ImageFeatures,
    *,
    k: int | Sequence[int] = 20,
    temperature: float = 0.07,
) -> dict[str, float]:
    """Returns how many test images get their class by a weighted vote of their nearest training
    images.

    Returns {"knn20_top1": percent, ...}, from six classes on with "knn20_top5": the numbers that
    `tools/train_cls.py` records with a kNN config and the same crops.

    Args:
        train, test: what `transfer.extract_features` returns for images in class folders.
        k: numbers of neighbours.
        temperature: a neighbour's vote weighs exp(cosine / temperature).

    Raises:
        InputError: images without classes, or different classes; more neighbours than there are
            training images; or a temperature that no vote can be computed with.

    Example:
        >>> import transfer
        >>> weights = transfer.read_weights("random", backbone="tiny_resnet")
        >>> train, test = (
        ...     transfer.extract_features(weights, f"digits/digits_cls/{split}", size=32, resize=32)
        ...     for split in ("train", "test")
        ... )
        >>> sorted(transfer.knn_score(train, test, k=[5, 20]))
        ['knn20_top1', 'knn20_top5', 'knn5_top1', 'knn5_top5']
    """
    for name, part in (("train", train), ("test", test)):
        if not part.classes:
            raise InputError(f"the {name} images have no classes: give one folder for each class")
    check_same_classes(("train", train.classes), ("test", test.classes))
    check_temperatures([temperature], "temperature")
    sizes = [k] if isinstance(k, int) else list(k)
    metrics, _ = evaluate_knn(
        train.values,
        train.labels,
        test.values,
        test.labels,
        k=sizes,
        temperature=temperature,
        num_classes=len(train.classes),
    )
    return metrics
