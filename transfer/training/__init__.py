"""Fine-tuning for all downstream tasks: the loop, its state and files, schedule, batches."""
