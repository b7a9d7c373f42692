"""DDPM++ against its description: names, counts, initialisation, and F and D evaluated in float64 NumPy."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from rsd_fast import networks
from rsd_fast.networks.unet import GroupNorm, SongUNet, attention

CIFAR10 = {"augment_dim": 9}
FFHQ64 = {"image_size": 64, "channel_mult": (1, 2, 2, 2), "augment_dim": 9}
SMALL = {
    "image_size": 8,
    "in_channels": 3,
    "out_channels": 3,
    "model_channels": 8,
    "channel_mult": (1, 2),
    "num_blocks": 2,
    "attn_resolutions": (8, 4),
    "label_dim": 3,
    "augment_dim": 4,
}
DEEP = {**SMALL, "image_size": 16, "channel_mult": (2, 1, 3), "num_blocks": 1, "attn_resolutions": (8,)}
PLAIN = {**SMALL, "label_dim": 0, "augment_dim": 0, "attn_resolutions": ()}
SETTINGS = pytest.mark.parametrize("settings", [SMALL, DEEP, PLAIN], ids=["small", "deep", "plain"])


# The description, written down once as names and shapes and once as arithmetic.


def published_shapes(settings):
    """{name below `model.`: shape} of every parameter and buffer, from the description alone."""
    width, mult, blocks = settings["model_channels"], settings["channel_mult"], settings["num_blocks"]
    size, attend = settings["image_size"], settings["attn_resolutions"]
    shapes = {}

    def conv(name, c_in, c_out, k, resample=False):
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = (c_out, c_in, k, k), (c_out,)
        if resample:
            shapes[f"{name}.resample_filter"] = (1, 1, 2, 2)

    def linear(name, c_in, c_out, bias=True):
        shapes[f"{name}.weight"] = (c_out, c_in)
        if bias:
            shapes[f"{name}.bias"] = (c_out,)

    def norm(name, c):
        shapes[f"{name}.weight"] = shapes[f"{name}.bias"] = (c,)

    def block(name, c_in, c_out, resample=False, with_attention=False):
        norm(f"{name}.norm0", c_in)
        conv(f"{name}.conv0", c_in, c_out, 3, resample)
        linear(f"{name}.affine", 4 * width, c_out)
        norm(f"{name}.norm1", c_out)
        conv(f"{name}.conv1", c_out, c_out, 3)
        if c_in != c_out or resample:
            conv(f"{name}.skip", c_in, c_out, 1, resample)
        if with_attention:
            norm(f"{name}.norm2", c_out)
            conv(f"{name}.qkv", c_out, 3 * c_out, 1)
            conv(f"{name}.proj", c_out, c_out, 1)

    if settings["label_dim"]:
        linear("map_label", settings["label_dim"], width)
    if settings["augment_dim"]:
        linear("map_augment", settings["augment_dim"], width, bias=False)
    linear("map_layer0", width, 4 * width)
    linear("map_layer1", 4 * width, 4 * width)

    channels, stack = width, []
    for level, m in enumerate(mult):
        r = size >> level
        if level == 0:
            conv(f"enc.{r}x{r}_conv", settings["in_channels"], width, 3)
        else:
            block(f"enc.{r}x{r}_down", channels, channels, resample=True)
        stack.append(channels)
        for i in range(blocks):
            block(f"enc.{r}x{r}_block{i}", channels, width * m, with_attention=r in attend)
            channels = width * m
            stack.append(channels)
    for level in range(len(mult) - 1, -1, -1):
        r, out = size >> level, width * mult[level]
        if level == len(mult) - 1:
            block(f"dec.{r}x{r}_in0", channels, channels, with_attention=True)
            block(f"dec.{r}x{r}_in1", channels, channels)
        else:
            block(f"dec.{r}x{r}_up", channels, channels, resample=True)
        for i in range(blocks + 1):
            last = i == blocks and r in attend
            block(f"dec.{r}x{r}_block{i}", channels + stack.pop(), out, with_attention=last)
            channels = out
    norm(f"dec.{size}x{size}_aux_norm", channels)
    conv(f"dec.{size}x{size}_aux_conv", channels, settings["out_channels"], 3)
    assert not stack
    return shapes


def silu(x):
    return x / (1 + np.exp(-x))


def convolve(x, weight, bias):
    """Stride 1, zero padding k // 2: a sum over taps."""
    k = weight.shape[-1]
    height, width = x.shape[2:]
    padded = np.pad(x, [(0, 0), (0, 0), (k // 2, k // 2), (k // 2, k // 2)])
    total = bias[None, :, None, None]
    for i in range(k):
        for j in range(k):
            part = padded[:, :, i : i + height, j : j + width]
            total = total + np.einsum("oc,nchw->nohw", weight[:, :, i, j], part)
    return total


def normalise(x, weight, bias, eps):
    channels = x.shape[1]
    groups = min(32, channels // 4)
    y = x.reshape(len(x), groups, -1)
    y = (y - y.mean(2, keepdims=True)) / np.sqrt(y.var(2, keepdims=True) + eps)
    return y.reshape(x.shape) * weight[None, :, None, None] + bias[None, :, None, None]


def attend(qkv, heads):
    """Output channel of qkv, read as [heads, C/heads, 3], is (q, k, v)."""
    batch, triple, height, width = qkv.shape
    depth = triple // 3 // heads
    result = np.empty((batch, triple // 3, height, width))
    for n in range(batch):
        for head in range(heads):
            first = 3 * depth * head
            q, k, v = (qkv[n, first + which : first + 3 * depth : 3].reshape(depth, -1) for which in range(3))
            score = q.T @ k / math.sqrt(depth)  # [query position, key position]
            score = np.exp(score - score.max(1, keepdims=True))
            score /= score.sum(1, keepdims=True)
            result[n, depth * head : depth * (head + 1)] = (v @ score.T).reshape(depth, height, width)
    return result


class Published:
    """The network as described, in float64 NumPy, on the weights of a state dict."""

    def __init__(self, state, settings):
        self.w = {name.removeprefix("model."): value.double().numpy() for name, value in state.items()}
        self.settings = settings

    def conv(self, name, x, resample=None):
        if resample == "down":
            x = (x[:, :, ::2, ::2] + x[:, :, 1::2, ::2] + x[:, :, ::2, 1::2] + x[:, :, 1::2, 1::2]) / 4
        elif resample == "up":
            x = x.repeat(2, axis=2).repeat(2, axis=3)
        return convolve(x, self.w[f"{name}.weight"], self.w[f"{name}.bias"])

    def norm(self, name, x):
        return normalise(x, self.w[f"{name}.weight"], self.w[f"{name}.bias"], 1e-6)

    def linear(self, name, x):
        y = x @ self.w[f"{name}.weight"].T
        return y + self.w[f"{name}.bias"] if f"{name}.bias" in self.w else y

    def block(self, name, x, e, resample=None):
        h = self.conv(f"{name}.conv0", silu(self.norm(f"{name}.norm0", x)), resample)
        h = silu(self.norm(f"{name}.norm1", h + self.linear(f"{name}.affine", e)[:, :, None, None]))
        h = self.conv(f"{name}.conv1", h)
        skip = self.conv(f"{name}.skip", x, resample) if f"{name}.skip.weight" in self.w else x
        x = (h + skip) * math.sqrt(0.5)
        if f"{name}.qkv.weight" in self.w:
            qkv = self.conv(f"{name}.qkv", self.norm(f"{name}.norm2", x))
            x = (x + self.conv(f"{name}.proj", attend(qkv, 1))) * math.sqrt(0.5)
        return x

    def embedding(self, c_noise, labels, augment_labels):
        half = self.settings["model_channels"] // 2
        frequency = 10000.0 ** (-np.arange(half) / (half - 1))
        angle = c_noise[:, None] * frequency
        e = np.concatenate([np.sin(angle), np.cos(angle)], 1)
        if self.settings["label_dim"]:
            given = np.zeros((len(e), self.settings["label_dim"])) if labels is None else labels
            e = e + self.linear("map_label", given * math.sqrt(self.settings["label_dim"]))
        if augment_labels is not None:
            e = e + self.linear("map_augment", augment_labels)
        return silu(self.linear("map_layer1", silu(self.linear("map_layer0", e))))

    def F(self, x, c_noise, labels=None, augment_labels=None):
        size, blocks = self.settings["image_size"], self.settings["num_blocks"]
        levels = len(self.settings["channel_mult"])
        e = self.embedding(c_noise, labels, augment_labels)
        stack = []
        for level in range(levels):
            r = f"{size >> level}x{size >> level}"
            x = self.conv(f"enc.{r}_conv", x) if level == 0 else self.block(f"enc.{r}_down", x, e, "down")
            stack.append(x)
            for i in range(blocks):
                x = self.block(f"enc.{r}_block{i}", x, e)
                stack.append(x)
        for level in reversed(range(levels)):
            r = f"{size >> level}x{size >> level}"
            if level == levels - 1:
                x = self.block(f"dec.{r}_in1", self.block(f"dec.{r}_in0", x, e), e)
            else:
                x = self.block(f"dec.{r}_up", x, e, "up")
            for i in range(blocks + 1):
                x = self.block(f"dec.{r}_block{i}", np.concatenate([x, stack.pop()], 1), e)
        return self.conv(f"dec.{size}x{size}_aux_conv", silu(self.norm(f"dec.{size}x{size}_aux_norm", x)))

    def D(self, x, sigma, labels=None, augment_labels=None, sigma_data=0.5):
        s = sigma[:, None, None, None]
        total = s**2 + sigma_data**2
        F = self.F(x / np.sqrt(total), np.log(sigma) / 4, labels, augment_labels)
        return sigma_data**2 / total * x + s * sigma_data / np.sqrt(total) * F


def randomised(settings, seed=0, **more):
    """A denoiser with every parameter random and of a size that matters, those initialised near 0 too."""
    torch.manual_seed(seed)
    denoiser = networks.create("ddpmpp", **settings, **more).eval()
    with torch.no_grad():
        for parameter in denoiser.parameters():
            fan_in = max(parameter[0].numel(), 4)
            parameter.copy_(torch.randn(parameter.shape) * (1.3 / math.sqrt(fan_in)))
        for name, parameter in denoiser.named_parameters():
            if "norm" in name and name.endswith("weight"):
                parameter.add_(1)
    return denoiser


def inputs(settings, height=8, width=8, batch=3, seed=1, dtype=torch.float32):
    """(x, sigma, labels, augment_labels)"""
    generator = torch.Generator().manual_seed(seed)
    sigma = torch.tensor([0.02, 0.7, 30.0])[:batch].to(dtype)
    x = torch.randn(batch, settings["in_channels"], height, width, generator=generator, dtype=dtype)
    x = x * (sigma[:, None, None, None] + 0.5)
    labels = torch.eye(settings["label_dim"], dtype=torch.float32)[[1, 0, 2][:batch]] if settings["label_dim"] else None
    augment_labels = None
    if settings["augment_dim"]:
        augment_labels = torch.randn(batch, settings["augment_dim"], generator=generator)
    return x, sigma, labels, augment_labels


def as_numpy(*tensors):
    return [None if tensor is None else tensor.double().numpy() for tensor in tensors]


def relative_error(actual, expected):
    assert tuple(actual.shape) == expected.shape
    return np.abs(actual.detach().double().numpy() - expected).max() / np.abs(expected).max()


@pytest.fixture(scope="module")
def cifar10():
    """The published CIFAR-10 network, of shapes alone."""
    with torch.device("meta"):
        return networks.create("ddpmpp", **CIFAR10)


@pytest.mark.parametrize(
    ("settings", "count"), [(CIFAR10, 55_733_891), (FFHQ64, 61_805_571)], ids=["cifar10", "ffhq64"]
)
def test_parameter_count_is_the_published_one(settings, count):
    with torch.device("meta"):
        denoiser = networks.create("ddpmpp", **settings)
    assert sum(parameter.numel() for parameter in denoiser.parameters()) == count


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("model.map_augment.weight", (128, 9)),
        ("model.map_layer0.weight", (512, 128)),
        ("model.map_layer1.bias", (512,)),
        ("model.enc.32x32_conv.weight", (128, 3, 3, 3)),
        ("model.enc.32x32_block0.conv0.weight", (256, 128, 3, 3)),
        ("model.enc.32x32_block0.skip.weight", (256, 128, 1, 1)),
        ("model.enc.16x16_down.conv0.resample_filter", (1, 1, 2, 2)),
        ("model.enc.16x16_block3.qkv.weight", (768, 256, 1, 1)),
        ("model.dec.8x8_in0.qkv.weight", (768, 256, 1, 1)),
        ("model.dec.16x16_block4.proj.bias", (256,)),
        ("model.dec.32x32_up.skip.resample_filter", (1, 1, 2, 2)),
        ("model.dec.32x32_block4.norm0.weight", (384,)),
        ("model.dec.32x32_aux_norm.weight", (256,)),
        ("model.dec.32x32_aux_conv.weight", (3, 256, 3, 3)),
    ],
)
def test_published_names_are_in_the_state_dict(cifar10, name, shape):
    assert tuple(cifar10.state_dict()[name].shape) == shape
    assert (name in dict(cifar10.named_buffers())) == name.endswith("resample_filter")


@pytest.mark.parametrize("name", ["dec.16x16_block3.qkv.weight", "enc.16x16_down.qkv.weight", "dec.8x8_in1.qkv.weight"])
def test_attention_is_only_where_published(cifar10, name):
    assert f"model.{name}" not in cifar10.state_dict()


@pytest.mark.parametrize(
    "settings",
    [
        SMALL,
        DEEP,
        PLAIN,
        {**SMALL, "channel_mult": (2,), "attn_resolutions": (8,), "in_channels": 5, "out_channels": 2},
        {**DEEP, "image_size": 28, "channel_mult": (1, 2, 2), "attn_resolutions": (14, 7), "label_dim": 0},
    ],
    ids=["small", "deep", "plain", "one-level", "size-28"],
)
def test_every_name_and_shape_follows_from_the_description(settings):
    with torch.device("meta"):
        state = networks.create("ddpmpp", **settings).state_dict()
    actual = {name: tuple(value.shape) for name, value in state.items()}
    assert actual == {f"model.{name}": shape for name, shape in published_shapes(settings).items()}


def test_parameters_of_a_block_are_in_the_published_order():
    with torch.device("meta"):
        names = list(networks.create("ddpmpp", **DEEP).model.enc["8x8_block0"].state_dict())
    owners = list(dict.fromkeys(name.split(".")[0] for name in names))
    assert owners == ["norm0", "conv0", "affine", "norm1", "conv1", "skip", "norm2", "qkv", "proj"]


def test_resample_filter_buffer_is_the_outer_product_of_the_taps_over_their_squared_sum():
    state = networks.create("ddpmpp", **SMALL).state_dict()
    filters = [value for name, value in state.items() if name.endswith("resample_filter")]
    taps = np.array([1.0, 1.0])
    assert len(filters) == 4
    for value in filters:
        assert np.array_equal(value[0, 0].numpy(), np.outer(taps, taps) / taps.sum() ** 2)


@SETTINGS
@pytest.mark.parametrize(("height", "width"), [(16, 16), (8, 12)], ids=["square", "oblong"])
def test_raw_network_matches_float64(settings, height, width):
    denoiser = randomised({**settings, "in_channels": 5, "out_channels": 2})
    x, sigma, labels, augment_labels = inputs({**settings, "in_channels": 5}, height, width)
    c_noise = sigma.log() / 4
    with torch.no_grad():
        actual = denoiser.model(x, c_noise, labels, augment_labels)
    expected = Published(denoiser.state_dict(), settings).F(*as_numpy(x, c_noise, labels, augment_labels))
    assert relative_error(actual, expected) < 1e-5


@SETTINGS
@pytest.mark.parametrize("sigma_data", [0.5, 0.8])
def test_denoiser_matches_float64(settings, sigma_data):
    denoiser = randomised(settings, sigma_data=sigma_data)
    arguments = inputs(settings)
    with torch.no_grad():
        actual = denoiser(*arguments)
    expected = Published(denoiser.state_dict(), settings).D(*as_numpy(*arguments), sigma_data=sigma_data)
    assert actual.dtype == torch.float32
    for n in range(len(expected)):  # one by one: they differ by orders of magnitude
        assert relative_error(actual[n], expected[n]) < 1e-5


def test_every_branch_of_the_comparison_counts():
    """Each parameter set to 0 changes the float64 evaluation, so that none of them is compared in vain."""
    settings = {**SMALL, "num_blocks": 1, "attn_resolutions": (8,)}
    state = randomised(settings).state_dict()
    arguments = as_numpy(*inputs(settings))
    full = Published(state, settings).D(*arguments)
    for name, value in state.items():
        if not name.endswith("resample_filter"):
            changed = Published({**state, name: torch.zeros_like(value)}, settings).D(*arguments)
            assert np.abs(changed - full).max() > 1e-4 * np.abs(full).max(), name


def test_a_number_as_sigma_means_that_level_for_every_image():
    denoiser = randomised(SMALL)
    x, _, labels, augment_labels = inputs(SMALL)
    with torch.no_grad():
        number = denoiser(x, 0.7, labels, augment_labels)
        vector = denoiser(x, torch.full((3,), 0.7), labels, augment_labels)
    assert torch.equal(number, vector)


def test_float64_in_gives_float64_out():
    denoiser = randomised(SMALL)
    x, sigma, labels, augment_labels = inputs(SMALL, dtype=torch.float64)
    with torch.no_grad():
        actual = denoiser(x, sigma, labels, augment_labels)
    assert actual.dtype == torch.float64
    expected = Published(denoiser.state_dict(), SMALL).D(*as_numpy(x, sigma, labels, augment_labels))
    assert relative_error(actual, expected) < 1e-5


def test_the_skip_part_is_evaluated_in_float64_for_float64():
    denoiser = randomised(SMALL)
    with torch.no_grad():
        denoiser.model.dec["8x8_aux_conv"].weight.zero_()
        denoiser.model.dec["8x8_aux_conv"].bias.zero_()
        x, sigma, *_ = inputs(SMALL, dtype=torch.float64)
        actual = denoiser(x, sigma)
    expected = (0.25 / (sigma**2 + 0.25))[:, None, None, None] * x
    torch.testing.assert_close(actual, expected, rtol=1e-14, atol=0)


def test_no_labels_to_a_conditional_network_means_zeros():
    denoiser = randomised(SMALL)
    x, sigma, labels, augment_labels = inputs(SMALL)
    with torch.no_grad():
        none, zeros = denoiser(x, sigma), denoiser(x, sigma, torch.zeros(3, 3), torch.zeros(3, 4))
        given = denoiser(x, sigma, labels, augment_labels)
    torch.testing.assert_close(none, zeros, rtol=1e-5, atol=1e-5)
    assert (given - none).abs().max() > 1e-2
    expected = Published(denoiser.state_dict(), SMALL).D(*as_numpy(x, sigma))
    assert relative_error(none, expected) < 1e-5


def test_label_dropout_zeroes_whole_label_vectors_in_training_only():
    settings = {key: value for key, value in SMALL.items() if key != "augment_dim"}
    torch.manual_seed(0)
    model = SongUNet(**settings, label_dropout=1.0)
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


def test_dropout_acts_in_training_only():
    with_dropout, without = randomised(SMALL, dropout=0.5), randomised(SMALL)
    arguments = inputs(SMALL)
    with torch.no_grad():
        assert torch.equal(with_dropout(*arguments), without(*arguments))
        assert (with_dropout.train()(*arguments) - without(*arguments)).abs().max() > 1e-2


@pytest.mark.parametrize("channels", [4, 12, 128, 160, 256])
def test_group_norm_has_min_32_channels_over_4_groups(channels):
    torch.manual_seed(0)
    x = torch.randn(2, channels, 3, 5) * 2 + 1
    norm = GroupNorm(channels)
    with torch.no_grad():
        norm.weight.normal_()
        norm.bias.normal_()
        actual = norm(x)
    assert relative_error(actual, normalise(*as_numpy(x, norm.weight.data, norm.bias.data), 1e-6)) < 1e-5


@pytest.mark.parametrize("heads", [1, 2])
def test_attention_reads_interleaved_q_k_v(heads):
    torch.manual_seed(0)
    qkv = torch.randn(2, 24, 3, 5) * 2
    assert relative_error(attention(qkv, heads), attend(qkv.double().numpy(), heads)) < 1e-5


def test_initialisation_is_the_published_one():
    torch.manual_seed(0)
    settings = {**SMALL, "model_channels": 32, "attn_resolutions": (8,)}
    pooled = {}
    for name, parameter in networks.create("ddpmpp", **settings).named_parameters():
        *_, owner, kind = name.split(".")
        if "norm" in owner:
            assert torch.all(parameter == (1.0 if kind == "weight" else 0.0)), name
        elif kind == "bias":
            assert torch.all(parameter == 0), name
        else:
            area = math.prod(parameter.shape[2:])
            bound = math.sqrt(6 / (parameter.shape[0] * area + parameter.shape[1] * area))
            if owner in ("conv1", "proj") or owner.endswith("aux_conv"):
                bound *= 1e-5
            if owner == "qkv":
                bound *= math.sqrt(0.2)
            owner = owner.split("_")[-1]
            pooled.setdefault(owner, []).append((parameter.detach().double() / bound).flatten().numpy())
    embedding = {"label", "augment", "layer0", "layer1", "affine"}
    assert set(pooled) == embedding | {"conv", "conv0", "conv1", "skip", "qkv", "proj"}
    for owner, parts in pooled.items():
        values = np.concatenate(parts)
        assert np.abs(values).max() <= 1 + 1e-6, owner
        assert stats.kstest(values, stats.uniform(-1, 2).cdf).pvalue > 1e-4, owner


def test_two_weights_of_one_network_are_not_equal():
    model = networks.create("ddpmpp", **SMALL).model
    assert not torch.equal(model.enc["8x8_block0"].conv0.weight, model.enc["8x8_block1"].conv0.weight)


def test_a_fresh_network_starts_as_the_skip_alone():
    torch.manual_seed(0)
    denoiser = networks.create("ddpmpp", **PLAIN)
    x, sigma, *_ = inputs(PLAIN)
    expected = (0.25 / (sigma**2 + 0.25))[:, None, None, None] * x
    assert (denoiser(x, sigma) - expected).abs().max() < 1e-3


def test_channels_last_gives_equal_output():
    denoiser = randomised(SMALL)
    x, *rest = inputs(SMALL)
    with torch.no_grad():
        expected = denoiser(x, *rest)
        denoiser = denoiser.to(memory_format=torch.channels_last)
        actual = denoiser(x.to(memory_format=torch.channels_last), *rest)
    scale = expected.abs().amax((1, 2, 3), keepdim=True)
    assert ((actual - expected) / scale).abs().max() < 1e-5


@pytest.mark.parametrize(("height", "width"), [(4, 4), (16, 8), (24, 32)])
def test_other_sizes_than_that_of_construction_run(height, width):
    denoiser = randomised(SMALL)
    arguments = inputs(SMALL, height, width, batch=2)
    with torch.no_grad():
        actual = denoiser(*arguments)
    expected = Published(denoiser.state_dict(), SMALL).D(*as_numpy(*arguments))
    for n in range(2):
        assert relative_error(actual[n], expected[n]) < 1e-5


def test_bfloat16_runs_and_is_close():
    denoiser = randomised(SMALL)
    arguments = inputs(SMALL)
    with torch.no_grad():
        expected = denoiser(*arguments)
        denoiser.compute_dtype = torch.bfloat16
        actual = denoiser(*arguments)
    assert actual.dtype == torch.float32
    error = (actual - expected).flatten(1).norm(dim=1) / expected.flatten(1).norm(dim=1)
    assert error.max() < 0.03
    assert error.max() > 1e-4, "computed in float32 after all"
    assert all(parameter.dtype == torch.float32 for parameter in denoiser.parameters())


def test_bfloat16_noise_embedding_keeps_its_precision():
    """c_noise and its features are made in float32: bfloat16 has 3 digits, and c_noise differs by less."""
    denoiser = randomised(SMALL)
    denoiser.compute_dtype = torch.bfloat16
    seen = []
    denoiser.model.register_forward_hook(lambda module, arguments, output: seen.append((arguments[1], output)))
    x, *_ = inputs(SMALL)
    with torch.no_grad():
        denoiser.raw(x, torch.tensor([1.0, 1.001, 0.02], dtype=torch.float64))
    c_noise, output = seen[0]
    assert c_noise.dtype == torch.float32 and output.dtype == torch.bfloat16
    np.testing.assert_allclose(c_noise.numpy(), np.log([1.0, 1.001, 0.02]) / 4, rtol=1e-5, atol=1e-8)


def test_gradients_reach_every_parameter_and_the_input():
    denoiser = randomised(SMALL).train()
    x, *rest = inputs(SMALL)
    x.requires_grad_()
    weights = torch.randn(x.shape, generator=torch.Generator().manual_seed(3))
    (denoiser(x, *rest) * weights).sum().backward()
    assert x.grad.abs().max() > 0
    for name, parameter in denoiser.named_parameters():
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().max() > 0, name


def test_images_of_a_batch_do_not_see_each_other():
    denoiser = randomised(SMALL)
    x, sigma, labels, augment_labels = inputs(SMALL)
    with torch.no_grad():
        together = denoiser(x, sigma, labels, augment_labels)
        for n in range(3):
            one = slice(n, n + 1)
            alone = denoiser(x[one], sigma[one], labels[one], augment_labels[one])
            assert relative_error(alone, together[one].double().numpy()) < 1e-5


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
def test_bad_settings_raise_a_value_error_that_names_the_argument(changes, named):
    with pytest.raises(ValueError, match=named):
        networks.create("ddpmpp", **{**SMALL, **changes})


def test_widths_that_32_groups_do_not_divide_run():
    denoiser = networks.create("ddpmpp", **{**SMALL, "model_channels": 36, "channel_mult": (2, 2)})
    x, sigma, labels, augment_labels = inputs(SMALL)
    assert denoiser(x, sigma, labels, augment_labels).shape == x.shape


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(ValueError, match=r"'unet'.*ddpmpp"):
        networks.create("unet")
    assert "ddpmpp" in networks.names()


@pytest.mark.parametrize("shape", [(2, 3, 7, 8), (2, 3, 8, 7), (2, 4, 8, 8)])
def test_an_image_that_does_not_fit_raises_a_value_error(shape):
    denoiser = networks.create("ddpmpp", **SMALL)
    with pytest.raises(ValueError, match="x: expected"):
        denoiser(torch.zeros(shape), 1.0)


def test_one_hot_of_class_indices():
    labels = torch.tensor([2, 0, -1])
    assert networks.one_hot(labels, 3).tolist() == [[0, 0, 1], [1, 0, 0], [0, 0, 0]]
    assert networks.one_hot(labels, 3).dtype == torch.float32
    assert networks.one_hot(labels, 0) is None
