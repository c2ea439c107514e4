"""Builds the CUDA runtime that does nothing, and says how to start a process with it.

It needs a C compiler and the CUDA build of torch, whose wheels contain the headers; `missing` names
what is not there. Libraries are built in the system's temporary folder and never committed.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

FOLDER = Path(__file__).resolve().parent
SOURCES = [FOLDER / "no_op_cuda.c", FOLDER / "crt" / "host_defines.h"]
LIBRARY = "libcuda.so.1"  # torch also opens it by this name


def compiler() -> str | None:
    """The path of a C compiler."""
    return next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)


def headers() -> Path | None:
    """The folder of CUDA's runtime headers next to torch."""
    packages = Path(torch.__file__).resolve().parents[1]
    found = sorted(packages.glob("nvidia/**/include/driver_types.h"))
    return found[0].parent if found else None


def missing() -> str | None:
    """Why the runtime cannot be built here; None if it can."""
    if not sys.platform.startswith("linux"):
        return "the no-op CUDA runtime is loaded with LD_PRELOAD, which only Linux has"
    if not torch.backends.cuda.is_built() or headers() is None:
        return "the no-op CUDA runtime needs the CUDA build of torch and its headers"
    if compiler() is None:
        return "the no-op CUDA runtime needs a C compiler (cc, gcc or clang)"
    return None


def build() -> Path:
    """Compiles the runtime, once for each of its versions; returns the folder that holds it."""
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in SOURCES)).hexdigest()[:12]
    name = f"no-op-cuda-{os.getuid()}-{torch.__version__}-{digest}"
    folder = Path(tempfile.gettempdir()) / name
    if not (folder / LIBRARY).is_file():
        folder.mkdir(mode=0o700, exist_ok=True)
        draft = folder / f"{LIBRARY}.{os.getpid()}"
        options = ["-shared", "-fPIC", "-O1", "-w", f"-I{FOLDER}", f"-I{headers()}"]
        command = [compiler(), *options, "-o", draft, SOURCES[0], "-ldl"]
        subprocess.run([str(word) for word in command], check=True)
        draft.replace(folder / LIBRARY)  # at once, since several test processes may build it
    return folder


def environment(*, count: int = 1, capability: int = 80, gib: int = 80) -> dict[str, str]:
    """The environment of a process that sees `count` GPUs of this compute capability times ten and
    this memory."""
    folder = build()
    libraries = [str(folder), *filter(None, [os.environ.get("LD_LIBRARY_PATH")])]
    return {
        **os.environ,
        "LD_PRELOAD": str(folder / LIBRARY),
        "LD_LIBRARY_PATH": ":".join(libraries),
        "PRETEND_GPU_COUNT": str(count),
        "PRETEND_GPU_CAPABILITY": str(capability),
        "PRETEND_GPU_GIB": str(gib),
        "OMP_NUM_THREADS": "1",
    }
