"""Describes a file or folder that has no weights: one sentence with the next step for the user.

The first bytes decide, never the name. In place of a checkpoint, people often have a web page, a
pointer to the file, an archive around it, or a file of a different framework.
"""

from __future__ import annotations

import gzip
import re
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

AGAIN = "download the file itself again"
UNPACK = "unpack it and give the weights file inside"
HEAD_BYTES = 512
_BINARY: tuple[tuple[bytes, str], ...] = (
    (b"BZh", f"a file packed with bzip2; {UNPACK}"),
    (b"\xfd7zXZ\0", f"a file packed with xz; {UNPACK}"),
    (b"\x28\xb5\x2f\xfd", f"a file packed with zstd; {UNPACK}"),
    (b"7z\xbc\xaf\x27\x1c", f"a 7z archive; {UNPACK}"),
    (b"Rar!", f"a rar archive; {UNPACK}"),
    (
        b"\x89HDF\r\n\x1a\n",
        "an HDF5 file (Keras, MATLAB), whose weights are not torch's; give a torch checkpoint",
    ),
    (
        b"\x93NUMPY",
        "an array of numpy (.npy); load it with numpy and save a state_dict by torch.save",
    ),
    (b"GGUF", "a GGUF file of a language model"),
    *(
        (bytes((8, version, 18)), "an ONNX graph; give the checkpoint from which it was exported")
        for version in range(3, 16)
    ),
    (b"\x89PNG", f"a picture (PNG); {AGAIN}"),
    (b"\xff\xd8\xff", f"a picture (JPEG); {AGAIN}"),
    (b"%PDF", f"a PDF; {AGAIN}"),
)
_TEXTS: tuple[tuple[str, str], ...] = (
    (
        "version https://git-lfs",
        "a pointer of Git LFS, not the file; run `git lfs pull` in its repository, or download it",
    ),
    ("<!doctype html", f"an HTML page, not the file that its link leads to; {AGAIN}"),
    ("<html", f"an HTML page, not the file that its link leads to; {AGAIN}"),
    ("<?xml", f"an XML answer of a server, not the file; {AGAIN}"),
    ("<", f"a page of markup, not the file; {AGAIN}"),
)
# A mapping of msgpack with up to 15 or 65535 entries, and a text as its first key
_FLAX = re.compile(rb"([\x81-\x8f]|\xde..)([\xa2-\xbf]|\xd9.)[a-zA-Z_]\w", re.DOTALL)
FLAX_REMEDY = "load it in its own library and save its arrays by names: safetensors.numpy.save_file"
WEIGHTS = ("*.safetensors", "*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl", "*.tar", "*.index")


def what_it_is(file: Path) -> str | None:
    """Returns what a file is instead of weights, and the next step; None if it may be weights."""
    beside = file.resolve().parent
    if file.suffix == ".distcp" or file.name == ".metadata":
        return f"a part of {what_folder_is(beside)}"
    if file.name == "data.pkl" and (beside / "data").is_dir():
        return f"a part of {what_folder_is(beside)}"
    with file.open("rb") as stream:
        head = stream.read(HEAD_BYTES)
    for magic, what in _BINARY:
        if head.startswith(magic):
            return what
    if head[4:8] == b"TFL3":
        return "a TensorFlow Lite graph; give the checkpoint from which it was exported"
    if _FLAX.match(head):
        return f"msgpack (Flax), which is not read; {FLAX_REMEDY}"
    if head.startswith(b"\x1f\x8b"):
        return _gzip(file)
    if head[257:262] == b"ustar":
        return f"a tar archive{_members(file)}; {UNPACK}"
    if head.startswith(b"PK\x03\x04"):
        return _zip(file)
    if not head.strip(b"\0"):
        return f"a file of zeros: the copy or the download failed; {AGAIN}"
    return _text(head)


def what_text_it_is(file: Path) -> str | None:
    """Returns what a text is, such as the HTML page of a login; None for any other content."""
    with file.open("rb") as stream:
        return _text(stream.read(HEAD_BYTES))


def what_folder_is(folder: Path) -> str:
    """Returns what a folder is, and which file the user should give."""
    if (folder / ".metadata").is_file() or any(folder.glob("*.distcp")):
        return (
            "a sharded save of torch.distributed.checkpoint; join it: python -m "
            f"torch.distributed.checkpoint.format_utils dcp_to_torch {folder} weights.pth"
        )
    for one in (folder, *sorted(folder.glob("*/"))):
        if (one / "data.pkl").is_file() and (one / "data").is_dir():
            return (
                "a torch file that was unpacked; pack it again without compression: "
                f"cd {one.resolve().parent} && zip -0 -r weights.pth {one.resolve().name}"
            )
    zero3 = sorted(folder.rglob("zero_pp_rank_*_model_states.pt"))
    if zero3:
        return f"a sharded save of DeepSpeed (ZeRO 3); {_join(zero3[0].parent)}"
    states = sorted(folder.rglob("mp_rank_*_model_states.pt"))
    if len(states) == 1:
        return f"a save of DeepSpeed; give {states[0]}"
    if (folder / "saved_model.pb").is_file():
        return "a TensorFlow SavedModel, whose names are numbers; give a TensorFlow checkpoint"
    files: list[Path] = []
    for level in ("", "*/", "*/*/"):  # Lightning writes lightning_logs/version_0/checkpoints
        files = files or sorted({f for pattern in WEIGHTS for f in folder.glob(level + pattern)})
    found = ", ".join(str(file.relative_to(folder)) for file in files[:4])
    return f"a folder; give the weights file inside it{f' ({found})' if found else ''}"


def zero3_remedy(file: Path) -> str:
    """Returns the remedy for one process's file of DeepSpeed's ZeRO 3."""
    return f"one process's part of a DeepSpeed run with ZeRO 3; {_join(file.parent)}"


def _join(folder: Path) -> str:
    return f"join its parts by DeepSpeed's zero_to_fp32.py, which it wrote above {folder}"


def _gzip(file: Path) -> str:
    try:
        with gzip.open(file) as stream:
            inner = stream.read(HEAD_BYTES)
    except (OSError, EOFError):
        inner = b""
    if inner[257:262] == b"ustar":
        return f"a tar archive packed with gzip{_members(file)}; {UNPACK}"
    return f"a file packed with gzip; unpack it: gzip -dc {file.name} > weights.pth"


def _members(file: Path) -> str:
    """Returns the first names in a tar archive, in brackets."""
    try:
        with tarfile.open(file) as archive:
            names = [member.name for _, member in zip(range(3), archive)]
    except (tarfile.TarError, OSError, EOFError):
        return ""
    return f" (of {', '.join(names)})" if names else ""


def _zip(file: Path) -> str | None:
    """Returns what a zip is that torch.save did not write; None for torch's or a damaged zip."""
    try:
        with zipfile.ZipFile(file) as archive:
            names = archive.namelist()
    except Exception:  # zipfile raises many kinds of errors; the reader says what is damaged
        return None
    inside: Callable[[str], bool] = lambda end: any(name.endswith(end) for name in names)
    if inside("/constants.pkl") and inside("/data.pkl"):
        return (
            "a TorchScript program; save its weights: torch.save(torch.jit.load"
            f"({file.name!r}, 'cpu').state_dict(), 'weights.pth')"
        )
    if (
        inside("/archive_format")
        and not inside("/data.pkl")
        or inside("serialized_exported_program.json")
    ):
        return "a program of torch.export; save the model's state_dict instead"
    if inside("data.pkl"):
        return None
    if names and all(name.endswith(".npy") for name in names):
        return (
            "an archive of numpy (.npz); save it for torch: torch.save({k: torch.from_numpy(v) for "
            f"k, v in numpy.load({file.name!r}).items()}}, 'weights.pth')"
        )
    if inside("model.weights.h5"):
        return "a Keras model, whose weights are not torch's; give a torch checkpoint"
    return f"a zip archive (of {', '.join(names[:3]) or 'nothing'}); {UNPACK}"


def _text(head: bytes) -> str | None:
    """Returns what a text is; None for content that is not a text."""
    try:
        text = head.decode()
    except UnicodeDecodeError:
        return None
    if not text.replace("\n", "").replace("\r", "").replace("\t", "").isprintable():
        return None
    start = text.lstrip("\ufeff \n\r\t")
    for beginning, what in _TEXTS:
        if start.lower().startswith(beginning):
            return what
    first = " ".join(start.split())[:60]
    if re.match(r'\{\s*["}]|\[\s*[\[\]{"\d-]', start):
        if '"weight_map"' in start or '"metadata"' in start and '"total_size"' in start:
            return "the index of a Hugging Face checkpoint in several files; give the files joined"
        return f"JSON text ({first}); give the weights file, or download it again"
    return f"a text ({first}); give the weights file, or download it again"
