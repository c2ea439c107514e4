"""The only place with the rules when result records may be averaged and when they are compared.

A record says what one run measured. Keys made from its fields decide with which records it may be
combined; the report and its CSV use only this module for that.

- **Counted** (`why_left_out`): a run that did not fail and has a value for at least one metric.
- **One run** (`RunKey`): the same checkpoint, protocol, trial and seed. Two records of one run are
  copies, and one of them is counted. If they disagree, they contradict each other, and no report is
  written.
- **Averaged** (`cell_of`): the trials of one checkpoint under one protocol, with any seeds. A
  checkpoint (`CheckpointKey`) is a name together with the sha256 of its weights; the untrained
  backbone is one checkpoint, with any seed of its weights. A protocol (`ProtocolKey`) is a task, a
  data set, a config with its name and its sha256, and an engine. The sha256 covers the keys that
  belong to the protocol (`pretrain/common/roles.py`): runs on different numbers of GPUs may be
  averaged, runs with different schedules may not. A protocol also includes the fingerprints of the
  training and the test data (`data_of_records.py`): results on different data with one name are
  never averaged or compared. Records of older versions, whose data is unknown, are combined only
  with each other.
- **Pooled** (`MethodKey`): checkpoints that differ only in the seed of their pretraining become one
  row of their method if there are `LEAST_SEEDS` of them. Each seed counts once, by the mean of its
  trials. If a seed has two different checkpoints, it is unclear which one is the method's, and no
  checkpoint of the method is pooled.
- **Compared**: two checkpoints, or two methods, under one protocol. Results of two protocols are
  never compared. A difference is claimed only if both sides have `LEAST_TRIALS` trials. For a task
  that is deterministic given the weights (`DETERMINISTIC_TASKS`), one trial is enough. The report
  recommends `TRIALS_OF_MANY` trials for columns of `MANY_ROWS` or more rows, but compares them
  anyway. Bootstrap replicates are compared draw by draw if they are of the same images
  (`transfer/results/replicates.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from transfer.results.data_of_records import data_key

LEAST_SEEDS = 3  # pretraining seeds behind a claim about a method
LEAST_TRIALS = 3  # fine-tuning trials behind a claim about a checkpoint
# From 4 rows on, each needs 5 trials, because all pairs are corrected for
MANY_ROWS, TRIALS_OF_MANY = 4, 5
DETERMINISTIC_TASKS = ("knn", "logistic", "svm")

Record = Mapping[str, Any]  # as `transfer.results.record.read_record` returns it


class CheckpointKey(NamedTuple):
    """Identifies the weights that a record tests: `weights` is a sha256 or "random"."""

    name: str
    weights: str


class ProtocolKey(NamedTuple):
    """Identifies a protocol: records with equal keys have comparable numbers."""

    task: str
    dataset: str
    name: str
    engine: str
    config_sha256: str
    data: str = ""  # identity of the data, see `data_key`; "": unknown


class RunKey(NamedTuple):
    """Identifies a run: equal records are copies. Untrained weights have their sha256 here."""

    checkpoint: CheckpointKey
    protocol: ProtocolKey
    trial: int
    seed: int


class MethodKey(NamedTuple):
    """Identifies a method: its checkpoints differ only in the seed of their pretraining.

    `epochs` excludes a shortened run, and a checkpoint from the middle of a run.
    """

    method: str
    config_sha256: str
    epochs: float | None


def why_left_out(record: Record) -> str | None:
    """Returns why a record is not in any table, or None if it is counted."""
    if record["status"] == "failed":
        return "the run failed"
    if all(value is None for value in record["metrics"].values()):
        return "none of its metrics has a value"
    return None


def run_of(record: Record) -> RunKey:
    """Returns the key of the run that a record is of."""
    checkpoint = record["checkpoint"]
    key = CheckpointKey(checkpoint["name"], checkpoint["sha256"])
    return RunKey(key, _protocol_of(record), record["trial"], record["seed"])


def cell_of(record: Record) -> tuple[CheckpointKey, ProtocolKey]:
    """Returns the keys of the checkpoint and the protocol: records that share both are averaged."""
    checkpoint = record["checkpoint"]
    weights = "random" if is_untrained(checkpoint) else checkpoint["sha256"]
    return CheckpointKey(checkpoint["name"], weights), _protocol_of(record)


def is_untrained(checkpoint: Mapping[str, Any]) -> bool:
    """Returns whether a record's field `checkpoint` describes the untrained backbone."""
    return "random" in (checkpoint["source"], checkpoint["method"])


def method_of(checkpoint: Mapping[str, Any]) -> MethodKey | None:
    """Returns the method to which a record's field `checkpoint` belongs, or None.

    It is None for untrained weights, and if the method, pretraining config or seed is unknown.
    """
    method, config = checkpoint["method"], checkpoint["pretrain_config_sha256"]
    if is_untrained(checkpoint) or not method or not config or checkpoint["pretrain_seed"] is None:
        return None
    return MethodKey(method, config, checkpoint["pretrain_epochs"])


def _protocol_of(record: Record) -> ProtocolKey:
    protocol = record["protocol"]
    return ProtocolKey(
        record["task"],
        record["dataset"],
        protocol["name"],
        protocol["engine"],
        protocol["config_sha256"],
        data_key(record),
    )
