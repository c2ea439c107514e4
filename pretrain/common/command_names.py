"""What a command is called: `tools/NAME.py` in a clone, `mscn-...` in an installed package."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from pretrain.common.config import is_checkout

# By the script's name, as in setup.cfg; an installed package does not have the scripts.
COMMANDS = {
    "train_ssl": "mscn-pretrain",
    "convert_weights": "mscn-convert",
    "train_det": "mscn-train-det",
    "train_cls": "mscn-train-cls",
    "run_suite": "mscn-suite",
    "report": "mscn-report",
    "doctor": "mscn-doctor",
    "visualize": "mscn-visualize",
    "make_digits": "mscn-digits",
}
SCRIPT = re.compile(rf"(?:python )?\btools/({'|'.join(COMMANDS)})\.py\b")


def as_started(text: str) -> str:
    """Returns the text with the commands' names as the user can start them: unchanged for a script
    of a clone, with `mscn-report` in place of `python tools/report.py` if this process is a command
    of the package, or if the package was installed without the scripts.
    """
    return SCRIPT.sub(_as_started, text)


def _as_started(script: re.Match[str]) -> str:
    if Path(sys.argv[0]).name not in COMMANDS.values() and is_checkout():
        return script[0]
    return COMMANDS[script[1]]
