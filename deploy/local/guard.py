"""Runs a command that the system kills when its parent dies: ``python guard.py PARENT_PID COMMAND...``.

Killed, not asked: a parent that could still stop it in an orderly way would have done so, and a service that is just
loading a model would answer SIGTERM only after that.

A program of its own because the request must be made by the child itself, and doing that between fork and exec of a
process with threads is not safe. Only Linux has it; elsewhere the command runs unguarded and `make down` finds it.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main() -> None:
    parent, command = int(sys.argv[1]), sys.argv[2:]
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it died before the request was made
        return
    os.execvp(command[0], command)


if __name__ == "__main__":
    main()
