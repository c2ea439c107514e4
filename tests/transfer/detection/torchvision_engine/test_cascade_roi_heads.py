"""A cascade: the boxes that each stage gets, what it is trained on, what is detected."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pretrain.common.errors import InputError
from tests.transfer.detection import specs
from transfer.detection.torchvision_engine.boxes import clip, pairwise_iou
from transfer.detection.torchvision_engine.cascade_roi_heads import CascadeROIHeads
from transfer.detection.torchvision_engine.structures import Targets

K, SIZE = 3, (64, 64)
CASCADE = {
    **specs.TINY,
    "MODEL.ROI_HEADS.NAME": "CascadeROIHeads",
    "MODEL.ROI_HEADS.NUM_CLASSES": K,
    "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": 12,
    "MODEL.ROI_HEADS.SCORE_THRESH_TEST": 0.0,
    "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG": True,
    "MODEL.ROI_BOX_HEAD.NUM_FC": 1,
    "MODEL.ROI_BOX_HEAD.FC_DIM": 16,
    "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION": 2,
}


def make_heads(sigmoid: bool = False) -> CascadeROIHeads:
    torch.manual_seed(0)
    keys = {**CASCADE, "MODEL.ROI_BOX_HEAD.USE_SIGMOID_CE": sigmoid}
    heads = specs.make_spec(keys).roi_heads.build(channels={"res4": 4}, strides={"res4": 8})
    assert isinstance(heads, CascadeROIHeads)
    for predictor in heads.box_predictor:
        torch.nn.init.normal_(predictor.bbox_pred.weight, std=2.0)  # boxes that move
    return heads


def inputs() -> tuple[dict[str, Tensor], list[Tensor], list[Targets]]:
    generator = torch.Generator().manual_seed(1)
    corners = torch.rand(20, 2, generator=generator) * 40
    boxes = torch.cat([corners, corners + 4 + 18 * torch.rand(20, 2, generator=generator)], 1)
    features = {"res4": torch.randn(2, 4, 8, 8, generator=generator)}
    truth = [Targets(boxes[:3] + 1, torch.tensor([0, 2, 1]), None)]
    truth.append(Targets(torch.zeros(0, 4), torch.zeros(0, dtype=torch.long), None))
    return features, [boxes[:10], boxes[10:]], truth


def test_each_stage_is_given_what_the_one_before_made() -> None:
    heads = make_heads().train()
    features, proposals, truth = inputs()
    samples = heads.sampler(proposals, truth)
    outputs = list(heads._stages(features, [s.boxes for s in samples], [SIZE] * 2, samples))
    assert [len(output.boxes) for output in outputs] == [2, 2, 2]
    for stage, (before, after) in enumerate(zip(outputs, outputs[1:])):
        coder = heads.box_predictor[stage].coder
        refined = clip(coder.decode(before.deltas, torch.cat(before.boxes)), SIZE)
        whole = (refined[:, 2:] > refined[:, :2]).all(dim=1)
        torch.testing.assert_close(torch.cat(after.boxes), refined[whole])
        assert not torch.cat(after.boxes).requires_grad
        check_labels(after.boxes, after.truth, truth, heads.ious[stage + 1])


def check_labels(boxes: list[Tensor], found, truth: list[Targets], threshold: float) -> None:
    """The class of each box by a loop over boxes; background without an object."""
    wanted = []
    for image, objects in zip(boxes, truth):
        for box in image:
            best = K
            if len(objects.boxes):
                overlaps = pairwise_iou(objects.boxes, box[None])[:, 0]
                if overlaps.max() >= threshold:
                    best = int(objects.classes[overlaps.argmax()])
            wanted.append(best)
    assert found.classes.tolist() == wanted
    assert found.foreground.tolist() == [row for row, label in enumerate(wanted) if label < K]


def test_losses_of_all_stages_and_the_share_of_the_backbone() -> None:
    heads = make_heads().train()
    features, proposals, truth = inputs()
    features["res4"].requires_grad_()
    torch.manual_seed(3)
    _, losses = heads(features, proposals, [SIZE] * 2, truth)
    names = {f"{loss}_stage{stage}" for loss in ("loss_cls", "loss_box_reg") for stage in range(3)}
    assert set(losses) == names
    losses["loss_cls_stage0"].backward()
    whole = features["res4"].grad
    samples = heads.sampler(proposals, truth)
    torch.manual_seed(3)
    again = features["res4"].detach().requires_grad_()
    samples = heads.sampler(proposals, truth)
    pooled = heads.box_pooler([again], [s.boxes for s in samples])
    logits, _ = heads.box_predictor[0](heads.box_head[0](pooled))
    torch.nn.functional.cross_entropy(logits, torch.cat([s.classes for s in samples])).backward()
    torch.testing.assert_close(whole, again.grad / 3)


@pytest.mark.parametrize("sigmoid", [False, True])
def test_scores_are_the_stages_mean_and_boxes_the_last_ones(sigmoid: bool) -> None:
    heads = make_heads(sigmoid).eval()
    features, proposals, _ = inputs()
    with torch.no_grad():
        detections, _ = heads(features, proposals, [SIZE] * 2)
        outputs = list(heads._stages(features, proposals, [SIZE] * 2))
    each = [output.logits.sigmoid() if sigmoid else output.logits.softmax(1) for output in outputs]
    scores = torch.stack(each).mean(dim=0)
    boxes = heads.box_predictor[2].coder.decode(outputs[2].deltas, torch.cat(outputs[2].boxes))
    best = detections[0]
    row, label = divmod(int(scores[:10, :K].argmax()), K)
    assert best.classes[0] == label
    torch.testing.assert_close(best.scores[0], scores[row, label])
    torch.testing.assert_close(best.boxes[0], clip(boxes[row][None], SIZE)[0])


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("MODEL.ROI_BOX_CASCADE_HEAD.IOUS", (0.5, 0.6), "must be 2 rows of 4 numbers"),
        ("MODEL.ROI_BOX_CASCADE_HEAD.IOUS", (0.6, 0.7, 0.8), "must begin with MODEL.ROI_HEADS"),
        (
            "MODEL.ROI_BOX_CASCADE_HEAD.IOUS",
            (0.5, 0.9, 0.7),
            "must be 3 numbers in ascending order",
        ),
        ("MODEL.ROI_BOX_CASCADE_HEAD.BBOX_REG_WEIGHTS", ((1.0,),) * 3, "3 rows of 4 numbers"),
        ("MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", False, "must be True for CascadeROIHeads"),
        ("MODEL.ROI_BOX_HEAD.TRAIN_ON_PRED_BOXES", True, "needs MODEL.ROI_HEADS.NAME Standard"),
        ("MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_TYPE", "iou", "BBOX_REG_LOSS_TYPE 'iou' is unknown"),
        ("MODEL.RPN.SMOOTH_L1_BETA", -1.0, "MODEL.RPN.SMOOTH_L1_BETA -1.0 must be 0 or above"),
        ("MODEL.RPN.LOSS_WEIGHT", -1.0, "MODEL.RPN.LOSS_WEIGHT -1.0 must be 0 or above"),
    ],
)
def test_refused(key: str, value: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        specs.make_spec({**CASCADE, key: value})
