"""Fine-tuning and evaluating detectors on a pretrained backbone."""
