"""Names of the files in the folder of a run, which more than one part of the code reads."""

CHECKPOINT = "checkpoint.pth"  # written by a pretraining run, which also keeps the one before it
CONFIG = "config.yaml"  # the merged config of a pretraining run, or of a trial
METRICS = "metrics.jsonl"  # rows that were logged during pretraining
WEIGHTS_FILE = "weights.sha256"  # identity of the weights from which a trial started
RECORD = "record.json"  # only complete trials have it
