"""The buffers of a graph: what a replay reads and where it leaves its results. A CPU replays by calling again."""

import pytest
import torch
from torch.utils import _pytree as pytree

from rsd_fast import ops
from rsd_fast.cuda_graphs import Graphed


class Recorder:
    """Stands in for a capture: results always come in the tensors that the function first returned."""

    def __init__(self):
        self.pools, self.replays = [], 0

    def __call__(self, function, pool):
        self.pools.append(pool)
        kept = function()

        def replay():
            self.replays += 1
            pytree.tree_map(lambda old, new: old.copy_(new), kept, function())
            return kept

        return replay


def test_a_replay_reads_the_arguments_of_its_call():
    capture = Recorder()
    graphed = Graphed(lambda x, y: x + 2 * y, warmup=0, capture=capture)
    for i in range(3):
        x, y = torch.full((3,), float(i)), torch.arange(3.0)
        found = graphed(x, y)
        assert torch.equal(found, x + 2 * y)
        (inputs, _) = graphed.recorded[next(iter(graphed.recorded))]
        assert {t.data_ptr() for t in inputs}.isdisjoint({x.data_ptr(), y.data_ptr()})
        x.fill_(7)  # is nothing to the graph
        assert inputs[0][0] == i
    assert len(capture.pools) == 1 and capture.replays == 3


def test_results_come_in_the_same_tensors_of_any_structure():
    graphed = Graphed(lambda x: {"twice": 2 * x, "others": (x + 1, [x - 1])}, warmup=0, capture=Recorder())
    first = graphed(torch.zeros(2))
    second = graphed(torch.ones(2))
    assert second["twice"] is first["twice"] and first["twice"].tolist() == [2, 2]
    assert second["others"][0].tolist() == [2, 2] and second["others"][1][0].tolist() == [0, 0]


def test_another_signature_is_captured_anew_and_once():
    capture = Recorder()
    graphed = Graphed(lambda x: x + 1, warmup=0, capture=capture)
    kinds = [
        torch.zeros(2, 3),
        torch.zeros(3, 3),
        torch.zeros(2, 3, dtype=torch.float64),
        torch.zeros(3, 2).T,
        torch.zeros(6, dtype=torch.int64),
    ]
    for _ in range(2):
        for x in kinds:
            found = graphed(x)
            assert found.dtype == x.dtype and torch.equal(found, x + 1)
    assert len(capture.pools) == len(kinds)


@pytest.mark.parametrize("warmup", [0, 1, 3])
def test_it_warms_up_as_often_as_it_is_told(warmup):
    calls = []
    pool = object()

    def capture(function, given):
        assert given is pool and calls == [5.0] * warmup  # on the arguments, before anything is recorded
        return lambda: "replayed"

    graphed = Graphed(lambda x: calls.append(float(x)), warmup=warmup, pool=pool, capture=capture)
    assert graphed(torch.tensor(5.0)) == graphed(torch.tensor(6.0)) == "replayed"
    assert len(calls) == warmup


def test_without_arguments():
    total = torch.zeros(())
    graphed = Graphed(lambda: total.add_(1), warmup=0, capture=lambda function, pool: function)
    for _ in range(3):
        graphed()
    assert total == 3


@pytest.mark.gpu
def test_a_graph_draws_fresh_numbers_without_running_the_function():
    calls = []

    def draw(index):
        calls.append(index)
        return ops.randn((len(index), 5), 3, index, 0, ops.Stream.LATENT), index + 1

    graphed = Graphed(draw)
    for start in (0, 4, 10):
        index = torch.arange(start, start + 4, device="cuda")
        normals, after = (t.clone() for t in graphed(index))
        assert torch.equal(after, index + 1)
        assert torch.equal(normals, ops.randn((4, 5), 3, index, 0, ops.Stream.LATENT))
    assert len(calls) == 3  # two to warm up, one to record
    index = torch.arange(6, device="cuda")
    assert torch.equal(graphed(index)[1], index + 1) and len(calls) == 6


@pytest.mark.gpu
def test_a_graph_that_changes_what_it_reads():
    total = torch.zeros((), device="cuda")
    graphed = Graphed(lambda x: total.add_(x), warmup=0)
    for i in range(4):
        graphed(torch.full((), float(i), device="cuda"))
    assert total == 6
