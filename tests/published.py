"""The published networks, written down from their description: names and shapes, and F and D in float64 NumPy.

Also what the tests of the networks share: settings, denoisers with every weight random, and inputs for them.
"""

import math

import numpy as np
import torch

from rsd_fast import networks

ARCHITECTURES = ["ddpmpp", "ncsnpp", "adm"]
TAPS = {"ddpmpp": (1, 1), "ncsnpp": (1, 3, 3, 1), "adm": (1, 1)}
EPS = {"ddpmpp": 1e-6, "ncsnpp": 1e-6, "adm": 1e-5}

DEFAULTS = {  # of networks.create
    "image_size": 32,
    "in_channels": 3,
    "out_channels": 3,
    "model_channels": 128,
    "channel_mult": (2, 2, 2),
    "num_blocks": 4,
    "attn_resolutions": (16,),
    "label_dim": 0,
    "augment_dim": 0,
}
CIFAR10 = {"augment_dim": 9}
FFHQ64 = {"image_size": 64, "channel_mult": (1, 2, 2, 2), "augment_dim": 9}
IMAGENET64 = {
    "image_size": 64,
    "model_channels": 192,
    "channel_mult": (1, 2, 3, 4),
    "num_blocks": 3,
    "attn_resolutions": (32, 16, 8),
    "label_dim": 1000,
}
LARGE = {"ddpmpp": CIFAR10, "ncsnpp": CIFAR10, "adm": IMAGENET64}

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
GATED = {**SMALL, "num_blocks": 1, "gated": True}
ONE_LEVEL = {**SMALL, "channel_mult": (2,), "attn_resolutions": (8,), "in_channels": 5, "out_channels": 2}
SIZE_28 = {**DEEP, "image_size": 28, "channel_mult": (1, 2, 2), "attn_resolutions": (14, 7), "label_dim": 0}
WIDE = {**SMALL, "model_channels": 64, "channel_mult": (2, 3), "num_blocks": 1}  # 2 and 3 heads in ADM


def resample_filter(architecture):
    """The outer product of the 1-D taps, divided by the square of their sum."""
    taps = np.array(TAPS[architecture], dtype=np.float64)
    return np.outer(taps, taps) / taps.sum() ** 2


def published_shapes(architecture, settings):
    """{name below `model.`: shape} of every parameter and buffer, in the order of the published state dict."""
    width, mult, blocks = settings["model_channels"], settings["channel_mult"], settings["num_blocks"]
    size, attend = settings["image_size"], settings["attn_resolutions"]
    adm, residual = architecture == "adm", architecture == "ncsnpp"
    taps = len(TAPS[architecture])
    shapes = {}

    def conv(name, c_in, c_out, k, resample=False):
        if k:
            shapes[f"{name}.weight"], shapes[f"{name}.bias"] = (c_out, c_in, k, k), (c_out,)
        if k and settings.get("gated"):
            shapes[f"{name}.gate_weight"] = (c_out, c_in, k, k)
        if resample:
            shapes[f"{name}.resample_filter"] = (1, 1, taps, taps)

    def linear(name, c_in, c_out, bias=True):
        shapes[f"{name}.weight"] = (c_out, c_in)
        if bias:
            shapes[f"{name}.bias"] = (c_out,)

    def norm(name, c):
        shapes[f"{name}.weight"] = shapes[f"{name}.bias"] = (c,)

    def block(name, c_in, c_out, resample=False, with_attention=False):
        norm(f"{name}.norm0", c_in)
        conv(f"{name}.conv0", c_in, c_out, 3, resample)
        linear(f"{name}.affine", 4 * width, 2 * c_out if adm else c_out)
        norm(f"{name}.norm1", c_out)
        conv(f"{name}.conv1", c_out, c_out, 3)
        if c_in != c_out or resample:
            conv(f"{name}.skip", c_in, c_out, 0 if adm and c_in == c_out else 1, resample)
        if with_attention:
            norm(f"{name}.norm2", c_out)
            conv(f"{name}.qkv", c_out, 3 * c_out, 1)
            conv(f"{name}.proj", c_out, c_out, 1)

    features = 2 * width if residual else width
    if residual:
        shapes["map_noise.freqs"] = (features // 2,)
    if settings["label_dim"] and not adm:
        linear("map_label", settings["label_dim"], features)
    if settings["augment_dim"]:
        linear("map_augment", settings["augment_dim"], features, bias=False)
    linear("map_layer0", features, 4 * width)
    linear("map_layer1", 4 * width, 4 * width)
    if settings["label_dim"] and adm:
        linear("map_label", settings["label_dim"], 4 * width, bias=False)

    channels, stack = width * mult[0] if adm else width, []
    auxiliary = settings["in_channels"]
    for level, m in enumerate(mult):
        r = size >> level
        if level == 0:
            conv(f"enc.{r}x{r}_conv", settings["in_channels"], channels, 3)
        else:
            block(f"enc.{r}x{r}_down", channels, channels, resample=True)
            if residual:
                conv(f"enc.{r}x{r}_aux_residual", auxiliary, channels, 3, resample=True)
                auxiliary = channels
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
            attends = r in attend and (adm or i == blocks)
            block(f"dec.{r}x{r}_block{i}", channels + stack.pop(), out, with_attention=attends)
            channels = out
    norm("out_norm" if adm else f"dec.{size}x{size}_aux_norm", channels)
    conv("out_conv" if adm else f"dec.{size}x{size}_aux_conv", channels, settings["out_channels"], 3)
    assert not stack
    return shapes


def sigmoid(x):
    return (1 + np.tanh(x / 2)) / 2


def silu(x):
    return x * sigmoid(x)


def pad(x, by):
    return np.pad(x, [(0, 0), (0, 0), (by, by), (by, by)])


def convolve(x, weight, padding):
    """Stride 1: the sum over channels and taps."""
    patches = np.lib.stride_tricks.sliding_window_view(pad(x, padding), weight.shape[2:], (2, 3))  # [N, C, H, W, k, k]
    return np.tensordot(patches, weight, ([1, 4, 5], [1, 2, 3])).transpose(0, 3, 1, 2)


def shrink(x, f, padding):
    """Depthwise correlation with f, stride 2."""
    x = pad(x, padding)
    height, width = (x.shape[2] - len(f)) // 2 + 1, (x.shape[3] - len(f)) // 2 + 1
    result = np.zeros((*x.shape[:2], height, width))
    for i in range(len(f)):
        for j in range(len(f)):
            result += f[i, j] * x[:, :, i : i + 2 * height : 2, j : j + 2 * width : 2]
    return result


def enlarge(x, f, padding):
    """Depthwise transposed convolution with 4 f, stride 2."""
    height, width = x.shape[2:]
    result = np.zeros((*x.shape[:2], 2 * height - 2 + len(f), 2 * width - 2 + len(f)))
    for i in range(len(f)):
        for j in range(len(f)):
            result[:, :, i : i + 2 * height : 2, j : j + 2 * width : 2] += 4 * f[i, j] * x
    return result[:, :, padding : result.shape[2] - padding, padding : result.shape[3] - padding]


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


def precondition(name, sigma, sigma_data=0.5):
    """(c_skip, c_out, c_in, c_noise)"""
    if name == "vp":
        t = (np.sqrt(0.01 + 39.8 * np.log(1 + sigma**2)) - 0.1) / 19.9
        return np.ones_like(sigma), -sigma, 1 / np.sqrt(sigma**2 + 1), 999 * t
    if name == "ve":
        return np.ones_like(sigma), sigma, np.ones_like(sigma), np.log(sigma / 2)
    total = sigma**2 + sigma_data**2
    return sigma_data**2 / total, sigma * sigma_data / np.sqrt(total), 1 / np.sqrt(total), np.log(sigma) / 4


class Published:
    """The network as described, in float64 NumPy, on the weights of a state dict."""

    def __init__(self, state, settings, architecture="ddpmpp"):
        self.w = {name.removeprefix("model."): value.double().numpy() for name, value in state.items()}
        self.settings, self.architecture = settings, architecture
        self.adm, self.eps = architecture == "adm", EPS[architecture]
        self.f = resample_filter(architecture)

    def conv(self, name, x, resample=None):
        weight, gate = self.w.get(f"{name}.weight"), self.w.get(f"{name}.gate_weight")
        margin = (len(self.f) - 1) // 2
        if resample == "down":
            x = shrink(x, self.f, margin)
        elif resample == "up":
            x = enlarge(x, self.f, margin)
        if weight is None:
            return x
        padding = weight.shape[-1] // 2 + (margin if resample == "fused down" else 0)
        y = convolve(x, weight, padding)
        if gate is not None:
            y = y * sigmoid(sigmoid(convolve(x, gate, padding)))
        if resample == "fused down":
            y = shrink(y, self.f, 0)
        return y + self.w[f"{name}.bias"][None, :, None, None]

    def norm(self, name, x):
        return normalise(x, self.w[f"{name}.weight"], self.w[f"{name}.bias"], self.eps)

    def linear(self, name, x):
        y = x @ self.w[f"{name}.weight"].T
        return y + self.w[f"{name}.bias"] if f"{name}.bias" in self.w else y

    def block(self, name, x, e, resample=None):
        scale = 1 if self.adm else math.sqrt(0.5)
        h = self.conv(f"{name}.conv0", silu(self.norm(f"{name}.norm0", x)), resample)
        affine = self.linear(f"{name}.affine", e)[:, :, None, None]
        channels = h.shape[1]
        if self.adm:
            h = silu(self.norm(f"{name}.norm1", h) * (affine[:, :channels] + 1) + affine[:, channels:])
        else:
            h = silu(self.norm(f"{name}.norm1", h + affine))
        h = self.conv(f"{name}.conv1", h)
        has_skip = x.shape[1] != channels or resample
        skip = self.conv(f"{name}.skip", x, resample) if has_skip else x
        x = (h + skip) * scale
        if f"{name}.qkv.weight" in self.w:
            heads = max(channels // 64, 1) if self.adm else 1
            qkv = self.conv(f"{name}.qkv", self.norm(f"{name}.norm2", x))
            x = (x + self.conv(f"{name}.proj", attend(qkv, heads))) * scale
        return x

    def embedding(self, c_noise, labels, augment_labels):
        half, label_dim = self.settings["model_channels"] // 2, self.settings["label_dim"]
        if label_dim and labels is None:
            labels = np.zeros((len(c_noise), label_dim))
        if self.architecture == "ncsnpp":
            angle = 2 * np.pi * c_noise[:, None] * self.w["map_noise.freqs"]
        else:
            angle = c_noise[:, None] * 10000.0 ** (-np.arange(half) / (half if self.adm else half - 1))
        parts = [np.sin(angle), np.cos(angle)]
        e = np.concatenate(parts[::-1] if self.adm else parts, 1)
        if label_dim and not self.adm:
            e = e + self.linear("map_label", labels * math.sqrt(label_dim))
        if augment_labels is not None:
            e = e + self.linear("map_augment", augment_labels)
        e = self.linear("map_layer1", silu(self.linear("map_layer0", e)))
        if label_dim and self.adm:
            e = e + self.linear("map_label", labels)
        return silu(e)

    def F(self, x, c_noise, labels=None, augment_labels=None):
        size, blocks = self.settings["image_size"], self.settings["num_blocks"]
        levels = len(self.settings["channel_mult"])
        e = self.embedding(c_noise, labels, augment_labels)
        stack, auxiliary = [], x
        for level in range(levels):
            r = f"{size >> level}x{size >> level}"
            x = self.conv(f"enc.{r}_conv", x) if level == 0 else self.block(f"enc.{r}_down", x, e, "down")
            if level > 0 and self.architecture == "ncsnpp":
                x = (x + self.conv(f"enc.{r}_aux_residual", auxiliary, "fused down")) / math.sqrt(2)
                auxiliary = x
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
        last = ("out_norm", "out_conv") if self.adm else (f"dec.{r}_aux_norm", f"dec.{r}_aux_conv")
        return self.conv(last[1], silu(self.norm(last[0], x)))

    def D(self, x, sigma, labels=None, augment_labels=None, sigma_data=0.5, preconditioning="edm", mask=None):
        """Given a mask, the gated variant of masked images: the mask is scaled as the image is, its output ignored."""
        c_skip, c_out, c_in, c_noise = precondition(preconditioning, sigma, sigma_data)
        c_skip, c_out, c_in = (c[:, None, None, None] for c in (c_skip, c_out, c_in))
        seen = x if mask is None else np.concatenate([x, np.broadcast_to(mask, x.shape)], 1)
        F = self.F(c_in * seen, c_noise, labels, augment_labels)
        return c_skip * x + c_out * F[:, : x.shape[1]]


def random_values(name, shape, architecture, gated=False):
    """Random and of a size that matters, also where a fresh network has values near 0."""
    if name.endswith("resample_filter"):
        return torch.from_numpy(resample_filter(architecture)).float()[None, None]
    if name.endswith("freqs"):
        return torch.randn(shape)
    gain = 1.3
    if gated and len(shape) == 4:  # a sigmoid of a sigmoid varies little, about .6
        gain = 5.0 if name.endswith("gate_weight") else 2.1
    values = torch.randn(shape) * (gain / math.sqrt(max(math.prod(shape[1:]), 4)))
    return values + 1 if "norm" in name and name.endswith("weight") else values


def randomised(settings, architecture="ddpmpp", seed=0, **more):
    """A denoiser with every parameter random."""
    torch.manual_seed(seed)
    denoiser = networks.create(architecture, **settings, **more).eval()
    with torch.no_grad():
        for name, parameter in denoiser.named_parameters():
            parameter.copy_(random_values(name, parameter.shape, architecture, settings.get("gated")))
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


def network_inputs(*arguments, **more):
    """(c_in x, c_noise, labels, augment_labels)"""
    x, sigma, *labels = inputs(*arguments, **more)
    return x * (sigma**2 + 0.25).rsqrt()[:, None, None, None], sigma.log() / 4, *labels


def as_numpy(*tensors):
    return [None if tensor is None else tensor.double().numpy() for tensor in tensors]


def relative_error(actual, expected):
    assert tuple(actual.shape) == expected.shape
    return np.abs(actual.detach().double().numpy() - expected).max() / np.abs(expected).max()
