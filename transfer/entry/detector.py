"""A detector for one's own images: a config and weights in, boxes out; the torchvision engine.

Legend: N images, k detections of an image; boxes XYXY in pixels of the original image, 0-based and
half-open.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fvcore.common.config import CfgNode
from PIL import Image

from pretrain.common.config import override_words
from pretrain.common.distributed import process_device
from pretrain.common.errors import InputError
from pretrain.common.resources import cores
from pretrain.data.pictures import Picture, Pictures, open_pictures
from pretrain.data.preprocess import Preprocess
from transfer.checkpoints.opened import OpenedWeights
from transfer.checkpoints.weights import Weights
from transfer.datasets.registry import is_detection_name, open_sets
from transfer.datasets.samples import DetectionSet, Sample
from transfer.detection.config import load_detection_config, with_num_classes
from transfer.detection.config_checks import value_of
from transfer.detection.data.mapper import InferenceMapper
from transfer.detection.draw import MIN_SCORE, draw_found
from transfer.detection.evaluation.predictions import Predictions
from transfer.detection.torchvision_engine.detector import BaseDetector
from transfer.detection.torchvision_engine.engine import (
    make_detector,
    make_inference_mapper,
    make_started_detector,
    predict_items,
    predict_samples,
)
from transfer.detection.torchvision_engine.load import load_model
from transfer.detection.torchvision_engine.meta_architectures import NUM_CLASSES
from transfer.detection.weights.detector_file import DETECTOR, kind_of, named_classes
from transfer.detection.weights.scored_detector import with_detector
from transfer.detection.weights.starting_weights import (
    check_backbone,
    read_starting_weights,
    with_backbone,
)
from transfer.training.files import read_model

FEW = 8  # images that are read in this process


@dataclass(frozen=True)
class ImageDetector:
    """Is a detector that takes images as they are.

    Attributes:
        network: the torch module, with Detectron2's names; its own docstring says what it takes.
        classes: the names of its classes, in the order of `Predictions.classes`.
    """

    network: BaseDetector = field(repr=False)
    classes: tuple[str, ...]
    mapper: InferenceMapper = field(repr=False)

    def predict(self, images: Pictures | DetectionSet) -> list[Predictions]:
        """Returns the detections of each image, in the images' order, the surest first.

        Args:
            images: what `transfer.extract_features` takes: then `image_id` is the image's place;
                or a detection data set's name ("voc:FOLDER:SPLIT", "coco:FILE.json:IMAGES"), or
                the set: then `image_id` is the set's own, as `transfer.evaluate` needs it.

        Raises:
            InputError: an image or a data set cannot be read.
        """
        if isinstance(images, str) and is_detection_name(images):
            images = open_sets([images], self.classes)
        device = self.network.device
        if isinstance(images, DetectionSet):
            workers = cores() if len(images) > FEW else 0
            return predict_samples(self.network, self.mapper, images.samples, workers, device)
        opened = open_pictures(images, turn=True)
        try:
            items = (self._item(place, opened.read(place)) for place in range(len(opened)))
            return predict_items(self.network, ([item] for item in items), len(opened))
        except OSError as error:
            raise InputError(str(error)) from error

    def draw(
        self, image: Picture, found: Predictions, *, min_score: float = MIN_SCORE, side: int = 640
    ) -> Image.Image:
        """Returns the image with its detections of at least `min_score`, its longer side `side`
        px.
        """
        pixels = np.asarray(open_pictures([image], turn=True).read(0))
        return draw_found(pixels, found, self.classes, min_score, side)

    def _item(self, place: int, image: Image.Image) -> dict[str, Any]:
        sample = Sample(f"image {place}", place, image.height, image.width, ())
        return self.mapper.item(sample, np.asarray(image))


def build_detector(
    config: str | Path,
    weights: Weights | str | Path,
    *,
    classes: Sequence[str] | None = None,
    overrides: Mapping[str, Any] | Sequence[Any] = (),
    seed: int = 0,
) -> ImageDetector:
    """Returns the detector of a config, ready to predict.

    Args:
        config: a path, or the name of a shipped config such as "own_fpn.yaml".
        weights: a trained detector's file (model_final.pth, or a .pkl of Detectron2's model zoo);
            or a backbone's weights or file, or "random": then the rest of the detector is
            untrained, and its detections mean nothing before `tools/train_det.py` has trained it.
        classes: their names; None: those in the detector's file, else TRANSFER.CLASSES of the
            config, else "0", "1", ...
        overrides: see `pretrain.load_config`.
        seed: what is untrained is drawn from it; torch's global generator is left as it was.

    Raises:
        InputError: the weights are not those of the config's detector or backbone, or the number of
            classes is not the detector's.

    Example:
        >>> import transfer
        >>> from PIL import Image
        >>> detector = transfer.build_detector("digits_voc.yaml", "random", classes="0123456789")
        >>> (found,) = detector.predict([Image.open("digits/digits_voc/JPEGImages/000001.jpg")])
        >>> found.boxes.shape[1], found.image_id, detector.classes[-1]
        (4, 0, '9')
    """
    cfg = load_detection_config(str(config), override_words(overrides), needs_data=False)
    names = tuple(classes) if classes is not None else None
    given = weights if isinstance(weights, Weights) else OpenedWeights(str(weights))
    if isinstance(given, OpenedWeights) and not given.is_random and kind_of(given) == DETECTOR:
        network, names, cfg = _trained(cfg, given, str(config), names)
    else:
        names = names or tuple(cfg.TRANSFER.CLASSES) or _numbers(cfg)
        cfg = with_num_classes(cfg, len(names), ())
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            network, cfg = _with_backbone(cfg, given, seed, names)
    network = network.to(process_device(cfg.MODEL.DEVICE)).eval()
    return ImageDetector(network, names, make_inference_mapper(cfg))


def _trained(
    cfg: CfgNode, source: OpenedWeights, config: str, names: tuple[str, ...] | None
) -> tuple[BaseDetector, tuple[str, ...], CfgNode]:
    """Returns the detector in a file, its classes, and the config completed by what the file
    says.
    """
    model = read_model(source)
    stated = named_classes(model, source.file)
    if names is not None and stated is not None and len(names) != len(stated):
        raise InputError(
            f"{len(names)} classes are given, {source} has {len(stated)}: leave `classes` out"
        )
    names = names or stated or tuple(cfg.TRANSFER.CLASSES) or _numbers(cfg)
    cfg = with_detector(with_num_classes(cfg, len(names), ()), source, config)
    network = make_detector(cfg, model.preprocess or Preprocess())
    load_model(network, model.state)
    return network, names, cfg


def _with_backbone(
    cfg: CfgNode, weights: Weights | OpenedWeights, seed: int, names: Sequence[str]
) -> tuple[BaseDetector, CfgNode]:
    """Returns the detector of a backbone's weights, and the config completed by their facts."""
    if isinstance(weights, OpenedWeights):
        found = read_starting_weights(weights, cfg, seed, names)
    else:
        found = weights
        check_backbone(found.provenance["name"], found, cfg)
    cfg = with_backbone(cfg, found)
    return make_started_detector(cfg, found), cfg


def _numbers(cfg: CfgNode) -> tuple[str, ...]:
    return tuple(map(str, range(value_of(cfg, NUM_CLASSES[cfg.MODEL.META_ARCHITECTURE]))))
