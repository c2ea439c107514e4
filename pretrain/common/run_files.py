"""Names of the files in the folder of a run, which more than one part of the code reads."""

CHECKPOINT = "checkpoint.pth"  # of a pretraining run; the one before it is kept next to it
CONFIG = "config.yaml"  # the merged config of a pretraining run, or of a trial
METRICS = "metrics.jsonl"  # rows that were logged during pretraining
RECORD = "record.json"  # of a complete trial
