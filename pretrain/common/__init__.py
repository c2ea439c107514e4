"""What both packages need: config, lookup, distributed, logs, checkpoint files."""
