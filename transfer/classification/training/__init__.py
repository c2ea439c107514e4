"""Training on random crops of the images: linear probes and fine-tuning."""
