"""The command line, as its own process or in this one."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def cli(*args: object, code: int = 0) -> subprocess.CompletedProcess:
    """Run `rsd-fast args` as its own process; one line on stderr where it fails, none of a traceback."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "rsd_fast", *map(str, args)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT, check=False)
    assert done.returncode == code, done.stderr
    if code:
        lines = done.stderr.strip().splitlines()
        assert len(lines) == 1 and lines[0].startswith("Error: "), done.stderr
    return done


def two_processes(*args: object) -> None:
    """Run `rsd-fast args` as two processes of torchrun, over gloo."""
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "rsd_fast"]
    # Without the --, torchrun, on Python 3.11, takes --run for the beginning of an option of its own.
    command = [*launch, "--", *map(str, args)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run(command, check=True, env=environment, cwd=ROOT, capture_output=True)


def run_in_process(capsys, *args: object) -> tuple[int, str, str]:
    """The same without a new process, for the many cases of bad input."""
    from rsd_fast.cli import main

    old, sys.argv = sys.argv, ["rsd-fast", *map(str, args)]
    try:
        main.main()
        code = 0
    except SystemExit as stop:
        code = int(stop.code or 0)
    finally:
        sys.argv = old
    return code, *capsys.readouterr()
