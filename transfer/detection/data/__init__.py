"""Training and test input of the detectors: pixels, boxes and order as Detectron2 makes them."""
