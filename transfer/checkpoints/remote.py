"""Remote sources: downloaded once, kept below the cache folder, checked against a sha256.

The cache is `$MSCN_CACHE`, by default `~/.cache/mscn`; Hugging Face's files stay in its own cache.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import re
from collections.abc import Callable
from contextlib import nullcontext
from http.client import HTTPException
from pathlib import Path
from typing import BinaryIO
from urllib.error import HTTPError

from pretrain.common.cache_folder import cache_folder
from pretrain.common.checkpoint import atomic_write, atomic_write_text
from pretrain.common.errors import InputError
from pretrain.common.locks import FILE_NAME as LOCK_FILE
from pretrain.common.locks import locked
from pretrain.common.lookup import near_matches
from pretrain.common.progress import ProgressBar
from pretrain.common.safe_json import read_json
from pretrain.common.temporaries import sweep
from pretrain.common.verbosity import is_verbose, quieted
from pretrain.data.preprocess import Preprocess
from transfer.checkpoints.files import Source, file_sha256
from transfer.checkpoints.folder import (
    CONFIG,
    NOTHING,
    PREPROCESSOR,
    check_architecture,
    read_folder,
)
from transfer.checkpoints.installed_package import find_in_package
from transfer.checkpoints.networks.architectures import is_known
from transfer.checkpoints.provenance import timm_preprocess
from transfer.checkpoints.readers.not_weights import what_text_it_is
from transfer.checkpoints.readers.raw import open_file
from transfer.checkpoints.web import TIMEOUT_SECONDS, TooSlow, opened_url

logger = logging.getLogger(__name__)

HUB_FILES = ("model.safetensors", "pytorch_model.bin", "checkpoint.pth", "model.pth")
ZOO = "https://dl.fbaipublicfiles.com/detectron2/"  # Detectron2's utils/file_io.py
NOTE = "source.json"  # a note next to each file: its URL and sha256
# bytes; file systems allow 255, and the name of a file that is being written is longer
LONGEST_NAME = 200
REMEDY = "give a file that you have downloaded, or try again online"


def fetch(source: str) -> Source:
    """Returns the local copy of a remote source, and what the place says about it.

    Raises:
        InputError: an unknown name, no network, or a file that is not the one that was named.
    """
    scheme, _, rest = source.partition(":")
    try:
        source.encode()
    except UnicodeEncodeError:
        raise InputError(
            f"{source} has a character that no name on a network has; remove it"
        ) from None
    return SCHEMES[scheme](source, rest)


def download(url: str) -> Path:
    """Returns a URL's file in the cache; its bytes must have the sha256 that `#sha256=...` states.

    A name that ends in `-` and 8 or more hexadecimal digits, as torchvision's, holds the first
    digits of the sha256. Without either, later downloads must have the sha256 of the first one.

    Raises:
        InputError: offline, an error of the server, a short file, or a different sha256.
    """
    address, _, fragment = url.partition("#")
    name = _file_name(address)
    file = cache_folder() / hashlib.sha256(address.encode()).hexdigest()[:16] / name
    _make(file.parent)
    with locked(file.parent, f"waiting for another process that downloads {address}"):
        sweep(file.parent)
        note = file.parent / NOTE
        stated = _stated_sha256(url, fragment, name)
        if not (file.is_file() and note.is_file()):
            _check_whole(address, file, *_download(address, file, stated))
            content = {"url": address, "sha256": file_sha256(file)}
            atomic_write_text(note, json.dumps(content, indent=1))
            return file
        stored = _noted_sha256(note)
        wanted, found = stated or stored, file_sha256(file)
        if found != stored:
            raise InputError(
                f"{file} is damaged (sha256 {found[:16]}, not {stored[:16]}): delete it"
            )
        if not found.startswith(wanted):
            raise InputError(
                f"{file} has the sha256 {found[:16]}, but {wanted[:16]} is required: if the file "
                "at this URL has changed, delete the local file, and it is downloaded again"
            )
    return file


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        raise InputError(
            f"the cache folder {folder} cannot be written ({error.strerror}); set MSCN_CACHE to a "
            "folder that this user may write"
        ) from error


def _file_name(address: str) -> str:
    """Returns the last part of a URL's path; "weights" if that cannot be the name of a file."""
    name = Path(address.split("?")[0]).name
    taken = name in (NOTE, LOCK_FILE) or not name.strip(".")
    return "weights" if taken or len(name.encode()) > LONGEST_NAME else name


def _noted_sha256(note: Path) -> str:
    """Returns the sha256 that the note next to a downloaded file states."""
    try:
        stored = read_json(note)["sha256"]
    except (OSError, ValueError, KeyError, TypeError):
        stored = None
    if not isinstance(stored, str) or not re.fullmatch(r"[0-9a-f]{64}", stored):
        raise InputError(f"{note} is damaged: delete the folder {note.parent}")
    return stored


def _stated_sha256(url: str, fragment: str, name: str) -> str:
    """Returns the hexadecimal digits with which the sha256 begins; "" if nothing is stated.

    Raises:
        InputError: a fragment that states nothing that can be checked.
    """
    if fragment.startswith("sha256="):
        digits = fragment[len("sha256=") :].lower()
        if not re.fullmatch(r"[0-9a-f]{8,64}", digits):
            raise InputError(f"{url}: #sha256= needs 8 to 64 hexadecimal digits after it")
        return digits
    if fragment:
        raise InputError(f"{url}: #{fragment} is not known; give #sha256=DIGITS, or nothing")
    suffix = re.search(r"-([0-9a-f]{8,})\.", name)
    return suffix[1] if suffix else ""


def _download(url: str, file: Path, wanted: str) -> tuple[bool, bool]:
    """Writes the complete file, or none. Returns whether its length and its sha256 were stated."""
    measured = [False]

    def receive(out: BinaryIO) -> None:
        measured[0] = _receive(url, out, file.name, wanted)

    try:
        atomic_write(file, receive)
    # HTTPError and URLError are OSErrors; a chunked answer that is cut off is an HTTPException.
    except (OSError, ValueError, HTTPException) as error:
        reason = f"no connection ({error})"
        if isinstance(error, HTTPError):
            reason = f"the server answers {error.code}"
        elif isinstance(error, TooSlow):
            reason = str(error)
        raise InputError(f"{url} cannot be downloaded: {reason}; {REMEDY}") from error
    return measured[0], bool(wanted)


def _check_whole(url: str, file: Path, measured: bool, hashed: bool) -> None:
    """Removes a file that was cut off, or a text in its place, and raises InputError, so that the
    next run loads it again. Proxies and pages for logging in answer with a text.

    If the server has stated a length, which can be wrong, only a truncated file is removed. The
    reader reports other damage.
    """
    if hashed:
        return
    if file.stat().st_size and (text := what_text_it_is(file)):
        file.unlink()
        raise InputError(f"{url}: the server sends {text}; what it sent was not kept")
    try:
        open_file(file)
    except InputError as error:
        if measured and "is truncated" not in str(error):
            return
        file.unlink()
        stated = "states a wrong length" if measured else "does not state the length"
        raise InputError(
            f"{url}: the server {stated} of the file, and the download is not complete ({error}); "
            "try again"
        ) from error


# torch.hub.download_url_to_file keeps a file that was cut off, unless a sha256 is stated, and waits
# for a server without a limit.
def _receive(url: str, out: BinaryIO, name: str, wanted: str) -> bool:
    """Writes what a server sends; returns whether the server has said where it ends."""
    digest, done = hashlib.sha256(), 0
    with opened_url(url, REMEDY) as (answer, pace):
        size = int(answer.headers.get("Content-Length") or 0)
        # The end of an answer without a length is not known, unless it is in chunks.
        measured = size or getattr(answer, "chunked", False)
        with ProgressBar(total=size or None, unit="B", unit_scale=True, desc=name) as bar:
            while piece := answer.read1(1 << 20):  # what has arrived, however little it is
                out.write(piece)
                digest.update(piece)
                done += len(piece)
                pace.add(len(piece))
                bar.update(len(piece))
    if size and done != size:
        raise InputError(f"{url}: only {done} of {size} bytes were downloaded; try again")
    if not digest.hexdigest().startswith(wanted):
        found = digest.hexdigest()[:16]
        raise InputError(
            f"{url}: its sha256 begins with {found}, but {wanted[:16]} is required; check the URL "
            "and the digits"
        )
    return bool(measured)


def _from_url(source: str, rest: str) -> Source:
    return Source(download(source))


def _from_zoo(source: str, rest: str) -> Source:
    if not re.fullmatch(r"//[\w./-]+\.\w+", rest):
        raise InputError(f"{source}: give detectron2://PATH of a file in Detectron2's model zoo")
    return Source(download(ZOO + rest.removeprefix("//")))


def _from_hub(source: str, rest: str) -> Source:
    repo, _, name = rest.partition(":")
    repo, _, revision = repo.partition("@")
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repo):
        raise InputError(f"{source}: give hf-hub:ORG/NAME[@REVISION][:FILE]")
    names = (name,) if name else HUB_FILES
    kept = any(isinstance(_in_hub_cache(repo, each, revision or None), str) for each in names)
    file = _first_hub_file(source, repo, names, revision or None)
    folder = None
    for beside in (CONFIG, PREPROCESSOR):
        try:
            found = _hub_file(source, repo, beside, revision or None)
        except InputError as error:
            if not kept:  # what it says about the input would be missing without a word
                raise
            logger.warning(
                "%s: it is not known if a %s is next to the weights: %s", source, beside, error
            )
            continue
        folder = found.parent if found else folder
    stated = read_folder(folder) if folder else NOTHING
    return Source(
        file, stated.preprocess, architecture=stated.architecture, backbone=stated.backbone
    )


def _first_hub_file(source: str, repo: str, names: tuple[str, ...], revision: str | None) -> Path:
    for name in names:
        if file := _hub_file(source, repo, name, revision):
            return file
    raise InputError(f"{source} has no {' or '.join(names)}; name its file: hf-hub:{repo}:FILE")


def _in_hub_cache(repo: str, name: str, revision: str | None) -> object:
    """A file's path in Hugging Face's cache; None, or its mark for a file that the repository does
    not have."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        return try_to_load_from_cache(repo, name, revision=revision)
    except (HFValidationError, OSError):  # `hf_hub_download` says what is wrong
        return None


def _hub_file(source: str, repo: str, name: str, revision: str | None) -> Path | None:
    """Returns a repository's file in Hugging Face's cache; None if the repository lacks it."""
    from huggingface_hub import _CACHED_NO_EXIST, hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    endpoint = os.environ.get("HF_ENDPOINT")
    # the cache first: offline its client tries the network for half a minute
    kept = _in_hub_cache(repo, name, revision)
    if isinstance(kept, str):
        return Path(kept)
    # its two lines for each of six attempts; the error below says it once
    silence = nullcontext() if is_verbose() else quieted("huggingface_hub")
    try:
        with silence:
            found = hf_hub_download(
                repo, name, revision=revision, endpoint=endpoint, etag_timeout=TIMEOUT_SECONDS
            )
        return Path(found)
    except LocalEntryNotFoundError as error:
        if kept is _CACHED_NO_EXIST:
            return None
        raise InputError(
            f"{source} is not in the cache and no connection was made; {REMEDY}"
        ) from error
    except EntryNotFoundError:
        return None
    except Exception as error:  # its client has its own kinds of errors for one cause: the answer
        reason = " ".join(str(error).split())[:160]
        raise InputError(f"{source} cannot be downloaded: {reason}; {REMEDY}") from error


def _from_torchvision(source: str, rest: str) -> Source:
    import torchvision

    model, _, name = rest.partition("/")
    check_architecture(source, model, is_known)
    known = torchvision.models.get_model_weights(model)
    if name not in known.__members__:
        names = ", ".join(known.__members__)
        raise InputError(
            f"{source}: torchvision does not have these weights for {model}; it has {names}"
        )
    weights = known[name]
    transforms = weights.transforms()
    preprocess = Preprocess(tuple(transforms.mean), tuple(transforms.std))
    facts = {"source": f"torchvision:{model}/{name}", "method": "supervised"}
    return Source(download(weights.url), preprocess, facts)


def _from_timm(source: str, rest: str) -> Source:
    import timm
    from timm.models import get_pretrained_cfg

    model = rest.partition(".")[0]
    if not timm.is_model(model):
        hint = near_matches(model, timm.list_models())
        raise InputError(f"{source}: timm has no model {model!r}{hint}")
    check_architecture(source, model)
    try:
        config = get_pretrained_cfg(rest, allow_unregistered=False)
    except RuntimeError:
        config = None
    if config is not None and config.hf_hub_id:
        repo = config.hf_hub_id
        repo = f"{repo}{rest}" if repo.endswith("/") else repo
        file = _first_hub_file(source, repo, HUB_FILES, None)
    elif config is not None and isinstance(config.url, str):
        file = download(config.url)
    else:
        tags = ", ".join(sorted(timm.list_models(f"{model}.*", pretrained=True)))
        raise InputError(
            f"{source}: timm does not have these weights; it has {tags or 'none for this model'}"
        )
    return Source(file, timm_preprocess(config.to_dict()), {"source": source}, backbone=model)


SCHEMES: dict[str, Callable[[str, str], Source]] = {
    "http": _from_url,
    "https": _from_url,
    "hf-hub": _from_hub,
    "torchvision": _from_torchvision,
    "timm": _from_timm,
    "detectron2": _from_zoo,
    "package": find_in_package,
}
