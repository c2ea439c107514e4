"""Semantic segmentation transfer: trains an FCN from backbone weights and writes a record."""
