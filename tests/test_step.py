"""What a training step does and does not do: graphs, synchronisation, memory formats, recompilation, work."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from rsd_fast import config as configs
from rsd_fast import corruptions, loading, networks, train
from rsd_fast.build import build_denoiser
from rsd_fast.config import Objective
from rsd_fast.data.order import ShuffledObservations
from rsd_fast.engine import Trainer, memory
from rsd_fast.engine import step as steps
from rsd_fast.methods import Batch, DistillMethod, PretrainMethod
from rsd_fast.networks import compile_network, set_precision
from rsd_fast.ops import Key
from rsd_fast.run_dataset import open_observations
from rsd_fast.runs import Run

from . import tiny

BLUR = {"corruption": "gaussian_blur:size=3,std=1", "sigma_obs": 0.2}
MASK = {"corruption": "random_mask:missing=0.4", "sigma_obs": 0.1}
FOURIER = {"corruption": "fourier:acceleration=2,acs_lines=2,real=1", "sigma_obs": 0.1}
OBJECTIVES = {"random_mask": "ambient", "fourier": "fourier", "gaussian_blur": "tweedie"}
CASES = [BLUR, MASK, FOURIER]
case = pytest.mark.parametrize("observed", CASES, ids=["blur", "mask", "fourier"])
stage = pytest.mark.parametrize("kind", ["pretrain", "distill"])


def config(kind, observed=BLUR, distillation=(), network=(), **training):
    operator = corruptions.parse(observed["corruption"])
    shape = operator.observation_shape((1, 8, 8))
    teacher = tiny.pretrain(
        observations=tiny.observations(observation_shape=shape, label_dim=10, **observed),
        objective=Objective(name=OBJECTIVES[operator.name]),
        network=dataclasses.replace(tiny.NETWORK, **dict(network)),
        training=tiny.training(**training),
    )
    if kind == "pretrain":
        return teacher
    settings = dataclasses.replace(configs.Distillation(), **dict(distillation))
    return tiny.distill(teacher, "teacher", distillation=settings, training=tiny.training(beta1=0.0, **training))


def built(config, device="cpu", *, compiled=False):
    """A trainer of randomised networks, not yet stepped."""
    torch.manual_seed(0)
    network = build_denoiser(config).to(device, memory_format=torch.channels_last)
    for parameter in network.parameters():  # the published initialisation leaves most branches almost off
        nn.init.normal_(parameter, std=0.1)
    network.channels_last = True
    network.model.checkpoint_activations = config.training.checkpoint_activations
    set_precision(network, config.training.precision)
    data = None
    if isinstance(config, configs.Pretrain):
        method = PretrainMethod(config, network)
        dataset = open_observations(config.observations)
        data = ShuffledObservations(dataset, seed=0, device=torch.device(device))
    else:
        method = DistillMethod(config, network)
    if compiled:
        for each in method.networks:
            compile_network(each)
    return Trainer(method, config, Run(Path("unused")), data=data)


def weights(trainer):
    phases = trainer.method.phases
    return [
        p.detach() for phase in phases for net in (phase.network, phase.ema or phase.network) for p in net.parameters()
    ]


def assert_same(first, second):
    assert first.statistics.summary() == second.statistics.summary()
    for a, b in zip(weights(first), weights(second), strict=True):
        assert torch.equal(a, b)


# CUDA graphs


def recorded(function, pool):
    """Takes the place of a capture on a machine without CUDA: what is replayed runs on the same static tensors."""
    return function


def stepped(settings):
    """(a trainer after five steps, one whose steps are replayed after as many)."""
    plain, graphed = built(settings), built(settings)
    for step in graphed.steps:
        step.graph_options = {"warmup": 0, "capture": recorded}
    for _ in range(5):
        plain.step()
        graphed.step()
    return plain, graphed


@stage
@case
@pytest.mark.parametrize("micro_batch", [None, 4])
def test_a_replayed_step_is_the_step(kind, observed, micro_batch):
    """Whatever differs from step to step reaches a replay in its tensors, and nothing of an earlier step stays."""
    plain, graphed = stepped(config(kind, observed, micro_batch=micro_batch, clip=1.0))
    assert all(step.graphs is not None for step in graphed.steps)
    assert all(len(step.graphs[0].recorded) == 1 for step in graphed.steps)
    assert_same(plain, graphed)


def test_a_replay_reuses_the_generators_batch():
    assert_same(*stepped(config("distill", distillation={"reuse_batch": True})))


@pytest.mark.gpu
@stage
@case
@pytest.mark.parametrize("clip", [None, 1.0])
def test_cuda_graphs_train_as_without(kind, observed, clip):
    found = []
    for graphs in (False, True):
        trainer = built(config(kind, observed, clip=clip, device="cuda", cuda_graphs=graphs), "cuda")
        for _ in range(6):
            trainer.step()
        found.append(trainer)
    assert all(step.graphs is not None for step in found[1].steps)
    first, second = (trainer.statistics.summary() for trainer in found)
    for name in first:
        assert second[name] == pytest.approx(first[name], rel=2e-2, abs=1e-3), name


@pytest.mark.gpu
def test_concurrent_scores_are_the_same_scores():
    found = []
    for concurrent in (False, True):
        trainer = built(config("distill", distillation={"concurrent_scores": concurrent}, device="cuda"), "cuda")
        for _ in range(3):
            trainer.step()
        found.append(trainer.statistics.summary())
    for name in found[0]:
        assert found[1][name] == pytest.approx(found[0][name], rel=1e-3), name


def test_what_only_cuda_has_is_refused_elsewhere():
    with pytest.raises(ValueError, match="cuda_graphs: only CUDA"):
        tiny.training(cuda_graphs=True)
    with pytest.raises(ValueError, match="concurrent_scores: only CUDA"):
        config("distill", distillation={"concurrent_scores": True})


# Synchronisation and memory formats

# What reads a value on the host, or brings one from there by a copy that waits.
SYNCHRONISING = ("_local_scalar_dense", "nonzero", "masked_select", "equal", "unique", "lift_fresh", "is_nonzero")


class Watch(TorchDispatchMode):
    """Counts what would wait for a device, and images that leave the channels-last format."""

    def __init__(self):
        super().__init__()
        self.waits, self.conversions = [], []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if any(name.startswith(prefix) or name == prefix for prefix in SYNCHRONISING):
            self.waits.append(name)
        results = out if isinstance(out, list | tuple) else [out]
        held = {t.untyped_storage().data_ptr() for t in args if isinstance(t, torch.Tensor)}
        for t in results:
            if not isinstance(t, torch.Tensor) or t.ndim != 4 or t.untyped_storage().data_ptr() in held:
                continue  # a view costs nothing
            if t.shape[0] == BATCH and t.shape[1] > 3 and t.shape[2] == t.shape[3] > 1 and t.stride(1) != 1:
                self.conversions.append((str(func), tuple(t.shape), t.stride()))
        return out


BATCH = 16


@stage
@case
def test_a_step_waits_for_nothing(kind, observed, monkeypatch):
    trainer = built(config(kind, observed))
    monkeypatch.setattr(trainer, "check_finite", lambda *_: None)  # of a CPU alone, where reading costs nothing
    trainer.step()  # examples and kernels are brought to the device once
    data = trainer.data
    if data is not None:  # which knows its positions on the host
        ready = [data(range(i, i + BATCH), None) for i in (BATCH, 2 * BATCH)]
        trainer.data = lambda *_: ready.pop(0)
    with Watch() as watch:
        trainer.step()
        trainer.step()
    assert watch.waits == []


def test_the_watch_sees():
    with Watch() as watch:
        torch.ones(2).sum().item()
        torch.tensor([1.0])
        torch.ones(2).nonzero()
        torch.ones(BATCH, 8, 4, 4).to(memory_format=torch.channels_last).contiguous()
    assert watch.waits == ["_local_scalar_dense", "lift_fresh", "nonzero"] and len(watch.conversions) == 2


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore:Synchronization debug mode")
@stage
@case
@pytest.mark.parametrize("graphs", [False, True])
def test_a_step_waits_for_nothing_on_a_gpu(kind, observed, graphs):
    trainer = built(config(kind, observed, device="cuda", cuda_graphs=graphs), "cuda")
    for _ in range(4):
        trainer.step()
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(3):
            trainer.step()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("architecture", ["ddpmpp", "ncsnpp", "adm"])
@stage
def test_no_layer_leaves_the_channels_last_format(kind, architecture, precision):
    settings = config(kind, network={"architecture": architecture}, precision=precision)
    trainer = built(settings)
    with Watch() as watch:
        trainer.step()
    assert watch.conversions == []


# Compilation


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # dynamo looks at it
@pytest.mark.parametrize(
    ("observed", "network"),
    [
        (BLUR, {"architecture": "ddpmpp"}),
        (BLUR, {"architecture": "adm"}),
        (MASK, {"architecture": "ncsnpp", "gated": True, "hidden_noise": "sigma"}),
    ],
    ids=["ddpmpp", "adm", "gated-ncsnpp"],
)
@stage
def test_compiled_whole_and_once(kind, observed, network):
    """fullgraph: a break in the graph is an error. After warm-up nothing is compiled again, neither at a snapshot."""
    settings = config(kind, observed, network=network)
    eager, compiled = built(settings), built(settings, compiled=True)
    for trainer in (eager, compiled):
        trainer.step()
    with torch._dynamo.config.patch(error_on_recompile=True):
        for _ in range(2):
            compiled.step()
        compiled.method.preview()
        compiled.step()
    for _ in range(3):
        eager.step()
    found, expected = compiled.statistics.summary(), eager.statistics.summary()
    for name in expected:
        assert found[name][0] == pytest.approx(expected[name][0], rel=5e-3, abs=1e-3), name
    torch._dynamo.reset()


# Work


def flops(function):
    with FlopCounterMode(display=False) as counter:
        function()
    return counter.get_total_flops()


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize(
    "distillation",
    [None, {}, {"reuse_batch": True}, {"loss": "dmd"}, {"loss": "sds"}],
    ids=["pretrain", "sid", "reuse", "dmd", "sds"],
)
def test_a_step_costs_the_network_passes_that_are_said(distillation, checkpointing):
    kind = "pretrain" if distillation is None else "distill"
    network = {"model_channels": 32, "attn_levels": ()}  # so that all but convolutions is small
    trainer = built(
        config(kind, distillation=distillation or (), network=network, checkpoint_activations=checkpointing)
    )
    net = trainer.method.phases[0].network
    x, sigma = torch.zeros(16, 1, 8, 8), torch.ones(16)
    with torch.no_grad():
        once = flops(lambda: net(x, sigma))
    said = sum(trainer.method.network_evaluations().values())
    # Evaluating a block again ends with what its gradient needs, and so before its last convolution.
    assert flops(trainer.step) / once == pytest.approx(said, rel=0.06 if checkpointing else 0.03)


def test_consistency_is_counted():
    objective = Objective(name="tweedie", consistency=1.0, consistency_steps=3, consistency_primes=2)
    settings = dataclasses.replace(config("pretrain"), objective=objective)
    trainer = built(settings)
    assert trainer.method.network_evaluations() == {"teacher": 3 + 6}


def test_reused_images_are_those_of_the_fake_phase(monkeypatch):
    """One batch of the generator's serves both phases, and teaches it as fresh ones of the same latents would."""
    trainer = built(config("distill", distillation={"reuse_batch": True}))
    method, calls = trainer.method, []
    generate = DistillMethod.generated
    monkeypatch.setattr(DistillMethod, "generated", lambda self, key: calls.append(key.step) or generate(self, key))
    sample = torch.arange(BATCH)
    fake, generator = (Batch(sample=sample, step=step) for step in (1, 2))
    method.loss(method.fake_phase, fake)
    kept = method.kept
    loss, _ = method.loss(method.generator_phase, generator)
    assert calls == [1] and method.kept is None
    parameters = list(method.generator_phase.network.parameters())
    found = torch.autograd.grad(loss.sum(), parameters)
    method.kept = generate(method, Key(0, sample, 1))
    assert torch.equal(method.kept.x, kept.x)
    loss, _ = method.loss(method.generator_phase, generator)
    for a, b in zip(found, torch.autograd.grad(loss.sum(), parameters), strict=True):
        assert torch.equal(a, b)


def test_reuse_needs_the_whole_batch_and_two_phases():
    with pytest.raises(ValueError, match="reuse_batch: keeps"):
        config("distill", distillation={"reuse_batch": True}, micro_batch=4)
    with pytest.raises(ValueError, match="reuse_batch: loss 'sds'"):
        config("distill", distillation={"reuse_batch": True, "loss": "sds"})


def test_sds_trains_the_generator_alone():
    trainer = built(config("distill", distillation={"loss": "sds"}))
    before = [w.clone() for w in weights(trainer)]
    trainer.step()
    assert [phase.name for phase in trainer.method.phases] == ["generator"]
    assert any(not torch.equal(a, b) for a, b in zip(before, weights(trainer), strict=True))


# Memory


def saved_bytes(trainer):
    """The most that one backward pass keeps, of activations and weights."""
    total = {}

    def pack(t):
        total[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        step = trainer.steps[-1]
        loss, _ = trainer.method.loss(step.phase, trainer.batch(range(BATCH), len(trainer.steps)))
    loss.sum().backward()
    return sum(total.values())


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@stage
def test_checkpointed_activations_change_no_bit(kind, dropout):
    network = {"num_blocks": 3, "dropout": dropout}
    plain, checkpointed = (built(config(kind, network=network, checkpoint_activations=on)) for on in (False, True))
    for trainer in (plain, checkpointed):
        for _ in range(3):
            trainer.step()
    assert_same(plain, checkpointed)
    assert saved_bytes(checkpointed) < 0.6 * saved_bytes(plain)


@stage
def test_the_largest_micro_batch_that_fits(kind, tmp_path, monkeypatch):
    teacher = train.pretrain(tiny.pretrain(), tmp_path / "teacher")
    settings = tiny.pretrain() if kind == "pretrain" else tiny.distill(tiny.pretrain(), loading.model_file(teacher))
    settings = dataclasses.replace(settings, training=dataclasses.replace(settings.training, micro_batch="auto"))
    run = train.pretrain if kind == "pretrain" else train.distill
    asked = []

    def measured(attempt, images, device):
        attempt(images)
        asked.append(images)
        return 10**9 + images * 10**8

    monkeypatch.setattr(memory, "peak_bytes", measured)
    monkeypatch.setattr(memory, "allocated_bytes", lambda device: 10**9)
    monkeypatch.setattr(memory, "free_bytes", lambda device: 10**9)
    run(settings, tmp_path / "auto")
    assert asked == [1, 4]
    saved = configs.from_json((tmp_path / "auto" / "config.json").read_text())
    assert saved.training.micro_batch == 8  # of 16: 0.85 GB hold 8 images of 0.1 GB
    run(saved, tmp_path / "given")
    first, second = (
        [json.loads(line) for line in (tmp_path / name / "log.jsonl").read_text().splitlines()]
        for name in ("auto", "given")
    )
    assert first and all(
        a[name] == b[name] for a, b in zip(first, second, strict=True) for name in a if "loss" in name or "norm" in name
    )


def test_memory_that_holds_no_image(monkeypatch):
    monkeypatch.setattr(memory, "free_bytes", lambda device: 10**6)
    monkeypatch.setattr(memory, "peak_bytes", lambda attempt, images, device: 10**12)
    with pytest.raises(ValueError, match="micro_batch: not even one image"):
        memory.largest_micro_batch(lambda n: None, 8, torch.device("cpu"))


@pytest.mark.skipif(not memory.CLEAR.exists(), reason="needs Linux")
def test_peak_memory_is_measured():
    before = memory.allocated_bytes(torch.device("cpu"))
    peak = memory.peak_bytes(lambda n: torch.ones(n, 2**20).sum(), 100, torch.device("cpu"))
    assert 380 * 2**20 < peak - before < 500 * 2**20
    assert memory.free_bytes(torch.device("cpu")) > 2**28


def test_a_micro_batch_is_a_number_or_auto():
    with pytest.raises(ValueError, match="micro_batch: expected a number or auto, got 'most'"):
        tiny.training(micro_batch="most")


def test_steps_module_registers_batches():
    """Batches are taken apart into tensors wherever they hold them."""
    leaves, _ = steps.pytree.tree_flatten(Batch(sample=torch.arange(2), step=1))
    assert any(isinstance(leaf, torch.Tensor) for leaf in leaves)


def test_networks_compile_in_place():
    network = networks.create(
        "ddpmpp", image_size=8, in_channels=1, out_channels=1, model_channels=8, channel_mult=(1,), attn_resolutions=()
    )
    names = list(network.state_dict())
    compile_network(network)
    assert list(network.state_dict()) == names


def test_a_long_distillation_on_a_cpu_is_compiled(capsys, monkeypatch, tmp_path):
    from .test_cli import run_in_process

    teacher = train.pretrain(tiny.pretrain(), tmp_path / "teacher")

    def compiles(command, *options):
        common = ("--device", "cpu", "--batch", 10, "--out", tmp_path / "run", "--dry-run")
        code, out, error = run_in_process(capsys, command, *common, *options)
        assert code == 0, error
        return json.loads(out)["training"]["compile"]

    distill, pretrain = (
        ("distill", "--teacher", teacher),
        ("pretrain", "--data", "digits", "--simulate", "--sigma-obs", 0),
    )
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}")
    assert compiles(*distill, "--kimg", 20) and not compiles(*distill, "--kimg", 19)
    assert not compiles(*pretrain, "--kimg", 20) and compiles(*pretrain, "--kimg", 1, "--compile")
    assert not compiles(*distill, "--kimg", 20, "--no-compile")
    monkeypatch.setattr("shutil.which", lambda name: None)
    assert not compiles(*distill, "--kimg", 20)
