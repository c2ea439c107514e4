"""Semantic segmentation transfer: an FCN from backbone weights to record.json."""
