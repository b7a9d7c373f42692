"""Reads mutations of the *.seed files in the working folder: each is an object or a CheckpointError, and no trace.

A script of its own for test_unpickle, `fuzz_unpickle.py COUNT SEED`: what an audit hook forbids stays forbidden.
"""

import io
import os
import random
import resource
import signal
import sys
import zipfile
from pathlib import Path
from typing import Any

from rsd_fast.convert.torch_files import read
from rsd_fast.convert.unpickle import CheckpointError

OPCODES = b"(.012FINJKMLRSTUVXabcdeghijlopqrstu}]){Q" + bytes([0x80, 0x81, *range(0x85, 0x97)])
FORBIDDEN = (
    *("exec", "compile", "import", "code.__new__", "marshal.", "pickle.", "ctypes.", "socket.", "subprocess."),
    *("os.system", "os.exec", "os.fork", "os.posix_spawn", "os.remove", "os.rename", "os.mkdir", "os.rmdir", "shutil."),
)
MEMORY = 2**30  # beyond what the process has at the start
SECONDS = 5


class Hung(BaseException):
    """Past every handler of exceptions."""


def mutated(data: bytes, seeds: list[bytes], draw: random.Random) -> bytes:
    value = bytearray(data)
    for _ in range(draw.choice((1, 1, 2, 3, 6))):
        at = draw.randrange(len(value) + 1)
        size = draw.choice((1, 1, 2, 4, 8, 40))
        kind = draw.randrange(8)
        if kind == 0 and at < len(value):
            value[at] ^= 1 << draw.randrange(8)
        elif kind == 1:
            value[at:at] = draw.randbytes(size)
        elif kind == 2:
            del value[at : at + size]
        elif kind == 3:
            other = draw.choice(seeds)
            start = draw.randrange(len(other))
            value[at : at + draw.choice((0, size))] = other[start : start + draw.choice((size, 200))]
        elif kind == 4:
            del value[max(at, len(value) // 2) :]
        elif kind == 5 and at < len(value):
            value[at] = draw.choice(OPCODES)
        elif kind == 6:
            value[at : at + size] = draw.choice((b"\xff", b"\x00", b"\x7f", b"\x80")) * size
        else:
            value[at:at] = value[at : at + size] * draw.choice((1, 2, 100))
    return bytes(value)


def mutated_archive(data: bytes, seeds: list[bytes], draw: random.Random) -> bytes:
    """With one member mutated, and a checksum that fits it."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    name = draw.choice([next(name for name in members if name.endswith("data.pkl")), draw.choice(list(members))])
    members[name] = mutated(members[name], seeds, draw)
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, contents in members.items():
            archive.writestr(name, contents)
    return file.getvalue()


def forbid() -> None:
    """From here on executing, importing and writing end the process, as does a read that hangs."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))

    def hung(*_: Any) -> None:
        raise Hung(f"reads for more than {SECONDS} s")

    signal.signal(signal.SIGALRM, hung)

    def audit(event: str, args: tuple) -> None:
        writes = event == "open" and (args[2] or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        if event.startswith(FORBIDDEN) or writes:
            print(f"{event} {args}", file=sys.stderr, flush=True)
            os._exit(2)

    sys.addaudithook(audit)


def outcome(path: Path) -> str:
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        read(path)
        return "read"
    except CheckpointError as error:
        text = str(error)
        # Nothing the file claims may lead to asking for memory.
        return "refused" if text.startswith(f"{path}: ") and text.isprintable() and "memory" not in text else text
    except BaseException as error:
        return repr(error)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def main(count: int, seed: int) -> None:
    "".encode("cp437")  # zipfile's, imported on first use
    seeds = [path.read_bytes() for path in sorted(Path().glob("*.seed"))]
    draw = random.Random(seed)
    path = Path("mutated").absolute()
    outcomes = {"read": 0, "refused": 0}
    with open(path, "wb", buffering=0) as file:
        for number in range(-len(seeds), count):
            if number == 0:
                forbid()  # the seeds, as they are, have had imported what is imported on first use
                modules = set(sys.modules)
            data = draw.choice(seeds) if number >= 0 else seeds[number]
            if number >= 0:
                archive = data.startswith(b"PK") and draw.random() < 0.8
                data = (mutated_archive if archive else mutated)(data, seeds, draw)
            file.seek(0)
            file.truncate()
            file.write(data)
            result = outcome(path)
            if result not in outcomes or (number >= 0 and set(sys.modules) != modules):
                print(f"mutation {number}: {result}", file=sys.stderr, flush=True)
                os._exit(1)  # a traceback would be compiled
            outcomes[result] += 1
    print(outcomes)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
