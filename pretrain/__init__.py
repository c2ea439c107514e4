"""Self-supervised pretraining: images in, `checkpoint.pth` out."""
