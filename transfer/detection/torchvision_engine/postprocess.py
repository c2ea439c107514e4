"""From the network's input back to the original image: boxes and keypoints scaled, masks pasted.

k detections, M side of predicted masks, H, W of the original image.
Specification: detectron2 `modeling/postprocessing.py` and `layers/mask_ops.py`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from pretrain.common.device_copy import send
from transfer.detection.torchvision_engine.boxes import clip, nonempty
from transfer.detection.torchvision_engine.places import places
from transfer.detection.torchvision_engine.structures import Detections

MASK_THRESHOLD = 0.5  # a pixel above this probability is in the mask, as in He et al. 2017
PASTED_PIXELS_AT_ONCE = 2**28  # on a GPU: one GiB of float32


def postprocess(
    detections: Detections, input_size: tuple[int, int], output_size: tuple[int, int]
) -> Detections:
    """Returns detections in an image of `output_size`, of those in one of `input_size`.

    Both sizes are (height, width). Boxes that clipping empties are dropped; mask probabilities (k,
    M, M) become bool (k, H, W).
    """
    scale_y = output_size[0] / input_size[0]
    scale_x = output_size[1] / input_size[1]
    scale = torch.tensor([scale_x, scale_y, scale_x, scale_y], dtype=detections.boxes.dtype)
    scale = send(scale, detections.boxes.device)
    boxes = clip(detections.boxes * scale, output_size)
    ((keep,),) = places([nonempty(boxes)])
    boxes = boxes[keep]
    masks = detections.masks
    if masks is not None:
        masks = paste_masks(masks[keep], boxes, output_size)
    keypoints = detections.keypoints
    if keypoints is not None:
        keypoints = keypoints[keep]
        keypoints[..., :2] *= scale[:2]
    found = (boxes, detections.scores[keep], detections.classes[keep])
    return Detections(*found, masks, keypoints)


def paste_masks(masks: Tensor, boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Returns masks in an image of `size` (H, W), bool (k, H, W), of probabilities (k, M, M).

    The masks are in boxes (k, 4). Every pixel takes the bilinear value at its centre, zero outside
    the mask's own pixels.
    """
    pasted = torch.zeros(len(masks), *size, dtype=torch.bool, device=masks.device)
    if masks.device.type == "cpu":
        # One mask at a time, and only around its box: far fewer pixels than in complete images.
        for index, box in enumerate(boxes):
            x0, y0 = (int(value) for value in (box[:2].floor() - 1).clamp(min=0))
            x1 = min(int(box[2].ceil()) + 1, size[1])
            y1 = min(int(box[3].ceil()) + 1, size[0])
            part = _sample(masks[index, None], box[None], rows=(y0, y1), columns=(x0, x1))
            pasted[index, y0:y1, x0:x1] = part[0] >= MASK_THRESHOLD
        return pasted
    count = max(1, PASTED_PIXELS_AT_ONCE // (size[0] * size[1]))
    for start in range(0, len(masks), count):
        chunk = slice(start, start + count)
        whole = _sample(masks[chunk], boxes[chunk], rows=(0, size[0]), columns=(0, size[1]))
        pasted[chunk] = whole >= MASK_THRESHOLD
    return pasted


def _sample(
    masks: Tensor, boxes: Tensor, *, rows: tuple[int, int], columns: tuple[int, int]
) -> Tensor:
    """Returns the values (k, height, width) at the pixels of a window; masks (k, M, M)."""
    x0, y0, x1, y1 = boxes.split(1, dim=1)
    y = torch.arange(*rows, device=masks.device, dtype=torch.float32) + 0.5
    x = torch.arange(*columns, device=masks.device, dtype=torch.float32) + 0.5
    y = (y - y0) / (y1 - y0) * 2 - 1  # (k, height), -1..1 across the box
    x = (x - x0) / (x1 - x0) * 2 - 1
    shape = (len(masks), y.shape[1], x.shape[1])
    grid = torch.stack([x[:, None, :].expand(shape), y[:, :, None].expand(shape)], dim=3)
    masks = masks[:, None].float()
    return F.grid_sample(masks, grid, align_corners=False)[:, 0]
