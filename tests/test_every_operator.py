"""Training by every operator and objective: what reaches a loss, what each phase trains, and files end to end."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from rsd_fast import corruptions, generator_losses, networks, objectives, ops
from rsd_fast.build import build_denoiser
from rsd_fast.config import Distillation, Objective, Observations
from rsd_fast.corruptions import ALL_SYMMETRIES, HFLIP, NoiseLevels, Observation
from rsd_fast.data import DataError, ImageArray, ObservedDataset, open_source, write_h5, write_npz
from rsd_fast.data.augment import augment
from rsd_fast.data.order import ShuffledObservations
from rsd_fast.generator import Generator
from rsd_fast.methods import Batch, DistillMethod, PretrainMethod
from rsd_fast.methods.base import Teacher, corruption_of
from rsd_fast.methods.distill import Generated
from rsd_fast.objectives import NO_LABELS, resolve
from rsd_fast.objectives.consistency import consistency
from rsd_fast.ops import Key, edm
from rsd_fast.run_dataset import open_observations
from rsd_fast.train import keep_examples

from . import tiny
from .test_cli import NETWORK, SHORT, cli, run_in_process

SPECS = {
    "identity": 0.3,
    "gaussian_blur:size=3,std=1": 0.0,
    "motion_blur:size=3,angle=45": 0.2,
    "random_mask:missing=0.5": 0.0,
    "random_mask:missing=0.5,shared=0": 0.2,
    "box_mask:size=2": 0.0,
    "downsample:factor=2": 0.1,
    "compose:gaussian_blur:size=3,std=1+downsample:factor=2": 0.0,
    "fourier:acceleration=2,acs_lines=2,real=1": 0.1,
    "fourier:acceleration=2,acs_lines=2,real=1,coils=3": 0.0,
}


def pretrain_config(spec: str, sigma_obs: float, **changes):
    operator = corruptions.parse(spec)
    observations = tiny.observations(
        corruption=operator.spec,
        sigma_obs=sigma_obs,
        observation_shape=operator.observation_shape((1, 8, 8)),
        **changes,
    )
    name = resolve("auto", sigma_obs, operator, (1, 8, 8))
    return tiny.pretrain(observations=observations, objective=Objective(name=name))


def randomised(network: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(0)
    for parameter in network.parameters():  # the published initialisation leaves most branches almost off
        parameter.data = 0.1 * torch.randn(parameter.shape, generator=generator)
    return network


def distillation(spec: str, sigma_obs: float, **options) -> DistillMethod:
    teacher = pretrain_config(spec, sigma_obs)
    config = dataclasses.replace(tiny.distill(teacher, "teacher"), distillation=Distillation(**options))
    method = DistillMethod(config, randomised(build_denoiser(teacher)))
    for number, phase in enumerate(method.phases):  # apart, as after some training
        for parameter in phase.network.parameters():
            parameter.data += 0.02 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number))
    return method


def batch(step: int, size: int = 4, **data) -> Batch:
    return Batch(sample=torch.arange(100, 100 + size), step=step, **data)


# What each phase trains


@pytest.mark.parametrize("loss", ["sid", "dmd", "sds"])
@pytest.mark.parametrize("spec", SPECS)
def test_each_phase_trains_its_network_alone_whatever_the_operator(spec, loss):
    method = distillation(spec, SPECS[spec], loss=loss)
    for step, phase in enumerate(method.phases, 1):
        value, statistics = method.loss(phase, batch(step))
        assert value.shape == (4,) and value.isfinite().all() and statistics["sigma"].shape == (4,)
        value.sum().backward()
        for network in (*method.networks, method.ema):
            gradients = [p.grad is not None and bool(p.grad.abs().sum() > 0) for p in network.parameters()]
            assert all(gradients) if network is phase.network else not any(gradients)
        phase.network.zero_grad(set_to_none=True)


@pytest.mark.parametrize("spec", SPECS)
def test_draws_of_a_sample_do_not_depend_on_its_batch(spec):
    method = distillation(spec, SPECS[spec])
    for step, phase in enumerate(method.phases, 1):
        whole, _ = method.loss(phase, batch(step))
        alone = [method.loss(phase, Batch(sample=torch.tensor([100 + i]), step=step))[0] for i in range(4)]
        torch.testing.assert_close(whole, torch.cat(alone), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("spec", SPECS)
def test_teacher_and_generator_make_images_each_a_function_of_its_number(spec):
    config = pretrain_config(spec, SPECS[spec])
    network = randomised(build_denoiser(config)).eval()
    shape = config.observations.observation_shape
    index = torch.arange(5)
    z = ops.randn((5, *shape), 0, index, 0, ops.Stream.LATENT)
    objective = objectives.create(config.objective)
    teacher = Teacher(network, corruption_of(config.observations, network), (1, 8, 8), objective)
    images = teacher.sample(z, index, 0, steps=3)
    size = (8, 8) if config.objective.conditional else shape[1:]
    assert images.shape == (5, 1, *size) and images.isfinite().all()
    torch.testing.assert_close(teacher.sample(z[2:3], index[2:3], 0, steps=3), images[2:3], rtol=1e-3, atol=1e-4)
    generator = Generator(network, tiny.distill(config, "teacher"))
    drawn = generator.sample(5, seed=1)
    assert drawn.shape == (5, 1, 8, 8)
    torch.testing.assert_close(generator.sample(5, seed=1, batch=2), drawn, rtol=1e-4, atol=1e-5)
    assert not torch.equal(drawn[0], drawn[1])


def test_a_masked_generator_sees_the_share_of_its_latents_that_is_published():
    config = tiny.distill(pretrain_config("random_mask:missing=0.4", 0.0), "teacher")
    generator = Generator(build_denoiser(config), config)
    kept = generator.view(torch.arange(4000), 0).condition.float()
    assert abs(kept.mean() - 0.6 * 0.9) < 0.005  # (1 - p)(1 - delta)


def test_the_generator_at_the_images_size_and_the_teacher_at_the_observations():
    method = distillation("downsample:factor=2", 0.0)
    sizes = {}
    for name, network in (("generator", method.generator_phase.network), ("fake", method.fake_phase.network)):
        network.register_forward_pre_hook(lambda module, inputs, name=name: sizes.update({name: inputs[0].shape[2:]}))
    for network, name in ((method.teacher, "teacher"), (method.fake_phase.network, "fake")):
        network.model.register_forward_pre_hook(
            lambda module, inputs, name=name: sizes.update({name: inputs[0].shape[2:]})
        )
    method.loss(method.generator_phase, batch(2))
    assert sizes == {"generator": (8, 8), "teacher": (4, 4), "fake": (4, 4)}


# The generator's losses


def test_dmd_and_sds_are_gradients_on_what_was_observed():
    """dmd: (g - f) / mean|u - f|;  sds: weight (u - f)."""
    generator = torch.Generator().manual_seed(0)
    f, g, u = (torch.randn(3, 2, 4, 4, dtype=torch.float64, generator=generator) for _ in range(3))
    u.requires_grad_()
    mean = (u - f).detach().abs().flatten(1).mean(1).reshape(-1, 1, 1, 1)
    (found,) = torch.autograd.grad(generator_losses.dmd(f - g, f - u.detach(), u).sum(), u)
    torch.testing.assert_close(found, ((u - f) - (u - g)).detach() / mean)
    weight = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    (found,) = torch.autograd.grad(generator_losses.sds(f - u.detach(), u, weight).sum(), u)
    torch.testing.assert_close(found, weight.reshape(-1, 1, 1, 1) * (u - f).detach())


def test_sid_in_plain_pytorch_is_the_fused_loss():
    generator = torch.Generator().manual_seed(0)
    F_teacher, F_fake, u_t, u = (torch.randn(3, 2, 4, 4, dtype=torch.float64, generator=generator) for _ in range(4))
    sigma = torch.tensor([0.1, 1.0, 5.0], dtype=torch.float64)
    f, g = ops.denoise(F_teacher, u_t, sigma), ops.denoise(F_fake, u_t, sigma)
    fused = ops.score_difference_loss(F_teacher, F_fake, u_t, u, sigma, 1.2)
    torch.testing.assert_close(generator_losses.sid(f - g, f - u, 1.2), fused)


@pytest.mark.parametrize("spec", ["gaussian_blur:size=3,std=1", "random_mask:missing=0.5"])
@pytest.mark.parametrize("loss", ["dmd", "sds"])
def test_the_image_receives_the_adjoint_of_the_gradient_on_its_observation(spec, loss):
    method = distillation(spec, SPECS[spec], loss=loss)
    b = batch(2)
    x = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(3)).requires_grad_()
    seed = method.config.training.seed
    key = Key(seed, b.sample, 2)
    value, statistics = method.generator_loss(Generated(x, NO_LABELS), key)
    (found,) = torch.autograd.grad(value.sum(), x)
    sigma = statistics["sigma"]
    with torch.no_grad():
        u = method.corruption.forward(x, index=b.sample, seed=seed)
        operator = method.corruption.batch((1, 8, 8), b.sample, seed)
        noised = method.objective.noised(method.teacher, Observation(u, operator), sigma, key)
        condition = noised.view.condition
        f = method.teacher(noised.x_t, sigma, condition=condition)
        g = method.fake_phase.network(noised.x_t, sigma, condition=condition)
        mask = 1 if operator.draw is None else operator.draw.mask
        r, d = mask * (f - u), mask * (f - g)
        weight = edm.loss_weight(sigma, 0.5) if loss == "sds" else 1 / r.abs().flatten(1).mean(1)
        expected = -weight.reshape(-1, 1, 1, 1) * (r if loss == "sds" else d)
        expected = method.corruption.adjoint(expected, index=b.sample, seed=seed)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))


# Leaks


def poisoned(images: np.ndarray, mask: np.ndarray, value: float) -> np.ndarray:
    return np.where(mask, images, np.float32(value)).astype(np.float32)


@pytest.mark.parametrize("value", [1e9, float("nan")])
@pytest.mark.parametrize("objective", ["ambient", "standard"])
def test_no_masked_pixel_of_a_file_reaches_a_loss(objective, value, tmp_path):
    generator = np.random.default_rng(0)
    images = generator.uniform(-1, 1, (64, 1, 8, 8)).astype(np.float32)
    mask = (generator.uniform(size=(64, 1, 8, 8)) > 0.5).astype(np.uint8)
    operator = corruptions.parse("random_mask:missing=0.5")
    found = []
    for number, filled in enumerate((images, poisoned(images, mask, value))):
        path = tmp_path / f"{number}.npz"
        write_npz(path, filled, mask=mask)
        source = open_source(path, observations=True)
        dataset = ObservedDataset(source, corruption=operator, sigma_obs=0.0, seed=0, simulate=False)
        data = ShuffledObservations(dataset, seed=0, symmetries=tuple(sorted(ALL_SYMMETRIES)))
        config = tiny.pretrain(
            observations=tiny.observations(corruption=operator.spec, sigma_obs=0.0), objective=Objective(name=objective)
        )
        method = PretrainMethod(config, randomised(build_denoiser(config)))
        sample = torch.arange(32)
        observation, labels = data(sample)
        loss, _ = method.loss(method.phases[0], Batch(sample=sample, step=1, observation=observation, labels=labels))
        loss.sum().backward()
        found.append((loss, *(p.grad for p in method.phases[0].network.parameters())))
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def kernel_part(operator, x: Tensor, mask: Tensor) -> Tensor:
    """x without what A sees of it."""
    basis = torch.eye(64, dtype=torch.float64).reshape(64, 1, 8, 8)
    A = operator.apply(basis, corruptions.Draw(mask=mask)).flatten(1).T
    flat = x.double().flatten()
    return (flat - torch.linalg.pinv(A) @ (A @ flat)).reshape(x.shape).float()


@pytest.mark.parametrize("spec", [spec for spec in SPECS if corruptions.parse(spec).objective])
def test_what_is_not_observed_of_a_simulated_image_changes_no_loss(spec):
    """Images that agree in what is observed of them give the same losses, bit for bit."""
    operator = corruptions.parse(spec)
    image = np.random.default_rng(0).uniform(-1, 1, (4, 1, 8, 8)).astype(np.float32)
    index = torch.arange(4)
    config = pretrain_config(spec, SPECS[spec])
    method = PretrainMethod(config, randomised(build_denoiser(config)))
    draw = operator.draw((1, 8, 8), index, 0)
    if "coils" in spec:
        pytest.skip("several coils leave nothing unobserved")
    hidden = torch.stack([kernel_part(operator, torch.from_numpy(image[i]), draw.mask[i : i + 1]) for i in range(4)])
    found = []
    for x in (torch.from_numpy(image), torch.from_numpy(image) + 3 * hidden):
        seen = corruptions.observation(operator, x, index=index, sigma_obs=SPECS[spec], seed=0)
        loss, _ = method.loss(method.phases[0], batch(1, observation=seen, labels=torch.full((4,), -1)))
        found.append(loss)
    assert hidden.abs().max() > 0.1
    torch.testing.assert_close(*found, rtol=1e-4 if operator.measures_kspace else 0, atol=0)


def test_noisy_observations_never_reach_a_network_without_their_noise(monkeypatch):
    """What the loss and the network get holds noise of sigma_obs, whichever way it is moved; no clean image does."""
    images = np.random.default_rng(0).integers(0, 256, (64, 1, 8, 8), dtype=np.uint8)
    source = ImageArray(images=images, name="x")
    dataset = ObservedDataset(source, corruption=corruptions.Identity(), sigma_obs=0.4, seed=0, simulate=True)
    data = ShuffledObservations(dataset, seed=0, symmetries=tuple(ALL_SYMMETRIES))
    sample = torch.arange(64)
    y = data(sample)[0].y
    clean = source.tensor(data.permutation(0)[:64])
    moved = augment(tiny.observed(clean), tuple(ALL_SYMMETRIES), seed=0, sample=sample).y
    noise = (y - moved) / 0.4
    assert (noise != 0).all() and abs(noise.std() - 1) < 0.05 and noise.abs().mean() > 0.7
    reached, denoising_loss = [], ops.denoising_loss

    def spy(F, x_t, y, sigma, sigma_obs, sigma_data):
        reached.append((x_t, y, sigma))
        return denoising_loss(F, x_t, y, sigma, sigma_obs, sigma_data)

    monkeypatch.setattr(ops, "denoising_loss", spy)
    config = tiny.pretrain(observations=tiny.observations(sigma_obs=0.4))
    method = PretrainMethod(config, randomised(build_denoiser(config)))
    method.loss(method.phases[0], Batch(sample=sample, step=1, observation=data(sample)[0], labels=-torch.ones(64)))
    ((x_t, target, sigma),) = reached
    assert torch.equal(target, y) and (sigma >= 0.4).all()
    whitened = (x_t - moved) / edm.per_sample(sigma, x_t)
    assert abs(whitened.std() - 1) < 0.05
    again = data(sample + 64 * 5)[0].y  # another epoch: the same observations, another order, moved otherwise
    assert sorted(y.sum((1, 2, 3)).tolist()) == pytest.approx(sorted(again.sum((1, 2, 3)).tolist()), abs=1e-4)


def test_observation_and_mask_are_moved_together_by_the_eight_symmetries():
    y = torch.arange(16.0).reshape(1, 1, 4, 4).repeat(400, 1, 1, 1) + 1
    mask = (torch.arange(16) % 3 > 0).to(torch.uint8).reshape(1, 1, 4, 4).repeat(400, 1, 1, 1)
    draw = corruptions.Draw(mask=mask)
    operator = corruptions.RandomMask().drawn(draw, (1, 4, 4), torch.arange(400), 0)
    seen = Observation(y * mask, operator, 0.1)
    moved = augment(seen, tuple(ALL_SYMMETRIES), seed=0, sample=torch.arange(400))
    assert torch.equal((moved.y != 0).to(torch.uint8), moved.operator.draw.mask) and moved.sigma_obs == 0.1
    turned = [k for quarter in range(4) for k in (y[0].rot90(quarter, (1, 2)), y[0].rot90(quarter, (1, 2)).flip(2))]
    counts = [int(((moved.y == t * (moved.operator.draw.mask)).all((1, 2, 3))).sum()) for t in turned]
    assert sum(counts) == 400 and min(counts) > 25
    once = augment(seen, (HFLIP,), seed=0, sample=torch.arange(400)).y
    assert 150 < int((once == y * mask).all((1, 2, 3)).sum()) < 250
    assert (((once == y * mask) | (once == (y * mask).flip(3))).all((1, 2, 3))).all()
    alone = augment(tiny.observed(y[7:8]), (HFLIP,), seed=0, sample=torch.tensor([7])).y
    assert torch.equal((alone * mask[:1]).flip(3), once[7:8]) or torch.equal(alone * mask[:1], once[7:8])


def test_moved_observations_are_observations_of_moved_images():
    """A and a symmetry it claims commute, so that augmenting is training on moved images."""
    x = torch.randn(2, 3, 12, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    moves = {"hflip": lambda t: t.flip(3), "vflip": lambda t: t.flip(2), "transpose": lambda t: t.transpose(2, 3)}
    for spec in (
        "identity",
        "gaussian_blur:size=5,std=1",
        "motion_blur:size=5,angle=0",
        "motion_blur:size=5,angle=45",
        "motion_blur:size=5,angle=20",
        "downsample:factor=3",
        "compose:motion_blur:size=5,angle=90+downsample:factor=2",
    ):
        operator = corruptions.parse(spec)
        index = torch.zeros(2, dtype=torch.int64)
        for name, move in moves.items():
            same = torch.allclose(
                operator.forward(move(x), index=index), move(operator.forward(x, index=index)), atol=1e-12
            )
            assert same == (name in operator.symmetries), (spec, name)
    assert not corruptions.parse("fourier").symmetries


# What is hidden


HIDDEN = {
    "pixels": "random_mask:missing=0.5",
    "columns": "fourier:acceleration=2,acs_lines=2",
    "all": "fourier:acceleration=2,acs_lines=2,coils=3",
}


@pytest.mark.parametrize("hidden", HIDDEN)
def test_what_is_hidden_is_preconditioned_as_at_infinite_noise(hidden):
    """D is that of EDM where all is seen, sigma_data F where nothing is, and reaches any image at any sigma."""
    size = {"image_size": 8, "model_channels": 8, "channel_mult": (1, 2), "num_blocks": 1, "attn_resolutions": ()}
    network = networks.create("ddpmpp", in_channels=2, out_channels=2, condition_channels=2, hidden=hidden, **size)
    randomised(network)
    F, x = (torch.randn(3, 2, 8, 8, generator=torch.Generator().manual_seed(i)) for i in range(2))
    sigma = torch.tensor([0.002, 1.0, 80.0])
    whole, nothing = torch.ones(3, 2, 8, 8), torch.zeros(3, 2, 8, 8)
    close = {"rtol": 1e-5, "atol": 1e-5}
    skipped = edm.c_skip(edm.per_sample(sigma, x), 0.5) * x + 0.5 * F
    expected = skipped if hidden == "all" else ops.denoise(F, x, sigma)
    torch.testing.assert_close(network.denoise(F, x, sigma, whole), expected, **close)
    torch.testing.assert_close(network.denoise(F, 0 * x, sigma, nothing), 0.5 * F, **close)
    operator = corruptions.parse(HIDDEN[hidden])
    draw = operator.draw((2, 8, 8), torch.arange(3), 0)
    view = operator.view(draw, (2, 8, 8))
    seen = view.image(view.measure(x))
    D = network(seen, sigma, condition=view.condition)
    raw = network.raw(edm.c_in(edm.per_sample(sigma, x), 0.5) * seen, sigma, condition=view.condition)
    torch.testing.assert_close(D, network.denoise(raw, seen, sigma, view.condition))
    if hidden != "all":  # at the least sigma, what was seen stays and what was not is the network's to fill in
        change = network.denoise(F, seen, sigma, view.condition) - seen
        stays, moves = (e.abs().amax((1, 2, 3)) for e in (operator.apply(change, draw), change))
        assert stays[0] < 0.05 * moves[0]


def test_networks_take_what_the_operator_hides():
    for spec, hidden in (
        ("random_mask", "pixels"),
        ("fourier:acs_lines=2", "columns"),
        ("fourier:acs_lines=2,real=1", "all"),
        ("fourier:acs_lines=2,coils=2", "all"),
    ):
        assert corruptions.parse(spec).hidden == hidden


# Consistency


class Exact(nn.Module):
    """D(x, sigma) = gain s / (s + sigma^2) x: exact for clean data N(0, s) where gain is 1."""

    hidden, sigma_data = networks.HIDDEN["pixels"], 0.5

    def __init__(self, gain: float):
        super().__init__()
        self.gain = gain

    def forward(self, x: Tensor, sigma: Tensor, *_: Tensor | None) -> Tensor:
        level = edm.per_sample(sigma, x)
        # A wrong denoiser whose error depends on sigma: one that does not would be consistent.
        return (1 + self.gain * level) * 0.3 / (0.3 + level**2) * x


def test_the_consistency_term_vanishes_for_an_exact_denoiser_alone():
    settings = Objective(name="tweedie", consistency=1.0, consistency_primes=800, consistency_steps=2)
    sample = torch.arange(200)
    sigma = torch.full((200,), 0.8)
    x = 0.3**0.5 * torch.randn(200, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    state = x + 0.8 * torch.randn(200, 1, 4, 4, generator=torch.Generator().manual_seed(1))
    found = {}
    for gain in (0.0, 0.5):
        denoiser = Exact(gain)
        noised = objectives.Noised(sigma, state, state, state, corruptions.View())
        D = denoiser(state, sigma).requires_grad_()
        term = consistency(objectives.create(settings), denoiser, D, noised, Key(0, sample, 1), NO_LABELS)
        term.sum().backward()
        assert D.grad is not None and D.grad.abs().sum() > 0
        found[gain] = float(term.detach().mean())
    assert found[0.0] < 0.2 * found[0.5]


@pytest.mark.parametrize("spec", ["identity", "random_mask:missing=0.5", "fourier:acceleration=2,acs_lines=2,real=1"])
def test_the_consistency_term_adds_to_the_loss_of_each_objective(spec):
    config = pretrain_config(spec, 0.2)
    network = randomised(build_denoiser(config))
    seen = corruptions.observation(
        corruptions.parse(spec), torch.rand(4, 1, 8, 8), index=torch.arange(4), sigma_obs=0.2, seed=0
    )
    found = []
    for weight in (0.0, 0.5):
        objective = dataclasses.replace(config.objective, consistency=weight)
        loss, _ = tiny.loss(objective, network, seen, seed=0, sample=torch.arange(4), step=1)
        loss.sum().backward()
        found.append(loss)
    assert (found[1] > found[0]).all()


# Which objective fits


@pytest.mark.parametrize("spec", SPECS)
def test_auto_picks_by_operator_and_noise(spec):
    operator = corruptions.parse(spec)
    kind = "fourier" if "fourier" in spec else "ambient" if "mask" in spec else None
    for sigma_obs, plain in ((0.0, "standard"), (0.2, "tweedie")):
        assert resolve("auto", sigma_obs, operator, (1, 8, 8)) == (kind or plain)


NO_SENSE = [
    ("ambient", 0.0, "gaussian_blur", "is for masks"),
    ("fourier", 0.0, "random_mask", "is for masks of k-space"),
    ("standard", 0.1, "random_mask", "use 'ambient'"),
    ("standard", 0.1, "identity", "use 'tweedie'"),
    ("tweedie", 0.1, "random_mask", "missing ones have none"),
    ("standard", 0.0, "fourier", "as if it were an image"),
    ("tweedie", 0.1, "fourier", "as if it were an image"),
    ("ambient", 0.0, "box_mask:size=2,place=center", "every image lacks the same pixels"),
    ("auto", 0.0, "box_mask:size=4", "at most a third"),
    ("fourier", 0.0, "fourier:acceleration=2,acs_lines=2,pattern=equispaced", "single coil"),
    ("fourier", 0.0, "fourier:acceleration=4,acs_lines=2", "nothing shows what is in the others"),
]


@pytest.mark.parametrize(("name", "sigma_obs", "spec", "reason"), NO_SENSE)
def test_combinations_without_sense_are_refused_with_the_reason(name, sigma_obs, spec, reason):
    with pytest.raises(ValueError, match=reason):
        resolve(name, sigma_obs, corruptions.parse(spec), (1, 8, 8))


# Files end to end


def test_masks_come_with_pictures_or_in_their_alpha_channel(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 8, 8), dtype=np.uint8)
    mask = np.random.default_rng(1).integers(0, 2, (5, 8, 8), dtype=np.uint8)
    mask[1] = 1 - mask[0]  # each pixel is seen somewhere
    beside, alpha = tmp_path / "beside", tmp_path / "alpha"
    beside.mkdir()
    alpha.mkdir()
    for i in range(5):
        Image.fromarray(pixels[i]).save(beside / f"{i}.png")
        Image.fromarray(mask[i] * 255).save(beside / f"{i}.mask.png")
        Image.fromarray(np.stack([pixels[i], mask[i] * 255], -1)).save(alpha / f"{i}.png")
    npz = tmp_path / "x.npz"
    np.savez(npz, images=pixels, mask=mask.astype(bool))
    for path in (beside, alpha, npz):
        source = open_source(path)
        assert np.array_equal(source.images[:, 0], pixels) and np.array_equal(source.mask[:, 0], mask)
        dataset = ObservedDataset(
            source, corruption=corruptions.RandomMask(missing=0.5), sigma_obs=0.0, seed=0, simulate=False
        )
        seen, _ = dataset.observe(torch.tensor([3, 1]))
        assert torch.equal(seen.operator.draw.mask, torch.from_numpy(mask)[[3, 1], None])
        assert (seen.y[seen.operator.draw.mask == 0] == 0).all()
    with pytest.raises(DataError, match="has masks, but 'identity' has none"):
        ObservedDataset(open_source(npz), corruption=corruptions.Identity(), sigma_obs=0.0, seed=0, simulate=False)
    with pytest.raises(DataError, match=r"5.*% of the pixels are missing, but .* says 90.0%"):
        ObservedDataset(
            open_source(npz), corruption=corruptions.RandomMask(missing=0.9), sigma_obs=0.0, seed=0, simulate=False
        )
    (beside / "3.mask.png").unlink()
    with pytest.raises(DataError, match=r"3.png: has no mask 3.mask.png"):
        open_source(beside)
    Image.fromarray(mask[3, :7] * 255).save(beside / "3.mask.png")
    with pytest.raises(DataError, match=r"3.mask.png"):
        open_source(beside)


def test_examples_of_the_datas_masks_and_levels_travel_with_the_network(tmp_path):
    mask = (np.random.default_rng(0).uniform(size=(600, 1, 8, 8)) > 0.5).astype(np.uint8)
    sigma = np.linspace(0.1, 0.3, 600).astype(np.float32)
    images = np.zeros((600, 1, 8, 8), np.uint8)
    source = ImageArray(images=images, mask=mask, sigma=sigma, name="x")
    levels = NoiseLevels(highest=0.3, lowest=0.1, bank=sigma)
    dataset = ObservedDataset(
        source, corruption=corruptions.RandomMask(missing=0.5), sigma_obs=levels, seed=0, simulate=False
    )
    config = pretrain_config("random_mask:missing=0.5", 0.3)
    network = build_denoiser(config)
    keep_examples(network, dataset)
    assert network.mask_bank.shape == (512, 1, 8, 8) and torch.equal(network.sigma_bank, torch.from_numpy(sigma))
    method = DistillMethod(tiny.distill(config, "teacher"), network)
    rows = {row.tobytes() for row in mask}
    drawn = method.corruption.draw((1, 8, 8), torch.arange(50), 0).mask.numpy()
    assert all(row.tobytes() in rows for row in drawn)
    found = method.levels.of(torch.arange(500), 0)
    assert set(found.tolist()) <= set(sigma.tolist()) and len(set(found.tolist())) > 200


def both_stages(folder, name: str, *options: object) -> dict:
    """Pretrain and distil from files, sample; the generator's config."""
    teacher, student = folder / f"{name}-teacher", folder / f"{name}-gen"
    cli("pretrain", *options, *NETWORK, *SHORT, "--out", teacher)
    cli("distill", "--teacher", teacher, *SHORT, "--out", student)
    cli("sample", "--run", student, "--num", 3, "--out", folder / f"{name}.npz")
    cli("sample", "--run", teacher, "--num", 3, "--steps", 3, "--out", folder / f"{name}-teacher.npz")
    cli("evaluate", "--run", student, "--metrics", "proximal-pixel-fd", "--num", 40)
    return json.loads((student / "config.json").read_text())


KINDS = {
    "mask": ("random_mask:missing=0.5", "npz", ["--sigma-obs", "0.1"], ["--augment", "all"]),
    "pictures": ("box_mask:size=2", "", ["--sigma-obs", "0"], []),
    "small": ("downsample:factor=2", "npz", ["--sigma-obs", "0.1"], []),
    "levels": ("identity", "npz", ["--sigma-obs", "0.1:0.3", "--clean-share", "0.2"], []),
    "k-space": ("fourier:acceleration=2,acs_lines=2,real=1", "h5", ["--sigma-obs", "0.05"], []),
    "coils": ("fourier:acceleration=2,acs_lines=2,real=1,coils=3", "h5", ["--sigma-obs", "0"], []),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_from_files_as_corrupt_writes_them(kind, tmp_path):
    spec, suffix, noise, more = KINDS[kind]
    if suffix == "h5":
        pytest.importorskip("h5py", reason="needs h5py")
    clean = tmp_path / "clean.npy"
    np.save(clean, open_source("digits").images[:96])
    out = tmp_path / (f"observed.{suffix}" if suffix else "observed")
    cli("corrupt", "--data", clean, "--corruption", spec, *noise, "--out", out, "--preview", tmp_path / "p.png")
    said = ["--sigma-obs", "data"] if kind == "levels" else noise
    if kind == "small":
        more = ["--attn-resolutions", "2"]
    config = both_stages(tmp_path, kind, "--data", out, "--corruption", spec, *said, *more)
    assert config["observations"]["image_shape"] == [1, 8, 8]
    simulated = ObservedDataset(
        open_source(clean),
        corruption=corruptions.parse(spec),
        sigma_obs=NoiseLevels(highest=0.3, lowest=0.1, clean_share=0.2) if kind == "levels" else float(noise[1]),
        seed=0,
        simulate=True,
    )
    observations = tiny.observations(
        **{k: v for k, v in config["observations"].items() if k not in ("image_shape", "observation_shape", "augment")},
        image_shape=(1, 8, 8),
        observation_shape=tuple(config["observations"]["observation_shape"]),
    )
    assert isinstance(observations, Observations)
    if suffix:  # 8-bit pictures clip and round
        from_file = open_observations(observations).observe(torch.arange(96))[0]
        expected = simulated.observe(torch.arange(96))[0]
        torch.testing.assert_close(from_file.y, expected.y, rtol=0, atol=0)
        if expected.operator.draw is not None:
            assert torch.equal(from_file.operator.draw.mask, expected.operator.draw.mask)


@pytest.mark.slow
def test_a_run_goes_on_by_the_command_that_started_it(tmp_path):
    """Also where the coils' number and the levels' range come from the data; another noise is refused by its option."""
    pytest.importorskip("h5py", reason="needs h5py")
    spec = "fourier:acceleration=2,acs_lines=2,real=1"
    cli("corrupt", "--data", "digits", "--corruption", f"{spec},coils=3", "--out", tmp_path / "x.h5")
    command = ["pretrain", "--data", tmp_path / "x.h5", "--corruption", spec, "--sigma-obs", "0", *NETWORK, *SHORT]
    command += ["--out", tmp_path / "mri", "--resume-or-start"]
    cli(*command)
    cli(*command)
    cli(*command, "--corruption", "fourier:acceleration=3,acs_lines=2,real=1", code=2)
    command = ["pretrain", "--data", "digits", "--simulate", "--sigma-obs", "0.1:0.3", "--augment", "all", *NETWORK]
    command += [*SHORT, "--out", tmp_path / "range", "--resume-or-start"]
    cli(*command)
    cli(*command)
    done = cli(*command, "--sigma-obs", "0.3", code=2)
    assert "--sigma-obs: " in done.stderr and "started with 0.1:0.3" in done.stderr


@pytest.mark.slow
def test_estimated_maps_and_fully_sampled_volumes(tmp_path, monkeypatch):
    """Several coils without maps: ESPIRiT makes them. Fully sampled k-space is undersampled with --simulate."""
    monkeypatch.setenv("RSD_FAST_CACHE", str(tmp_path / "cache"))
    pytest.importorskip("h5py", reason="needs h5py")
    pytest.importorskip("sigpy", reason="needs sigpy")
    operator = corruptions.Fourier(acceleration=1, acs_lines=8, coils=3)
    axis = torch.linspace(-1, 1, 32)
    disc = ((axis[:, None] ** 2 + axis**2) < 0.6).float()
    x = torch.stack([disc * (0.5 + 0.1 * i) for i in range(6)])[:, None] * torch.tensor([0.8, 0.6]).reshape(2, 1, 1)
    k = operator.forward(x, index=torch.arange(6))
    full = tmp_path / "full.h5"
    write_h5(full, k, count=6, mask=np.ones((6, 1, 1, 32), np.uint8))
    spec = "fourier:acceleration=2,acs_lines=8"
    cli(
        *["pretrain", "--data", full, "--simulate", "--corruption", spec, "--sigma-obs", 0, "--out", tmp_path / "run"],
        *[*NETWORK, "--attn-resolutions", "none", "--kimg", "0.008", "--batch", "4", "--device", "cpu"],
    )
    config = json.loads((tmp_path / "run" / "config.json").read_text())["observations"]
    assert config["image_shape"] == [2, 32, 32] and config["observation_shape"] == [6, 32, 32]
    assert "coils=3" in config["corruption"]
    dataset = ObservedDataset(
        open_source(full), corruption=corruptions.parse(spec), sigma_obs=0.0, seed=0, simulate=True
    )
    sampled = dataset.observe(torch.arange(6))[0]
    assert 0.3 < sampled.operator.draw.mask.float().mean() < 0.7 and (sampled.y[:, :, 0] != 0).any()
    clean = dataset.clean(torch.arange(6))
    torch.testing.assert_close(clean.norm(dim=1), x.norm(dim=1), rtol=0.05, atol=0.02)


def test_the_noise_of_a_file_is_estimated_and_used(tmp_path, capsys):
    path = tmp_path / "x.npz"
    cli("corrupt", "--data", "digits", "--sigma-obs", 0.3, "--out", path)
    code, out, error = run_in_process(capsys, "corrupt", "--estimate", path, "--json")
    found = json.loads(out)
    assert code == 0 and error == "" and found["low"] < 0.3 < found["high"] and abs(found["sigma"] - 0.3) < 0.015
    code, out, error = run_in_process(capsys, "corrupt", "--estimate", path)
    assert code == 0 and out == (
        f"sigma_obs {found['sigma']:.4g}, 95 % interval {found['low']:.4g} to {found['high']:.4g}\n"
    )
    arguments = ["--data", path, "--sigma-obs", "estimate", "--out", tmp_path / "run", "--dry-run"]
    code, out, error = run_in_process(capsys, "pretrain", *arguments)
    config = json.loads(out)
    assert config["observations"]["sigma_obs"] == round(found["sigma"], 4) and "95 % interval" in error
    assert config["objective"]["name"] == "tweedie" and not (tmp_path / "run").exists()


# Bad input


def h5_file(path, **datasets):
    h5py = pytest.importorskip("h5py", reason="needs h5py")
    with h5py.File(path, "w") as file:
        for name, data in datasets.items():
            file[name] = data
    return path


def kspace(coils: int = 2) -> np.ndarray:
    generator = np.random.default_rng(0)
    return (generator.normal(size=(3, coils, 8, 8)) + 1j * generator.normal(size=(3, coils, 8, 8))).astype(np.complex64)


BAD = {
    "a mask of another size": (
        lambda d: d / "x.npz",
        lambda p: np.savez(p, images=np.zeros((3, 8, 8), np.uint8), mask=np.ones((3, 8, 9), bool)),
        ["--corruption", "random_mask", "--sigma-obs", "0"],
        "x.npz[mask]: mask of shape [3, 8, 9]",
    ),
    "no masks": (
        lambda d: d / "x.npz",
        lambda p: np.savez(p, images=np.zeros((3, 8, 8), np.uint8)),
        ["--corruption", "random_mask", "--sigma-obs", "0"],
        "need their masks",
    ),
    "coils that do not match": (
        lambda d: d / "x.h5",
        lambda p: h5_file(p, kspace=kspace(2), sensitivity_maps=kspace(3)),
        ["--corruption", "fourier:acceleration=2,acs_lines=2", "--sigma-obs", "0"],
        "x.h5",
    ),
    "no kspace": (
        lambda d: d / "x.h5",
        lambda p: h5_file(p, image=np.zeros(3)),
        ["--corruption", "fourier:acceleration=2,acs_lines=2", "--sigma-obs", "0"],
        "kspace",
    ),
    "complex data for a real operator": (
        lambda d: d / "x.h5",
        lambda p: h5_file(p, kspace=kspace(1)[:, 0]),
        ["--corruption", "gaussian_blur:size=3,std=1", "--sigma-obs", "0"],
        "k-space is complex data",
    ),
    "complex images": (
        lambda d: d / "x.npy",
        lambda p: np.save(p, kspace(1)[:, 0]),
        ["--corruption", "identity", "--sigma-obs", "0"],
        "x.npy: complex numbers",
    ),
    "images for k-space": (
        lambda d: d / "x.npy",
        lambda p: np.save(p, np.zeros((3, 8, 8), np.uint8)),
        ["--corruption", "fourier:acceleration=2,acs_lines=2,real=1", "--sigma-obs", "0"],
        "are k-space, of an .h5 file",
    ),
    "levels that are not there": (
        lambda d: d / "x.npy",
        lambda p: np.save(p, np.zeros((3, 8, 8), np.uint8)),
        ["--sigma-obs", "data"],
        "x.npy: holds no sigma_obs",
    ),
    "levels that are not asked for": (
        lambda d: d / "x.npz",
        lambda p: np.savez(p, images=np.zeros((3, 8, 8), np.float32), sigma_obs=np.ones(3)),
        ["--sigma-obs", "0.1"],
        "use --sigma-obs data",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_observations_are_named(case, tmp_path, capsys):
    place, make, options, message = BAD[case]
    path = place(tmp_path)
    make(path)
    code, out, error = run_in_process(capsys, "pretrain", "--data", path, *options, "--out", tmp_path / "run")
    assert code == 1 and out == "" and error.count("\n") == 1 and message in error, error
    assert not (tmp_path / "run").exists()


def test_masks_from_which_nothing_can_be_learned_are_refused():
    images = np.zeros((4, 3, 8, 8), np.uint8)
    eye = np.eye(8, dtype=np.uint8)[None].repeat(4, 0)
    coloured = np.stack([np.ones_like(eye), np.ones_like(eye), np.stack([eye[0], *(1 - eye[1:])])], 1)
    share = 1 - coloured.mean()
    for mask, spec, message in (
        (np.zeros((4, 1, 8, 8), np.uint8) + eye[:, None], "random_mask:missing=0.875", "missing in every image"),
        (np.ones((4, 1, 8, 8), np.uint8), "box_mask:size=2", "not one square of 2 pixels"),
        (coloured, f"random_mask:missing={share}", "say shared=0"),
    ):
        source = ImageArray(images=images, mask=mask, name="x")
        with pytest.raises(DataError, match=message):
            ObservedDataset(source, corruption=corruptions.parse(spec), sigma_obs=0.0, seed=0, simulate=False)


def test_masks_alike_in_all_channels_are_one(tmp_path):
    mask = np.random.default_rng(0).integers(0, 2, (8, 1, 8, 8)).astype(np.uint8).repeat(3, 1)
    np.savez(tmp_path / "x.npz", images=np.zeros((8, 3, 8, 8), np.uint8), mask=mask)
    assert open_source(tmp_path / "x.npz").mask.shape == (8, 1, 8, 8)


BAD_OPTIONS = {
    ("--corruption", "downsample:factor=3"): "factor 3 does not divide 8x8",
    ("--corruption", "motion_blur:size=4"): "odd",
    ("--corruption", "motion_blur:size=31"): "too large for 8x8",
    ("--corruption", "random_mask:missing=1.5"): "missing expects",
    ("--corruption", "box_mask:size=9"): "leaves nothing",
    ("--corruption", "fourier:acceleration=2,acs_lines=2"): "real=1 takes real images",
    ("--corruption", "no_such_module.thing"): "cannot import no_such_module",
    ("--corruption", "random_mask", "--delta", "0"): "delta",
    ("--delta", "0.2"): "--delta: objective 'tweedie' hides nothing",
    ("--masked-loss", "kept"): "--masked-loss: is of objective 'ambient'",
    ("--consistency-steps", "3"): "--consistency-steps: without --consistency",
    ("--sigma-obs", "0.4:0.1"): "LEAST:GREATEST",
    ("--sigma-obs", "loud"): "--sigma-obs",
    ("--sigma-obs", "estimate"): "is for observations",
    ("--clean-share", "1"): "--clean-share",
    ("--augment", "turns"): "--augment",
    ("--corruption", "motion_blur:size=3,angle=20", "--augment", "hflip"): "--augment: hflip makes another operator",
}


@pytest.mark.parametrize("options", BAD_OPTIONS, ids=" ".join)
def test_bad_options_are_usage_errors(options, tmp_path, capsys):
    arguments = ["--data", "digits", "--simulate", "--sigma-obs", "0.1", "--out", tmp_path / "run", *options]
    code, out, error = run_in_process(capsys, "pretrain", *arguments)
    assert code == 2 and out == "" and error.count("\n") == 1 and BAD_OPTIONS[options] in error, error
    assert not (tmp_path / "run").exists()


def test_bad_places_for_observations_are_usage_errors(tmp_path, capsys):
    for options, message in (
        (["--corruption", "fourier:acceleration=2,acs_lines=2,real=1", "--out", tmp_path / "x.npz"], "an .h5 file"),
        (["--out", tmp_path / "x.h5"], "an .npz file or a folder"),
        (["--sigma-obs", "0.1:0.2", "--out", tmp_path / "x"], "only an .npz says"),
        (["--clean-share", "0.1", "--out", tmp_path / "x.h5"], "only an .npz says"),
        (["--sigma-obs", "estimate", "--out", tmp_path / "x"], "--sigma-obs"),
        (["--estimate", "digits", "--out", tmp_path / "x"], "--estimate"),
        (["--json", "--out", tmp_path / "x"], "--json"),
    ):
        code, out, error = run_in_process(capsys, "corrupt", "--data", "digits", *options)
        assert code == 2 and out == "" and error.count("\n") == 1 and message in error, error
    code, out, error = run_in_process(capsys, "corrupt", "--out", tmp_path / "x")
    assert code == 2 and "--data" in error
