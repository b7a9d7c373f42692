"""Drawing from runs, batch by batch."""

import functools
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from rsd_fast import cuda_graphs
from rsd_fast import sampler as sampler_module
from rsd_fast.data import to_uint8
from rsd_fast.errors import FieldError
from rsd_fast.loading import load_generator
from rsd_fast.runs import save_model
from rsd_fast.sampler import Sampler

from . import generators, tiny
from .test_step import Watch

KINDS = ["plain", "ncsnpp", "mask", "gated", "fourier"]
of_every_kind = pytest.mark.parametrize("kind", KINDS)
of_either_stage = pytest.mark.parametrize("stage", ["teacher", "generator"])


def saved(folder, kind, stage):
    """A checkpoint folder of small networks with weights that matter."""
    made = generators.write(folder / kind, kind)
    if stage == "teacher":
        c = made.config
        teacher = tiny.pretrain(observations=c.observations, objective=c.objective, network=c.network)
        save_model(folder / kind / "model.safetensors", made.denoiser.state_dict(), teacher, 0.0)
    return folder / kind


def drawn(sampler, num, batch, seed=0):
    """`num` images of whole batches, each drawn directly."""
    parts = [sampler.draw(torch.arange(first, first + batch), seed) for first in range(0, num, batch)]
    return torch.cat(parts)[:num].cpu()


def counting(captured):
    """Takes the place of a capture; lists the functions."""

    def capture(function, pool):
        captured.append(function)
        return function

    return capture


@of_every_kind
@of_either_stage
def test_replayed_batches_are_those_drawn(tmp_path, monkeypatch, kind, stage):
    captured, sizes = [], []
    monkeypatch.setattr(sampler_module, "Graphed", functools.partial(cuda_graphs.Graphed, capture=counting(captured)))
    path = saved(tmp_path, kind, stage)
    plain, graphed = Sampler(path, steps=2), Sampler(path, steps=2)
    assert not plain.how.cuda_graphs
    graphed.how = replace(graphed.how, cuda_graphs=True)
    inner = graphed._draw
    monkeypatch.setattr(graphed, "_draw", lambda index, seed: sizes.append(len(index)) or inner(index, seed))
    for seed in (0, 0, 5):
        assert torch.equal(torch.cat(list(graphed.batches(10, seed, batch=4))), drawn(plain, 10, 4, seed))
    assert set(sizes) == {4} and len(captured) == 2  # of each seed once, also for the last batch, of 2
    kept = graphed.draw(torch.arange(4), 5)
    before = kept.clone()
    graphed.draw(torch.arange(4, 8), 5)
    assert torch.equal(kept, before)


def test_a_single_batch_is_not_captured(tmp_path, monkeypatch):
    captured = []
    monkeypatch.setattr(sampler_module, "Graphed", functools.partial(cuda_graphs.Graphed, capture=counting(captured)))
    sampler = Sampler(saved(tmp_path, "plain", "generator"))
    sampler.how = replace(sampler.how, cuda_graphs=True)
    for seed in range(3):
        assert [len(images) for images in sampler.batches(3, seed)] == [3]
    assert captured == []


@of_every_kind
@of_either_stage
def test_drawing_waits_for_nothing(tmp_path, kind, stage):
    sampler = Sampler(saved(tmp_path, kind, stage), steps=2)
    index = torch.arange(3)
    sampler.draw(index, 0)  # examples are brought to the device once
    with Watch() as watch:
        sampler.draw(index, 0)
    assert watch.waits == []


def test_batches_are_finished_where_they_are_drawn(tmp_path):
    sampler = Sampler(saved(tmp_path, "plain", "generator"))
    finished = list(sampler.batches(7, 1, 3, to_uint8))
    assert [len(images) for images in finished] == [3, 3, 1]
    assert torch.equal(torch.cat(finished), to_uint8(torch.cat(list(sampler.batches(7, 1, 3)))))


def test_few_samples_cost_few_evaluations(tmp_path):
    sampler = Sampler(saved(tmp_path, "plain", "generator"))
    sizes = []
    draw, sampler.draw = sampler.draw, lambda index, seed: sizes.append(len(index)) or draw(index, seed)
    assert sum(len(batch) for batch in sampler.batches(7, batch=4)) == 7
    assert sizes == [4, 3]


def test_graphs_are_for_cuda(tmp_path):
    with pytest.raises(ValueError, match="cuda_graphs: only CUDA devices"):
        Sampler(saved(tmp_path, "mask", "generator"), cuda_graphs=True)


def test_a_device_is_asked_for_a_batch_when_the_next_one_is_queued(monkeypatch):
    queued = []

    def queue():
        for i in range(3):
            queued.append(i)
            yield SimpleNamespace(device=torch.device("cuda"), number=i)

    monkeypatch.setattr(sampler_module, "_Coming", lambda batch: SimpleNamespace(wait=lambda: batch.number))
    found = [(number, len(queued)) for number in sampler_module._brought(queue())]
    assert found == [(0, 2), (1, 3), (2, 3)]
    on_cpu = [torch.zeros(1), torch.ones(1)]
    assert all(a is b for a, b in zip(sampler_module._brought(on_cpu), on_cpu, strict=True))


@pytest.mark.slow
@of_either_stage
def test_compiled_sampling_agrees_and_compiles_once(tmp_path, stage):
    torch._dynamo.reset()  # what another test compiled would make the first compilation here a second one
    path = saved(tmp_path, "plain", stage)
    eager, compiled = Sampler(path, steps=3), Sampler(path, steps=3, compile=True)
    with torch._dynamo.config.patch(error_on_recompile=True):
        found = torch.cat(list(compiled.batches(10, batch=4)))
        torch.testing.assert_close(torch.cat(list(compiled.batches(10, batch=4))), found, rtol=0, atol=0)
    torch.testing.assert_close(found, drawn(eager, 10, 4), rtol=1e-4, atol=1e-4)


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype")
@of_every_kind
@of_either_stage
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_cuda_graphs_draw_as_without(tmp_path, kind, stage, precision):
    path = saved(tmp_path, kind, stage)
    plain, graphed = (Sampler(path, "cuda", steps=3, precision=precision, cuda_graphs=g) for g in (False, True))
    assert graphed.cuda_graphs
    for seed in (0, 5):
        found = torch.cat(list(graphed.batches(22, seed, batch=4)))
        torch.testing.assert_close(found, drawn(plain, 22, 4, seed), rtol=1e-5, atol=1e-5)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for sampler in (plain, graphed):
            for images in sampler.batches(12, 5, 4, to_uint8):
                assert not images.is_pinned() and images.dtype == torch.uint8
    finally:
        torch.cuda.set_sync_debug_mode("default")


# Classes


@of_either_stage
def test_classes_are_drawn_and_are_those_that_are_said(tmp_path, stage):
    """Image i is that of its class, however the classes are said, and those that nobody says can be looked up."""
    sampler = Sampler(saved(tmp_path, "ncsnpp", stage), steps=2)
    drawn_by_itself = torch.cat(list(sampler.batches(9, 3, 4)))
    classes = sampler.labels(9, 3)
    assert classes.dtype == torch.int64 and len(set(classes.tolist())) > 2 and sampler.label_dim == 10
    assert torch.equal(torch.cat(list(sampler.batches(9, 3, 4, labels=classes))), drawn_by_itself)
    of_class = torch.cat(list(sampler.batches(9, 3, 4, labels=7)))
    assert sampler.labels(9, 3, 7).tolist() == [7] * 9
    for i in range(9):
        assert torch.equal(of_class[i], drawn_by_itself[i]) == (classes[i] == 7)
    assert torch.equal(sampler.draw(torch.arange(4), 3, torch.full((4,), 7)), of_class[:4])


@of_either_stage
def test_classes_are_replayed_by_a_graph_of_their_own(tmp_path, monkeypatch, stage):
    captured = []
    monkeypatch.setattr(sampler_module, "Graphed", functools.partial(cuda_graphs.Graphed, capture=counting(captured)))
    path = saved(tmp_path, "ncsnpp", stage)
    plain, graphed = Sampler(path, steps=2), Sampler(path, steps=2)
    graphed.how = replace(graphed.how, cuda_graphs=True)
    for number, labels in enumerate((None, 4, torch.arange(10)), 1):  # a last batch of 2, which is filled up
        images = torch.cat(list(graphed.batches(10, 0, batch=4, labels=labels)))
        whole = torch.cat(list(plain.batches(10, 0, batch=2, labels=labels)))
        torch.testing.assert_close(images, whole, rtol=1e-3, atol=1e-3)
        assert len(captured) == min(number, 2)


@of_either_stage
def test_classes_that_a_run_does_not_have_are_refused(tmp_path, stage):
    sampler = Sampler(saved(tmp_path, "ncsnpp", stage), steps=2)
    for labels, message in (
        (10, "labels: expected 0 to 9, got 10 to 10"),
        (-1, "labels: expected 0 to 9, got -1 to -1"),
        (torch.tensor([0, 1, 12]), "labels: expected 0 to 9, got 0 to 12"),
        (torch.tensor([0, 1]), "labels: expected one for each image, got 2"),
        (torch.zeros(3), r"labels: expected integers \[3\], got torch.float32"),
        (torch.zeros(3, 10).long(), r"labels: expected integers \[3\]"),
    ):
        for call in (sampler.batches, sampler.labels):
            with pytest.raises(FieldError, match=message):
                call(3, labels=labels)
    unconditional = Sampler(saved(tmp_path, "plain", stage), steps=2)
    assert unconditional.labels(3) is None
    with pytest.raises(FieldError, match="labels: the network is not conditional on labels"):
        unconditional.batches(3, labels=0)


def test_a_generator_takes_the_same_labels(tmp_path):
    sampler = Sampler(saved(tmp_path, "ncsnpp", "generator"))
    made = load_generator(tmp_path / "ncsnpp")
    for labels in (None, 3, torch.tensor([3, 1, 4, 1, 5])):
        images = torch.cat(list(sampler.batches(5, 2, labels=labels)))
        torch.testing.assert_close(made.sample(5, 2, labels=labels, batch=2), images.clamp(-1, 1), rtol=1e-4, atol=1e-4)
    with pytest.raises(FieldError, match="labels: expected 0 to 9"):
        made.sample(2, labels=11)
    with pytest.raises(FieldError, match="num: expected at least 1"):
        made.sample(0)
