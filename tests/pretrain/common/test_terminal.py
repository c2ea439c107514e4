"""A command whose terminal is closed: it saves, or continues if nobody tells it to end."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pretrain.common.config import CHECKOUT

# A training of 100 steps that prints at each step, and saves when it is asked to end
COMMAND = """
import signal, sys, time
from pathlib import Path
folder, hangup = Path(sys.argv[1]), sys.argv[2]
signal.signal(signal.SIGHUP, signal.SIG_DFL if hangup == "heard" else signal.SIG_IGN)
from pretrain.common.cli import tool
from pretrain.common.stop_signals import asked, deferred, stop

@tool
def main(argv=None):
    with deferred():
        for step in range(100):
            print("step", step)
            print("step", step, file=sys.stderr)
            time.sleep(0.02)
            if asked():
                (folder / "saved").touch()
                stop()
    (folder / "complete").touch()

status = main()
(folder / "status").write_text(str(status))
"""


@pytest.mark.parametrize(
    "hangup, status, left", [("heard", 143, "saved"), ("ignored", 0, "complete")]
)
def test_a_closed_terminal(tmp_path: Path, hangup: str, status: int, left: str) -> None:
    number, terminal = pty.fork()
    if number == 0:
        os.chdir(CHECKOUT)
        os.execv(sys.executable, [sys.executable, "-c", COMMAND, str(tmp_path), hangup])
    while b"step 1" not in os.read(terminal, 1 << 12):
        pass
    os.close(terminal)  # the kernel sends SIGHUP, and each line that is printed fails
    os.waitpid(number, 0)
    assert {path.name for path in tmp_path.iterdir()} == {left, "status"}
    assert (tmp_path / "status").read_text() == str(status)


AFTER_ITS_END = """
import atexit, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
atexit.register(signal.raise_signal, signal.SIGINT)
from pretrain.common.cli import tool
sys.exit(tool(lambda _: 0)())
"""


def test_ctrl_c_after_a_command_has_ended_is_not_a_traceback() -> None:
    words = [sys.executable, "-c", AFTER_ITS_END]
    done = subprocess.run(words, cwd=CHECKOUT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (-signal.SIGINT, "")
