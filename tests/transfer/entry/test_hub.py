"""A folder for a hub, and its upload to a local stand-in; read again, the weights are the same."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

import transfer
from pretrain.digits.dataset import make_digits
from tests.local_server import start_server
from tools.convert_weights import main
from transfer.checkpoints.writers import write_weights
from transfer.entry.conversion import prove_conversion
from transfer.entry.model_card import write_card

COMMIT = "0" * 40


class Hub:
    """The part of a hub that a client needs to make a repository, fill it and read it."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.tokens: set[str | None] = set()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def _send(self, content: object, status: int = 200) -> None:
                data = json.dumps(content).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                outer.tokens.add(self.headers.get("Authorization"))
                if self.headers.get("Authorization") != "Bearer good":
                    return self._send({"error": "Invalid token"}, 401)
                if self.path == "/api/repos/create":
                    return self._send({"url": f"{outer.url}/me/net", "name": "me/net"})
                if "/preupload/" in self.path:
                    names = [file["path"] for file in json.loads(body)["files"]]
                    mode = {"uploadMode": "regular", "shouldIgnore": False, "oid": None}
                    return self._send({"files": [{"path": name, **mode} for name in names]})
                if "/commit/" not in self.path:  # the card's header is checked
                    return self._send({"errors": [], "warnings": []})
                for line in body.splitlines():
                    entry = json.loads(line)
                    if entry["key"] == "file":
                        value = entry["value"]
                        outer.files[value["path"]] = base64.b64decode(value["content"])
                url = f"{outer.url}/me/net/commit/{COMMIT}"
                return self._send({"commitUrl": url, "commitOid": COMMIT, "success": True})

            def do_GET(self, body: bool = True) -> None:
                found = re.fullmatch(r"/me/net/resolve/[^/]+/(.+)", self.path)
                data = outer.files.get(found[1]) if found else None
                if data is None:
                    if self.path.startswith("/api/"):
                        return self._send({"id": "me/net", "sha": COMMIT, "siblings": []})
                    self.send_response(404)
                    self.send_header("X-Error-Code", "EntryNotFound")
                    self.send_header("X-Repo-Commit", COMMIT)
                    self.send_header("Content-Length", "0")
                    return self.end_headers()
                self.send_response(200)
                self.send_header("Content-Length", str(len(data)))
                self.send_header("ETag", f'"{hashlib.sha1(data).hexdigest()}"')
                self.send_header("X-Repo-Commit", COMMIT)
                self.end_headers()
                if body:
                    self.wfile.write(data)

            def do_HEAD(self) -> None:
                self.do_GET(body=False)

            def log_message(self, *_: object) -> None:
                pass

        self.http, self.url = start_server(Handler)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    found = Hub()
    monkeypatch.setenv("HF_ENDPOINT", found.url)
    monkeypatch.setenv("HF_TOKEN", "good")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hf"))
    monkeypatch.chdir(tmp_path)
    yield found
    found.http.shutdown()


@pytest.fixture
def source(tmp_path: Path) -> str:
    write_weights(transfer.read_weights("random", backbone="tiny_resnet"), tmp_path / "mine.pth")
    return str(tmp_path / "mine.pth")


def test_the_folder_is_uploaded_and_read_back(
    hub: Hub, source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "digits"))
    make_digits(tmp_path / "digits", classification=(60, 10, 10), scenes=(1, 1, 1))
    short = {"PROTOCOL.K": (5,), "QUALITY.IMAGES": 0}
    records = transfer.run_protocol("knn_digits.yaml", source, "runs/knn", overrides=short)
    assert main([source, "hf-hub:me/net", "--records", "runs", "--push"]) == 0
    folder = tmp_path / "hub" / "me" / "net"
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == hub.files
    assert set(hub.files) == {"model.safetensors", "config.json", "README.md"}
    sha256 = transfer.read_weights(source).sha256
    assert transfer.read_weights("hf-hub:me/net").sha256 == sha256
    assert transfer.read_weights(folder).sha256 == sha256
    card = hub.files["README.md"].decode()
    assert card.startswith("---\nlibrary_name: pytorch\n") and sha256 in card
    value = records.files[0].record["metrics"]["knn5_top1"]
    assert f"| knn_digits | folder:digits_cls:test | knn5_top1 | {value:.2f} | 1 |" in card
    assert json.loads(hub.files["config.json"])["mscn"]["sha256"] == sha256
    assert main([source, "hf-hub:me/net"]) == 0 and hub.tokens == {"Bearer good"}, "written again"


def test_a_card_averages_what_a_report_does(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trials of one protocol, not of a different one with its name, and no failed run."""
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "digits"))
    make_digits(tmp_path / "digits", classification=(60, 10, 10), scenes=(1, 1, 1))
    own = {
        "PROTOCOL.K": (5,),
        "QUALITY.IMAGES": 0,
        "DATASETS.TRAIN": f"folder:{tmp_path}/digits/digits_cls:train",
    }
    records = transfer.run_protocol("knn_digits.yaml", source, tmp_path / "runs", overrides=own)
    record = records.files[0].record

    def changed(value: float, config: str = "", **fields: object) -> dict[str, Any]:
        protocol = {**record["protocol"], "config_sha256": config or "a" * 64}
        return {**record, "protocol": protocol, "metrics": {"knn5_top1": value}, **fields}

    report = prove_conversion(source, [".safetensors"])
    rows = [changed(50.0), changed(60.0, trial=1), changed(90.0, status="failed")]
    assert "| knn5_top1 | 55.00 | 2 |" in write_card("me/net", report, rows)
    card = write_card("me/net", report, [*rows, changed(70.0, "b" * 64)])
    lines = [line for line in card.splitlines() if "knn5_top1" in line]
    assert ["config aaaaaaa" in line for line in lines] == [True, False]
    assert lines[0].endswith("| 55.00 | 2 |") and lines[1].endswith("| 70.00 | 1 |")


@pytest.mark.parametrize(
    "words, message",
    [
        (["hf-hub:nouser"], "an output on the hub is hf-hub:USER/NAME"),
        (["x.pth", "--push"], "--push and --records need an OUTPUT hf-hub:USER/NAME"),
        (["hf-hub:me/net", "--output", "full"], "full holds other files (secret.txt)"),
        (["hf-hub:me/net", "--records", "empty"], "no valid record.json below empty"),
        (["hf-hub:me/net", "--push"], "me/net was not uploaded: "),
    ],
)
def test_what_cannot_be_published_is_said(
    hub: Hub,
    source: str,
    words: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("HF_TOKEN", "bad")
    (tmp_path / "full").mkdir()
    (tmp_path / "empty").mkdir()
    (tmp_path / "full" / "secret.txt").write_text("x")
    assert main([source, *words]) == 2
    said = capsys.readouterr().err
    assert message in said and len(said.splitlines()) == 1 and not hub.files
