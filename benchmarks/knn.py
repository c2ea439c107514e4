"""Seconds and memory of an exact kNN search: ours compared with faiss-cpu and scikit-learn.

The inputs are sizes. The output is a dict of builtins with the seconds of each search, ratios
within a repetition, the memory that each adds at its peak, and whether the neighbours are the same.
Every part starts from raw float32 features in memory (a float16 bank if its name says so) and ends
with the k nearest rows of each query by cosine similarity. Each peer gets a suitable form: an index
of inner products of unit vectors (faiss), Euclidean distances of unit vectors (scikit-learn).
"""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks import seconds
from benchmarks.timing import Work, interleaved, spread
from pretrain.common.knn import nearest_neighbours

OURS, HALF, MAPPED = "ours", "ours, float16 bank", "ours, float16 bank on disk"
FAISS, SKLEARN = "faiss-cpu", "scikit-learn"
CLASSES = 100
STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
Search = Callable[[], Any]  # returns rows of the bank (M, k)


@dataclass(frozen=True)
class Options:
    """bank, queries: numbers of rows. dim: length of a feature. k: number of neighbours."""

    bank: int
    queries: int
    dim: int
    repetitions: int
    k: int = 200


def run(options: Options) -> dict[str, Any]:
    """Measures ours and every peer that is importable, with torch's number of threads."""
    bank, queries = (
        clusters(n, options.dim, s) for s, n in enumerate((options.bank, options.queries))
    )
    found: dict[str, np.ndarray] = {}
    peaks: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory(prefix="bench_") as scratch:
        searches = own_searches(bank, queries, options.k, Path(scratch))
        searches.update(peer_searches(bank.numpy(), queries.numpy(), options.k))
        works = {name: work(name, search, found, peaks) for name, search in searches.items()}
        samples = interleaved(works, 0.0, options.repetitions)
    result = seconds.result(
        samples,
        [(ours, peer) for ours in (OURS, HALF) for peer in (FAISS, SKLEARN)],
        unit="search",
        options=asdict(options),
        config={**asdict(options), "threads": torch.get_num_threads()},
        device="cpu",
    )
    peers = {name: version(name) for name in (FAISS, SKLEARN) if name in samples}
    return {
        **result,
        "environment": {**result["environment"], **peers},
        "peak MiB above the inputs": {n: spread(values) for n, values in peaks.items() if values},
        "neighbours": {n: agreement(found[n], found[OURS], bank, queries) for n in found},
    }


def clusters(rows: int, dim: int, seed: int) -> Tensor:
    """Returns features (rows, dim) of overlapping clusters. The clusters are the same for every
    seed.
    """
    centres = torch.randn(CLASSES, dim, generator=torch.Generator().manual_seed(99))
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(CLASSES, (rows,), generator=generator)
    return centres[labels] + 2 * torch.randn(rows, dim, generator=generator)


def own_searches(bank: Tensor, queries: Tensor, k: int, folder: Path) -> dict[str, Search]:
    """The same search on a bank in float32, in float16, and in float16 mapped from a file."""
    half, path = bank.half(), folder / "bank.npy"
    np.save(path, half.numpy())

    def mapped() -> np.ndarray:
        rows = torch.from_numpy(np.load(path, mmap_mode="c"))
        return nearest_neighbours(rows, queries, k).index.numpy()

    return {
        OURS: lambda: nearest_neighbours(bank, queries, k).index.numpy(),
        HALF: lambda: nearest_neighbours(half, queries, k).index.numpy(),
        MAPPED: mapped,
    }


def peer_searches(bank: np.ndarray, queries: np.ndarray, k: int) -> dict[str, Search]:
    """Returns the searches of faiss and scikit-learn, if they are importable."""
    searches: dict[str, Search] = {}
    threads = torch.get_num_threads()
    if importlib.util.find_spec("faiss") is not None:
        import faiss

        def by_faiss() -> np.ndarray:
            faiss.omp_set_num_threads(threads)
            index, unit = faiss.IndexFlatIP(bank.shape[1]), bank.copy()
            faiss.normalize_L2(unit)
            index.add(unit)
            wanted = queries.copy()
            faiss.normalize_L2(wanted)
            return index.search(wanted, k)[1]

        searches[FAISS] = by_faiss
    from sklearn.neighbors import NearestNeighbors
    from sklearn.preprocessing import normalize
    from threadpoolctl import threadpool_limits

    def by_sklearn() -> np.ndarray:
        with threadpool_limits(threads):
            index = NearestNeighbors(n_neighbors=k, algorithm="brute").fit(normalize(bank))
            return index.kneighbors(normalize(queries), return_distance=False)

    searches[SKLEARN] = by_sklearn
    return searches


def work(
    name: str, search: Search, found: dict[str, np.ndarray], peaks: dict[str, list[float]]
) -> Work:
    """Stores the neighbours, and the memory that the search added, in the two dicts."""
    before: list[float] = []

    def prepare() -> None:
        before[:] = [reset_peak()]

    def once() -> None:
        found[name] = search()

    measure = seconds.once(once, prepare)

    def measured(duration: float) -> Any:
        sample = measure(duration)
        if before[0]:
            peaks.setdefault(name, []).append(round(memory_mib("VmHWM") - before[0], 1))
        return sample

    return measured


def reset_peak() -> float:
    """Resets the process's peak; returns its present resident MiB, or 0 if that is impossible."""
    try:
        CLEAR.write_text("5")
    except OSError:
        return 0.0
    return memory_mib("VmRSS")


def memory_mib(field: str) -> float:
    """Returns a field of /proc/self/status in MiB."""
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) / 1024


def agreement(
    rows: np.ndarray, ours: np.ndarray, bank: Tensor, queries: Tensor
) -> dict[str, float]:
    """Returns how the neighbours (M, k) compare with ours of float32.

    "in common" is the share of our neighbours that are among them. "similarity" is the largest
    difference, place by place, of the first 100 queries' cosines in float64 (rounding swaps
    neighbours that are equally near).
    """
    common = np.mean([len(np.intersect1d(a, b)) for a, b in zip(rows, ours)]) / ours.shape[1]
    unit = [torch.nn.functional.normalize(x.double(), dim=1) for x in (bank, queries)]
    cosine = [
        torch.einsum("mkd,md->mk", unit[0][torch.from_numpy(index[:100])], unit[1][:100])
        for index in (rows.astype(np.int64), ours)
    ]
    return {"in common": float(common), "similarity": float((cosine[0] - cosine[1]).abs().max())}


def report(found: dict[str, Any]) -> str:
    """Returns the result as lines of text."""
    lines = [seconds.report(found)]
    for name, peak in found["peak MiB above the inputs"].items():
        lines.append(f"{name}: {peak['median']:.0f} MiB above the inputs")
    for name, value in found["neighbours"].items():
        if name != OURS:
            common, similarity = value["in common"], value["similarity"]
            lines.append(
                f"{name}: {100 * common:.4f} % of ours, similarity within {similarity:.1e}"
            )
    return "\n".join(lines)
