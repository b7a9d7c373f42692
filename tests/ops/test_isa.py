"""The CPU kernels are compiled for several instruction sets: all that this machine has give the same bits."""

import hashlib
import os
import subprocess
import sys

import pytest
import torch

from rsd_fast import ops

pytestmark = pytest.mark.skipif("compiler" not in ops.native_info(), reason="rsd_fast._C is not built")
ISAS = ["baseline", "avx2", "avx512"]


def digest() -> str:
    """Of what every op computes, forward and backward."""
    random = torch.Generator().manual_seed(3)

    def normal(*shape, dtype=torch.float32):
        return torch.randn(shape, generator=random).to(dtype)

    seen = hashlib.sha256()
    shape, sample, sigma = (2, 3, 37, 41), torch.tensor([5, 6]), torch.tensor([0.5, 2.0])
    images = torch.randint(0, 256, shape, generator=random, dtype=torch.uint8)
    taps = torch.tensor([0.25, 0.5, 0.25])
    operators = ops.Operator.identity(), ops.Operator.mask(0.5), ops.Operator.blur(taps), ops.Operator.downsample(2)
    outputs = [ops.randn(shape, 1, sample, 2, 3), ops.philox(1, sample, 2, 3, 4).view(torch.int32)]
    for operator in operators:
        for channels_last in (False, True):
            options = {"dtype": torch.bfloat16, "channels_last": channels_last}
            outputs += ops.observe_perturb(images, sample, operator, 0.2, 1, sigma, sample, 3, **options)
    x = normal(2, 24, 9, 7).to(memory_format=torch.channels_last).requires_grad_()
    y = ops.group_norm_silu(x, normal(24), normal(24), 6, 1e-5)
    outputs += [y.detach(), *torch.autograd.grad(y.square().sum(), [x])]
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
    for output in outputs:
        seen.update(output.contiguous().view(torch.uint8).numpy().tobytes())
    return seen.hexdigest()


def test_instruction_sets_agree():
    here = ISAS.index(ops.native_info()["isa"])
    code = "from tests.ops.test_isa import digest; print(digest())"
    digests = {}
    for isa in ISAS[: here + 1]:
        environment = {**os.environ, "RSD_FAST_ISA": isa, "RSD_FAST_BACKEND": "native", "OMP_NUM_THREADS": "1"}
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        digests[isa] = done.stdout.strip()
    assert len(set(digests.values())) == 1, digests


def test_an_instruction_set_that_is_not_there_is_named():
    code = "import rsd_fast.ops"
    environment = {**os.environ, "RSD_FAST_ISA": "mmx"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode != 0 and "RSD_FAST_ISA: expected baseline to" in done.stderr
