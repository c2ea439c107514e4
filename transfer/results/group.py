"""When two result records may be averaged, and when they may be compared: the rule, in one place.

A record says what one run measured. Keys made of its fields decide what it may be put together
with; the report and its CSV ask this module and nothing else.

- **Counted** (`why_left_out`): a run that did not fail and has a value for at least one metric.
- **One run** (`RunKey`): the same checkpoint, protocol, trial and seed. Two records of one run are
  copies, of which one is counted; if they disagree, they contradict, and no report is written.
- **Averaged** (`cell_of`): the trials of one checkpoint under one protocol, whatever their seeds.
  A checkpoint (`CheckpointKey`) is a name together with the sha256 of its weights; the untrained
  backbone is one checkpoint, whatever seed its weights were drawn from. A protocol (`ProtocolKey`)
  is a task, a data set, a config by its name and its sha256, and an engine. The sha256 covers the
  keys that belong to the protocol (`pretrain/common/roles.py`), so that another number of GPUs may
  be averaged, and another schedule may not. It is also the fingerprints of the training and the
  test data (`data_of_records.py`): results on different data of one name are never averaged, nor
  compared. Records of older versions, whose data is unknown, are put together with their kind only.
- **Pooled** (`MethodKey`): checkpoints that differ in the seed of their pretraining alone become
  one row of their method if there are `LEAST_SEEDS` of them. Each seed counts once, by the mean of
  its trials. Two different checkpoints of one seed leave open which one is the method's: none is
  pooled.
- **Compared**: two checkpoints, or two methods, under one protocol. Results of two protocols are
  never compared. A difference is claimed only if both sides have `LEAST_TRIALS` trials, but for a
  task that is deterministic given the weights (`DETERMINISTIC_TASKS`): one trial says it all.
  Columns of `MANY_ROWS` and more are told to take `TRIALS_OF_MANY` trials, and are compared anyway.
  Bootstrap replicates are compared draw by draw if they are of the same images
  (`transfer/results/replicates.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from transfer.results.data_of_records import data_key

LEAST_SEEDS = 3  # pretraining seeds behind a claim about a method
LEAST_TRIALS = 3  # fine-tuning trials behind a claim about a checkpoint
MANY_ROWS, TRIALS_OF_MANY = (
    4,
    5,
)  # from so many rows on, so many trials: all pairs are corrected for
DETERMINISTIC_TASKS = ("knn", "svm")

Record = Mapping[str, Any]  # as `transfer.results.record.read_record` returns it


class CheckpointKey(NamedTuple):
    """What makes two records claims about the same weights: `weights` is a sha256 or "random"."""

    name: str
    weights: str


class ProtocolKey(NamedTuple):
    """What makes the numbers of two records comparable."""

    task: str
    dataset: str
    name: str
    engine: str
    config_sha256: str
    data: str = ""  # of what data, see `data_key`; "": unknown


class RunKey(NamedTuple):
    """What makes two records copies of each other; here untrained weights have their sha256."""

    checkpoint: CheckpointKey
    protocol: ProtocolKey
    trial: int
    seed: int


class MethodKey(NamedTuple):
    """What checkpoints share that differ in the seed of their pretraining alone.

    `epochs` keeps out a run that was cut, or a checkpoint from the middle of one.
    """

    method: str
    config_sha256: str
    epochs: float | None


def why_left_out(record: Record) -> str | None:
    """Returns why a record is in no table, or None if it is counted."""
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
    """Whether a record's field `checkpoint` is that of the untrained backbone."""
    return "random" in (checkpoint["source"], checkpoint["method"])


def method_of(checkpoint: Mapping[str, Any]) -> MethodKey | None:
    """Returns the method whose seeds a record's field `checkpoint` is one of, or None.

    Untrained weights, and those whose method, pretraining config or seed is unknown, are none.
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
