"""bfloat16: what is cast once rather than at every evaluation is the same bit for bit, and attention stays fused."""

import copy

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from rsd_fast import networks
from rsd_fast.build import build_denoiser
from rsd_fast.generator import latents
from rsd_fast.methods import DistillMethod
from rsd_fast.methods.distill import generate
from rsd_fast.networks import cast_weights, set_precision
from rsd_fast.networks.layers import dropout
from rsd_fast.sampler import Sampler
from tests import generators, tiny

SETTINGS = {"image_size": 16, "model_channels": 32, "channel_mult": (1, 2), "num_blocks": 1, "attn_resolutions": (8,)}


def network(architecture, **changes):
    torch.manual_seed(0)
    denoiser = networks.create(architecture, **{**SETTINGS, "label_dim": 4, **changes}).eval().requires_grad_(False)
    for parameter in denoiser.parameters():
        parameter.add_(torch.randn_like(parameter) * 0.05)
    set_precision(denoiser, "bf16")
    return denoiser.to(memory_format=torch.channels_last)


def inputs():
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(2, 3, 16, 16, generator=generator)
    return x, torch.tensor([0.3, 5.0]), torch.eye(4)[[1, 3]]


@pytest.mark.parametrize("changes", [{}, {"gated": True}, {"preconditioning": "vp"}], ids=["plain", "gated", "vp"])
@pytest.mark.parametrize("architecture", ["ddpmpp", "ncsnpp", "adm"])
def test_weights_cast_once_give_the_same_bits(architecture, changes):
    denoiser = network(architecture, **changes)
    x, *rest = inputs()
    x.requires_grad_()
    before = denoiser(x, *rest)
    (gradient,) = torch.autograd.grad(before.square().sum(), x)
    cast_weights(denoiser)
    after = denoiser(x, *rest)
    assert torch.equal(after, before)
    assert torch.equal(torch.autograd.grad(after.square().sum(), x)[0], gradient)
    kinds = {p.dtype for name, p in denoiser.named_parameters() if "norm" not in name}
    assert kinds == {torch.bfloat16}


def test_in_float32_nothing_is_cast():
    denoiser = network("adm")
    set_precision(denoiser, "fp32")
    before = copy.deepcopy(denoiser.state_dict())
    cast_weights(denoiser)
    assert all(torch.equal(tensor, before[name]) for name, tensor in denoiser.state_dict().items())


def test_of_a_distillation_the_teacher_alone_is_cast():
    config = tiny.distill(tiny.pretrain(), "teacher")
    teacher = build_denoiser(config)
    set_precision(teacher, "bf16")
    method = DistillMethod(config, teacher)
    assert method.teacher.model.map_layer0.weight.dtype == torch.bfloat16
    for trained in (*(phase.network for phase in method.phases), method.product()):
        assert all(p.dtype == torch.float32 for p in trained.parameters())


def test_a_sampler_in_bfloat16_draws_what_its_network_makes(tmp_path):
    made = generators.write(tmp_path / "run")
    sampler = Sampler(tmp_path / "run", precision="bf16")
    index = torch.arange(3)
    set_precision(made.denoiser, "bf16")
    made.denoiser.to(memory_format=torch.channels_last)
    z, _ = latents(made.image_shape, 0, index, 0)
    with torch.no_grad():
        assert torch.equal(sampler.draw(index, 0), generate(made.denoiser, z, made.sigma_init))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("architecture", ["ddpmpp", "adm"])
def test_attention_makes_no_matrix_of_all_scores(architecture, precision):
    denoiser = network(architecture)
    set_precision(denoiser, precision)
    with profile(activities=[ProfilerActivity.CPU]) as found, torch.no_grad():
        denoiser(*inputs())
    names = {event.key for event in found.key_averages()}
    assert not names & {"aten::bmm", "aten::_softmax", "aten::baddbmm"}
    assert any("flash" in name or "efficient" in name for name in names)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(4, 32, 16, 16), (3, 5, 7, 9)])
@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_dropout_is_torchs_by_another_draw(dtype, shape, layout):
    torch.manual_seed(0)
    x = (1 + torch.rand(shape)).to(dtype).contiguous(memory_format=layout).requires_grad_()
    y = dropout(x, 0.3)
    assert y.stride() == x.stride() and y.dtype == dtype
    dropped = y == 0
    tolerance = 4 * (0.3 * 0.7 / x.numel()) ** 0.5
    assert abs(dropped.float().mean().item() - 0.3) < tolerance
    scale = torch.tensor(1 / 0.7, dtype=dtype)
    assert torch.equal(y, torch.where(dropped, 0, x * scale))
    (gradient,) = torch.autograd.grad(y.sum(), x)
    assert torch.equal(gradient, torch.where(dropped, 0, scale).expand(shape))
    assert not torch.equal(dropped, dropout(x, 0.3) == 0)
    torch.manual_seed(0)
    torch.rand(shape)
    assert torch.equal(dropped, dropout(x, 0.3) == 0)
    flat = dropped.flatten().float()  # neighbours, which come from one draw, are independent
    for apart in (1, 2, 3, 4):
        assert abs(((flat[apart:] - 0.3) * (flat[:-apart] - 0.3)).mean().item()) < 2 * tolerance
