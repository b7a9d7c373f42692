"""Parts of one's own, each in one file: an operator that is drawn per image, and a loss of the generator."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import rsd_fast
from rsd_fast import corruptions, generator_losses, ops
from rsd_fast.corruptions import Corruption, Draw, DrawnCorruption, View, register
from rsd_fast.data import DataError, ImageArray, ObservedDataset
from rsd_fast.generator_losses import LOSSES
from rsd_fast.ops import Key
from rsd_fast.ops.fft import fft2c, ifft2c, to_channels, to_complex
from rsd_fast.runs import RunError

from .test_cli import NETWORK, SHORT, run_in_process

# An operator: of each image a ring of Fourier coefficients is kept, with the lowest ones.


class RingView(View):
    """The state is k-space, and the condition its mask."""

    def __init__(self, kept: Tensor, channels: int) -> None:
        self.kept, self.channels = kept, channels
        self.condition = kept.expand(-1, channels, -1, -1)

    def measure(self, x: Tensor) -> Tensor:
        return self.keep(to_channels(fft2c(to_complex(x))))

    def image(self, state: Tensor) -> Tensor:
        return to_channels(ifft2c(to_complex(self.keep(state))), self.channels)

    def keep(self, state: Tensor) -> Tensor:
        return state.masked_fill(self.kept == 0, 0)


@register("ring")
class Ring(DrawnCorruption):
    """Coefficients within `low` of the middle, and those of a ring of one pixel whose radius is drawn per image."""

    about = "a ring of Fourier coefficients, drawn per image"
    random = True
    objective = "fourier"  # the loss compares what was measured

    def __init__(self, *, low: float = 2.0) -> None:
        self.low, self.spec = low, f"ring:low={low!r}"

    def observation_shape(self, image_shape: tuple[int, int, int]) -> tuple[int, int, int]:
        return 2, image_shape[1], image_shape[2]

    def image_shape(self, observation_shape: tuple[int, int, int]) -> tuple[int, int, int]:
        return 1, observation_shape[1], observation_shape[2]

    def rings(self, radius: Tensor, height: int, width: int) -> Tensor:
        y, x = (torch.arange(n, device=radius.device) - n // 2 for n in (height, width))
        distance = (y[:, None] ** 2 + x**2).sqrt()
        ring = (distance - radius[:, None, None, None]).abs() < 0.5
        return ((distance <= self.low) | ring).to(torch.uint8)

    def generate(self, image_shape: tuple[int, int, int], index: Tensor, seed: int) -> Draw:
        _, height, width = image_shape
        u = ops.uniform((len(index),), seed, index, 0, ops.Stream.OBSERVATION_MASK)
        return Draw(mask=self.rings(self.low + u * (max(height, width) / 2 - self.low), height, width))

    def further(self, draw: Draw, delta: float, *, seed: int, sample: Tensor, step: int | Tensor) -> Draw:
        _, _, height, width = draw.mask.shape
        gone = ops.uniform((len(sample), 1, 1, 1), seed, sample, step, ops.Stream.FURTHER_MASK) < delta
        low = self.rings(torch.full((len(sample),), -9.0, device=draw.mask.device), height, width)
        return Draw(mask=torch.where(gone, low, draw.mask))

    def apply(self, x: Tensor, draw: Draw) -> Tensor:
        return RingView(draw.mask, 1).measure(x)

    def transpose(self, y: Tensor, draw: Draw) -> Tensor:
        return RingView(draw.mask, 1).image(y)

    def view(self, draw: Draw, image_shape: tuple[int, int, int]) -> View:
        return RingView(draw.mask, image_shape[0])

    def picture(self, y: Tensor, draw: Draw | None) -> Tensor:
        assert draw is not None
        return self.transpose(y, draw)


def test_an_operator_of_ones_own_is_adjoint_and_listed():
    operator = corruptions.parse("ring:low=1.5")
    index = torch.arange(3)
    x = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    y = torch.randn(3, 2, 8, 8, generator=torch.Generator().manual_seed(1))
    forward, adjoint = operator.forward(x, index=index), operator.adjoint(y, index=index)
    torch.testing.assert_close((forward * y).sum(), (x * adjoint).sum(), rtol=1e-4, atol=1e-4)
    assert corruptions.described()["ring"] == ("ring", "a ring of Fourier coefficients, drawn per image")


def test_an_operator_of_ones_own_trains_in_both_stages(tmp_path, capsys):
    data = ["--data", "digits", "--simulate", "--corruption", "ring:low=1.5", "--sigma-obs", 0.1]
    code, _, error = run_in_process(
        capsys, "pretrain", *data, *NETWORK, *SHORT, "--eval-kimg", 0.064, "--eval-num", 16, "--out", tmp_path / "t"
    )
    assert code == 0, error
    code, _, error = run_in_process(capsys, "distill", "--teacher", tmp_path / "t", *SHORT, "--out", tmp_path / "g")
    assert code == 0, error
    code, _, error = run_in_process(capsys, "sample", "--run", tmp_path / "g", "--num", 4, "--out", tmp_path / "s.npz")
    assert code == 0, error
    config = json.loads((tmp_path / "g" / "config.json").read_text())
    assert config["objective"]["name"] == "fourier" and config["observations"]["observation_shape"] == [2, 8, 8]


class Unregistered(Ring):
    """One that no SPEC names: it can only be given as an object."""

    def __init__(self) -> None:
        super().__init__(low=1.5)
        self.name, self.spec = "unregistered", "unregistered"


def test_an_operator_that_no_spec_names_is_given_as_an_object(tmp_path):
    tiny = {"model_channels": 8, "channel_mult": (1, 2), "num_blocks": 1, "attn_resolutions": ()}
    short = {"kimg": 0.064, "batch": 32, "log_kimg": 0.064, "snapshot_kimg": 0.064, "device": "cpu"}
    ring = Unregistered()
    teacher = rsd_fast.pretrain(
        "digits", out=tmp_path / "t", simulate=True, corruption=ring, sigma_obs=0.1, **tiny, **short
    )
    student = rsd_fast.distill(teacher, out=tmp_path / "g", eval_num=16, **short)
    assert student.metrics() and student.generator().sample(3).shape == (3, 1, 8, 8)
    drawn = rsd_fast.sample(student, 3, precision="fp32")
    torch.testing.assert_close(drawn.clamp(-1, 1), student.generator().sample(3))
    with pytest.raises(RunError, match="unknown corruption 'unregistered'"):
        rsd_fast.sample(student.path, 3)


def test_data_that_are_none_of_an_operators_are_refused():
    images = np.zeros((4, 2, 8, 8), np.float32)
    for source, reason in (
        (
            ImageArray(images=images, name="x"),
            "observations of 'ring:low=2.0' need their masks, and none came with them",
        ),
        (ImageArray(images=images, name="x", kspace=True), "k-space is complex data, and 'ring:low=2.0' acts on real"),
    ):
        with pytest.raises(DataError, match=reason):
            ObservedDataset(source, corruption=Ring(), sigma_obs=0.0, seed=0, simulate=False)


def test_masks_that_came_with_the_data_are_used():
    index = torch.arange(6)
    clean = torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(0)) - 0.5
    seen = corruptions.observation(Ring(), clean, index=index, sigma_obs=0.1, seed=3)
    mask = seen.operator.draw.mask
    mask[0] = 1  # that nothing is missing everywhere
    source = ImageArray(images=seen.y.numpy(), name="x", mask=mask.numpy())
    dataset = ObservedDataset(source, corruption=Ring(), sigma_obs=0.1, seed=99, simulate=False)
    observation, _ = dataset.observe(index.flip(0))
    assert torch.equal(observation.operator.draw.mask, mask.flip(0))
    assert torch.equal(observation.y, seen.y.flip(0))


def test_nothing_can_be_hidden_of_an_operator_without_draws():
    operator = Fixed(torch.tensor([1.0])).batch((1, 2, 2), torch.arange(3), 0)
    for hide in (lambda: operator.further(0.1, Key(0, torch.arange(3))), operator.view):
        with pytest.raises(TypeError, match="derive it from DrawnCorruption"):
            hide()


class Fixed(Corruption):
    """A linear operator that differs from image to image by its index only, and has tensors of its own."""

    random = True

    def __init__(self, gains: Tensor) -> None:
        self.gains, self.spec = gains, "fixed"

    def forward(self, x: Tensor, *, index: Tensor | None = None, seed: int = 0) -> Tensor:
        assert index is not None
        return x * self.gains.to(x)[index % len(self.gains)][:, None, None, None]

    adjoint = forward


def test_an_operator_of_a_batch_remembers_its_images():
    operator = Fixed(torch.tensor([1.0, 2.0, 3.0]))
    x, index = torch.ones(4, 1, 2, 2), torch.tensor([2, 0, 1, 5])
    seen = corruptions.observation(operator, x, index=index, sigma_obs=0.0, seed=0)
    assert seen.y[:, 0, 0, 0].tolist() == [3, 1, 2, 3]
    assert torch.equal(seen.operator.apply(x), seen.y) and seen.operator.draw is None


# A loss of the generator


@pytest.fixture
def half():
    """Half of DMD's, which needs the fake score and no gradient through it."""
    record = dataclasses.replace(
        LOSSES["dmd"], fn=lambda terms: generator_losses.dmd(terms.d, terms.r, terms.u) / 2, about="half of dmd"
    )
    LOSSES.add("half", record)
    yield
    del LOSSES._records["half"]


def test_a_loss_of_ones_own_is_an_option_and_trains(half, tmp_path, capsys):
    data = ["--data", "digits", "--simulate", "--sigma-obs", 0.3]
    assert run_in_process(capsys, "pretrain", *data, *NETWORK, *SHORT, "--out", tmp_path / "t")[0] == 0
    fisher = {}
    for loss in ("dmd", "half"):
        code, _, error = run_in_process(
            capsys, "distill", "--teacher", tmp_path / "t", *SHORT, "--loss", loss, "--out", tmp_path / loss
        )
        assert code == 0, error
        fisher[loss] = json.loads((tmp_path / loss / "log.jsonl").read_text().splitlines()[0])
    assert fisher["half"]["generator_loss"] == pytest.approx(fisher["dmd"]["generator_loss"] / 2, rel=1e-3)
    code, _, error = run_in_process(
        capsys, "distill", "--teacher", tmp_path / "t", *SHORT, "--loss", "dmb", "--out", tmp_path / "no"
    )
    assert code == 2 and "half" in error


# What lists them


def test_help_and_readme_list_every_operator(capsys):
    readme = (Path(__file__).parents[1] / "README.md").read_text()
    code, out, _ = run_in_process(capsys, "corrupt", "--help")
    text = "".join(out.split())  # long words are broken over lines
    assert code == 0 and all(example in text for example, _ in corruptions.described().values())
    for name, (_, about) in corruptions.described().items():
        if corruptions.base._REGISTRY[name].__module__.startswith("rsd_fast."):
            assert f"`{name}" in readme, f"README.md's table of corruptions lacks {name}"
            assert about, f"{name} does not say what it is about"
