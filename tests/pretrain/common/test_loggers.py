"""The programs that show a run's scalars, replaced by small versions of their packages."""

from __future__ import annotations

import importlib.machinery
import json
import logging
import sys
import types
from pathlib import Path
from typing import Any

import pytest

import pretrain
from pretrain.common.errors import InputError
from pretrain.common.loggers import GROUP_VARIABLE, check_loggers
from pretrain.common.logs import MetricsWriter

PACKAGES = ("wandb", "trackio", "mlflow", "mlflow.entities")


class StandIn(types.ModuleType):
    """The parts of the packages that are called; `calls` records the calls."""

    def __init__(self, name: str, calls: list[tuple[str, Any]]) -> None:
        super().__init__(name)
        self.__spec__ = importlib.machinery.ModuleSpec(name, None)
        self.calls = calls
        self.Metric = lambda key, value, timestamp, step: (key, value, step)
        self.MlflowClient = lambda: self

    def init(self, **options: Any) -> StandIn:
        self.calls.append((f"{self.__name__}.init", options))
        return self

    def log(self, values: dict[str, float], step: int | None = None) -> None:
        values = dict(values)
        self.calls.append((self.__name__, (values.pop("step", step), values)))

    def define_metric(self, *names: str, **options: str) -> None:
        pass

    def finish(self) -> None:
        self.calls.append((f"{self.__name__}.finish", None))

    def get_experiment_by_name(self, name: str) -> None:
        assert name == "mscn"

    def create_experiment(self, name: str) -> str:
        return "1"

    def search_runs(self, experiments: list[str], text: str) -> list[Any]:
        self.calls.append(("mlflow.search", text))
        return [types.SimpleNamespace(info=types.SimpleNamespace(run_id="earlier"))]

    def create_run(self, experiment: str, *, tags: dict[str, str], run_name: str) -> Any:
        self.calls.append(("mlflow.init", {"name": run_name, "group": tags.get("mscn.group")}))
        return types.SimpleNamespace(info=types.SimpleNamespace(run_id="new"))

    def log_batch(self, run: str, metrics: list[tuple[str, float, int]]) -> None:
        (step,) = {step for _, _, step in metrics}
        self.calls.append(("mlflow", (step, {key: value for key, value, _ in metrics})))

    def set_terminated(self, run: str) -> None:
        self.calls.append(("mlflow.finish", None))


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Any]]:
    told: list[tuple[str, Any]] = []
    for name in PACKAGES:
        monkeypatch.setitem(sys.modules, name, StandIn(name, told))
    for name in ("WANDB_PROJECT", "TRACKIO_PROJECT", "MLFLOW_EXPERIMENT_NAME", GROUP_VARIABLE):
        monkeypatch.delenv(name, raising=False)
    return told


def test_all_get_the_rows_of_the_file(
    calls: list[tuple[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(GROUP_VARIABLE, "paper")
    folder = tmp_path / "boxes" / "mscn" / "trial_0"
    folder.mkdir(parents=True)
    with MetricsWriter(folder, loggers="tensorboard, wandb,trackio,mlflow") as writer:
        writer.write(1, loss=0.5, broken=float("nan"))
        writer.write(2, **{"bbox/AP": 20.0})
        writer.flush()
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert rows == [{"step": 1, "loss": 0.5, "broken": None}, {"step": 2, "bbox/AP": 20.0}]
    for name in ("wandb", "trackio", "mlflow"):
        mine = [what for who, what in calls if who == name]
        assert mine == [(1, {"loss": 0.5}), (2, {"bbox/AP": 20.0})]
        (begun,) = (what for who, what in calls if who == f"{name}.init")
        assert begun["name"].startswith("boxes/mscn/trial_0") and begun["group"] == "paper"
        assert (f"{name}.finish", None) in calls
    assert list(folder.glob("events.out.tfevents.*"))


def test_a_resumed_run_is_the_same_run(calls: list[tuple[str, Any]], tmp_path: Path) -> None:
    for resume_step in (-1, 7):
        MetricsWriter(tmp_path, resume_step, loggers="wandb,trackio,mlflow").close()
    for name in ("wandb", "trackio"):
        first, second = (what for who, what in calls if who == f"{name}.init")
        assert first == second and first["resume"] == "allow"
    assert [who for who, _ in calls].count("mlflow.init") == 1
    assert [who for who, _ in calls].count("mlflow.search") == 1


def test_one_that_fails_ends_no_run(
    calls: list[tuple[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise RuntimeError("no connection\nlong trace")

    monkeypatch.setattr(sys.modules["wandb"], "log", refuse)
    monkeypatch.setattr(sys.modules["trackio"], "init", refuse)
    with caplog.at_level(logging.WARNING), MetricsWriter(
        tmp_path, loggers="wandb,trackio,mlflow"
    ) as writer:
        for step in (1, 2):
            writer.write(step, loss=0.5)
    assert [record.message for record in caplog.records] == [
        f"LOGGER {name} failed and is left out of this run: no connection"
        for name in ("trackio", "wandb")
    ]
    assert [what[0] for who, what in calls if who == "mlflow"] == [1, 2]
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 2


def test_names_are_checked_before_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    assert check_loggers("") == [] and check_loggers("tensorboard,tensorboard") == ["tensorboard"]
    with pytest.raises(InputError, match="unknown logger 'wandv'.*did you mean 'wandb'"):
        check_loggers("tensorboard,wandv")
    monkeypatch.setitem(sys.modules, "mlflow", None)  # as if it were not installed
    with pytest.raises(
        InputError, match="TRANSFER.LOGGER mlflow: mlflow is not installed; python -m pip install"
    ):
        check_loggers("mlflow", "TRANSFER.LOGGER")


def test_a_config_with_an_unknown_logger_is_refused() -> None:
    with pytest.raises(InputError, match="unknown logger 'wandv'.*LOGGER"):
        pretrain.load_config("mscn_demo.yaml", {"LOGGER": "wandv"})
    assert pretrain.load_config("mscn_demo.yaml", {"LOGGER": ""}).LOGGER == ""
