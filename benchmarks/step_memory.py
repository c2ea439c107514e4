"""Memory and FLOPs of a pretraining step of one process, without a GPU: computed at once, with
blocks computed again (BACKBONE.CHECKPOINTING), and in parts (SOLVER.ACCUMULATE).

They are counted as `pretrain/engine/footprint.py` counts them for the doctor, in float32.

    python benchmarks/step_memory.py --config simclr_r50.yaml --images 64
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from pretrain.common.config import load_config
from pretrain.defaults import get_defaults
from pretrain.engine.footprint import step_cost

CHECKPOINTING, IN_PARTS = ("BACKBONE.CHECKPOINTING", "True"), ("SOLVER.ACCUMULATE", "4")
WAYS: dict[str, tuple[str, ...]] = {  # overrides of the config
    "at once": (),
    "checkpointing": CHECKPOINTING,
    "in 4 parts": IN_PARTS,
    "in 4 parts, checkpointing": (*IN_PARTS, *CHECKPOINTING),
}


def measured(config: str, images: int, words: tuple[str, ...]) -> dict[str, float]:
    """Returns {"gib", "tflop"} of one step."""
    size = ("SOLVER.BATCH_SIZE", str(images), "SOLVER.BF16", "False")
    cost = step_cost(load_config(config, get_defaults(), (*size, *words), "pretrain"))
    return {"gib": cost.peak_bytes / 2**30, "tflop": cost.flops / 1e12}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", default="simclr_r50.yaml")
    parser.add_argument("--images", type=int, default=64, help="images of one process (64)")
    parser.add_argument("--output", type=Path, help="JSON file to write")
    args = parser.parse_args()
    found = {way: measured(args.config, args.images, words) for way, words in WAYS.items()}
    first = found["at once"]
    for values in found.values():
        values.update({f"{key} / at once": values[key] / first[key] for key in ("gib", "tflop")})
    text = json.dumps({"config": args.config, "images": args.images, "ways": found}, indent=1)
    print(text)
    if args.output:
        args.output.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
