"""Arrays of images, and the permanence of observations."""

import pickle

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from rsd_fast import corruptions
from rsd_fast.data import ImageArray, ObservedDataset, open_source, to_uint8
from tests.image_files import random_pixels

# Bundled sets


def test_digits():
    source = open_source("digits")
    assert source.images.shape == (1797, 1, 8, 8) and source.images.dtype == np.uint8
    assert source.label_dim == 10 and source.name == "digits"
    assert set(np.unique(source.images)) == {round(level * 255 / 16) for level in range(17)}
    assert np.bincount(source.labels).min() > 170


# ImageArray


def test_tensor_is_exact_whatever_the_batch():
    levels = ImageArray(images=np.arange(256, dtype=np.uint8).reshape(256, 1, 1, 1), name="levels")
    expected = np.arange(256, dtype=np.float32) / np.float32(127.5) - 1
    whole = levels.tensor(torch.arange(256))
    assert whole.dtype == torch.float32
    np.testing.assert_array_equal(whole.flatten().numpy(), expected)
    for index in range(256):
        assert levels.tensor([index]).item() == expected[index]
    np.testing.assert_array_equal(to_uint8(whole).numpy(), levels.images)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_tensor_has_the_same_bits_on_the_gpu():
    levels = ImageArray(images=np.arange(256, dtype=np.uint8).reshape(256, 1, 1, 1), name="levels")
    assert torch.equal(levels.tensor(range(256), "cuda").cpu(), levels.tensor(range(256)))


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_tensor_never_shares_memory_with_the_source(dtype):
    source = ImageArray(images=np.zeros((2, 1, 2, 2), dtype), name="zeros")
    before = torch.full((2, 1, 2, 2), -1.0 if dtype == np.uint8 else 0.0)
    source.tensor([0, 1]).add_(1)  # noise in place on a cached array would grow every epoch
    assert torch.equal(source.tensor([0, 1]), before)


def test_image_array_checks_its_fields():
    with pytest.raises(ValueError, match="float64"):
        ImageArray(images=np.zeros((2, 1, 4, 4)), name="x")
    with pytest.raises(ValueError, match="labels"):
        ImageArray(images=np.zeros((2, 1, 4, 4), np.uint8), labels=np.zeros(3, np.int64), name="x")


def test_to_uint8_rounds_and_clips():
    values = torch.tensor([-7.0, -1.0, -0.999, 0.0, 0.999, 1.0, 1.001, 7.0])
    assert to_uint8(values).tolist() == [0, 0, 0, 128, 255, 255, 255, 255]
    step = 2 / 255
    assert to_uint8(torch.tensor([-1 + 0.49 * step, -1 + 0.51 * step])).tolist() == [0, 1]


def test_tensor_keeps_floats_as_they_are():
    images = np.random.default_rng(0).standard_normal((5, 2, 3, 3), np.float32)
    source = ImageArray(images=images, name="floats")
    np.testing.assert_array_equal(source.tensor(torch.tensor([3, 0])).numpy(), images[[3, 0]])


# Permanence

SPECS = ["identity", "gaussian_blur:size=5,std=1"]


def make_dataset(spec: str = SPECS[1], **changes: object) -> ObservedDataset:
    # 3 x 7 x 5 is no multiple of any vector length: the remainder of a loop must not differ from its body.
    source = ImageArray(images=random_pixels(203, 3, 7, 5), labels=np.arange(203, dtype=np.int64) % 4, name="random")
    options = {"corruption": corruptions.parse(spec), "sigma_obs": 0.3, "seed": 11, "simulate": True}
    return ObservedDataset(source, **{**options, **changes})


@pytest.mark.parametrize("spec", SPECS)
def test_an_observation_is_the_same_alone_or_in_any_batch(spec):
    dataset = make_dataset(spec)
    whole, index, labels = dataset.batch(torch.arange(len(dataset)))
    assert whole.shape == (203, 3, 7, 5) and whole.dtype == torch.float32
    assert index.tolist() == list(range(203)) and labels.tolist() == dataset.source.labels.tolist()
    generator = torch.Generator().manual_seed(0)
    for size in (1, 2, 3, 8, 17, 64, 203):
        some = torch.randperm(203, generator=generator)[:size]
        assert torch.equal(dataset.batch(some)[0], whole[some])
    for one in (0, 1, 100, 202):
        observation, index_of_one, label = dataset[one]
        assert torch.equal(observation, whole[one])
        assert (index_of_one, label) == (one, dataset.source.labels[one])


# More workers than cores, and forking a process that has threads, are what this test is about.
@pytest.mark.filterwarnings("ignore:This DataLoader will create", "ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize("spec", SPECS)
def test_an_observation_is_the_same_in_every_epoch_order_and_number_of_workers(spec):
    dataset = make_dataset(spec)
    whole = dataset.batch(torch.arange(len(dataset)))[0]
    for workers in (0, 4):
        loader = DataLoader(
            dataset,
            batch_size=16,
            shuffle=True,
            num_workers=workers,
            generator=torch.Generator().manual_seed(1),
        )
        orders = []
        for _ in range(2):
            read = list(loader)
            order = torch.cat([index for _, index, _ in read])
            assert torch.equal(torch.cat([observations for observations, _, _ in read]), whole[order])
            orders.append(order.tolist())
        assert orders[0] != orders[1] and sorted(orders[0]) == list(range(203))


def test_global_generators_and_pickling_change_nothing():
    dataset = make_dataset()
    before = dataset.batch(torch.arange(20))[0]
    torch.manual_seed(123)
    torch.rand(5)
    assert torch.equal(dataset.batch(torch.arange(20))[0], before)
    packed = pickle.dumps(dataset)
    assert torch.equal(pickle.loads(packed).batch(torch.arange(20))[0], before)
    assert len(packed) < dataset.source.images.nbytes + 5000


def test_images_share_no_noise_and_other_seeds_give_other_noise():
    dataset = make_dataset("identity")
    every = torch.arange(203)
    noise = (dataset.batch(every)[0] - dataset.source.tensor(every)).flatten(1).double()
    correlation = torch.corrcoef(noise)[~torch.eye(203, dtype=torch.bool)]
    # Of 20503 pairs with 105 elements, the largest of |r| is near 4 / sqrt(105) = 0.39.
    assert correlation.abs().max() < 0.6
    other = make_dataset("identity", seed=12)
    other_noise = (other.batch(every)[0] - dataset.source.tensor(every)).flatten().double()
    assert abs(torch.corrcoef(torch.stack([noise.flatten(), other_noise]))[0, 1]) < 5 / noise.numel() ** 0.5


@pytest.mark.parametrize("spec", SPECS)
def test_the_residual_is_white_noise_of_sigma_obs(spec):
    dataset = make_dataset(spec)
    every = torch.arange(203)
    clean = dataset.corruption.forward(dataset.source.tensor(every), index=every, seed=dataset.seed)
    residual = (dataset.batch(every)[0] - clean).double()
    count = residual.numel()
    assert abs(residual.mean()) < 4 * 0.3 / count**0.5
    assert abs(residual.std() - 0.3) < 4 * 0.3 / (2 * count) ** 0.5


def test_no_noise_and_no_simulation():
    exact = make_dataset("identity", sigma_obs=0.0)
    clean = exact.source.tensor(range(203))
    assert torch.equal(exact.batch(torch.arange(203))[0], clean)
    given = make_dataset(simulate=False)
    assert torch.equal(given.batch(torch.arange(203))[0], clean)
    assert given.observation_shape == make_dataset().observation_shape == (3, 7, 5)


def test_observation_shape_is_that_of_the_corruption():
    class Halving(corruptions.Corruption):
        spec = "halving"

        def forward(self, x, *, index=None, seed=0):
            return x[:, :, ::2, ::2]

        def observation_shape(self, image_shape):
            return image_shape[0], (image_shape[1] + 1) // 2, (image_shape[2] + 1) // 2

        def image_shape(self, observation_shape):
            return observation_shape[0], 2 * observation_shape[1], 2 * observation_shape[2]

    dataset = make_dataset(corruption=Halving())
    assert dataset.observation_shape == (3, 4, 3) == tuple(dataset[0][0].shape)
    assert make_dataset(corruption=Halving(), simulate=False).observation_shape == (3, 7, 5)
    assert make_dataset(corruption=Halving(), simulate=False).image_shape == (3, 14, 10)


def test_indices_and_labels():
    dataset = make_dataset()
    assert torch.equal(dataset[-1][0], dataset[202][0]) and dataset[-1][1] == 202
    for bad in (203, -204):
        with pytest.raises(IndexError, match=str(bad)):
            dataset[bad]
    unlabelled = make_dataset()
    unlabelled.source = ImageArray(images=unlabelled.source.images, name="x")
    assert unlabelled[5][2] == -1
    for bad in (-0.1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="sigma_obs"):
            make_dataset(sigma_obs=bad)
