"""The measurements of `gpu_check`: each row is a function of a `Size` and a device that returns its
`Entry`s, and uses only generated data.

A row may run on any device. If a device cannot give a number, the entry has no value and says why.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from fvcore.common.config import CfgNode
from torch import Tensor

from benchmarks import knn, run
from benchmarks.images import write_photos
from benchmarks.pipeline import finisher
from benchmarks.timing import measure
from pretrain.common.config import CHECKOUT, load_config
from pretrain.common.distributed import (
    close_distributed,
    distribute,
    init_distributed,
    launch,
    rank,
    seed_everything,
)
from pretrain.common.environment import describe_environment, describe_hardware
from pretrain.common.gpus import WORKSPACE
from pretrain.common.knn import nearest_neighbours
from pretrain.common.precision import amp_dtype, describe_precision
from pretrain.common.resources import cores
from pretrain.data.build import branches, build_view_maker, view_sizes
from pretrain.data.loader import Batch
from pretrain.data.preprocess import Preprocess
from pretrain.defaults import get_defaults
from pretrain.engine import footprint
from pretrain.engine.loop import (
    Training,
    finish_step,
    forward_backward,
    prepare,
    step_generator,
)
from pretrain.engine.run import convert_norms
from pretrain.methods.build import build_method
from transfer.detection import footprint as detection_footprint
from transfer.detection.config import load_detection_config
from transfer.detection.torchvision_engine.engine import make_detector
from transfer.training.build import make_optimizer
from transfer.training.loop import take_step

RECORDED = CHECKOUT / "tests" / "gpu" / "recorded.json"
NEEDS_CUDA = "needs a GPU: torch counts this only for CUDA"
SYNCHRONISES = "called a synchronizing CUDA operation"  # part of torch's warning
IMAGES = (256, 128, 64, 32, 16, 8)  # batch sizes that are tried until one fits


@dataclass(frozen=True)
class Size:
    """The size of the rows. The `tiny` size rehearses the command without a GPU."""

    tiny: bool = False
    simclr: str = "simclr_r50.yaml"
    mscn: str = "mscn_r50.yaml"
    words: tuple[str, ...] = ()  # overrides of both recipes
    images: int = 64  # images of a batch whose losses are compared
    gradient_images: int = 16  # images of a batch whose gradients are compared, in float64
    steps: int = 5  # steps whose losses are compared
    seconds: float = 4.0  # seconds of one measurement
    repetitions: int = 3
    detection: tuple[int, int] = (800, 1216)  # height, width of the two images
    detection_words: tuple[str, ...] = ("SOLVER.IMS_PER_BATCH", "2")
    bank: int = 50_000
    queries: int = 10_000
    dim: int = 2048


TINY = Size(
    tiny=True,
    simclr="simclr_r18_tiny100.yaml",
    mscn="mscn_r18_tiny100.yaml",
    words=("BACKBONE.NAME", "tiny_resnet"),  # ResNet-18 takes a minute on a small CPU
    images=8,
    gradient_images=8,
    steps=2,
    seconds=0.2,
    repetitions=1,
    detection=(64, 64),
    detection_words=(
        *("SOLVER.IMS_PER_BATCH", "2", "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", "8"),
        *("MODEL.RPN.POST_NMS_TOPK_TRAIN", "50", "MODEL.RPN.PRE_NMS_TOPK_TRAIN", "100"),
    ),
    bank=2000,
    queries=300,
    dim=32,
)


@dataclass(frozen=True)
class Entry:
    """One number or fact of a row; `note` explains the value, or says why it is missing."""

    what: str
    value: float | str | None
    note: str = ""


Row = Callable[[Size, torch.device], list[Entry]]


def environment(size: Size, device: torch.device) -> list[Entry]:
    """The card, its driver, the versions, and the project's commit."""
    versions, hardware = describe_environment(), describe_hardware()
    names = ("torch", "torchvision", "python", "git_commit")
    found = [Entry(name, versions[name]) for name in names]
    found += [Entry("cpu", hardware["cpu"], f"{hardware['cores']} cores")]
    if device.type != "cuda":
        cards = ("GPU", "memory GiB", "driver", "CUDA", "cuDNN")
        return [*(Entry(name, None, "no GPU is used here") for name in cards), *found]
    card = torch.cuda.get_device_properties(device)
    return [
        Entry("GPU", card.name, f"{torch.cuda.device_count()} of them"),
        Entry("memory GiB", round(card.total_memory / 2**30, 1)),
        _driver(),
        Entry("CUDA", torch.version.cuda),
        Entry("cuDNN", str(torch.backends.cudnn.version())),
        Entry("precision", describe_precision(amp_dtype(device)), "of mixed precision here"),
        *found,
    ]


def _driver() -> Entry:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        return Entry("driver", None, f"nvidia-smi did not answer: {type(error).__name__}")
    return Entry("driver", done.stdout.split("\n")[0].strip())


def step_ratio_simclr(size: Size, device: torch.device) -> list[Entry]:
    """The full step of SimCLR compared with its compute alone."""
    return _step_ratio(size.simclr, size, device)


def step_ratio_mscn(size: Size, device: torch.device) -> list[Entry]:
    """The full step of MSCN compared with its compute alone."""
    return _step_ratio(size.mscn, size, device)


def _step_ratio(name: str, size: Size, device: torch.device) -> list[Entry]:
    torch.backends.cudnn.benchmark = True  # as in training
    images, counted = largest_batch(name, size, device)
    options = run.Options(
        kind="step",
        batch_size=images,
        num_workers=1 if size.tiny else min(cores(), 16),
        seconds=size.seconds,
        repetitions=size.repetitions,
    )
    found = run.run(_recipe(name, size, images), options, device)
    rates = {part: values["images_per_second"]["median"] for part, values in found["parts"].items()}
    ratio = found["ratios"]["step / compute"]
    between = f"{ratio['low']:.3f} to {ratio['high']:.3f}; required: at least 0.9"
    return [
        Entry("images", images, f"{counted / 2**30:.2f} GiB counted"),
        Entry("step / compute", ratio["median"], between),
        Entry("slowest part alone", found["bottleneck"]),
        *(Entry(f"{part} images/s", rate) for part, rate in rates.items()),
    ]


def largest_batch(name: str, size: Size, device: torch.device) -> tuple[int, int]:
    """Images of the largest batch whose counted step fits the card, and the counted bytes.

    Raises ValueError if even the smallest batch does not fit.
    """
    if device.type != "cuda":
        return size.images, footprint.step_cost(_recipe(name, size, size.images)).peak_bytes
    memory = torch.cuda.get_device_properties(device).total_memory
    for images in (size.images,) if size.tiny else IMAGES:
        counted = footprint.step_cost(_recipe(name, size, images)).peak_bytes
        if counted * (1 + WORKSPACE) <= memory:
            return images, counted
    raise ValueError(f"{name} fits no card of {memory / 2**30:.1f} GiB, even with {images} images")


def _recipe(name: str, size: Size, images: int) -> CfgNode:
    words = [*size.words, "SOLVER.BATCH_SIZE", str(images)]
    cfg = load_config(name, get_defaults(), words, "pretrain").clone()
    cfg.defrost()
    return cfg


def _training(
    name: str, size: Size, images: int, folder: Path, device: torch.device
) -> tuple[Training, Batch]:
    """The recipe's training and one batch of its generated photographs, on the device."""
    cfg = _recipe(name, size, images)
    if not folder.exists():
        write_photos(folder, images)
    options = run.Options("step", images, 1, 0.0, 1)
    training = run.bench_training(cfg, options, folder, device)
    batch = next(iter(training.loader.steps(0, 1))).to(device)
    training.model.train()
    return training, batch


def losses(size: Size, device: torch.device) -> list[Entry]:
    """Losses of the same steps in half precision, compared with float32 without TF32."""
    tf32 = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        return [
            entry for name in (size.simclr, size.mscn) for entry in _losses_of(name, size, device)
        ]
    finally:
        torch.backends.cudnn.allow_tf32 = tf32


def _losses_of(name: str, size: Size, device: torch.device) -> list[Entry]:
    taken = {}
    kinds = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
    if device.type == "cpu":
        del kinds["fp16"]
    with tempfile.TemporaryDirectory(prefix="gpu_check_") as scratch:
        for kind, dtype in kinds.items():
            folder = Path(scratch) / "images"
            training, batch = _training(name, size, size.images, folder, device)
            taken[kind] = _losses(replace(training, amp=dtype), batch, size.steps)
    found = []
    for kind in ("bf16", "fp16"):
        what = f"{Path(name).stem}: {kind} from fp32"
        if kind not in taken:
            found.append(Entry(what, None, "needs a GPU: a CPU takes minutes for a step in fp16"))
            continue
        apart = [abs(a - b) / abs(b) for a, b in zip(taken[kind], taken["fp32"], strict=True)]
        steps = ", ".join(f"{value:.1e}" for value in apart)
        # Python's `max` would ignore a NaN that is not the first value.
        found.append(Entry(what, float(np.max(apart)), f"largest of the steps' {steps}"))
    return found


def _losses(training: Training, batch: Batch, steps: int) -> list[float]:
    seen = []
    for step in range(steps):
        outcome = forward_backward(training, prepare(training, batch, step))
        finish_step(training, outcome)
        seen.append(float(outcome["loss"]))
    return seen


def peak_memory(size: Size, device: torch.device) -> list[Entry]:
    """The most memory of a step, measured and counted."""
    torch.backends.cudnn.benchmark = True
    return [
        entry for name in (size.simclr, size.mscn) for entry in _peak_memory_of(name, size, device)
    ]


def _peak_memory_of(name: str, size: Size, device: torch.device) -> list[Entry]:
    images, counted = largest_batch(name, size, device)
    with tempfile.TemporaryDirectory(prefix="gpu_check_") as scratch:
        training, batch = _training(name, size, images, Path(scratch) / "images", device)
    given = prepare(training, batch, 0)  # made before, because the count does not include it

    def step() -> None:
        finish_step(training, forward_backward(training, given))

    peak = _peak(step, device)
    return _against_the_count(f"{Path(name).stem}, {images} images", peak, counted)


def _peak(step: Callable[[], object], device: torch.device) -> int | None:
    """Peak bytes of a third step; the first two steps make states and choose kernels."""
    step()
    if device.type != "cuda":
        return None
    step()
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    step()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device)


def _against_the_count(what: str, peak: int | None, counted: int) -> list[Entry]:
    note = f"{counted / 2**30:.3f} GiB counted"
    if peak is None:
        return [
            Entry(f"{what}: peak GiB", None, f"{NEEDS_CUDA}; {note}"),
            Entry(f"{what}: measured / counted", None, NEEDS_CUDA),
        ]
    return [
        Entry(f"{what}: peak GiB", peak / 2**30, note),
        Entry(f"{what}: measured / counted", peak / counted, "max_memory_allocated"),
    ]


def gradients(size: Size, device: torch.device) -> list[Entry]:
    """Gradients of two processes with SyncBN and DDP against one process on the full batch.

    They are in float64. In float32 the batch norms' sums round differently over two processes, a
    few values near 0 change their side of a ReLU, and gradients differ by up to 2 %, which could
    hide a mistake.
    """
    what = "SyncBN + DDP, 2 processes from 1"
    if device.type == "cuda" and torch.cuda.device_count() < 2:
        return [Entry(what, None, "needs 2 GPUs")]
    with tempfile.TemporaryDirectory(prefix="gpu_check_") as scratch:
        path = Path(scratch) / "gradient.pt"
        launch(_write_gradient, 2, (size, str(path)))
        two = torch.load(path, weights_only=True)
    one = _gradient(size, slice(None), device)
    apart = (two - one).norm() / one.norm()
    note = f"norm of the difference / norm, fp64, {size.gradient_images} images; rounding: 1e-12"
    return [Entry(what, float(apart), note)]


def _write_gradient(size: Size, path: str) -> None:
    """Runs in each of the two processes and writes its gradient."""
    device = init_distributed()
    half = size.gradient_images // 2
    gradient = _gradient(size, slice(rank() * half, (rank() + 1) * half), device)
    if rank() == 0:
        torch.save(gradient, path)
    close_distributed()


def _gradient(size: Size, part: slice, device: torch.device) -> Tensor:
    """All gradients in one vector, on the CPU, of a part of the batch."""
    cfg = _recipe(size.simclr, size, size.gradient_images)
    cfg.METHOD.BN_GROUP = 0  # batch norm over the images of all processes
    seed_everything(0)
    method = build_method(cfg, num_classes=10).to(device, torch.float64)
    method.to(memory_format=torch.channels_last)
    convert_norms(cfg, method, device)
    noise = torch.Generator().manual_seed(1)
    shapes = [(size.gradient_images, 3, side, side) for side in view_sizes(cfg)]
    views = [torch.randn(shape, generator=noise, dtype=torch.float64)[part] for shape in shapes]
    model = distribute(method.train())  # keep a name, or it is freed before `backward`
    outcome = model(
        [view.to(device) for view in views],
        branches(cfg),
        labels=torch.zeros(len(views[0]), dtype=torch.long, device=device),
        generator=torch.Generator().manual_seed(2),
    )
    outcome["loss"].backward()
    return torch.cat([p.grad.flatten() for p in method.parameters() if p.grad is not None]).cpu()


def detection_c4(size: Size, device: torch.device) -> list[Entry]:
    """A training iteration of Mask R-CNN R50-C4."""
    return _detection("coco_random.yaml", size, device)


def detection_fpn(size: Size, device: torch.device) -> list[Entry]:
    """A training iteration of Mask R-CNN R50-FPN."""
    return _detection("coco_random_fpn_4conv1fc_1x.yaml", size, device)


def _detection(name: str, size: Size, device: torch.device) -> list[Entry]:
    cfg = load_detection_config(name, size.detection_words)
    counted = detection_footprint.step_cost(cfg, size=size.detection)
    torch.backends.cudnn.benchmark = cfg.CUDNN_BENCHMARK
    seed_everything(0)
    detector = make_detector(cfg, Preprocess()).to(device).train()
    if cfg.TRANSFER.CHANNELS_LAST:
        detector.to(memory_format=torch.channels_last)
    optimizer = make_optimizer(cfg, detector)
    for group in optimizer.param_groups:
        group["lr"] *= 0.01  # as in the warmup, so that noise does not diverge
    batch = [_scene(*size.detection, seed) for seed in range(cfg.SOLVER.IMS_PER_BATCH)]

    def step() -> int:
        take_step(detector, [batch], optimizer, "an iteration")
        return 1

    peak = _peak(step, device)
    seconds = 1 / measure(step, size.seconds, finisher(device)).images_per_second
    height, width = size.detection
    note = f"fp32, {len(batch)} generated images of {height} x {width}, without reading"
    what = Path(name).stem
    return [
        Entry(f"{what}: s/iteration", seconds, note),
        *_against_the_count(what, peak, counted.peak_bytes),
    ]


def _scene(height: int, width: int, seed: int) -> dict[str, object]:
    """Noise with eight objects of half its sides, as an element of a detector's batch."""
    noise = torch.Generator().manual_seed(seed)
    share = torch.linspace(0, 0.5, 8)[:, None]
    extent = torch.tensor([float(width), float(height)])
    corners = share * extent
    boxes = torch.cat([corners, corners + extent / 2], dim=1)
    polygons = [
        [np.array([a, b, c, b, c, d, a, d], dtype=np.float64)] for a, b, c, d in boxes.tolist()
    ]
    return {
        "image": torch.randint(256, (3, height, width), generator=noise, dtype=torch.uint8),
        "boxes": boxes,
        "classes": torch.zeros(8, dtype=torch.long),
        "polygons": polygons,
    }


def knn_search(size: Size, device: torch.device) -> list[Entry]:
    """The exact search on the device, and a comparison of a part of it with the CPU's."""
    bank, queries = (knn.clusters(n, size.dim, s) for s, n in enumerate((size.bank, size.queries)))
    k = min(200, size.bank)
    nearest_neighbours(bank[: 2 * k], queries[:100], k, device=device)  # the first call is slow
    finish = finisher(device)
    finish()
    start = time.perf_counter()
    found = nearest_neighbours(bank, queries, k, device=device)
    finish()
    seconds = time.perf_counter() - start
    part = queries[:100]
    ours = found.index[: len(part)].cpu().numpy()
    other = nearest_neighbours(bank, part, k, device=torch.device("cpu")).index.numpy()
    same = knn.agreement(ours, other, bank, part)
    what = f"{size.queries} x {size.dim} in {size.bank}"
    return [
        Entry(f"{what}: s", seconds, f"{k} nearest, copies to the device included"),
        Entry("neighbours as the CPU's", same["in common"], f"share, of {len(part)} queries"),
        Entry("largest difference of a cosine", same["similarity"], "in float64, place by place"),
    ]


def view_synchronisations(size: Size, device: torch.device) -> list[Entry]:
    """How often the host waits while views are made, by torch's own debug mode."""
    recorded = json.loads(RECORDED.read_text()) if RECORDED.is_file() else {}
    found = []
    for name in (size.simclr, size.mscn):
        cfg = _recipe(name, size, size.images)
        maker = build_view_maker(cfg)
        crops = []
        for side in view_sizes(cfg):
            crop = torch.zeros(size.images, side, side, 3, dtype=torch.uint8)
            crop = crop.pin_memory() if device.type == "cuda" else crop
            crops.append(crop.permute(0, 3, 1, 2))

        def views() -> None:
            on_device = [crop.to(device, non_blocking=True) for crop in crops]
            maker(on_device, step_generator(0, 0))

        views()  # constants and the CUDA context are made once
        what, case = Path(name).stem, f"{Path(name).stem}@1"
        expected = recorded.get(case, {}).get("views_synchronisations", "none")
        note = f"recorded on pretended CUDA: {expected}"
        if device.type != "cuda":
            found.append(Entry(what, None, f"{NEEDS_CUDA}; {note}"))
            continue
        if synchronisations(lambda: torch.ones(1, device=device).item()) != 1:
            raise RuntimeError("torch's debug mode did not report an intentional wait")
        found.append(Entry(what, synchronisations(views), note))
    return found


def synchronisations(action: Callable[[], object]) -> int:
    """The number of waits for the GPU that torch's debug mode reports for an action."""
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            action()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return sum(SYNCHRONISES in str(warning.message) for warning in seen)


# By name: the row and its share of the time.
ROWS: dict[str, tuple[Row, float]] = {
    "environment": (environment, 0.04),
    "step ratio, SimCLR": (step_ratio_simclr, 0.22),
    "step ratio, MSCN": (step_ratio_mscn, 0.24),
    "losses in half precision": (losses, 0.11),
    "peak memory of a step": (peak_memory, 0.11),
    "gradients of two processes": (gradients, 0.08),
    "detection, C4": (detection_c4, 0.06),
    "detection, FPN": (detection_fpn, 0.06),
    "kNN": (knn_search, 0.04),
    "synchronisations of the views": (view_synchronisations, 0.04),
}
