"""Arrays, tensors and data sets of PyTorch as sources: what files give, and the checks that files have."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset, IterableDataset, TensorDataset

from rsd_fast.data import IN_MEMORY, open_source, source_name
from tests.image_files import assert_refused, random_pixels

PIXELS = random_pixels(5, 3, 6, 4)


class Items(Dataset):
    """A data set of these items, that counts how often one is read."""

    def __init__(self, *items: object) -> None:
        self.items, self.reads = items, 0

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> object:
        self.reads += 1
        return self.items[index]


@pytest.mark.parametrize("dtype", [np.uint8, np.float16, np.float32, np.float64])
@pytest.mark.parametrize("layout", ["NCHW", "NHWC", "NHW"])
@pytest.mark.parametrize("kind", [np.asarray, torch.from_numpy], ids=["array", "tensor"])
def test_arrays_and_tensors_are_read_as_files_are(tmp_path, dtype, layout, kind):
    images = PIXELS if dtype == np.uint8 else (PIXELS / 127.5 - 1).astype(dtype)
    array = {"NCHW": images, "NHWC": np.ascontiguousarray(images.transpose(0, 2, 3, 1)), "NHW": images[:, 0]}[layout]
    np.save(tmp_path / "x.npy", array)
    expected = open_source(tmp_path / "x.npy")
    source = open_source(kind(array))
    np.testing.assert_array_equal(source.images, expected.images)
    assert source.images.dtype == expected.images.dtype and source.labels is None
    assert source.name == ("the array" if kind is np.asarray else "the tensor")
    index = torch.tensor([4, 0])
    assert torch.equal(source.tensor(index), expected.tensor(index))
    assert open_source(source) is source


def test_a_tensor_may_have_gradients_and_bfloat16():
    images = torch.linspace(-1, 1, 32).reshape(2, 1, 4, 4)
    np.testing.assert_array_equal(open_source(images.clone().requires_grad_()).images, images.numpy())
    np.testing.assert_array_equal(open_source(images.bfloat16()).images, images.bfloat16().float().numpy())


def test_arrays_are_refused_as_files_are():
    images = np.zeros((3, 4, 4), np.float32)
    assert_refused(images.astype(np.int64), "the array: dtype int64; uint8, or float in [-1, 1], is wanted")
    assert_refused(torch.from_numpy(images + 9), "the tensor: values 9 to 9, outside [-1, 1]", "127.5")
    assert_refused(images[0], "the array: shape [4, 4]")
    assert_refused(images[:0], "the array: shape [0, 4, 4] holds no image")
    assert_refused(np.where(np.arange(48).reshape(3, 4, 4) == 20, np.nan, images), "the array: image 1 holds NaN")
    assert_refused([images], "list: not a source; a source is a folder", "in Python also an array")
    assert_refused(None, "NoneType: not a source")
    noisy = open_source(images - 2.5, observations=True, sigma_obs_max=0.2)
    assert noisy.images.min() == -2.5


def test_a_data_set_gives_its_images_and_labels():
    colour = torch.from_numpy(PIXELS)
    hwc, grey = PIXELS.transpose(0, 2, 3, 1), PIXELS[:, 0]
    deep = (grey.astype(np.uint16) * 257)[..., None].transpose(0, 3, 1, 2)
    labels = [3, 0, 2, 2, 1]
    for dataset, images in (
        (TensorDataset(colour), PIXELS),
        (TensorDataset(colour, torch.tensor(labels)), PIXELS),
        (Items(*zip(PIXELS, np.array(labels), strict=True)), PIXELS),
        (Items(*zip(hwc, labels, [{}] * 5, strict=True)), PIXELS),
        (Items(*zip(map(Image.fromarray, hwc), labels, strict=True)), PIXELS),
        (Items(*map(Image.fromarray, grey)), grey[:, None]),
        (Items(*grey), grey[:, None]),
        (Items(*zip(grey, [1.5] * 5, strict=True)), grey[:, None]),
        (Items(*(Image.fromarray(image[0]) for image in deep)), (deep / 32767.5 - 1).astype(np.float32)),
        (Items(*(torch.from_numpy(PIXELS) / 127.5 - 1)), (colour / 127.5 - 1).numpy()),
    ):
        source = open_source(dataset)
        np.testing.assert_allclose(source.images, images, rtol=0, atol=1e-7)
        assert source.images.dtype == images.dtype and source.name == "the data set"
        has_labels = isinstance(dataset[0], tuple) and len(dataset[0]) > 1 and not isinstance(dataset[0][1], float)
        assert (None if source.labels is None else source.labels.tolist()) == (labels if has_labels else None)
    dataset = Items(*PIXELS)
    open_source(dataset)
    assert dataset.reads == 5


def test_transparent_pixels_of_a_data_set_are_its_mask():
    alpha = np.full((5, 6, 4, 1), 255, np.uint8)
    alpha[2, 3, 1] = 0
    pictures = np.concatenate([PIXELS.transpose(0, 2, 3, 1), alpha], 3)
    source = open_source(Items(*map(Image.fromarray, pictures)))
    np.testing.assert_array_equal(source.mask, alpha.transpose(0, 3, 1, 2) == 255)


def test_a_bad_item_is_named_by_its_number():
    image = np.zeros((4, 4), np.uint8)
    for items, message in (
        ([image, image[:3]], "the data set[1]: 4x3, but the first image (the data set[0]) is 4x4"),
        ([image, image.astype(np.float32)], "the data set[1]: grey in float32, but the first image"),
        ([image, np.zeros((2, 4, 4), np.uint8)], "the data set[1]: of 2 channels, but"),
        ([image, image.astype(np.int64)], "the data set[1]: dtype int64"),
        ([image[0]], "the data set[0]: shape [4]"),
        ([np.zeros((5, 4, 4), np.uint8)[..., [0] * 5]], "the data set[0]: shape [1, 5, 4, 5] has no axis of 1 to 4"),
        ([{"image": image}], "the data set[0]: dict"),
        ([()], "the data set[0]: tuple"),
        ([(image, 0), image], "the data set[1]: has no label, but the first item has one"),
        ([image, (image, 0)], "the data set[1]: has a label, but the first item has none"),
        ([(image, -1)], "the data set: labels -1 to -1; class indices"),
        ([np.full((4, 4), 7.0)], "the data set: values 7 to 7"),
        ([Image.fromarray(image.astype(np.float32))], "the data set[0]: 32 bits a pixel"),
        ([], "the data set: holds no image"),
    ):
        assert_refused(Items(*items), message)

    class Stream(IterableDataset):
        def __iter__(self):
            return iter([image])

    assert_refused(Stream(), "the data set: its items have no numbers")


def test_what_a_config_keeps_of_a_source(tmp_path):
    assert source_name("digits") == "digits" and source_name(tmp_path / "x.npy") == str(tmp_path / "x.npy")
    assert source_name(PIXELS) == source_name(Items()) == source_name(open_source(PIXELS)) == IN_MEMORY
