"""Philox words against published vectors, normals against float64, both bit for bit between backends."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats
from torch._subclasses.fake_tensor import FakeTensorMode

from rsd_fast import ops
from rsd_fast.ops import _library
from rsd_fast.ops.philox import _cos_sin, _philox_arguments, _radius, _randn_arguments, _unit

# Random123's kat_vectors for philox4x32 with 10 rounds: counter, key, words.
KNOWN = [
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
]
SEEDS = [0, 1, 2**32 + 7, 2**63, 2**64 - 1]
# With seed, element, step and stream 0, found by search: w0 rounds up to u = 1 (radius 0), or w1 (a full
# turn).
RADIUS_ZERO, FULL_TURN = 8966016, 53729178


def words(backend, seed, sample, element, step, stream):
    """The backend's own philox, int64."""
    if backend.name == "reference":
        return ops.reference.philox(seed, sample, element, step, stream).long().cpu()
    return backend.module.philox(*_philox_arguments(seed, sample, element, step, stream)).long().cpu()


def normals(backend, shape, seed, sample, step=0, stream=0):
    """The backend's own randn."""
    arguments = (shape, seed, sample.to(backend.device), step, stream)
    if backend.name == "reference":
        return ops.reference.randn(*arguments).cpu()
    return backend.module.randn(*_randn_arguments(*arguments)).cpu()


def assert_same_bits(actual, expected):
    assert actual.shape == expected.shape and actual.dtype == expected.dtype == torch.float32
    different = (actual.contiguous().view(torch.int32) != expected.contiguous().view(torch.int32)).sum()
    assert different == 0, f"{different} of {actual.numel()} differ, by {(actual - expected).abs().max()} at most"


def normals_float64(shape, seed, sample, step, stream):
    """The definition, in NumPy: u in float32, everything after it in float64 from the library's functions."""
    inner = int(np.prod(shape[1:]))
    block = torch.arange(-(-inner // 4))
    w = ops.reference.philox(seed, sample[:, None], block, step, stream).long().numpy().astype(np.uint32)
    u = (w.astype(np.float32) + np.float32(0.5)) * np.float32(2.0**-32)
    u = u.astype(np.float64)
    radius, angle = np.sqrt(-2 * np.log(u[..., 0::2])), 2 * np.pi * u[..., 1::2]
    both = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=-1)
    return both.reshape(len(sample), -1)[:, :inner].reshape(shape)


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN)
def test_known_answers(backend, counter, key, expected):
    element, sample, step, stream = (int(word, 16) for word in counter.split())
    low, high = (int(word, 16) for word in key.split())
    sample = torch.tensor(sample, device=backend.device)
    got = words(backend, high << 32 | low, sample, element, step, stream)
    assert [f"{word:08x}" for word in got.tolist()] == expected.split()


def test_streams():
    names = ["OBSERVATION_NOISE", "OBSERVATION_MASK", "DIFFUSION_NOISE", "SIGMA"]
    names += ["FURTHER_MASK", "LATENT", "LABEL", "AUGMENTATION", "CONSISTENCY"]
    assert [(s.name, int(s)) for s in ops.Stream] == [(name, i) for i, name in enumerate(names)]
    header = (Path(__file__).parents[2] / "csrc" / "random.h").read_text()
    twin = re.search(r"enum Stream : uint32_t {(.*?)}", header, re.S)
    assert re.findall(r"(\w+) = (\d+)", twin[1]) == [(name, str(i)) for i, name in enumerate(names)]


@pytest.mark.parametrize("seed", SEEDS)
def test_words_agree(backend, seed):
    generator = torch.Generator().manual_seed(seed % 2**31)
    sample = torch.randint(-(2**63), 2**63 - 1, (7,), generator=generator)
    element = torch.randint(0, 2**32, (5, 1), generator=generator)
    step = torch.randint(-(2**31), 2**31 - 1, (3, 1, 1), generator=generator).to(torch.int32)
    expected = ops.reference.philox(seed, sample, element, step, ops.Stream.LABEL).long()
    assert expected.shape == (3, 5, 7, 4)
    arguments = (t.to(backend.device) for t in (sample, element, step))
    assert torch.equal(words(backend, seed, *arguments, ops.Stream.LABEL), expected)


def test_words_are_taken_modulo_2_to_32(backend):
    sample = torch.tensor([3, -1, 2**31], device=backend.device)
    shifted = sample + torch.tensor([2**32, 2**32, 5 * 2**32], device=backend.device)
    assert torch.equal(words(backend, 9, sample, 4, 5, 6), words(backend, 9, shifted, 4 + 2**32, 5 - 2**32, 6))


def test_every_word_of_the_counter_and_key_counts():
    sets = [(0, 0, 0, 0, 0), (1, 0, 0, 0, 0), (2**32, 0, 0, 0, 0), (2**63, 0, 0, 0, 0), (0, 1, 0, 0, 0)]
    sets += [(0, 0, 1, 0, 0), (0, 0, 0, 1, 0), (0, 0, 0, 0, 1)]
    assert len({tuple(ops.philox(*numbers).tolist()) for numbers in sets}) == len(sets)


@pytest.mark.parametrize("shape", [(6,), (6, 1), (6, 2), (6, 4), (6, 5, 3), (6, 3, 33, 31), (6, 0), (0,), (0, 3, 8)])
def test_normals_agree(backend, shape):
    sample = torch.tensor([0, 1, 2**31, 2**32 + 5, 2**40 - 1, -3])[: shape[0]]
    for step in (3, torch.arange(shape[0]), torch.tensor([2**32 + 1])):
        on_device = step.to(backend.device) if isinstance(step, torch.Tensor) else step
        actual = normals(backend, shape, 2**63 + 11, sample, on_device, ops.Stream.LATENT)
        assert_same_bits(actual, ops.reference.randn(shape, 2**63 + 11, sample, step, ops.Stream.LATENT))
        assert actual.is_contiguous()


def test_normals_against_float64(backend):
    shape, sample = (6, 1, 47, 41), torch.tensor([0, 5, 77, 2**33, RADIUS_ZERO, FULL_TURN])
    actual = normals(backend, shape, 0, sample)
    expected = torch.from_numpy(normals_float64(shape, 0, sample, 0, 0))
    torch.testing.assert_close(actual.double(), expected, rtol=1e-5, atol=1e-6)


def test_normals_where_u_rounds_to_one(backend):
    zero, turn = normals(backend, (2, 4), 0, torch.tensor([RADIUS_ZERO, FULL_TURN]))
    assert zero[0] == 0 and zero[1] == 0 and torch.isfinite(zero).all()
    assert turn[0] > 0 and turn[1] == 0


@pytest.mark.slow
def test_polynomials_over_all_of_u():
    """Every word below 2^20 and near 2^32, and many between: a few places of float32, never a NaN."""
    word = torch.cat([torch.arange(2**20), torch.arange(2**20, 2**32, 1021), torch.arange(2**32 - 2**16, 2**32)])
    u = _unit(word)
    exact = u.double()
    radius = torch.from_numpy(np.sqrt(-2 * np.log(exact.numpy())))
    torch.testing.assert_close(_radius(u).double(), radius, rtol=2e-7, atol=0)
    for got, function in zip(_cos_sin(u), (np.cos, np.sin), strict=True):
        expected = torch.from_numpy(function(2 * np.pi * exact.numpy()))
        torch.testing.assert_close(got.double(), expected, rtol=3e-7, atol=1e-15)


def test_a_number_depends_on_its_counter_only(backend):
    """Alone or in a batch, in any order, whatever follows it in the shape: the same bytes."""
    sample = torch.tensor([11, 4, 4, 900, 2**32 - 1, 6, 7])
    batch = normals(backend, (7, 3, 13, 11), 5, sample, 2)
    flat = batch.flatten(1)
    for i in range(7):
        assert_same_bits(normals(backend, (1, 3, 13, 11), 5, sample[i : i + 1], 2)[0], batch[i])
    order = torch.tensor([6, 2, 0, 5, 1, 3, 4])
    assert_same_bits(normals(backend, (7, 3, 13, 11), 5, sample[order], 2), batch[order])
    for inner in (1, 3, 4, 31, 256, 257):
        assert_same_bits(normals(backend, (7, inner), 5, sample, 2), flat[:, :inner])
    for inner in (1, 5, 430):  # and longer ones begin with the same
        longer = normals(backend, (7, 429 + inner), 5, sample, 2)
        assert_same_bits(longer[:, :429], flat)


@pytest.mark.parametrize("name", ["reference", "native"])
def test_threads_change_nothing(name):
    if name == "native" and "compiler" not in ops.native_info():
        pytest.skip("rsd_fast._C is not built")
    draw = ops.reference.randn if name == "reference" else _native_randn
    sample, before = torch.arange(5), torch.get_num_threads()
    try:
        results = []
        for threads in (1, 2, 3, 7):
            torch.set_num_threads(threads)
            results.append(draw((5, 3, 151, 149), 1, sample, 0, 0))
    finally:
        torch.set_num_threads(before)
    for result in results[1:]:
        assert_same_bits(result, results[0])


def _native_randn(*arguments):
    return _library.kernels("native")["randn"](*_randn_arguments(*arguments))


def test_uniform():
    sample = torch.arange(4)
    expected = ops.reference.uniform((4, 3, 7), 3, sample, 1, ops.Stream.SIGMA)
    word = ops.reference.philox(3, sample[:, None], torch.arange(6), 1, ops.Stream.SIGMA).long()
    by_hand = (word.flatten(1)[:, :21].double().reshape(4, 3, 7) + 0.5) / 2**32
    assert expected.dtype == torch.float64 and torch.equal(expected, by_hand)
    assert torch.equal(ops.uniform((4, 3, 7), 3, sample, 1, ops.Stream.SIGMA), expected)
    assert ops.uniform((4,), 3, sample, 1, ops.Stream.SIGMA).shape == (4,)


def _statistics(normal, uniform):
    count = normal.size
    error = count**-0.5
    assert abs(normal.mean()) < 5 * error
    assert abs(normal.var() - 1) < 5 * 2**0.5 * error
    assert abs(stats.skew(normal)) < 5 * 6**0.5 * error
    assert abs(stats.kurtosis(normal)) < 5 * 24**0.5 * error
    assert stats.kstest(normal, "norm").pvalue > 1e-3
    assert stats.kstest(uniform, "uniform").pvalue > 1e-3
    for lag in (1, 2, 3, 4, 5, 8, 64, 1024):
        assert abs(np.mean(normal[lag:] * normal[:-lag])) < 5 * error
        # of the squares too: pairs that share a radius are uncorrelated without being independent
        assert abs(np.mean((normal[lag:] ** 2 - 1) * (normal[:-lag] ** 2 - 1))) < 5 * 2 * error


def test_distribution():
    sample = torch.arange(4)
    normal = ops.randn((4, 250_000), 1, sample, 0, 0).numpy()
    _statistics(normal.ravel(), ops.uniform((4, 250_000), 1, sample, 0, 0).numpy().ravel())
    assert np.abs(np.corrcoef(normal) - np.eye(4)).max() < 5 * 250_000**-0.5


@pytest.mark.slow
def test_distribution_of_ten_million():
    sample = torch.arange(10)
    normal = ops.randn((10, 1_000_000), 2, sample, 0, 0).numpy()
    _statistics(normal.ravel(), ops.uniform((10, 1_000_000), 2, sample, 0, 0).numpy().ravel())
    assert np.abs(np.corrcoef(normal) - np.eye(10)).max() < 5 * 1e-3


@pytest.mark.parametrize("what", ["seed", "high half of the seed", "step", "stream"])
def test_neighbours_are_independent(what):
    sample, shape = torch.arange(2), (2, 100_000)
    base = ops.randn(shape, 1, sample, 1, 1).flatten()
    other = {
        "seed": lambda: ops.randn(shape, 2, sample, 1, 1),
        "high half of the seed": lambda: ops.randn(shape, 1 + 2**32, sample, 1, 1),
        "step": lambda: ops.randn(shape, 1, sample, 2, 1),
        "stream": lambda: ops.randn(shape, 1, sample, 1, 2),
    }[what]().flatten()
    assert (base * other).mean().abs() < 5 * base.numel() ** -0.5


def test_sample_of_any_layout(backend):
    sample = torch.arange(12, device=backend.device)
    expected = normals(backend, (3, 9), 1, torch.tensor([1, 5, 9]), torch.tensor([2, 2, 2], device=backend.device))
    step = torch.tensor(2, dtype=torch.int32, device=backend.device)
    assert_same_bits(normals(backend, (3, 9), 1, sample[1::4], step.expand(3)), expected)
    assert_same_bits(normals(backend, (3, 9), 1, sample[1::4].to(torch.int32), step), expected)
    expanded = torch.tensor([5], device=backend.device).expand(3)
    assert_same_bits(normals(backend, (3, 9), 1, expanded, step), expected[1:2].expand(3, 9))


BAD_RANDN = [
    (((2, 3), 0, torch.zeros(2), 0, 0), TypeError, "sample: expected int32 or int64, got torch.float32"),
    (((2, 3), 0, [0, 1], 0, 0), TypeError, "sample: expected an integer tensor"),
    (((2, 3), 0, torch.arange(2), torch.tensor(0.5), 0), TypeError, "step: expected int32 or int64"),
    (((2, 3), 0, torch.arange(2), 0.5, 0), TypeError, "float"),
    (((2, 3), 0.5, torch.arange(2), 0, 0), TypeError, "float"),
    (
        ((3, 3), 0, torch.arange(2), 0, 0),
        ValueError,
        r"shape: expected \(2, ...\) to match sample, got \(3, 3\)",
    ),
    (((), 0, torch.arange(2), 0, 0), ValueError, "shape: expected"),
    (((2, -1), 0, torch.arange(2), 0, 0), ValueError, "shape: expected"),
    (((2, 2**18, 2**18), 0, torch.arange(2), 0, 0), ValueError, "at most 2\\*\\*34 elements"),
    (((2, 1), 0, torch.zeros(2, 1, dtype=torch.int64), 0, 0), ValueError, "sample: expected one dimension"),
    (((2, 3), 0, torch.arange(2), torch.arange(3), 0), ValueError, r"step: expected one element or \[2\]"),
    (((2, 3), -1, torch.arange(2), 0, 0), ValueError, "seed: expected 0 <= seed"),
    (((2, 3), 2**64, torch.arange(2), 0, 0), ValueError, "seed: expected 0 <= seed"),
    (((2, 3), 0, torch.arange(2), 2**63, 0), ValueError, "step: expected a 64-bit integer"),
    (
        ((2, 3), 0, torch.arange(2), torch.zeros(2, dtype=torch.int64, device="meta"), 0),
        ValueError,
        "step: .*device",
    ),
]


@pytest.mark.parametrize(("arguments", "error", "message"), BAD_RANDN)
def test_bad_randn(backend, arguments, error, message):
    with pytest.raises(error, match=message):  # the same from every backend, and from the fake
        arguments = [a.to(backend.device) if torch.is_tensor(a) and a.device.type == "cpu" else a for a in arguments]
        draw = ops.reference.randn if backend.name == "reference" else backend.module.randn
        draw(*(arguments if backend.name == "reference" else _randn_arguments(*arguments)))


@pytest.mark.parametrize(("arguments", "error", "message"), BAD_RANDN[:-1])
def test_bad_randn_of_the_op_and_its_fake(arguments, error, message):
    with pytest.raises(error, match=message):
        ops.randn(*arguments)
    with pytest.raises(error, match=message), FakeTensorMode(allow_non_fake_inputs=True):
        ops.randn(*arguments)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((0, torch.arange(2), torch.arange(3), 0, 0), ValueError, "expected shapes that broadcast"),
        ((0, torch.arange(2), torch.ones(2), 0, 0), TypeError, "element: expected int32 or int64"),
        ((0, True * 0.5, 0, 0, 0), TypeError, "float"),
        ((2**64, 0, 0, 0, 0), ValueError, "seed"),
        ((0, 0, 2**63, 0, 0), ValueError, "element: expected a 64-bit integer"),
        (
            (0, torch.arange(2), torch.arange(2, device="meta"), 0, 0),
            ValueError,
            "element: expected the device",
        ),
    ],
)
def test_bad_philox(arguments, error, message):
    for philox in (ops.philox, ops.reference.philox):
        with pytest.raises(error, match=message):
            philox(*arguments)


def test_opcheck(backend):
    device = backend.device
    sample, element = torch.arange(3, device=device), torch.arange(2, device=device)[:, None]
    step = torch.tensor(4, device=device)
    torch.library.opcheck(torch.ops.rsd_fast.philox.default, (-5, sample, element, step, 1))
    torch.library.opcheck(torch.ops.rsd_fast.randn.default, ([3, 5], -5, sample, step, 1))


def test_fake_shapes():
    with FakeTensorMode():
        sample = torch.arange(3)
        assert ops.philox(2**63, sample, torch.arange(5)[:, None], 0, 0).shape == (5, 3, 4)
        assert ops.philox(0, 0, 0, 0, 0).dtype == torch.uint32
        assert ops.randn((3, 2, 8, 8), 0, sample, 0, 0).shape == (3, 2, 8, 8)
        assert ops.uniform((3, 2), 0, sample, 0, 0).dtype == torch.float64


def test_compile():
    """One graph, with the seed, the step and the batch free to change."""

    def draw(x, seed, sample, step):
        noise = ops.randn(x.shape, seed, sample, step, ops.Stream.DIFFUSION_NOISE)
        return x + noise, ops.uniform((len(sample),), seed, sample, step, ops.Stream.SIGMA)

    compiled = torch.compile(draw, backend="aot_eager", fullgraph=True)
    for batch, seed, step in [
        (2, 0, torch.tensor(0)),
        (3, 7, torch.tensor(5)),
        (5, 9, torch.tensor(6)),
        (5, 3, 4),
    ]:
        arguments = (torch.ones(batch, 3, 5, requires_grad=True), seed, torch.arange(batch), step)
        for got, expected in zip(compiled(*arguments), draw(*arguments), strict=True):
            assert torch.equal(got, expected)
    torch._dynamo.reset()
    arguments = (torch.ones(2, 3), 2**64 - 1, torch.arange(2), torch.tensor(1))
    assert torch.equal(compiled(*arguments)[0], draw(*arguments)[0])


def test_gradients_pass_by():
    x = torch.ones(2, 3, requires_grad=True)
    (x * ops.randn((2, 3), 1, torch.arange(2), 0, 0)).sum().backward()
    assert torch.equal(x.grad, ops.randn((2, 3), 1, torch.arange(2), 0, 0))


@pytest.mark.gpu
def test_gpu_graph_replays_with_a_fresh_step():
    sample, step = torch.arange(4, device="cuda"), torch.zeros((), dtype=torch.int64, device="cuda")
    ops.randn((4, 37), 1, sample, step, 0)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = ops.randn((4, 37), 1, sample, step, 0)
    for i in range(3):
        step.fill_(i)
        graph.replay()
        assert_same_bits(out.cpu(), ops.reference.randn((4, 37), 1, torch.arange(4), i, 0))
