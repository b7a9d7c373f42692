"""The networks against their description: names, counts, and F evaluated in float64 NumPy."""

import functools
import math

import numpy as np
import pytest
import torch

from rsd_fast import networks
from rsd_fast.networks.layers import GroupNorm, attention

from .published import (
    ARCHITECTURES,
    CIFAR10,
    DEEP,
    DEFAULTS,
    EPS,
    FFHQ64,
    GATED,
    IMAGENET64,
    LARGE,
    ONE_LEVEL,
    PLAIN,
    SIZE_28,
    SMALL,
    WIDE,
    Published,
    as_numpy,
    attend,
    inputs,
    network_inputs,
    normalise,
    published_shapes,
    random_values,
    randomised,
    relative_error,
    resample_filter,
)

ARCHITECTURE = pytest.mark.parametrize("architecture", ARCHITECTURES)
SETTINGS = pytest.mark.parametrize("settings", [SMALL, DEEP, PLAIN, GATED], ids=["small", "deep", "plain", "gated"])
GATING = pytest.mark.parametrize("gated", [False, True], ids=["", "gated"])


@functools.cache
def on_meta(architecture, **settings):
    """A network of shapes alone."""
    with torch.device("meta"):
        return networks.create(architecture, **settings)


@pytest.mark.parametrize(
    ("architecture", "settings", "count"),
    [
        ("ddpmpp", CIFAR10, 55_733_891),
        ("ncsnpp", CIFAR10, 56_397_827),
        ("ddpmpp", FFHQ64, 61_805_571),
        ("adm", IMAGENET64, 295_899_267),
    ],
    ids=["cifar10", "cifar10-ncsnpp", "ffhq64", "imagenet64"],
)
def test_parameter_count_is_the_published_one(architecture, settings, count):
    denoiser = on_meta(architecture, **settings)
    assert sum(parameter.numel() for parameter in denoiser.parameters()) == count
    described = published_shapes(architecture, {**DEFAULTS, **settings})
    buffers = ("resample_filter", "freqs")
    assert sum(math.prod(shape) for name, shape in described.items() if not name.endswith(buffers)) == count


@pytest.mark.parametrize(
    ("architecture", "name", "shape"),
    [
        ("ddpmpp", "map_augment.weight", (128, 9)),
        ("ddpmpp", "map_layer0.weight", (512, 128)),
        ("ddpmpp", "map_layer1.bias", (512,)),
        ("ddpmpp", "enc.32x32_conv.weight", (128, 3, 3, 3)),
        ("ddpmpp", "enc.32x32_block0.conv0.weight", (256, 128, 3, 3)),
        ("ddpmpp", "enc.32x32_block0.skip.weight", (256, 128, 1, 1)),
        ("ddpmpp", "enc.16x16_down.conv0.resample_filter", (1, 1, 2, 2)),
        ("ddpmpp", "enc.16x16_block3.qkv.weight", (768, 256, 1, 1)),
        ("ddpmpp", "dec.8x8_in0.qkv.weight", (768, 256, 1, 1)),
        ("ddpmpp", "dec.16x16_block4.proj.bias", (256,)),
        ("ddpmpp", "dec.32x32_up.skip.resample_filter", (1, 1, 2, 2)),
        ("ddpmpp", "dec.32x32_block4.norm0.weight", (384,)),
        ("ddpmpp", "dec.32x32_aux_norm.weight", (256,)),
        ("ddpmpp", "dec.32x32_aux_conv.weight", (3, 256, 3, 3)),
        ("ncsnpp", "map_noise.freqs", (128,)),
        ("ncsnpp", "map_augment.weight", (256, 9)),
        ("ncsnpp", "map_layer0.weight", (512, 256)),
        ("ncsnpp", "enc.16x16_down.skip.resample_filter", (1, 1, 4, 4)),
        ("ncsnpp", "enc.16x16_aux_residual.weight", (256, 3, 3, 3)),
        ("ncsnpp", "enc.8x8_aux_residual.weight", (256, 256, 3, 3)),
        ("ncsnpp", "enc.8x8_aux_residual.resample_filter", (1, 1, 4, 4)),
        ("ncsnpp", "dec.32x32_aux_conv.weight", (3, 256, 3, 3)),
        ("adm", "map_layer0.weight", (768, 192)),
        ("adm", "map_label.weight", (768, 1000)),
        ("adm", "enc.64x64_conv.weight", (192, 3, 3, 3)),
        ("adm", "enc.32x32_down.conv0.weight", (192, 192, 3, 3)),
        ("adm", "enc.32x32_down.skip.resample_filter", (1, 1, 2, 2)),
        ("adm", "enc.32x32_block0.affine.weight", (768, 768)),
        ("adm", "dec.32x32_block0.qkv.weight", (1152, 384, 1, 1)),
        ("adm", "dec.64x64_block0.skip.weight", (192, 576, 1, 1)),
        ("adm", "out_norm.weight", (192,)),
        ("adm", "out_conv.weight", (3, 192, 3, 3)),
    ],
)
def test_published_names_are_in_the_state_dict(architecture, name, shape):
    denoiser = on_meta(architecture, **LARGE[architecture])
    assert tuple(denoiser.state_dict()[f"model.{name}"].shape) == shape
    is_buffer = name.endswith(("resample_filter", "freqs"))
    assert (f"model.{name}" in dict(denoiser.named_buffers())) == is_buffer


@pytest.mark.parametrize(
    ("architecture", "name"),
    [
        ("ddpmpp", "dec.16x16_block3.qkv.weight"),
        ("ddpmpp", "enc.16x16_down.qkv.weight"),
        ("ddpmpp", "dec.8x8_in1.qkv.weight"),
        ("ddpmpp", "enc.16x16_aux_residual.weight"),
        ("ncsnpp", "dec.16x16_block3.qkv.weight"),
        ("ncsnpp", "enc.32x32_aux_residual.weight"),
        ("adm", "enc.32x32_down.skip.weight"),
        ("adm", "dec.16x16_up.skip.bias"),
        ("adm", "dec.16x16_up.qkv.weight"),
        ("adm", "dec.64x64_block0.qkv.weight"),
        ("adm", "map_label.bias"),
    ],
)
def test_attention_and_weights_are_only_where_published(architecture, name):
    assert f"model.{name}" not in on_meta(architecture, **LARGE[architecture]).state_dict()


@GATING
@ARCHITECTURE
@pytest.mark.parametrize(
    "settings",
    [SMALL, DEEP, PLAIN, ONE_LEVEL, SIZE_28, None],
    ids=["small", "deep", "plain", "one-level", "size-28", "published"],
)
def test_every_name_and_shape_follows_from_the_description_in_its_order(architecture, settings, gated):
    settings = {**DEFAULTS, **LARGE[architecture]} if settings is None else settings
    state = on_meta(architecture, **settings, **({"gated": True} if gated else {})).state_dict()
    described = published_shapes(architecture, {**settings, "gated": gated})
    assert {name: tuple(value.shape) for name, value in state.items()} == {
        f"model.{k}": v for k, v in described.items()
    }
    assert list(state) == [f"model.{name}" for name in described]


@pytest.mark.parametrize(
    ("architecture", "order"),
    [
        ("ddpmpp", ["map_label", "map_augment", "map_layer0", "map_layer1", "enc", "dec"]),
        ("ncsnpp", ["map_noise", "map_label", "map_augment", "map_layer0", "map_layer1", "enc", "dec"]),
        ("adm", ["map_augment", "map_layer0", "map_layer1", "map_label", "enc", "dec", "out_norm", "out_conv"]),
    ],
)
def test_parameters_are_in_the_published_order(architecture, order):
    model = on_meta(architecture, **DEEP).model
    assert list(dict.fromkeys(name.split(".")[0] for name in model.state_dict())) == order
    names = list(model.enc["8x8_block0"].state_dict())
    owners = list(dict.fromkeys(name.split(".")[0] for name in names))
    assert owners == ["norm0", "conv0", "affine", "norm1", "conv1", "skip", "norm2", "qkv", "proj"]


@ARCHITECTURE
def test_resample_filter_buffer_is_the_outer_product_of_the_taps_over_their_squared_sum(architecture):
    state = networks.create(architecture, **SMALL).state_dict()
    filters = [value for name, value in state.items() if name.endswith("resample_filter")]
    assert len(filters) == (5 if architecture == "ncsnpp" else 4)
    for value in filters:
        assert np.array_equal(value[0, 0].numpy(), resample_filter(architecture))


@ARCHITECTURE
@SETTINGS
@pytest.mark.parametrize(("height", "width"), [(16, 16), (8, 12)], ids=["square", "oblong"])
def test_raw_network_matches_float64(architecture, settings, height, width):
    denoiser = randomised({**settings, "in_channels": 5, "out_channels": 2}, architecture)
    arguments = network_inputs({**settings, "in_channels": 5}, height, width)
    with torch.no_grad():
        actual = denoiser.model(*arguments)
    expected = Published(denoiser.state_dict(), settings, architecture).F(*as_numpy(*arguments))
    assert relative_error(actual, expected) < 1e-5


@ARCHITECTURE
def test_a_wide_network_matches_float64_which_has_a_head_per_64_channels_in_adm(architecture):
    denoiser = randomised(WIDE, architecture)
    arguments = network_inputs(WIDE, 4, 4, batch=2)
    with torch.no_grad():
        actual = denoiser.model(*arguments)
    expected = Published(denoiser.state_dict(), WIDE, architecture).F(*as_numpy(*arguments))
    assert relative_error(actual, expected) < 1e-5


@ARCHITECTURE
@GATING
def test_a_state_dict_as_described_loads_strictly_and_computes_as_described(architecture, gated):
    settings = {**DEEP, "gated": gated}
    torch.manual_seed(5)
    state = {
        f"model.{name}": random_values(name, shape, architecture, gated)
        for name, shape in published_shapes(architecture, settings).items()
    }
    denoiser = networks.create(architecture, **settings).eval()
    denoiser.load_state_dict(state, strict=True)
    arguments = network_inputs(settings)
    with torch.no_grad():
        actual = denoiser.model(*arguments)
    assert relative_error(actual, Published(state, settings, architecture).F(*as_numpy(*arguments))) < 1e-5


class OtherEps(Published):
    """As described but for the eps of the norms of one name."""

    def __init__(self, owner, *arguments):
        super().__init__(*arguments)
        self.owner = owner

    def norm(self, name, x):
        eps = 1.1e-5 - EPS[self.architecture] if name.endswith(self.owner) else self.eps
        return normalise(x, self.w[f"{name}.weight"], self.w[f"{name}.bias"], eps)


@ARCHITECTURE
def test_every_norm_has_the_published_eps(architecture):
    """On activations so small that eps counts, against float64, and against float64 with another eps."""
    settings = {**PLAIN, "attn_resolutions": (4,)}
    denoiser = randomised(settings, architecture)
    with torch.no_grad():
        for name, parameter in denoiser.named_parameters():
            if "conv" in name or "skip" in name or ("affine" in name and architecture != "adm"):
                parameter.mul_(3e-3)
        arguments = network_inputs(settings)
        actual = denoiser.model(*arguments)
    described = denoiser.state_dict(), settings, architecture
    assert relative_error(actual, Published(*described).F(*as_numpy(*arguments))) < 1e-5
    last = "out_norm" if architecture == "adm" else "aux_norm"
    for owner in ("norm0", "norm1", "norm2", last):
        assert relative_error(actual, OtherEps(owner, *described).F(*as_numpy(*arguments))) > 5e-4, owner


@ARCHITECTURE
@GATING
def test_every_branch_of_the_comparison_counts(architecture, gated):
    """Each parameter set to 0 changes the float64 evaluation, so that none of them is compared in vain."""
    settings = {**SMALL, "num_blocks": 1, "attn_resolutions": (8,), "gated": gated}
    state = randomised(settings, architecture).state_dict()
    arguments = as_numpy(*network_inputs(settings, batch=1))
    full = Published(state, settings, architecture).F(*arguments)
    for name, value in state.items():
        if not name.endswith("resample_filter"):
            changed = Published({**state, name: torch.zeros_like(value)}, settings, architecture).F(*arguments)
            assert np.abs(changed - full).max() > 1e-4 * np.abs(full).max(), name


@ARCHITECTURE
def test_no_labels_to_a_conditional_network_means_zeros(architecture):
    denoiser = randomised(SMALL, architecture)
    x, sigma, labels, augment_labels = inputs(SMALL)
    with torch.no_grad():
        none, zeros = denoiser(x, sigma), denoiser(x, sigma, torch.zeros(3, 3), torch.zeros(3, 4))
        given = denoiser(x, sigma, labels, augment_labels)
    torch.testing.assert_close(none, zeros, rtol=1e-5, atol=1e-5)
    assert (given - none).abs().max() > 1e-2
    expected = Published(denoiser.state_dict(), SMALL, architecture).D(*as_numpy(x, sigma))
    assert relative_error(none, expected) < 1e-5


@pytest.mark.parametrize("architecture", ["ddpmpp", "adm"])
def test_label_dropout_zeroes_whole_label_vectors_in_training_only(architecture):
    settings = {key: value for key, value in SMALL.items() if key != "augment_dim"}
    torch.manual_seed(0)
    model = networks.create(architecture, **settings).model
    model.label_dropout = 1.0
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.1)
        x, sigma, labels, _ = inputs(SMALL)
        kept, dropped = model.eval()(x, sigma, labels), model.train()(x, sigma, labels)
        torch.testing.assert_close(dropped, model(x, sigma))
        assert (kept - dropped).abs().max() > 1e-4

        model.label_dropout = 0.5
        many = 200
        x, labels = x[:1].expand(many, -1, -1, -1), labels[:1].expand(many, -1)
        change = (model(x, sigma[:1].expand(many), labels) - dropped[:1]).flatten(1).abs().amax(1)
    unlabelled = (change < 1e-6).float().mean()
    assert 0.35 < unlabelled < 0.65


@ARCHITECTURE
def test_dropout_acts_in_training_only(architecture):
    with_dropout, without = randomised(SMALL, architecture, dropout=0.5), randomised(SMALL, architecture)
    arguments = inputs(SMALL)
    with torch.no_grad():
        assert torch.equal(with_dropout(*arguments), without(*arguments))
        assert (with_dropout.train()(*arguments) - without(*arguments)).abs().max() > 1e-2


@pytest.mark.parametrize("eps", [1e-6, 1e-5])
@pytest.mark.parametrize("channels", [4, 12, 128, 160, 256])
def test_group_norm_has_min_32_channels_over_4_groups(channels, eps):
    torch.manual_seed(0)
    x = (torch.randn(2, channels, 3, 5) * 2 + 1) * 2e-3
    norm = GroupNorm(channels, eps=eps)
    with torch.no_grad():
        norm.weight.normal_()
        norm.bias.normal_()
        actual = norm(x)
    assert relative_error(actual, normalise(*as_numpy(x, norm.weight.data, norm.bias.data), eps)) < 1e-5


@pytest.mark.parametrize("heads", [1, 2])
def test_attention_reads_interleaved_q_k_v(heads):
    torch.manual_seed(0)
    qkv = torch.randn(2, 24, 3, 5) * 2
    assert relative_error(attention(qkv, heads), attend(qkv.double().numpy(), heads)) < 1e-5


@ARCHITECTURE
@GATING
def test_channels_last_gives_equal_output(architecture, gated):
    denoiser = randomised({**SMALL, "gated": gated}, architecture)
    x, *rest = inputs(SMALL)
    with torch.no_grad():
        expected = denoiser(x, *rest)
        denoiser = denoiser.to(memory_format=torch.channels_last)
        actual = denoiser(x.to(memory_format=torch.channels_last), *rest)
    scale = expected.abs().amax((1, 2, 3), keepdim=True)
    assert ((actual - expected) / scale).abs().max() < 1e-5


@ARCHITECTURE
@pytest.mark.parametrize(("height", "width"), [(4, 4), (16, 8), (24, 32)])
def test_other_sizes_than_that_of_construction_run(architecture, height, width):
    denoiser = randomised(SMALL, architecture)
    arguments = inputs(SMALL, height, width, batch=2)
    with torch.no_grad():
        actual = denoiser(*arguments)
    expected = Published(denoiser.state_dict(), SMALL, architecture).D(*as_numpy(*arguments))
    for n in range(2):
        assert relative_error(actual[n], expected[n]) < 1e-5


@ARCHITECTURE
@GATING
def test_gradients_reach_every_parameter_and_the_input(architecture, gated):
    denoiser = randomised({**SMALL, "gated": gated}, architecture).train()
    x, *rest = inputs(SMALL)
    x.requires_grad_()
    weights = torch.randn(x.shape, generator=torch.Generator().manual_seed(3))
    (denoiser(x, *rest) * weights).sum().backward()
    assert x.grad.abs().max() > 0
    for name, parameter in denoiser.named_parameters():
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().max() > 0, name


@ARCHITECTURE
def test_images_of_a_batch_do_not_see_each_other(architecture):
    denoiser = randomised(SMALL, architecture)
    x, sigma, labels, augment_labels = inputs(SMALL)
    with torch.no_grad():
        together = denoiser(x, sigma, labels, augment_labels)
        for n in range(3):
            one = slice(n, n + 1)
            alone = denoiser(x[one], sigma[one], labels[one], augment_labels[one])
            assert relative_error(alone, together[one].double().numpy()) < 1e-5


@ARCHITECTURE
@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"image_size": 9}, "image_size"),
        ({"image_size": 0}, "image_size"),
        ({"image_size": -8}, "image_size"),
        ({"model_channels": 6}, "model_channels"),
        ({"model_channels": 0}, "model_channels"),
        ({"channel_mult": ()}, "channel_mult"),
        ({"channel_mult": (1, 0)}, "channel_mult"),
        ({"num_blocks": 0}, "num_blocks"),
        ({"attn_resolutions": (5,)}, "attn_resolutions"),
        ({"in_channels": 0}, "in_channels"),
        ({"out_channels": 0}, "out_channels"),
        ({"label_dim": -1}, "label_dim"),
        ({"augment_dim": -1}, "augment_dim"),
        ({"dropout": 1.5}, "dropout"),
        ({"sigma_data": 0.0}, "sigma_data"),
        ({"sigma_data": -0.5}, "sigma_data"),
    ],
    ids=lambda value: ",".join(map(str, value.values())) if isinstance(value, dict) else value,
)
def test_bad_settings_raise_a_value_error_that_names_the_argument(architecture, changes, named):
    with pytest.raises(ValueError, match=named):
        networks.create(architecture, **{**SMALL, **changes})


@ARCHITECTURE
@pytest.mark.parametrize("width", [36, 100], ids=["72", "200"])
def test_widths_that_32_groups_or_heads_of_64_do_not_divide_run(architecture, width):
    denoiser = networks.create(architecture, **{**GATED, "model_channels": width, "channel_mult": (2, 2)})
    x, sigma, labels, augment_labels = inputs(SMALL, batch=1)
    assert denoiser(x, sigma, labels, augment_labels).shape == x.shape


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(ValueError, match=r"'unet'.*ddpmpp, ncsnpp, adm"):
        networks.create("unet")
    assert networks.names() == ARCHITECTURES


@ARCHITECTURE
@pytest.mark.parametrize("shape", [(2, 3, 7, 8), (2, 3, 8, 7), (2, 4, 8, 8)])
def test_an_image_that_does_not_fit_raises_a_value_error(architecture, shape):
    denoiser = networks.create(architecture, **SMALL)
    with pytest.raises(ValueError, match="x: expected"):
        denoiser(torch.zeros(shape), 1.0)


@ARCHITECTURE
def test_labels_of_another_length_raise_a_value_error(architecture):
    denoiser = networks.create(architecture, **SMALL)
    with pytest.raises(ValueError, match=r"labels: expected one-hot \[2, 3\]"):
        denoiser(torch.zeros(2, 3, 8, 8), 1.0, torch.zeros(2, 4))


def test_one_hot_of_class_indices():
    labels = torch.tensor([2, 0, -1])
    assert networks.one_hot(labels, 3).tolist() == [[0, 0, 1], [1, 0, 0], [0, 0, 0]]
    assert networks.one_hot(labels, 3).dtype == torch.float32
    assert networks.one_hot(labels, 0) is None
