"""Remote sources, with servers on this machine: cached, checked, a clear message if offline."""

from __future__ import annotations

import hashlib
import json
import logging
import multiprocessing
import os
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import ModuleType

import pytest
import torch
import torchvision
from safetensors.torch import save_file

from pretrain.common.errors import InputError
from tests.local_server import start_server
from tests.transfer.checkpoints import formats_convnets as builders_convnets
from tests.transfer.checkpoints import test_vits
from transfer.checkpoints import remote, web
from transfer.checkpoints.files import source_stem
from transfer.checkpoints.read import read_weights
from transfer.checkpoints.sources import check_source, resolve
from transfer.checkpoints.weights import default_name

COMMIT = "0" * 40


class Server:
    """Answers with `files`, which has bytes by path; counts the bodies it sent."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.sent: list[str] = []
        self.cut, self.chunked = 0, False  # a chunk's length is stated, the body's is not
        self.states_length = True
        self.hidden = 0  # bytes at the end that the stated length leaves out
        self.pause = 0.0  # seconds between two bytes
        self.leads_to = ""  # where every request is sent instead
        self.broken: set[str] = set()  # paths that the server has, but cannot send
        self.may_send = threading.Event()  # bodies wait for it
        self.may_send.set()
        self.begins, self.repeats = b"", b""  # an answer that never ends
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def _answer(self, body: bool) -> None:
                path = self.path.split("?")[0]
                if outer.repeats:
                    with suppress(OSError):
                        self.wfile.write(outer.begins)
                        while True:
                            self.wfile.write(outer.repeats)
                            time.sleep(0.02)
                    return
                if path in outer.broken:
                    self.send_error(501)
                    return
                if outer.leads_to:
                    self.send_response(302)
                    self.send_header("Location", outer.leads_to)
                    self.end_headers()
                    return
                if path not in outer.files:
                    self.send_response(404)
                    self.send_header("X-Error-Code", "EntryNotFound")
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
                data = outer.files[path]
                self.send_response(200)
                if outer.chunked:
                    self.send_header("Transfer-Encoding", "chunked")
                elif outer.states_length:
                    self.send_header("Content-Length", str(len(data) - outer.hidden))
                self.send_header("ETag", f'"{hashlib.sha1(data).hexdigest()}"')
                self.send_header("X-Repo-Commit", COMMIT)
                self.end_headers()
                if body:
                    outer.sent.append(path)
                    outer.may_send.wait(60)
                    self.wfile.write(b"%x\r\n" % len(data) if outer.chunked else b"")
                    whole = data[: len(data) - outer.cut]
                    pieces = [whole[at : at + 1] for at in range(len(whole))]
                    with suppress(OSError):  # nobody waits any longer
                        for piece in pieces if outer.pause else [whole]:
                            self.wfile.write(piece)
                            time.sleep(outer.pause)

            def do_GET(self) -> None:
                self._answer(True)

            def do_HEAD(self) -> None:
                self._answer(False)

            def log_message(self, *_: object) -> None:
                pass

        self.http, self.url = start_server(Handler)


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("MSCN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    server = Server()
    yield server
    server.http.shutdown()


@pytest.fixture
def weights(builders: ModuleType, tmp_path: Path) -> bytes:
    state = builders.trained_state("tiny_resnet")
    return builders.torchvision(tmp_path / "w.pth", state).read_bytes()


def test_a_url_is_downloaded_once(server: Server, weights: bytes) -> None:
    server.files["/models/w.pth"] = weights
    url = f"{server.url}/models/w.pth"
    first = read_weights(url)
    assert first.backbone == "tiny_resnet" and server.sent == ["/models/w.pth"]
    server.http.shutdown()  # from here on offline
    server.http.server_close()
    assert read_weights(url).sha256 == first.sha256
    assert first.provenance["file_sha256"] == hashlib.sha256(weights).hexdigest()
    assert default_name(first, url) == "w"


def test_others_may_read_what_is_kept(server: Server, weights: bytes) -> None:
    """The cache is often a group's."""
    server.files["/w.pth"] = weights
    mask = os.umask(0o022)
    try:
        assert resolve(f"{server.url}/w.pth").file.stat().st_mode & 0o777 == 0o644
    finally:
        os.umask(mask)


def test_detectron2s_zoo(server: Server, weights: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "ZOO", f"{server.url}/detectron2/")
    server.files["/detectron2/ImageNetPretrained/MSRA/R-50.pkl"] = weights
    name = "detectron2://ImageNetPretrained/MSRA/R-50.pkl"
    assert default_name(read_weights(name), name) == "ImageNetPretrained_MSRA_R-50"
    with pytest.raises(InputError, match="the server answers 404"):
        resolve("detectron2://ImageNetPretrained/MSRA/R-51.pkl")
    with pytest.raises(InputError, match="give detectron2://PATH"):
        resolve("detectron2:R-50.pkl")


def test_a_cache_that_this_user_cannot_write_is_named_with_its_variable(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.access", lambda *_: False)
    with pytest.raises(InputError, match=r"cache folder .* \(Permission denied\); set MSCN_CACHE"):
        resolve(f"{server.url}/w.pth")
    monkeypatch.undo()
    (tmp_path / "file").touch()
    monkeypatch.setenv("MSCN_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(InputError, match=r"\(Not a directory\); set MSCN_CACHE to a folder"):
        resolve(f"{server.url}/w.pth")


def test_a_user_without_a_home_folder_is_told_of_the_variable(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def nowhere() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("MSCN_CACHE", raising=False)
    monkeypatch.setattr(Path, "home", nowhere)
    with pytest.raises(InputError, match="no home folder for the cache; set MSCN_CACHE"):
        resolve("http://127.0.0.1:9/w.pth")


def test_offline_says_so_and_leaves_nothing(server: Server, tmp_path: Path) -> None:
    server.http.shutdown()
    server.http.server_close()
    with pytest.raises(InputError, match="cannot be downloaded: no connection.*give a file"):
        resolve(f"{server.url}/w.pth")
    assert not [p for p in (tmp_path / "cache").rglob("*") if p.is_file() and p.name != ".lock"]


def test_an_error_of_the_server(server: Server) -> None:
    with pytest.raises(InputError, match="the server answers 404"):
        resolve(f"{server.url}/none.pth")


@pytest.mark.parametrize("chunked", [False, True])
def test_a_cut_download_is_not_kept(server: Server, weights: bytes, chunked: bool) -> None:
    server.files["/w.pth"], server.cut, server.chunked = weights, 100, chunked
    with pytest.raises(InputError, match="of .* bytes were downloaded|cannot be downloaded"):
        resolve(f"{server.url}/w.pth")
    server.cut, server.chunked = 0, False
    assert resolve(f"{server.url}/w.pth").file.read_bytes() == weights


def test_a_stated_sha256_is_held(server: Server, weights: bytes) -> None:
    digest = hashlib.sha256(weights).hexdigest()
    for name in ("w.pth", f"w-{digest[:8]}.pth", "w-01234567.pth"):
        server.files[f"/{name}"] = weights
    resolve(f"{server.url}/w.pth#sha256={digest}")
    resolve(f"{server.url}/w-{digest[:8]}.pth")
    for wrong in ("w-01234567.pth", f"w.pth?v=2#sha256={'0' * 64}"):
        with pytest.raises(InputError, match="is required"):
            resolve(f"{server.url}/{wrong}")


def test_a_changed_cache_is_found(server: Server, weights: bytes) -> None:
    server.files["/w.pth"] = weights
    file = resolve(f"{server.url}/w.pth").file
    file.write_bytes(weights[:-1] + b"x")
    with pytest.raises(InputError, match="is damaged.*delete it"):
        resolve(f"{server.url}/w.pth")


def test_torchvisions_weights(
    server: Server, builders: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = builders.trained_state("resnet18")
    path = builders.torchvision(tmp_path / "r18.pth", state)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    server.files[f"/resnet18-{digest[:8]}.pth"] = path.read_bytes()
    entry = torchvision.models.ResNet18_Weights.IMAGENET1K_V1
    monkeypatch.setattr(entry.value, "url", f"{server.url}/resnet18-{digest[:8]}.pth")
    source = "torchvision:resnet18/IMAGENET1K_V1"
    found = read_weights(source)
    assert torch.equal(found.state["conv1.weight"], state["conv1.weight"])
    assert found.provenance["method"] == "supervised" and not found.warnings
    assert found.provenance["source"] == source
    assert default_name(found, source) == "resnet18_IMAGENET1K_V1"


def hub(server: Server, repo: str, files: dict[str, bytes]) -> None:
    for name, data in files.items():
        server.files[f"/{repo}/resolve/main/{name}"] = data


def test_hugging_faces_hub(
    server: Server, builders: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hf"))
    state = builders.trained_state("tiny_resnet")
    data = builders.bare_safetensors(tmp_path / "m.safetensors", state).read_bytes()
    config = {
        "architecture": "tiny_resnet",
        "pretrained_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3},
    }
    hub(server, "org/net", {"model.safetensors": data, "config.json": json.dumps(config).encode()})
    found = read_weights("hf-hub:org/net")
    assert found.backbone == "tiny_resnet" and found.preprocess.mean == (0.5, 0.5, 0.5)
    assert source_stem("hf-hub:org/net@main:x.pth") == "org_net_main_x.pth"
    asked = len(server.sent)
    assert read_weights("hf-hub:org/net").sha256 == found.sha256 and len(server.sent) == asked

    theirs = builders_convnets.hf_resnet(state)
    data = builders.bare_safetensors(tmp_path / "hf.safetensors", theirs).read_bytes()
    said = {
        "config.json": {"model_type": "resnet", "downsample_in_bottleneck": True},
        "preprocessor_config.json": {"image_mean": [0.1] * 3, "image_std": [0.2] * 3},
    }
    files = {name: json.dumps(content).encode() for name, content in said.items()}
    hub(server, "org/theirs", {"sub/model.safetensors": data, **files})
    found = read_weights("hf-hub:org/theirs:sub/model.safetensors")
    assert found.preprocess.mean == (0.1, 0.1, 0.1) and found.architecture["stride_in_1x1"]
    assert torch.equal(found.state["conv1.weight"], state["conv1.weight"]) and not found.warnings

    hub(
        server,
        "org/blur",
        {"model.safetensors": data, "config.json": b'{"architecture": "resnetblur18"}'},
    )
    with pytest.raises(InputError, match="is a resnetblur18"):
        read_weights("hf-hub:org/blur")
    with pytest.raises(InputError, match="has no model.safetensors or .*name its file"):
        read_weights("hf-hub:org/empty")


def test_what_a_repository_says_is_not_lost_without_a_word(
    server: Server,
    weights: bytes,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Its config.json can have the mean and std of the input."""
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hf"))
    files = {"model.pth": weights, "config.json": b'{"pretrained_cfg": {"mean": [0.5, 0.5, 0.5]}}'}
    hub(server, "org/net", files)
    server.broken = {path for path in server.files if path.endswith("config.json")}
    with pytest.raises(InputError, match="hf-hub:org/net.*; give a file that you have downloaded"):
        read_weights("hf-hub:org/net:model.pth")
    assert read_weights("hf-hub:org/net:model.pth").backbone == "tiny_resnet"  # from the cache
    (line,) = [found.getMessage() for found in caplog.records if "next to" in found.getMessage()]
    assert line.startswith("hf-hub:org/net:model.pth: it is not known if a config.json is next to")
    server.broken.clear()
    caplog.clear()
    read_weights("hf-hub:org/net:model.pth")
    assert not [found for found in caplog.records if "next to" in found.getMessage()]


def test_a_repository_of_transformers_says_its_preprocessing(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hf"))
    case = "transformers ViT-MSN, names of 4"
    save_file(test_vits.state_of(case), tmp_path / "m.safetensors")
    config = test_vits.CASES[case]["files"]["config.json"]
    stated = {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]}
    files = {
        "model.safetensors": (tmp_path / "m.safetensors").read_bytes(),
        "config.json": json.dumps(config).encode(),
        "preprocessor_config.json": json.dumps(stated).encode(),
    }
    hub(server, "org/msn", files)
    found = read_weights("hf-hub:org/msn")
    assert found.preprocess.mean == (0.1, 0.2, 0.3) and found.provenance["method"] == "msn"
    assert not found.warnings


@pytest.mark.parametrize(
    "source, message",
    [
        ("hf-hub:name", "give hf-hub:ORG/NAME"),
        ("torchvision:resnet50/V9", "it has IMAGENET1K_V1, IMAGENET1K_V2"),
        (
            "torchvision:densenet121/IMAGENET1K_V1",
            "is a densenet121, which is not supported; supported are",
        ),
        ("timm:resnet51", "no model 'resnet51'"),
        ("timm:densenet121.ra_in1k", "is a densenet121, which is not supported"),
        ("timm:resnet50.none_in1k", "it has resnet50.a1_in1k"),
    ],
)
def test_unknown_names(source: str, message: str) -> None:
    check_source(source)  # remote names are not looked up before
    with pytest.raises(InputError, match=message):
        resolve(source)


def test_timms_weights_come_from_its_hub(
    server: Server, builders: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hf"))
    state = builders.trained_state("resnet18")
    data = builders.bare_safetensors(tmp_path / "m.safetensors", state).read_bytes()
    hub(server, "timm/resnet18.a1_in1k", {"model.safetensors": data})
    found = read_weights("timm:resnet18.a1_in1k")
    assert found.provenance["source"] == "timm:resnet18.a1_in1k" and found.backbone == "resnet18"
    assert found.preprocess.mean == (0.485, 0.456, 0.406)
    assert remote.cache_folder() == tmp_path / "cache"


def test_without_a_connection_the_hub_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Its client logs two lines for each attempt, which say nothing more than the error."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hf"))
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # nothing listens there
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # between the attempts
    logging.getLogger("huggingface_hub").propagate = True
    with pytest.raises(InputError, match="no connection was made"):
        resolve("timm:resnet18.a1_in1k")
    assert not caplog.records


@pytest.mark.parametrize("suffix", [".pth", ".pkl"])
def test_an_answer_without_a_length_is_kept_only_if_it_is_whole(
    suffix: str, server: Server, builders: ModuleType, tmp_path: Path
) -> None:
    state = builders.trained_state("tiny_resnet")
    make = builders.torchvision if suffix == ".pth" else builders.detectron2
    server.files[f"/w{suffix}"] = make(tmp_path / f"w{suffix}", state).read_bytes()
    url = f"{server.url}/w{suffix}"
    server.states_length, server.cut = False, 1000
    with pytest.raises(InputError, match="does not state the length of the file.*is truncated"):
        resolve(url)
    server.cut = 0
    assert resolve(url).file.stat().st_size == len(server.files[f"/w{suffix}"])


@pytest.mark.parametrize("suffix", [".pth", ".pkl", ".safetensors"])
def test_a_wrong_length_does_not_leave_a_cut_file(
    suffix: str, server: Server, builders: ModuleType, tmp_path: Path
) -> None:
    state = builders.trained_state("tiny_resnet")
    kinds = (builders.torchvision, builders.detectron2, builders.bare_safetensors)
    make = dict(zip((".pth", ".pkl", ".safetensors"), kinds))[suffix]
    server.files[f"/w{suffix}"] = make(tmp_path / f"w{suffix}", state).read_bytes()
    url, server.hidden = f"{server.url}/w{suffix}", 1000
    with pytest.raises(InputError, match="states a wrong length of the file.*is truncated"):
        resolve(url)
    server.hidden = 0
    assert resolve(url).file.stat().st_size == len(server.files[f"/w{suffix}"])


def test_what_a_reader_refuses_for_its_content_is_kept(server: Server) -> None:
    """Whether code in a file is trusted is not known while the file is downloaded."""
    server.files["/w.pkl"] = b"\x80\x02cos\nsystem\nX\x04\x00\x00\x00exit\x85R."
    assert resolve(f"{server.url}/w.pkl").file.read_bytes() == server.files["/w.pkl"]


def test_a_text_in_place_of_the_file_is_not_kept(server: Server, weights: bytes) -> None:
    """A proxy or a page for logging in; it does not have to be deleted by hand afterwards."""
    url = f"{server.url}/w.pth"
    for text in (b"<!DOCTYPE html><html>Log in</html>", b'{"error": "quota"}', b"try later\n"):
        server.files["/w.pth"] = text
        with pytest.raises(InputError, match="/w.pth: the server sends .*; what it sent was not"):
            read_weights(url)
    server.files["/w.pth"] = weights
    assert read_weights(url).backbone == "tiny_resnet"


@pytest.mark.parametrize("chunked", [False, True])
def test_a_server_that_sends_a_byte_now_and_then_is_not_waited_for(
    chunked: bool, server: Server, weights: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each byte ends the wait for an answer, so that the timeout of a connection never comes."""
    monkeypatch.setattr(web, "SLOW_SECONDS", 0.2)
    server.files["/w.pth"], server.pause, server.chunked = weights, 0.02, chunked
    with pytest.raises(InputError, match=r"sends only \d+ bytes in 0.2 seconds; give a file that"):
        read_weights(f"{server.url}/w.pth")
    assert [path for path in (tmp_path / "cache").rglob("*w.pth*") if path.is_file()] == []


OK = b"HTTP/1.1 200 OK\r\n"


@pytest.mark.parametrize(
    "begins, repeats",
    [
        (OK + b"X-Long: ", b"a"),
        (OK, b"X: y\r\n"),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n", b"0"),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n0\r\n", b"X: y\r\n"),
    ],
    ids=["a header", "headers", "continue", "a chunk's length", "trailers"],
)
def test_an_answer_that_never_ends_is_not_waited_for(
    begins: bytes, repeats: bytes, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(web, "SLOW_SECONDS", 0.2)
    server.begins, server.repeats = begins, repeats
    with pytest.raises(InputError, match=r"sends only 0 bytes in 0.2 seconds; give a file that"):
        read_weights(f"{server.url}/w.pth")
    assert [path for path in (tmp_path / "cache").rglob("*w.pth*") if path.is_file()] == []


def download_noted(url: str, note: Path) -> None:
    logging.basicConfig(level=logging.INFO, filename=note, force=True)
    logging.getLogger("transfer").setLevel(logging.INFO)
    logging.getLogger("transfer").info("is at %s", remote.download(url))


def wait_for_text(text: str, note: Path) -> None:
    for _ in range(1200):
        if note.is_file() and text in note.read_text():
            return
        time.sleep(0.05)
    raise AssertionError(f"waited 60 s for {text!r}")


def test_one_of_two_commands_downloads_and_both_read_the_file(
    server: Server, weights: bytes, tmp_path: Path
) -> None:
    """Also if the one that downloads is killed: then one of those that wait does it."""

    def start(name: str) -> BaseProcess:
        arguments = (f"{server.url}/w.pth", tmp_path / name)
        made = multiprocessing.get_context("fork").Process(target=download_noted, args=arguments)
        made.start()
        return made

    server.files["/w.pth"] = weights
    server.may_send.clear()
    killed = start("killed")
    for _ in range(1200):
        if server.sent:
            break
        time.sleep(0.05)
    others = [start(name) for name in "ab"]
    for name in "ab":
        wait_for_text("waiting for another process that downloads", tmp_path / name)
    killed.kill()
    killed.join()
    server.may_send.set()
    for other in others:
        other.join(60)
        assert other.exitcode == 0
    file = remote.download(f"{server.url}/w.pth")
    assert file.read_bytes() == weights
    assert all(f"is at {file}" in (tmp_path / name).read_text() for name in "ab")
    assert server.sent == ["/w.pth", "/w.pth"], "to the killed one, and once for the others"
    left = {path.name for path in (tmp_path / "cache").rglob("*") if path.is_file()}
    assert left == {"w.pth", "source.json", ".lock"}


@pytest.mark.parametrize("source", ["http://a\ud800b/w.pth", "hf-hub:a/b\udcff", "timm:a\udcff"])
def test_names_that_cannot_be_sent(source: str) -> None:
    with pytest.raises(InputError, match="has a character that no name on a network has"):
        read_weights(source)


@pytest.mark.parametrize("target", ["ftp://127.0.0.1:1/w.pth", "FTP://127.0.0.1:1/w.pth"])
def test_only_redirects_to_the_web_are_followed(
    target: str, server: Server, tmp_path: Path
) -> None:
    server.leads_to = target
    with pytest.raises(InputError, match="leads to .*ftp.*which is not followed"):
        resolve(f"{server.url}/w.pth")
    server.leads_to = f"file://{tmp_path}/w.pth"
    with pytest.raises(InputError, match="the server answers 302"):
        resolve(f"{server.url}/w.pth")


@pytest.mark.parametrize("name", ["..", ".", "...", ".lock", "source.json", "x" * 5000, ""])
def test_no_name_of_a_url_disturbs_the_cache(name: str, server: Server, weights: bytes) -> None:
    server.files[f"/a/{name}"] = weights
    file = resolve(f"{server.url}/a/{name}").file
    assert file.name in ("weights", "a") and file.read_bytes() == weights
    assert file.parent.parent == remote.cache_folder()
    resolve(f"{server.url}/a/{name}")
    assert len(server.sent) == 1


@pytest.mark.parametrize(
    "fragment",
    ["sha256=", "sha256=zz", "sha256=abc", "sha1=" + "0" * 40, "x", "SHA256=" + "0" * 64],
)
def test_a_fragment_that_states_nothing_is_refused(
    fragment: str, server: Server, weights: bytes
) -> None:
    server.files["/w.pth"] = weights
    with pytest.raises(InputError, match="#.*hexadecimal|is not known; give #sha256=DIGITS"):
        resolve(f"{server.url}/w.pth#{fragment}")
    assert server.sent == []


@pytest.mark.parametrize("note", ["{", "[]", "{}", '{"sha256": 5}', "[" * 5000, '{"sha256": ""}'])
def test_a_damaged_note_of_the_cache_is_one_line(note: str, server: Server, weights: bytes) -> None:
    server.files["/w.pth"] = weights
    file = resolve(f"{server.url}/w.pth").file
    (file.parent / "source.json").write_text(note)
    with pytest.raises(InputError, match="source.json is damaged: delete the folder"):
        resolve(f"{server.url}/w.pth")
