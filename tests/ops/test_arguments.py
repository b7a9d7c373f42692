"""Every op through ``torch.ops``: a tensor of the wrong kind raises before any address is taken, whichever it is."""

import importlib

import pytest
import torch

from rsd_fast import ops


def images(dtype=torch.float32):
    return torch.randn(2, 3, 6, 8, generator=torch.Generator().manual_seed(0)).to(dtype)


SAMPLE, STEP, SIGMA, GRAD = torch.arange(2), torch.tensor(1), torch.tensor([0.5, 0.6]), torch.ones(2)
CHANNEL, TAPS, MASK = torch.ones(3), torch.ones(3, dtype=torch.float64) / 3, torch.ones(2, 1, 6, 8)
OBSERVED = (images(), SAMPLE, SIGMA, 0, STEP, "blur", TAPS, 1, 0.0, True, "")
DIFFUSION = (SIGMA, 0, SAMPLE, STEP, 0.5, torch.float32, False)
LOSS = (images(), images(), images(), SIGMA, SIGMA, 0.5, MASK)
SCORE = (images(), images(), images(), images(), SIGMA, 1.2, 0.5, MASK)
STATISTICS = torch.ones(2, 1)
ARGUMENTS = {
    "philox": (0, SAMPLE, SAMPLE, STEP, 0),
    "randn": ([2, 5], 0, SAMPLE, STEP, 0),
    "denoise": (images(), images(), SIGMA, 0.5),
    "denoise_backward": (images(), SIGMA, 0.5, torch.float32, torch.float32, False),
    "denoising_loss": LOSS,
    "denoising_loss_backward": (GRAD, *LOSS),
    "score_difference_loss": SCORE,
    "score_difference_loss_backward": (GRAD, GRAD, *SCORE, [True] * 4),
    "perturb": (images(), SIGMA, SIGMA, 0, SAMPLE, STEP, 0.5, torch.float32, False),
    "perturb_backward": (images(), images(), SIGMA, 0.5, torch.float32, False),
    "observe": (*OBSERVED, False),
    "observe_perturb": (*OBSERVED, *DIFFUSION),
    "blur": (images(), TAPS),
    "blur_adjoint": (images(), TAPS),
    "downsample": (images(), 2),
    "downsample_adjoint": (images(), 2, 12, 16),
    "group_norm_silu": (images(), CHANNEL, CHANNEL, 1, 1e-5, torch.ones(2, 3), torch.ones(2, 3), True),
    "group_norm_silu_backward": (
        *(images(), images(), CHANNEL, CHANNEL, torch.ones(2, 3), torch.ones(2, 3)),
        *(STATISTICS, STATISTICS, True, [True] * 5),
    ),
}
# The images that decide the others' device: on another one, they are right and the others wrong.
CASES = [
    (op, i)
    for op, arguments in ARGUMENTS.items()
    for i, argument in enumerate(arguments)
    if isinstance(argument, torch.Tensor)
]


def call(op, **changes):
    arguments = list(ARGUMENTS[op])
    for place, value in changes.items():
        arguments[int(place[1:])] = value
    return getattr(torch.ops.rsd_fast, op).default(*arguments)


def test_every_op_is_here():
    assert set(ARGUMENTS) == set(ops.backends())
    for op in ARGUMENTS:
        call(op)


@pytest.mark.parametrize(("op", "place"), CASES)
def test_a_tensor_of_the_wrong_kind(op, place):
    good = ARGUMENTS[op][place]
    wrong = {
        "device": good.to("meta"),
        "complex": good.to(torch.complex64),
        "another shape": torch.cat([good.reshape(-1), *[good.reshape(-1)[:1]] * (1 if good.ndim else 2)]),
    }
    if good.ndim:
        wrong["sparse"] = good.to_sparse()
    if good.is_floating_point():
        wrong["float8"] = good.to(torch.float8_e4m3fn)
    if sum(isinstance(a, torch.Tensor) for a in ARGUMENTS[op]) == 1:
        del wrong["device"], wrong["another shape"]  # nothing to differ from
    if op in ("blur", "blur_adjoint") and place == 0:
        del wrong["device"]  # the kernel's place is the CPU, wherever the images are
    if op == "philox":
        del wrong["another shape"]  # they broadcast, or not
        wrong["shapes that do not broadcast"] = torch.arange(3)
        if place == 3:
            del wrong["shapes that do not broadcast"]  # a step does with every shape
    for what, tensor in wrong.items():
        with pytest.raises((TypeError, ValueError)):
            call(op, **{f"_{place}": tensor})
            pytest.fail(f"{what}: did not raise")


@pytest.mark.parametrize(
    ("op", "place"),
    [
        *(("denoise", 2), ("perturb", 1), ("observe", 0), ("observe", 2), ("observe_perturb", 0), ("blur", 1)),
        *(("denoising_loss", place) for place in (1, 2, 3, 4, 6)),
        *(("score_difference_loss", place) for place in (4, 7)),
    ],
)
def test_a_gradient_that_there_is_not_raises(op, place):
    wanted = ARGUMENTS[op][place].clone().requires_grad_()
    with pytest.raises(ValueError, match="has no gradient in its argument"):
        call(op, **{f"_{place}": wanted})


@pytest.mark.skipif("compiler" not in ops.native_info(), reason="rsd_fast._C is not built")
def test_a_field_that_a_kernel_does_not_have_raises():
    kernels = importlib.import_module("rsd_fast._C").cpu
    kernels.denoising_loss(1, batch=0, mask={"pixels": 1})
    with pytest.raises(TypeError, match="unknown field: inputs"):
        kernels.denoising_loss(1, batch=0, inputs=0)
    with pytest.raises(TypeError, match="unknown field: pixel"):
        kernels.denoising_loss(1, batch=0, mask={"pixel": 1})


@pytest.mark.parametrize("dtype", [torch.int64, torch.complex64, torch.float8_e4m3fn])
def test_outputs_are_of_the_known_dtypes(dtype):
    for op, place in (("denoise_backward", 3), ("perturb", 7), ("perturb_backward", 4), ("observe_perturb", 16)):
        with pytest.raises(TypeError, match="dtype: expected a floating-point dtype"):
            call(op, **{f"_{place}": dtype})
