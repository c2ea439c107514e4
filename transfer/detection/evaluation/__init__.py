"""Scores predictions: Pascal VOC and COCO metrics under the names Detectron2 gives them."""
