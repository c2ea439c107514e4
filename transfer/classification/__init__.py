"""Classification transfer on frozen features."""
