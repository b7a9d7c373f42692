"""The CPU kernels are compiled for several instruction sets: all that this machine has give the same bits, group norm's
all that have fused multiply-adds."""

import os
import subprocess
import sys

import pytest
import torch

from rsd_fast import ops

pytestmark = pytest.mark.skipif("compiler" not in ops.native_info(), reason="rsd_fast._C is not built")
ISAS = ["baseline", "avx2", "avx512"]


def exact() -> list[torch.Tensor]:
    """What the ops compute, forward and backward, but for group norm."""
    random = torch.Generator().manual_seed(3)

    def normal(*shape, dtype=torch.float32):
        return torch.randn(shape, generator=random).to(dtype)

    shape, sample, sigma = (2, 3, 37, 41), torch.tensor([5, 6]), torch.tensor([0.5, 2.0])
    images = torch.randint(0, 256, shape, generator=random, dtype=torch.uint8)
    taps = torch.tensor([0.25, 0.5, 0.25])
    operators = ops.Operator.identity(), ops.Operator.mask(0.5), ops.Operator.blur(taps), ops.Operator.downsample(2)
    outputs = [ops.randn(shape, 1, sample, 2, 3), ops.philox(1, sample, 2, 3, 4).view(torch.int32)]
    for operator in operators:
        for channels_last in (False, True):
            options = ops.InputOptions(dtype=torch.bfloat16, channels_last=channels_last)
            keys = {"key": ops.Key(1, sample, 3), "observation_key": ops.Key(1, sample, 0)}
            outputs += ops.observe_perturb(images, operator, 0.2, sigma, **keys, options=options)
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        raw = [normal(*shape, dtype=dtype).requires_grad_() for _ in range(2)]
        images = [normal(*shape).requires_grad_() for _ in range(2)]
        mask = (normal(2, 1, 37, 41) > 0).float()
        losses = [
            ops.denoise(raw[0], images[0], sigma).flatten(1).sum(1),
            ops.denoising_loss(raw[0], images[0].detach(), images[1].detach(), sigma, 0.1, mask=mask),
            ops.score_difference_loss(*raw, *images, sigma, mask=mask),
            ops.blur(images[0], taps).square().flatten(1).sum(1),
            ops.downsample(images[0], 2).square().flatten(1).sum(1),
        ]
        for loss in losses:
            outputs.append(loss.detach())
            outputs += [g for g in torch.autograd.grad(loss.sum(), [*raw, *images], allow_unused=True) if g is not None]
    return outputs


def contracted() -> list[torch.Tensor]:
    """What group norm computes, forward and backward, with fused multiply-adds where the instruction set has them."""
    random, outputs = torch.Generator().manual_seed(4), []
    for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.float16):
        parameter_dtype = torch.promote_types(dtype, torch.float32)
        for shape in ((2, 24, 9, 7), (2, 272, 7, 5)):
            for memory_format in (torch.contiguous_format, torch.channels_last):
                x = torch.randn(shape, generator=random).to(dtype).contiguous(memory_format=memory_format)
                parameters = (torch.randn(shape[1], generator=random, dtype=parameter_dtype) for _ in range(2))
                leaves = [t.requires_grad_() for t in (x, *parameters)]
                y = ops.group_norm_silu(*leaves, shape[1] // 4, 1e-5)
                outputs += [y.detach(), *torch.autograd.grad(y, leaves, torch.ones_like(y))]
    return outputs


def test_instruction_sets_agree(tmp_path):
    here = ISAS.index(ops.native_info()["isa"])
    code = "import sys, torch, tests.ops.test_isa as t; torch.save((t.exact(), t.contracted()), sys.argv[1])"
    found = {}
    for isa in ISAS[: here + 1]:
        environment = {**os.environ, "RSD_FAST_ISA": isa, "RSD_FAST_BACKEND": "native", "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-c", code, tmp_path / isa]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        found[isa] = torch.load(tmp_path / isa)
    for isa, (same, fused) in found.items():
        assert all(map(torch.equal, same, found["baseline"][0])), isa
        assert all(map(torch.equal, fused, found["baseline" if isa == "baseline" else "avx2"][1])), isa
        for output, expected in zip(fused, found["baseline"][1], strict=True):
            atol = 8 * torch.finfo(output.dtype).eps * max(1, expected.abs().max().item())
            torch.testing.assert_close(output, expected, rtol=0, atol=atol)


def test_an_instruction_set_that_is_not_there_is_named():
    code = "import rsd_fast.ops"
    environment = {**os.environ, "RSD_FAST_ISA": "mmx"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode != 0 and "RSD_FAST_ISA: expected baseline to" in done.stderr
