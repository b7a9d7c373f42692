"""The CUDA kernels without a GPU: each compiles without spills, and those that work on packs move 16 bytes at a time.

What a file must hold is read from the file itself, so that a new one is covered as it is: an instance of a kernel with
its template parameter kPacked true, or of one without that parameter, whose body calls load_pack has 128-bit loads, and
where it calls store_pack, or stores a uint4 or float4, 128-bit stores.
"""

import re
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCES = sorted((ROOT / "csrc").glob("*_cuda.cu"))
ARCHITECTURES = ("sm_80", "sm_90")
FLAGS = [
    flag
    for flags in re.findall(r"COMPILE_LANGUAGE:CUDA>:([^>]*)>", (ROOT / "CMakeLists.txt").read_text())
    for flag in flags.split(";")
]
WIDE = {  # access: what asks for it in the source, and how the disassembly and PTX spell it
    "load": (r"\bload_pack\(", r"\bLDG\.E\.128", r"\bld\.global\.nc\.(v4\.\w32|v2\.\w64)"),
    "store": (
        r"\bstore_pack\(|reinterpret_cast<\w+4\*>\([^()]*\)(\[\w+\])?( =|,)",
        r"\bSTG\.E\.128",
        r"\bst\.global(\.\w+)?\.(v4\.\w32|v2\.\w64)",
    ),
}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("nvcc") is None, reason="needs nvcc"),
]
each = pytest.mark.parametrize(
    ("source", "architecture"),
    [(source, architecture) for source in SOURCES for architecture in ARCHITECTURES],
    ids=lambda value: value.stem if isinstance(value, Path) else value,
)


def nvcc(*arguments):
    command = ["nvcc", "-std=c++17", *FLAGS, "-DRSD_WITH_CUDA", f"-I{ROOT / 'csrc'}", *map(str, arguments)]
    return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """{(source, architecture): (file of machine code, nvcc's process)}, two at a time."""
    folder = tmp_path_factory.mktemp("cubin")

    def compile_(pair):
        source, architecture = pair
        file = folder / f"{source.stem}.{architecture}.cubin"
        return file, nvcc(f"-arch={architecture}", "-Xptxas=-v", "-cubin", "-o", file, source)

    pairs = [(source, architecture) for source in SOURCES for architecture in ARCHITECTURES]
    with ThreadPoolExecutor(2) as pool:
        return dict(zip(pairs, pool.map(compile_, pairs), strict=True))


@cache
def cuobjdump():
    """The disassembler: of the PATH, of the toolkit that nvcc is of, or Triton's; None without one."""
    toolkit = re.search(r"_HERE_=(.+)", nvcc("--dryrun", "-cubin", SOURCES[0]).stdout)
    triton = find_spec("triton")
    folders = [Path(toolkit[1].strip())] if toolkit else []
    if triton and triton.origin:
        folders.append(Path(triton.origin).parent / "backends" / "nvidia" / "bin")
    return shutil.which("cuobjdump") or next(
        (found for folder in folders if (found := shutil.which("cuobjdump", path=str(folder)))), None
    )


def instances(cubin, source, architecture):
    """{mangled name of a kernel: its instructions}, and which spelling they are in: 1 for SASS, 2 for PTX."""
    if tool := cuobjdump():
        text = subprocess.run([tool, "-sass", str(cubin)], capture_output=True, text=True, check=True).stdout
        return dict(re.findall(r"Function : (\w+)\n(.*?)(?=\tFunction : |\Z)", text, re.S)), 1
    ptx = cubin.with_suffix(".ptx")
    done = nvcc(f"-arch={architecture}", "-ptx", "-o", ptx, source)
    assert done.returncode == 0, done.stdout
    return dict(re.findall(r"\.entry (\w+)\(\n(.*?)(?=\.entry |\Z)", ptx.read_text(), re.S)), 2


def kernels(source):
    """{name of a kernel: (its place for kPacked among its bool template parameters or None, its body)}."""
    text = source.read_text()
    for header in re.findall(r'#include "(\w+_tile\.cuh)"', text):  # of kernels that several ops share
        text += (source.parent / header).read_text()
    declared = list(re.finditer(r"(?:template <([^<>]*)>\s*)?__global__\s[^;{]*?\b(\w+_kernel)\(", text))
    assert len(declared) == text.count("__global__"), "a kernel's name ends in _kernel"
    ends = [match.start() for match in declared[1:]] + [len(text)]
    found = {}
    for match, end in zip(declared, ends, strict=True):
        flags = re.findall(r"\bbool (\w+)", match[1] or "")
        found[match[2]] = flags.index("kPacked") if "kPacked" in flags else None, text[match.end() : end]
    return found


@each
def test_compiles_without_spills(compiled, source, architecture):
    _, done = compiled[source, architecture]
    assert done.returncode == 0, done.stdout
    reports = re.findall(
        r"Function properties for (\w+)\n\s*(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads",
        done.stdout,
    )
    assert len(reports) >= len(kernels(source)) > 0
    assert {name: used for name, *used in reports if used != ["0", "0", "0"]} == {}


@each
def test_packs_move_16_bytes_at_a_time(compiled, source, architecture):
    cubin, done = compiled[source, architecture]
    assert done.returncode == 0, done.stdout
    code, spelling = instances(cubin, source, architecture)
    for kernel, (flag, body) in kernels(source).items():
        mine = {name: text for name, text in code.items() if re.search(rf"\d{kernel}(?![a-z_])", name)}
        assert mine, f"{kernel} has no instance"
        packed = {
            name: text for name, text in mine.items() if flag is None or re.findall(r"Lb([01])E", name)[flag] == "1"
        }
        assert packed, f"{kernel} has no instance that packs"
        for access, words in WIDE.items():
            if re.search(words[0], body):
                narrow = [name for name, text in packed.items() if not re.search(words[spelling], text)]
                assert not narrow, f"{kernel}: no 128-bit {access}"
