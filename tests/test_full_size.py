"""The published networks at full size: built, run forward, and trained for a step of each stage, within 8 GiB."""

import json
import subprocess
import sys

import pytest

STEPS = """
import json, resource, sys, torch
from dataclasses import replace
from rsd_fast import presets
from rsd_fast.config import Distill, Distillation, Observations, Pretrain, Training, UNet
from rsd_fast.corruptions import Observation
from rsd_fast.build import build_denoiser
from rsd_fast.methods import DistillMethod, PretrainMethod
from rsd_fast.methods.base import Batch
from rsd_fast.config import Objective

name, size, stage = sys.argv[1], int(sys.argv[2]), sys.argv[3]
shape = (3, size, size)
observations = Observations(
    data="x", simulate=True, corruption="identity", sigma_obs=0.2, seed=0, num_images=2, image_shape=shape,
    observation_shape=shape,
)
teacher = Pretrain(
    preset=name, observations=observations, network=UNet(**presets.load(name).network),
    objective=Objective(name="tweedie"), training=Training(precision="fp32"),
)
torch.manual_seed(0)
network = build_denoiser(teacher).to(memory_format=torch.channels_last)
count = sum(parameter.numel() for parameter in network.parameters())
if stage == "pretrain":
    method = PretrainMethod(teacher, network)
else:
    config = Distill(
        preset=name, teacher="x", observations=observations, network=teacher.network, objective=teacher.objective,
        distillation=Distillation(), training=teacher.training,
    )
    method = DistillMethod(config, network)
data = {}
if stage == "pretrain":
    y = torch.randn(2, *shape).clamp(-1, 1)
    data = {"observation": Observation(y, None, torch.full((2,), 0.2)), "labels": torch.full((2,), -1)}
losses = []
for step, phase in enumerate(method.phases, start=1):
    weight = phase.network.model.map_layer0.weight
    before = weight.detach().clone()
    optimizer = torch.optim.Adam(phase.network.parameters(), lr=1e-4, fused=True)
    loss, _ = method.loss(phase, Batch(sample=torch.arange(2), step=step, **data))
    loss.sum().backward()
    optimizer.step()
    losses.append(float(loss.detach().sum()))
    assert not torch.equal(before, weight)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
print(json.dumps({"parameters": count, "losses": losses, "peak_gib": peak}))
"""


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["pretrain", "distill"])
@pytest.mark.parametrize(("preset", "size"), [("cifar10", 32), ("edm-cifar10-ncsnpp", 32), ("ffhq64", 64)])
def test_a_training_step_of_the_published_networks_fits_in_8_gib(preset, size, stage):
    done = subprocess.run([sys.executable, "-c", STEPS, preset, str(size), stage], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["parameters"] > 55e6
    assert all(abs(loss) < 1e9 for loss in result["losses"]) and len(result["losses"]) == 1 + (stage == "distill")
    assert result["peak_gib"] < 8
