"""The two methods: which weights a phase reaches, what it reads, and closed forms where the data is Gaussian."""

import dataclasses

import pytest
import torch
from torch import nn

from rsd_fast import corruptions, networks, ops
from rsd_fast.build import build_denoiser
from rsd_fast.config import Objective
from rsd_fast.methods import Batch, DistillMethod, PretrainMethod, Teacher, distill
from rsd_fast.objectives import WholeImages, create

from . import tiny


def denoiser(seed: int = 0) -> networks.Denoiser:
    torch.manual_seed(seed)
    network = build_denoiser(tiny.pretrain())
    for parameter in network.parameters():  # the published initialisation leaves most branches almost off
        nn.init.normal_(parameter, std=0.1)
    return network


def batch(step: int, size: int = 6, **data) -> Batch:
    return Batch(sample=torch.arange(100, 100 + size), step=step, **data)


def distillation(**observed) -> DistillMethod:
    teacher = tiny.pretrain(observations=tiny.observations(**observed))
    method = DistillMethod(tiny.distill(teacher, "teacher"), denoiser())
    for number, phase in enumerate(method.phases):  # apart, as after some training
        for parameter in phase.network.parameters():
            parameter.data += 0.02 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number))
    return method


def gradients(network: nn.Module) -> list[bool]:
    return [p.grad is not None and bool(p.grad.abs().sum() > 0) for p in network.parameters()]


def test_the_fake_step_trains_the_fake_score_alone():
    method = distillation()
    loss, _ = method.loss(method.fake_phase, batch(1))
    loss.sum().backward()
    assert all(gradients(method.fake_phase.network))
    for network in (method.generator_phase.network, method.teacher, method.ema):
        assert all(p.grad is None for p in network.parameters())


def test_the_generator_step_trains_the_generator_alone_through_both_scores():
    method = distillation()
    loss, _ = method.loss(method.generator_phase, batch(2))
    loss.sum().backward()
    assert all(gradients(method.generator_phase.network))
    for network in (method.fake_phase.network, method.teacher, method.ema):
        assert all(p.grad is None for p in network.parameters())
    method.loss(method.fake_phase, batch(3))
    assert all(p.requires_grad for p in method.fake_phase.network.parameters())


@pytest.mark.parametrize("spec", ["identity", "gaussian_blur:size=3,std=1"])
def test_the_generator_loss_is_the_formula_of_the_paper(spec):
    method = distillation(corruption=spec, sigma_obs=0.3)
    b, config = batch(2), method.config
    seed = config.training.seed
    z = ops.randn((6, 1, 8, 8), seed, b.sample, b.step, ops.Stream.LATENT)
    x = method.generator_phase.network(2.5 * z, 2.5).double()
    u = corruptions.parse(spec).forward(x)  # without observation noise
    uniform = ops.uniform((6,), seed, b.sample, b.step, ops.Stream.SIGMA)
    t = uniform * 0.8
    sigma = ((80 ** (1 / 7)) + (1 - t) * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    noise = ops.randn((6, 1, 8, 8), seed, b.sample, b.step, ops.Stream.DIFFUSION_NOISE)
    u_t = u + sigma.view(-1, 1, 1, 1) * noise
    f, g = method.teacher(u_t, sigma), method.fake_phase.network(u_t, sigma)
    d, r = f - g, f - u
    weight = 1 / (u - f).abs().mean((1, 2, 3)).clamp_min(1e-5).detach()
    expected = weight * (d * (r - 1.2 * d)).sum((1, 2, 3))
    loss, statistics = method.loss(method.generator_phase, b)
    torch.testing.assert_close(loss.double(), expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(statistics["sigma"].double(), sigma, rtol=1e-6, atol=0)
    assert sigma.min() >= 0.002 and sigma.max() < 24.5
    parameters = list(method.generator_phase.network.parameters())
    for mine, theirs in zip(
        torch.autograd.grad(loss.sum(), parameters),
        torch.autograd.grad(expected.sum(), parameters),
        strict=True,
    ):
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-3 * float(theirs.abs().max()))


class Unfused(corruptions.GaussianBlur):
    """The same operator to which no kernel is known, as those of third parties."""

    def __init__(self, **arguments):
        super().__init__(**arguments)
        self.operator = None


@pytest.mark.parametrize("kind", [corruptions.GaussianBlur, Unfused])
def test_the_fake_score_sees_the_generators_images_corrupted_as_the_data_was(kind, monkeypatch):
    method = distillation(corruption="gaussian_blur:size=3,std=1", sigma_obs=0.3)
    method.corruption = kind(size=3, std=1.0)
    seen, denoising_loss = {}, ops.denoising_loss

    def spy(F, x_t, y, sigma, sigma_obs, sigma_data):
        seen.update(y=y, sigma_obs=sigma_obs)
        return denoising_loss(F, x_t, y, sigma, sigma_obs, sigma_data)

    class Spy(WholeImages):
        def loss_of_images(self, network, images, *arguments):
            seen.update(x=images, network=network)
            return super().loss_of_images(network, images, *arguments)

    monkeypatch.setattr(ops, "denoising_loss", spy)
    method.objective = Spy(Objective(name="tweedie"))
    b = batch(1)
    method.loss(method.fake_phase, b)
    seed = method.config.training.seed
    z = ops.randn((6, 1, 8, 8), seed, b.sample, b.step, ops.Stream.LATENT)
    with torch.no_grad():
        blurred = method.corruption.forward(method.generator_phase.network(2.5 * z, 2.5))
    noise = ops.randn((6, 1, 8, 8), seed, b.sample, b.step, ops.Stream.OBSERVATION_NOISE)
    torch.testing.assert_close(seen["y"], blurred + 0.3 * noise, rtol=1e-5, atol=1e-5)
    assert seen["sigma_obs"] == 0.3 and seen["network"] is method.fake_phase.network
    assert not seen["x"].requires_grad and not seen["y"].requires_grad  # no gradient through A or G


def test_pretraining_reads_observations_and_repeats_for_a_step():
    method = PretrainMethod(tiny.pretrain(), denoiser())
    y = torch.randn(6, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    data = {"observation": tiny.observed(y, 0.5), "labels": torch.full((6,), -1)}
    losses = [method.loss(method.phases[0], batch(step, **data))[0] for step in (1, 1, 2)]
    assert torch.equal(losses[0], losses[1]) and not torch.equal(losses[0], losses[2])


def test_draws_of_a_sample_do_not_depend_on_the_batch_it_is_in():
    method = distillation()
    whole, _ = method.loss(method.generator_phase, batch(2))
    for i in range(6):
        alone, _ = method.loss(method.generator_phase, Batch(sample=torch.tensor([100 + i]), step=2))
        torch.testing.assert_close(alone, whole[i : i + 1], rtol=1e-4, atol=1e-4)


def test_labels_reach_all_three_networks():
    config = tiny.pretrain(observations=tiny.observations(label_dim=10))
    torch.manual_seed(0)
    teacher = build_denoiser(config)
    for parameter in teacher.parameters():
        nn.init.normal_(parameter, std=0.1)
    method = DistillMethod(tiny.distill(config, "teacher"), teacher)
    for parameter in method.fake_phase.network.parameters():  # equal scores would give no gradient at all
        parameter.data *= 1.05
    labels = method.draw_labels(ops.Key(0, torch.arange(100, 4100), 1))
    assert labels.shape == (4000, 10) and torch.equal(labels.sum(1), torch.ones(4000))
    assert labels.mean(0).sub(0.1).abs().max() < 0.02
    seen = {}
    for name, network in zip(("teacher", "fake", "generator"), method.networks, strict=True):
        raw = network.raw

        def spy(net_input, sigma, labels=None, augment_labels=None, condition=None, raw=raw, name=name):
            seen[name] = labels
            return raw(net_input, sigma, labels, augment_labels)

        network.raw = spy
    method.loss(method.generator_phase, batch(2))[0].sum().backward()
    expected = method.draw_labels(ops.Key(0, batch(2).sample, 2))
    assert set(seen) == {"teacher", "fake", "generator"}
    assert all(torch.equal(labels, expected) for labels in seen.values())
    assert method.generator_phase.network.model.map_label.weight.grad.abs().sum() > 0


class LinearDenoiser(nn.Module):
    """D(x_t, sigma) = S (S + sigma^2)^-1 x_t, exact for clean data N(0, diag(variance)); raw as Denoiser.raw."""

    sigma_data, label_dim = 0.5, 0
    input_options = ops.InputOptions(sigma_data=0.5)
    mask_bank = maps_bank = sigma_bank = None

    def __init__(self, variance: torch.Tensor):
        super().__init__()
        self.log_variance = nn.Parameter(variance.log())

    def forward(self, x, sigma, labels=None, condition=None):
        s = self.log_variance.exp()
        return s / (s + torch.as_tensor(sigma, dtype=x.dtype).expand(len(x)).view(-1, 1, 1, 1) ** 2) * x

    def raw(self, net_input, sigma, labels=None, augment_labels=None, condition=None):
        level = sigma.view(-1, 1, 1, 1)
        c_in = 1 / (level**2 + 0.25).sqrt()
        c_skip, c_out = 0.25 * c_in**2, 0.5 * level * c_in
        x_t = net_input / c_in
        return (self(x_t, sigma) - c_skip * x_t) / c_out

    def denoise(self, F, x, sigma, condition=None):
        return ops.denoise(F, x, sigma, self.sigma_data)


class LinearGenerator(LinearDenoiser):
    """G(z) = w z per element: D_G(sigma_init z, sigma_init) has to give it."""

    def forward(self, x, sigma, labels=None, condition=None):
        return self.log_variance.exp().sqrt() * x / 2.5


def test_distillation_of_an_exact_teacher_restores_the_clean_variance():
    """Linear regime (method, section 6): observed with noise .5, the generator learns the variance without it."""
    clean = torch.tensor([1.5, 0.8, 0.4, 0.2]).view(1, 1, 2, 2)
    teacher_config = tiny.pretrain(observations=tiny.observations(image_shape=(1, 2, 2), observation_shape=(1, 2, 2)))
    method = DistillMethod(tiny.distill(teacher_config, "teacher"), LinearDenoiser(clean))
    generator = LinearGenerator(clean * torch.tensor([0.5, 1.6, 0.6, 1.5]).view(1, 1, 2, 2))
    method.generator_phase = dataclasses.replace(method.generator_phase, network=generator)
    optimizer = torch.optim.Adam(generator.parameters(), lr=0.02, betas=(0.0, 0.99))
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.01, total_iters=400)
    for step in range(1, 401):
        # The exact fake score: the denoiser of the generator's own clean images.
        method.fake_phase.network.log_variance.data = generator.log_variance.detach().clone()
        loss, _ = method.loss(method.generator_phase, batch(step, size=256))
        optimizer.zero_grad()
        loss.mean().backward()
        optimizer.step()
        schedule.step()
    torch.testing.assert_close(generator.log_variance.exp(), clean, rtol=0.02, atol=0)


def test_the_generator_is_a_denoiser_at_sigma_init():
    network = denoiser()
    z = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(distill.generate(network, z, 2.5), network(2.5 * z, torch.tensor([2.5, 2.5])))


def test_a_teacher_is_told_the_labels_at_every_evaluation():
    """35 evaluations of a trajectory of 18 steps, all of the same classes."""
    asked, labels = [], torch.eye(3)

    def spy(x, sigma, labels=None, condition=None):
        asked.append(labels)
        return x / 2

    objective = create(Objective(name="tweedie"))
    teacher = Teacher(spy, corruptions.Identity(), (1, 2, 2), objective)
    teacher.sample(torch.randn(3, 1, 2, 2), torch.arange(3), 0, labels=labels)
    assert len(asked) == 35 and all(told is labels for told in asked)
