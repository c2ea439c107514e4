"""Reads any supported checkpoint into canonical backbone weights, and converts it with a proof."""
