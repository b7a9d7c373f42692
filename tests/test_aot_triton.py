"""Every Triton kernel compiles for sm_80 and sm_90 where no GPU is: without spills, and with 16-byte accesses.

``python tests/test_aot_triton.py [kernel ...]`` prints what these compile to. A new kernel needs an entry in VARIANTS.
"""

import contextlib
import importlib
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

tl = pytest.importorskip("triton.language")
KERNELS = Path(__file__).parents[1] / "kernels"
CAPABILITIES = (80, 90)

# {kernel: its variants}, a variant being {parameter: type, or value where that is a constant}. Parameters that are not
# named are "i32". Pointers and integers are taken to be divisible by 16, as PyTorch's and those of most images are.
PAIRS = [("*fp32", "*fp32"), ("*bf16", "*fp32"), ("*fp16", "*fp32"), ("*fp64", "*fp64")]  # raw output, images beside it
BYTES = ("*u8", "i32", 0, 1, "i32", "i32")  # a mask shared by the channels
MASKED = [(*PAIRS[0], None, False), (*PAIRS[1], BYTES, False), (*PAIRS[1], BYTES, True), (*PAIRS[2], None, False)]
MASKED += [(*PAIRS[3], ("*fp32", "i32", "i32", 1, "i32", "i32"), True)]
CUT = {"SIGMA_DATA": 0.5, "BLOCK": 1024}
SUMS = {"SIGMA_DATA": 0.5, "BLOCK": 2048, "CHUNK": 16384, "num_warps": 8}
LAYOUTS = [{"CHANNELS": 0, "WAY": 0, "MASK_WAY": 0, "TILE": 1024, "BLOCK": 256}]
LAYOUTS += [{"CHANNELS": 0, "WAY": 0, "MASK_WAY": 2, "TILE": 1024, "BLOCK": 256}]
LAYOUTS += [{"CHANNELS": 3, "WAY": 1, "MASK_WAY": 1, "TILE": 1008, "BLOCK": 256}]
LAYOUTS += [{"CHANNELS": 3, "WAY": 2, "MASK_WAY": 2, "TILE": 1024, "BLOCK": 256}]


def level(pointer: str) -> tuple[str, int]:
    return pointer, 1


def images(pointer: str, *names: str) -> dict[str, str]:
    return dict.fromkeys(names, pointer)


ID = level("*i64")
OBSERVED = {"index": ID, "observation_step": ("*i64", 0), "SIGMA_DATA": 0.5}
PERTURBED = {"sigma": level("*fp32"), "sample": ID, "step": ("*i64", 0), "SIGMA_DATA": 0.5, "MASK": ""}
NORMS = [
    {**images(T, "x", "y", "grad", "dx"), **images("*fp32", "gain", "offset", "mean", "rstd", "sums"), "A": tl.float32}
    | {"SILU": True, "WITH_DX": True, "EPS": 1e-5, "HERE_GROUPS": here, "CHANNELS": lanes, "PIXELS": 1024 // lanes}
    | {unit: 1}
    for T, unit, here, lanes in (("*bf16", "channel_stride", 4, 16), ("*fp32", "pixel_stride", 1, 8))
]
VARIANTS = {
    "philox_kernel": [{"out": "*i32", **images("*i64", "sample", "element", "step"), "BLOCK": 256}],
    "randn_kernel": [{"out": "*fp32", **images("*i64", "sample", "step"), "BLOCK": 256}],
    "total_kernel": [{"out": A, "partial": A, "BLOCK": 128} for A in ("*fp32", "*fp64")],
    "denoise_kernel": [{"D": A, "F": T, "x_t": A, "sigma": level(A), **CUT} for T, A in PAIRS],
    "denoise_backward_kernel": [
        {"grad": A, "dF": dF, "dx_t": dx_t, "sigma": level(A), **CUT}
        for T, A in PAIRS
        for dF, dx_t in ((T, A), (T, None), (None, A))
    ],
    "denoising_loss_kernel": [
        {"F": T, **images(A, "partial", "x_t", "y"), **dict.fromkeys(("sigma", "sigma_obs"), level(A))}
        | {"mask": mask, "CHANNELS_LAST": last, **SUMS}
        for T, A, mask, last in MASKED
    ],
    "denoising_loss_backward_kernel": [
        {"F": T, "dF": T, **images(A, "x_t", "y"), **dict.fromkeys(("grad", "sigma", "sigma_obs"), level(A))}
        | {"mask": mask, "CHANNELS_LAST": last, **CUT}
        for T, A, mask, last in MASKED
    ],
    "score_difference_loss_kernel": [
        {**images(T, "F_teacher", "F_fake"), **images(A, "u_t", "u", "loss", "weight"), "partial": partial}
        | {"sigma": level(A), "mask": mask, "CHANNELS_LAST": last, "ALPHA": 1.2, **SUMS}
        for T, A, mask, last in MASKED
        for partial in (None, A)
    ],
    "score_difference_total_kernel": [
        {**images(A, "loss", "weight", "partial"), "BLOCK": 128} for A in ("*fp32", "*fp64")
    ],
    "score_difference_loss_backward_kernel": [
        {**images(T, "F_teacher", "F_fake", "dF_teacher", "dF_fake"), **images(A, "u_t", "u", "du_t", "du")}
        | {**dict.fromkeys(("grad", "weight", "sigma"), level(A)), "mask": mask, "CHANNELS_LAST": last}
        | {"ALPHA": 1.2, **CUT}
        for T, A, mask, last in MASKED
    ],
    "observe_perturb_kernel": [
        *(
            {"images": T, "y": A, "x_t": None, "net_input": None, **dict.fromkeys(("sigma", "sample", "step"))}
            | {"sigma_obs": level(A), **OBSERVED, "MASK": mask, **layout}
            for (T, A, mask), layout in zip(
                [("*u8", "*fp32", ""), ("*u8", "*fp32", "shared"), ("*fp32", "*fp32", "each"), ("*fp64", "*fp64", "")],
                LAYOUTS,
                strict=True,
            )
        ),
        *(
            {"images": A, "y": None, "x_t": A, "net_input": T, **dict.fromkeys(("index", "observation_step"))}
            | {"sigma_obs": level(A), **PERTURBED, "sigma": level(A), **layout}
            for (T, A), layout in zip(PAIRS, LAYOUTS, strict=True)
        ),
        *(
            {"images": "*u8", "y": "*fp32", "x_t": "*fp32", "net_input": T, "sigma_obs": level("*fp32")}
            | {**PERTURBED, **OBSERVED, "MASK": mask, **layout}
            for T, mask in (("*bf16", "shared"), ("*fp16", "each"))
            for layout in LAYOUTS
        ),
    ],
    "observation_mask_kernel": [{"out": "*u8", "index": ID, "PACKED": p, "BLOCK": 256} for p in (False, True)],
    "perturb_backward_kernel": [
        {"dy": A, "grad_x_t": A, "grad_net_input": T, "sigma": level(A), **CUT} for T, A in PAIRS
    ],
    "blur_kernel": [
        {"out": T, "x": T, "taps": A, "ROWS": rows, "COLUMNS": columns, "ADJOINT": adjoint, "BLOCK": 256}
        for (T, A), (rows, columns) in zip(PAIRS, [(9, 1), (1, 9), (3, 3), (1, 5)], strict=True)
        for adjoint in (False, True)
    ],
    **{
        name: [{"out": T, x: T, "SUM": SUM, "BLOCK": 256} for T, SUM in (("*bf16", tl.float32), ("*fp64", tl.float64))]
        for name, x in (("downsample_kernel", "x"), ("downsample_adjoint_kernel", "y"))
    },
    "group_norm_silu_kernel": NORMS,
    "group_norm_silu_backward_kernel": NORMS,
}
# Those that stream images: but for bytes and masks, every access must be one of 16 bytes.
STREAMING = {"denoise_kernel", "denoise_backward_kernel", "perturb_backward_kernel", "denoising_loss_backward_kernel"}
STREAMING |= {"score_difference_loss_backward_kernel", "observe_perturb_kernel"}


def test_every_kernel_has_an_entry():
    source = "".join(path.read_text() for path in KERNELS.glob("*.py"))
    assert set(re.findall(r"^def (\w+_kernel)\(", source, re.M)) == set(VARIANTS)


@pytest.mark.slow
@pytest.mark.parametrize("kernel", VARIANTS)
def test_compiles(kernel, tmp_path):
    environment = {k: v for k, v in os.environ.items() if k not in ("TRITON_INTERPRET", "RSD_FAST_BACKEND")}
    environment["TRITON_CACHE_DIR"] = str(tmp_path)
    command = [sys.executable, __file__, kernel]
    done = subprocess.run(command, env=environment, cwd=Path(__file__).parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(found) == len(CAPABILITIES) * len(VARIANTS[kernel])
    for one in found:
        assert one["stack"] == one["spilled"] == 0, one
        assert one["fused"] == 0, one
        if kernel in STREAMING:
            assert one["stores"] and set(one["stores"]) <= {"v4.b32", "v2.b64"}, one
            narrow = set(one["loads"]) - {"v4.b32", "v2.b64"}
            assert not narrow or one["variant"].get("mask") or one["variant"].get("images") == "*u8", one


def report(name: str):
    """What each variant of the kernel compiles to, on each device."""
    for path in sorted(KERNELS.glob("*.py")):
        module = importlib.import_module(f"rsd_fast.kernels.{path.stem}")
        if re.search(rf"^def {name}\(", path.read_text(), re.M):
            for variant in VARIANTS[name]:
                for capability in CAPABILITIES:
                    yield {"kernel": name, "capability": capability, "variant": variant} | compiled(
                        getattr(module, name), variant, capability
                    )


def compiled(kernel, variant: dict, capability: int) -> dict:
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    constants, attributes = {}, {}

    def typed(value, path: tuple[int, ...], constant: bool):
        if isinstance(value, tuple):
            return tuple(typed(part, (*path, i), constant) for i, part in enumerate(value))
        if constant or not isinstance(value, str):
            constants[path] = value
            return "constexpr"
        attributes[path] = [["tt.divisibility", 16]]
        return value

    options = {"enable_fp_fusion": False} | {k: v for k, v in variant.items() if k not in kernel.arg_names}
    signature = {
        parameter.name: typed(variant.get(parameter.name, "i32"), (parameter.num,), parameter.is_constexpr)
        for parameter in kernel.params
    }
    for parameter in kernel.params:
        if parameter.do_not_specialize:
            attributes.pop((parameter.num,), None)
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs=attributes)
    with contextlib.redirect_stdout(io.StringIO()) as log:
        binary = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    ptx, log = binary.asm["ptx"], log.getvalue()
    stack, *spilled = map(int, re.search(r"(\d+) bytes stack frame, (\d+) \D+, (\d+) bytes spill", log).groups())
    # A noise level's load has no predicate.
    loads = re.findall(r"^\s*@%p\d+ ld\.global\.(v\d\.\w+|\w+)", ptx, re.M)
    return {
        "stack": stack,
        "spilled": sum(spilled),
        "registers": int(re.search(r"Used (\d+) registers", log)[1]),
        "shared": binary.metadata.shared,
        "fused": len(re.findall(r"\bfma\.rn", ptx)),
        "loads": {width: loads.count(width) for width in sorted(set(loads))},
        "stores": sorted(set(re.findall(r"st\.global\.(v\d\.\w+|\w+)", ptx))),
    }


if __name__ == "__main__":
    os.environ |= {"TRITON_ALWAYS_COMPILE": "1", "TRITON_DUMP_PTXAS_LOG": "1"}
    for name in sys.argv[1:] or VARIANTS:
        for one in report(name):
            print(json.dumps(one, default=str), flush=True)
