"""The detectron2 engine: the same config, data and weights through Detectron2's own trainer.

Detectron2 builds the model, reads and augments the images, trains, resumes and writes its files.
The data sets, the evaluators, the optional AdamW and the weights' high-pass filter are ours.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import detectron2
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import CfgNode as Detectron2Config
from detectron2.config import get_cfg
from detectron2.data import build_detection_test_loader
from detectron2.engine import HookBase
from detectron2.modeling import GeneralizedRCNN, build_model
from detectron2.structures import ImageList
from detectron2.utils import comm
from detectron2.utils.env import seed_all_rng
from fvcore.common.config import CfgNode
from torch import nn

from pretrain.common.checkpoint import atomic_write
from pretrain.common.distributed import (
    barrier,
    from_main,
    gather_items,
    gather_objects,
    is_main,
    process_device,
    rank,
    world_size,
)
from pretrain.common.logs import progress
from pretrain.common.stop_signals import asked, deferred, stop
from pretrain.data.highpass import HighPass
from transfer.checkpoints.weights import Weights
from transfer.checkpoints.writers import write_weights
from transfer.datasets.samples import DetectionSet
from transfer.detection.detectron2_plugin import register
from transfer.detection.detectron2_recipe import RecipeTrainer
from transfer.detection.engine import Evaluate
from transfer.detection.evaluation.predictions import Predictions, encode_masks
from transfer.detection.weights.detector_file import DetectorWeights
from transfer.training import files as model_files
from transfer.training.checkpointed_data import CheckpointedData
from transfer.training.files import Fitted

TRAIN, TEST = "transfer_train", "transfer_test"
BACKBONE_FILE, DETECTOR_FILE = "backbone.pkl", "detector.pth"


class Detectron2Engine:
    """Implements `transfer.detection.engine.Engine` with Detectron2's trainer."""

    name = "detectron2"
    version = detectron2.__version__

    def fit(
        self,
        cfg: CfgNode,
        *,
        weights: Weights,
        train_set: DetectionSet,
        test_set: DetectionSet,
        output: Path,
        resume: bool,
        evaluate: Evaluate,
    ) -> Fitted:
        """Trains with DefaultTrainer; see `Engine.fit`."""
        register(TRAIN, train_set)
        register(TEST, test_set)
        start = write_start(weights, output)
        _join_processes()
        theirs = to_detectron2(cfg, output, str(start))
        seed_all_rng(cfg.SEED + rank())
        begin = time.perf_counter()
        trainer = Trainer(theirs, weights.preprocess.highpass, evaluate)
        if resume:
            model_files.name_newest_whole(output)
        kept = CheckpointedData(
            trainer.checkpointer, from_main(None, lambda: train_set.fingerprint)
        )
        resumed = resume and trainer.checkpointer.has_checkpoint()
        trainer.resume_or_load(resume=resume)
        if resumed:
            kept.warn_if_unknown()
        try:
            with deferred():
                trainer.train()
        except FloatingPointError as error:
            latest = trainer.storage.latest()
            losses = {name: value for name, (value, _) in latest.items() if "loss" in name}
            listed = ", ".join(f"{name}={value:g}" for name, value in losses.items())
            raise FloatingPointError(
                f"the training diverged at iteration {trainer.iter} "
                f"({' '.join(str(error).split())}), the last losses were {listed or 'none'}; "
                "lower SOLVER.BASE_LR, or lengthen SOLVER.WARMUP_ITERS"
            ) from error
        if is_main():
            model_files.write_model(
                output,
                _bare(trainer.model).state_dict(),
                iteration=cfg.SOLVER.MAX_ITER - 1,
                preprocess=weights.preprocess,
                architecture=weights.architecture,
                seconds=time.perf_counter() - begin,
                classes=train_set.classes,
            )
            start.unlink()
        barrier()
        return Fitted(output / model_files.MODEL_FILE, time.perf_counter() - begin)

    def predict(
        self, cfg: CfgNode, *, model_file: Path, test_set: DetectionSet
    ) -> list[Predictions]:
        """Loads a complete detector and predicts; see `Engine.predict`."""
        register(TRAIN, test_set)
        register(TEST, test_set)
        preprocess = model_files.read_model(model_file).preprocess
        theirs = to_detectron2(cfg, model_file.parent, "")
        model = build_model(theirs)
        add_highpass(model, None if preprocess is None else preprocess.highpass)
        DetectionCheckpointer(model).load(str(model_file))
        return predict(theirs, model)


class Trainer(RecipeTrainer):
    """Is a RecipeTrainer with our evaluation and filter."""

    def __init__(
        self, cfg: Detectron2Config, highpass: HighPass | None, evaluate: Evaluate
    ) -> None:
        # This comes before super().__init__, which builds the model by the method below.
        self._highpass, self._evaluate = highpass, evaluate
        super().__init__(cfg)

    def build_model(self, cfg: Detectron2Config) -> nn.Module:
        """Returns Detectron2's model, with the filter if the weights need it."""
        model = build_model(cfg)
        add_highpass(model, self._highpass)
        return model

    def build_hooks(self) -> list[HookBase | None]:
        """Returns Detectron2's hooks, a progress bar, which a suite reads from the log, and the
        end after a signal.
        """
        return [*super().build_hooks(), ProgressBar(), StopWhenAsked()]

    def test(self, cfg: Detectron2Config, model: nn.Module) -> dict[str, float]:
        """Scores by our evaluators; after the last iteration the caller does that instead."""
        if self.iter + 1 >= self.max_iter:
            return {}
        predictions = predict(cfg, _bare(model))
        model.train()
        return self._evaluate(predictions, self.iter)


def write_start(weights: Weights, output: Path) -> Path:
    """Writes the file from which Detectron2's checkpointer starts, on the first process.

    A backbone is matched by Detectron2's heuristics; of a detector, the file has only the parts
    that fit, so Detectron2, which compares single tensors, starts from the same parts as our
    engine.
    """
    if isinstance(weights, DetectorWeights):
        path, content = output / DETECTOR_FILE, {"model": dict(weights.fitting)}
        if is_main():
            atomic_write(path, lambda file: torch.save(content, file))
    else:
        path = output / BACKBONE_FILE
        if is_main():
            write_weights(weights, path)
    barrier()
    return path


class ProgressBar(HookBase):
    """Shows the iterations, the time left and the loss, on the main process."""

    def before_train(self) -> None:
        """Opens the bar at the run's iteration."""
        self._bar = progress(
            total=self.trainer.max_iter, initial=self.trainer.start_iter, desc="train", unit="it"
        )

    def after_step(self) -> None:
        """Moves it."""
        loss = self.trainer.storage.latest().get("total_loss")
        if loss is not None:
            self._bar.set_postfix(loss=f"{loss[0]:.3f}", refresh=False)
        self._bar.update(1)

    def after_train(self) -> None:
        """Closes it."""
        self._bar.close()


class StopWhenAsked(HookBase):
    """Saves and ends the training if a process was asked to end. Several processes ask each
    other every PERIOD iterations, since each time they wait for the GPU."""

    PERIOD = 20

    def after_step(self) -> None:
        """Raises Stopped on every process in the same iteration."""
        trainer = self.trainer
        last = trainer.iter + 1 >= trainer.max_iter
        if last or (world_size() > 1 and (trainer.iter + 1) % self.PERIOD):
            return
        if any(gather_objects(asked())):
            trainer.checkpointer.save(f"model_{trainer.iter:07d}", iteration=trainer.iter)
            barrier()
            stop()


def to_detectron2(cfg: CfgNode, output: Path, weights: str) -> Detectron2Config:
    """Returns our loaded node merged into Detectron2's defaults; Detectron2 never reads the file
    itself.
    """
    theirs = get_cfg()
    theirs.merge_from_other_cfg(cfg)
    theirs.OUTPUT_DIR = str(output)
    theirs.MODEL.WEIGHTS = weights
    theirs.DATASETS.TRAIN, theirs.DATASETS.TEST = (TRAIN,), (TEST,)
    theirs.MODEL.DEVICE = process_device(cfg.MODEL.DEVICE).type
    theirs.freeze()
    return theirs


def add_highpass(model: GeneralizedRCNN, highpass: HighPass | None) -> None:
    """Filters each image after normalisation and before padding, if `highpass` is set."""
    if highpass is None:
        return

    def preprocess_image(batched_inputs: list[dict[str, Any]]) -> ImageList:
        images = [item["image"].to(model.device) for item in batched_inputs]
        images = [(image - model.pixel_mean) / model.pixel_std for image in images]
        return ImageList.from_tensors(
            [highpass.apply(image[None])[0] for image in images],
            model.backbone.size_divisibility,
            padding_constraints=model.backbone.padding_constraints,
        )

    model.preprocess_image = preprocess_image


def predict(cfg: Detectron2Config, model: nn.Module) -> list[Predictions]:
    """Returns the predictions of all test images, in their order, on every process."""
    loader = build_detection_test_loader(cfg, TEST)
    model.eval()
    found = []
    with torch.no_grad():
        for batch in progress(loader, desc="predict", leave=False):
            for item, output in zip(batch, model(batch)):
                found.append(_to_predictions(item["image_id"], output["instances"]))
    return gather_items(found)


def _to_predictions(image_id: int | str, instances: Any) -> Predictions:
    instances = instances.to("cpu")
    masks = instances.pred_masks.numpy() if instances.has("pred_masks") else None
    return Predictions(
        image_id=image_id,
        boxes=instances.pred_boxes.tensor.numpy(),
        scores=instances.scores.numpy(),
        classes=instances.pred_classes.numpy(),
        rles=None if masks is None else encode_masks(masks),
        keypoints=instances.pred_keypoints.numpy() if instances.has("pred_keypoints") else None,
    )


def _join_processes() -> None:
    """Tells Detectron2 which processes share a machine; it asks when it picks the GPU."""
    if world_size() > 1 and comm._LOCAL_PROCESS_GROUP is None:
        comm.create_local_process_group(int(os.environ["LOCAL_WORLD_SIZE"]))


def _bare(model: nn.Module) -> nn.Module:
    return getattr(model, "module", model)
