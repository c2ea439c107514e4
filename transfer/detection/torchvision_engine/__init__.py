"""Detectors equal to Detectron2's, on torch and torchvision.ops alone."""
