"""Fine-tuning, shared by the downstream tasks: the loop, its state and files, schedule, batches."""
