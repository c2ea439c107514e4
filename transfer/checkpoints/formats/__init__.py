"""The key formats that checkpoints come in: entry (what one is), table (all of them), detect."""
