"""Published checkpoints become runs, and runs state dicts: by their numbers, and without trust in what they say."""

import json
import sys
import time
import types
import zipfile
from dataclasses import replace

import pytest
import safetensors.torch
import torch

import rsd_fast
from rsd_fast import convert, corruptions, networks, presets
from rsd_fast.build import build_denoiser, build_network
from rsd_fast.config import Distill, Pretrain, UNet
from rsd_fast.convert import CheckpointError, Described
from rsd_fast.corruptions import base
from rsd_fast.loading import load
from rsd_fast.networks import BANKS
from rsd_fast.runs import RunError, model_record, save_model
from tests import edm_files, generators, tiny

SETTINGS = {
    "image_size": 16,
    "model_channels": 16,
    "channel_mult": (1, 2),
    "num_blocks": 1,
    "attn_resolutions": (8,),
    "augment_dim": 9,
}
ARGUMENTS = {  # as the EDM family pickles them
    "img_resolution": 16,
    "img_channels": 3,
    "label_dim": 0,
    "use_fp16": True,
    "model_type": "SongUNet",
    "model_channels": 16,
    "channel_mult": [1, 2],
    "num_blocks": 1,
    "augment_dim": 9,
    "dropout": 0.13,
}
OF_ARCHITECTURE = {
    "ddpmpp": {"embedding_type": "positional", "encoder_type": "standard", "resample_filter": [1, 1]},
    "ncsnpp": {"embedding_type": "fourier", "encoder_type": "residual", "resample_filter": [1, 3, 3, 1]},
    "adm": {"model_type": "DhariwalUNet"},
}


def network(architecture="ddpmpp", **changes):
    torch.manual_seed(0)
    denoiser = networks.create(architecture, **{**SETTINGS, **changes}).eval().requires_grad_(False)
    for parameter in denoiser.parameters():
        parameter.add_(torch.randn_like(parameter) * 0.1)
    return denoiser


def state_of(denoiser):
    return {name: tensor for name, tensor in denoiser.state_dict().items() if name not in BANKS}


def images(channels=3):
    return torch.randn(2, channels, 16, 16, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("label_dim", [0, 5], ids=["uncond", "cond"])
@pytest.mark.parametrize("architecture", ["ddpmpp", "ncsnpp", "adm"])
def test_a_published_pickle_gives_the_same_numbers(tmp_path, architecture, label_dim):
    denoiser = network(architecture, label_dim=label_dim)
    labels = networks.one_hot(torch.tensor([1, 3]), label_dim)
    expected = denoiser(images(), 0.7, labels)
    arguments = {**ARGUMENTS, **OF_ARCHITECTURE[architecture], "label_dim": label_dim}
    edm_files.write_pickle(tmp_path / "edm.pkl", denoiser, **arguments)

    config = convert.convert(tmp_path / "edm.pkl", tmp_path / "out")
    assert isinstance(config, Pretrain)
    assert config.network.architecture == architecture
    assert (config.network.dropout, config.network.augment_dim) == (0.13, 9)
    assert config.observations.image_shape == (3, 16, 16) and config.observations.label_dim == label_dim
    loaded = rsd_fast.load_denoiser(tmp_path / "out")
    torch.testing.assert_close(loaded(images(), 0.7, labels), expected, rtol=1e-5, atol=1e-5)
    for name, tensor in state_of(denoiser).items():
        assert torch.equal(loaded.state_dict()[name], tensor), name


@pytest.mark.parametrize(("class_name", "kind"), [("VPPrecond", "vp"), ("VEPrecond", "ve")])
def test_the_preconditioning_is_that_of_the_pickled_class(tmp_path, class_name, kind):
    denoiser = network(preconditioning=kind)
    expected = denoiser(images(), 0.7)
    edm_files.write_pickle(tmp_path / "song.pkl", denoiser, class_name=class_name, **ARGUMENTS)
    convert.convert(tmp_path / "song.pkl", tmp_path / "out")
    actual = rsd_fast.load_denoiser(tmp_path / "out")(images(), 0.7)
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("key", "kind", "made"),
    [
        ("ema", "auto", Pretrain),
        ("ema", "generator", Distill),
        ("G", "auto", Distill),
        ("G_ema", "auto", Distill),
        ("G", "denoiser", Pretrain),
    ],
)
def test_a_generator_is_known_by_its_key_or_by_what_it_is_called(tmp_path, key, kind, made):
    denoiser = network()
    edm_files.write_pickle(tmp_path / "sid.pkl", denoiser, key=key, **ARGUMENTS)
    sigma_init = 3.0 if made is Distill else None
    config = convert.convert(tmp_path / "sid.pkl", tmp_path / "out", Described(kind=kind, sigma_init=sigma_init))
    assert type(config) is made
    if made is Distill:
        generator = rsd_fast.load_generator(tmp_path / "out")
        z = images()
        torch.testing.assert_close(generator(z), denoiser(3.0 * z, 3.0), rtol=1e-5, atol=1e-5)
        assert generator.sample(3).shape == (3, 3, 16, 16)


def test_the_network_under_another_key_is_found_when_it_is_named(tmp_path):
    torch.save({"step": 3, "fake_score": state_of(network()), "ema": state_of(network(augment_dim=0))}, tmp_path / "a")
    convert.convert(tmp_path / "a", tmp_path / "one", Described(key="fake_score"))
    convert.convert(tmp_path / "a", tmp_path / "two")
    assert load(tmp_path / "one").config.network.augment_dim == 9
    assert load(tmp_path / "two").config.network.augment_dim == 0
    with pytest.raises(ValueError, match="holds no network under 'psi'; it holds step, fake_score, ema"):
        convert.convert(tmp_path / "a", tmp_path / "three", Described(key="psi"))


@pytest.mark.parametrize(
    "prefix", ["", "module.", "_orig_mod.", "module._orig_mod."], ids=["bare", "ddp", "compiled", "both"]
)
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("half", [False, True], ids=["fp32", "fp16"])
def test_a_state_dict_opens_whatever_wrapped_its_network(tmp_path, prefix, suffix, half):
    denoiser = network()
    state = {prefix + name: tensor.half() if half else tensor for name, tensor in state_of(denoiser).items()}
    file = tmp_path / f"state{suffix}"
    safetensors.torch.save_file(state, file) if suffix == ".safetensors" else torch.save(state, file)
    convert.convert(file, tmp_path / "out")
    loaded = rsd_fast.load_denoiser(tmp_path / "out").state_dict()
    for name, tensor in state_of(denoiser).items():
        expected = tensor.half().float() if half else tensor
        assert torch.equal(loaded[name], expected), name


def test_the_state_dict_of_a_bare_network_opens(tmp_path):
    denoiser = network("adm")
    torch.save({"model": denoiser.model.state_dict()}, tmp_path / "raw.pth", _use_new_zipfile_serialization=False)
    convert.convert(tmp_path / "raw.pth", tmp_path / "out", Described(preconditioning="vp"))
    config = load(tmp_path / "out").config
    assert (config.network.architecture, config.network.preconditioning) == ("adm", "vp")


def test_a_gated_network_of_masked_images_opens(tmp_path):
    denoiser = network(gated=True, condition_channels=3, hidden="sigma")
    mask = (torch.rand(2, 1, 16, 16, generator=torch.Generator().manual_seed(2)) > 0.5).float().expand(-1, 3, -1, -1)
    expected = denoiser(mask * images(), 0.7, condition=mask)
    edm_files.write_pickle(tmp_path / "ambient.pkl", denoiser, img_resolution=16, img_channels=6)
    with pytest.raises(ValueError, match=r"6 input channels, gated.*--corruption random_mask"):
        convert.convert(tmp_path / "ambient.pkl", tmp_path / "out")
    described = Described(corruption="random_mask:missing=0.6", kind="denoiser")
    config = convert.convert(tmp_path / "ambient.pkl", tmp_path / "out", described)
    assert config.objective.name == "ambient" and config.network.gated
    assert config.observations.image_shape == (3, 16, 16)
    actual = rsd_fast.load_denoiser(tmp_path / "out")(mask * images(), 0.7, condition=mask)
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)


def test_what_the_observations_were_is_taken_from_the_description(tmp_path):
    torch.save(state_of(network()), tmp_path / "state.pt")
    described = Described(corruption="downsample:factor=2", sigma_obs=0.2, preset="ffhq64")
    config = convert.convert(tmp_path / "state.pt", tmp_path / "out", described)
    assert config.observations.image_shape == (3, 32, 32) and config.observations.observation_shape == (3, 16, 16)
    assert (config.objective.name, config.observations.sigma_obs, config.preset) == ("tweedie", 0.2, "ffhq64")


def test_images_that_are_not_square_open_with_their_width(tmp_path):
    torch.save(state_of(network()), tmp_path / "state.pt")
    config = convert.convert(tmp_path / "state.pt", tmp_path / "out", Described(image_width=24))
    assert config.observations.image_shape == (3, 16, 24)


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".safetensors"])
@pytest.mark.parametrize("stage", ["pretrain", "distill"])
def test_a_run_to_a_state_dict_and_back_is_the_same_run(tmp_path, stage, suffix):
    config = tiny.pretrain()
    config = config if stage == "pretrain" else tiny.distill(config, "teacher")
    torch.manual_seed(0)
    (tmp_path / "run").mkdir()
    save_model(tmp_path / "run" / "model.safetensors", build_denoiser(config).state_dict(), config, 12.5)

    convert.write_state_dict(tmp_path / "run", tmp_path / f"weights{suffix}")
    assert convert.convert(tmp_path / f"weights{suffix}", tmp_path / "back") == config
    before, after = (tmp_path / name / "model.safetensors" for name in ("run", "back"))
    assert before.read_bytes() == after.read_bytes()
    if suffix != ".safetensors":
        state = torch.load(tmp_path / f"weights{suffix}", weights_only=True)
        build_denoiser(config).load_state_dict(state)  # strict: nothing but the published names


def test_the_result_serves_wherever_a_run_does(tmp_path):
    denoiser = network(model_channels=8, augment_dim=9, label_dim=0)
    torch.save(state_of(denoiser), tmp_path / "state.pt")
    convert.convert(tmp_path / "state.pt", tmp_path / "teacher")
    teacher = load(tmp_path / "teacher").config
    config = tiny.distill(teacher, tmp_path / "teacher" / "model.safetensors", training=tiny.training(kimg=0.032))
    from rsd_fast import train

    run = train.distill(config, tmp_path / "run")
    weights, before = load(run).network.state_dict(), denoiser.state_dict()
    assert torch.equal(weights["model.map_augment.weight"], before["model.map_augment.weight"])  # no label, no gradient
    assert not torch.equal(weights["model.map_layer0.weight"], before["model.map_layer0.weight"])


def test_a_run_with_masks_of_its_data_comes_back_with_them(tmp_path):
    config = generators.config("mask")
    denoiser = generators.generator("mask").denoiser
    denoiser.mask_bank = (torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(0)) > 0.5).to(torch.uint8)
    (tmp_path / "run").mkdir()
    save_model(tmp_path / "run" / "model.safetensors", denoiser.state_dict(), config, 3.0)
    convert.write_state_dict(tmp_path / "run", tmp_path / "gen.pt")
    convert.convert(tmp_path / "gen.pt", tmp_path / "back")
    before, after = (tmp_path / name / "model.safetensors" for name in ("run", "back"))
    assert before.read_bytes() == after.read_bytes()
    assert torch.equal(*(rsd_fast.load_generator(tmp_path / name).sample(3, seed=1) for name in ("run", "back")))
    with pytest.raises(ValueError, match=r"carries a mask_bank of its data; a .pt has room for that"):
        convert.write_state_dict(tmp_path / "run", tmp_path / "gen.safetensors")


def without_filters(state):
    return {name: tensor for name, tensor in state.items() if not name.endswith("resample_filter")}


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: {f"net.{name}": tensor for name, tensor in state.items()},
        lambda state: {f"ema_model.{name}": tensor for name, tensor in state.items()} | {"steps": 12},
        lambda state: {"model": {"ema": state, "step": 3}},
        without_filters,
    ],
    ids=["net", "counters", "nested", "no-filters"],
)
def test_state_dicts_of_other_programs_open(tmp_path, wrap):
    denoiser = network("ncsnpp")
    torch.save(wrap(state_of(denoiser)), tmp_path / "state.pt")
    convert.convert(tmp_path / "state.pt", tmp_path / "out")
    loaded = rsd_fast.load_denoiser(tmp_path / "out").state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in state_of(denoiser).items())


# What does not fit


def ours(file, change=lambda config: config, record=None):
    """A model file of ours whose record was tampered with: of a config that is changed, or any."""
    full = json.loads(model_record(tiny.pretrain(), 1.0))
    config = json.loads(full["config"])
    change(config)
    text = json.dumps({**full, "config": json.dumps(config)}) if record is None else record
    state = state_of(build_denoiser(tiny.pretrain()))
    if file.suffix == ".safetensors":
        safetensors.torch.save_file(state, file, {"rsd_fast": text})
    else:
        torch.save(state, file)
        with zipfile.ZipFile(file, "a") as archive:
            archive.writestr(f"{archive.namelist()[0].partition('/')[0]}/rsd_fast.json", text)
    return file


def names_operator(spec, objective="ambient"):
    def change(config):
        config["observations"]["corruption"] = spec
        config["objective"]["name"] = objective

    return change


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize(
    "spec",
    [
        "evil_operator.x",
        "compose:identity+evil_operator.x:a=1.5+identity",
        "os.compose:evil_operator.x",
        "compose:os.compose:evil_operator.x+identity",
    ],
)
@pytest.mark.parametrize("objective", ["ambient", "tweedie"])
def test_a_file_makes_nobody_import_what_it_names(tmp_path, monkeypatch, suffix, spec, objective):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "evil_operator.py").write_text("open('imported', 'w')")
    file = ours(tmp_path / f"model{suffix}", names_operator(spec, objective))
    with pytest.raises(CheckpointError, match=r"model.*: names an operator in module 'evil_operator'"):
        convert.convert(file, tmp_path / "out")
    if suffix == ".safetensors":
        with pytest.raises(RunError, match="names an operator in module 'evil_operator', which is not imported"):
            rsd_fast.load_denoiser(file)
    assert not (tmp_path / "imported").exists() and "evil_operator" not in sys.modules


def test_an_operator_of_a_run_of_ones_own_is_imported(tmp_path, monkeypatch):
    run = tmp_path / "run"
    (run / "checkpoints" / "000001").mkdir(parents=True)
    (run / "config.json").write_text("{}")
    (run / "latest").write_text("000001")
    file = ours(run / "checkpoints" / "000001" / "model.safetensors", names_operator("my_operator.x", "tweedie"))
    assert load(run).config.observations.corruption == "my_operator.x"
    file.rename(tmp_path / "model.safetensors")
    with pytest.raises(RunError, match="my_operator"):
        load(tmp_path / "model.safetensors")
    monkeypatch.setattr(base, "_REGISTRY", dict(base._REGISTRY))
    monkeypatch.setitem(sys.modules, "my_operator", types.ModuleType("my_operator"))
    corruptions.register("x")(type("X", (corruptions.Identity,), {"__module__": "my_operator"}))
    load(tmp_path / "model.safetensors")


def set_in(section, **values):
    return lambda config: config[section].update(values)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (set_in("network", num_blocks=10**9), "num_blocks: at most 256"),
        (set_in("network", model_channels=2**50), "model_channels: at most"),
        (set_in("network", model_channels=8192, num_blocks=20), r"expected \[32768|Missing"),
        (set_in("network", augment_dim=2**40), "augment_dim: at most"),
        (set_in("network", sigma_data=float("nan")), "sigma_data: expected more than 0"),
        (set_in("network", channel_mult=[1] * 300), "num_blocks: at most 256"),
        (set_in("observations", label_dim=2**62), "label_dim: expected 0 to"),
        (set_in("observations", image_shape=[]), "image_shape: expected C, H and W"),
        (set_in("observations", observation_shape=[1, 2**40, 2**40]), "observation_shape: expected"),
    ],
)
def test_what_a_small_file_says_of_itself_costs_nothing(tmp_path, change, message):
    for suffix, opens, error in (
        (".pt", lambda file: convert.convert(file, tmp_path / "out"), CheckpointError),
        (".safetensors", rsd_fast.load_denoiser, RunError),
    ):
        start = time.process_time()
        with pytest.raises(error, match=message) as caught:
            opens(ours(tmp_path / f"model{suffix}", change))
        assert time.process_time() - start < 5
        assert "\n" not in str(caught.value) and f"model{suffix}" in str(caught.value)


@pytest.mark.parametrize("record", ["[" * 200_000, '{"config": "' + "[" * 200_000 + '"}', "[1]", '"x"', "{", "3"])
def test_a_record_that_is_none_is_refused_in_one_line(tmp_path, record):
    with pytest.raises(CheckpointError, match=r"model.pt: ") as caught:
        convert.convert(ours(tmp_path / "model.pt", record=record), tmp_path / "out")
    assert "\n" not in str(caught.value)
    with pytest.raises(RunError, match=r"model.safetensors: ") as caught:
        rsd_fast.load_denoiser(ours(tmp_path / "model.safetensors", record=record))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("described", "field"),
    [
        (Described(kind="generator"), "kind"),
        (Described(sigma_obs=0.3), "sigma_obs"),
        (Described(corruption="box_mask:size=2"), "corruption"),
    ],
)
def test_a_file_of_ours_needs_no_description(tmp_path, described, field):
    with pytest.raises(ValueError, match=f"^{field}: .*model.pt says itself what it is"):
        convert.convert(ours(tmp_path / "model.pt"), tmp_path / "out", described)


def test_sigma_init_is_refused_for_a_denoiser(tmp_path):
    torch.save(state_of(network()), tmp_path / "state.pt")
    with pytest.raises(ValueError, match=r"^sigma_init: is of a generator"):
        convert.convert(tmp_path / "state.pt", tmp_path / "out", Described(sigma_init=3.0))


@pytest.mark.parametrize("spec", ["compose:" * 5000 + "identity", "fog:thick=1", "gaussian_blur:size=999999999"])
def test_an_operator_that_is_none_is_refused(tmp_path, spec):
    for suffix, opens, error in (
        (".pt", lambda file: convert.convert(file, tmp_path / "out"), CheckpointError),
        (".safetensors", rsd_fast.load_denoiser, RunError),
    ):
        with pytest.raises(error, match=f"model{suffix}: ") as caught:
            opens(ours(tmp_path / f"model{suffix}", names_operator(spec, "tweedie")))
        assert "\n" not in str(caught.value)


def test_a_model_in_half_precision_loads_as_float32(tmp_path):
    config = tiny.pretrain()
    state = {name: t.half() for name, t in state_of(build_denoiser(config)).items()}
    save_model(tmp_path / "model.safetensors", state, config, 1.0)
    loaded = rsd_fast.load_denoiser(tmp_path / "model.safetensors").state_dict()
    assert all(torch.equal(loaded[name], t.float()) for name, t in state.items())


def test_a_nested_entry_does_not_hide_one_of_the_file_itself(tmp_path):
    inner, outer = state_of(network(augment_dim=0)), state_of(network())
    torch.save({"ema": {"step": "three", "G": inner}, "G": outer, "model": {"ema": inner}}, tmp_path / "a.pt")
    convert.convert(tmp_path / "a.pt", tmp_path / "out")
    assert load(tmp_path / "out").config.network.augment_dim == 9


def test_weights_that_share_their_storage_do_not_multiply(tmp_path):
    """Views of one value: a file of a few kB would become the whole network."""
    state = {name: torch.zeros(()).expand(tensor.shape) for name, tensor in state_of(network()).items()}
    torch.save(state, tmp_path / "expanded.pt")
    with pytest.raises(CheckpointError, match=r"expanded.pt: "):
        convert.convert(tmp_path / "expanded.pt", tmp_path / "out")
    wide = state_of(network(model_channels=128))
    pool = torch.zeros(max(map(torch.numel, wide.values())))
    shared = {name: pool[: tensor.numel()].view(tensor.shape) for name, tensor in wide.items()}
    torch.save(without_filters(shared), tmp_path / "shared.pt")
    with pytest.raises(CheckpointError, match="they share storages"):
        convert.convert(tmp_path / "shared.pt", tmp_path / "out")


def test_modules_within_one_another_do_not_multiply_their_names(tmp_path):
    import pickle

    with edm_files.published_modules():
        inner = edm_files.Persistent("Linear", {"_parameters": {"weight": torch.zeros(1)}, "_modules": {}})
        for _ in range(13):
            inner = edm_files.Persistent("Linear", {"_parameters": {}, "_modules": {"a" * 50_000: inner, "b": inner}})
        (tmp_path / "names.pkl").write_bytes(pickle.dumps({"ema": inner}))
    start = time.process_time()
    with pytest.raises(CheckpointError, match=r"names.pkl: .*modules nested"):
        convert.convert(tmp_path / "names.pkl", tmp_path / "out")
    assert time.process_time() - start < 5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"img_resolution": 32}, "img_resolution is 32 by its arguments, 16 by its weights"),
        ({"channel_mult": [2, 2]}, "channel_mult"),
        ({"model_type": "DhariwalUNet"}, "model_type"),
        ({"resample_filter": [1, 3, 3, 1]}, "resample_filter"),
        ({"label_dim": torch.zeros(3)}, "label_dim"),
        ({"label_dim": "\x1b" * 10**6}, "label_dim"),
        ({"attn_resolutions": [16]}, "attn_resolutions"),
        ({"dropout": "much"}, "dropout"),
    ],
)
def test_arguments_that_contradict_the_weights_are_refused(tmp_path, change, message):
    edm_files.write_pickle(tmp_path / "edm.pkl", network(), **{**ARGUMENTS, **change})
    with pytest.raises(CheckpointError, match=f"edm.pkl: contradicts itself: .*{message}") as caught:
        convert.convert(tmp_path / "edm.pkl", tmp_path / "out")
    assert len(str(caught.value)) < 400 and not (tmp_path / "out").exists()


def test_a_vp_network_of_other_constants_is_refused(tmp_path):
    for arguments, fits in (({"beta_d": 19.9, "M": 1000}, True), ({"beta_d": 5.0}, False), ({"M": 100}, False)):
        file = tmp_path / f"{len(list(tmp_path.iterdir()))}.pkl"
        edm_files.write_pickle(file, network(), class_name="VPPrecond", **ARGUMENTS, **arguments)
        if fits:
            convert.convert(file, tmp_path / "out")
        else:
            with pytest.raises(CheckpointError, match=f"{next(iter(arguments))} is .* by its arguments"):
                convert.convert(file, tmp_path / "other")


def broken(change):
    state = state_of(network())
    change(state)
    return state


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (broken(lambda s: s.pop("model.dec.8x8_in1.conv1.bias")), r"lacks model.dec.8x8_in1.conv1.bias \[32\]"),
        (broken(lambda s: s.update({"model.extra": torch.ones(1)})), "holds model.extra"),
        (broken(lambda s: s.update({"model.map_layer1.bias": torch.ones(64) * 1j})), "expected real numbers"),
        (broken(lambda s: s.update({"model.map_layer1.bias": torch.ones(64, dtype=int)})), "expected real numbers"),
        (broken(lambda s: s.update({"model.map_layer1.bias": torch.ones(3)})), "map_layer1.bias: expected"),
        (broken(lambda s: s["model.map_layer1.bias"].fill_(float("nan"))), "map_layer1.bias: .*not finite"),
        (broken(lambda s: s["model.enc.8x8_down.skip.resample_filter"].fill_(0.3)), "is not the filter"),
        (broken(lambda s: s.pop("model.map_layer0.weight")), "it has no map_layer0.weight"),
        (broken(lambda s: s.pop("model.enc.16x16_conv.weight")), "it has no enc.RxR_conv"),
        ({"weight": torch.ones(2, 2)}, "it has no enc.RxR_conv"),
        ({"step": 3, "note": "none"}, "holds no network; it holds step, note"),
        ([1, 2], "holds no network; it holds list"),
    ],
)
def test_a_file_without_a_published_network_is_refused_by_what_is_wrong(tmp_path, state, message):
    torch.save(state, tmp_path / "state.pt")
    with pytest.raises(ValueError, match=f"state.pt: .*{message}"):
        convert.convert(tmp_path / "state.pt", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_small_file_that_describes_a_huge_network_costs_nothing(tmp_path):
    """Weights that are there are of a network with others that are not, of some 100 GB."""
    width = 4096
    names = {
        "map_layer0.weight": (4 * 4, 4),
        "enc.16384x16384_conv.weight": (4, 3, 3, 3),
        "enc.16384x16384_block0.conv1.weight": (width, 1, 1, 1),
        "dec.16384x16384_aux_conv.weight": (3, 1, 1, 1),
    }
    state = {f"model.{name}": torch.zeros(shape) for name, shape in names.items()}
    state |= {f"model.enc.16384x16384_block{i}.conv0.weight": torch.zeros(1) for i in range(300)}
    torch.save(state, tmp_path / "state.pt")
    with pytest.raises(ValueError, match=r"state.pt: "):
        convert.convert(tmp_path / "state.pt", tmp_path / "out")


def test_a_preconditioning_that_is_not_known_is_refused(tmp_path):
    edm_files.write_pickle(tmp_path / "iddpm.pkl", network(), class_name="iDDPMPrecond", **ARGUMENTS)
    with pytest.raises(ValueError, match="iDDPMPrecond, which cannot be converted; EDMPrecond"):
        convert.convert(tmp_path / "iddpm.pkl", tmp_path / "out")


def test_nothing_is_written_over(tmp_path):
    torch.save(state_of(network()), tmp_path / "state.pt")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    with pytest.raises(RunError, match="out: exists already"):
        convert.convert(tmp_path / "state.pt", tmp_path / "out")
    convert.convert(tmp_path / "state.pt", tmp_path / "run")
    with pytest.raises(RunError, match=r"state.pt: exists already"):
        convert.write_state_dict(tmp_path / "run", tmp_path / "state.pt")
    with pytest.raises(ValueError, match=r"expected a name that ends in"):
        convert.write_state_dict(tmp_path / "run", tmp_path / "state.pkl")


def test_what_a_checkpoint_has_no_use_for_is_named(tmp_path):
    (tmp_path / "evil.pkl").write_bytes(b"cos\nsystem\n(S'touch gone'\ntR.")
    with pytest.raises(CheckpointError, match=r"evil.pkl: .*names os.system"):
        convert.convert(tmp_path / "evil.pkl", tmp_path / "out")


# Presets


EDM = {
    "edm-cifar10": (3, 32, 32),
    "edm-cifar10-ncsnpp": (3, 32, 32),
    "edm-ffhq64": (3, 64, 64),
    "edm-ffhq64-ncsnpp": (3, 64, 64),
    "edm-afhqv2-64": (3, 64, 64),
    "edm-afhqv2-64-ncsnpp": (3, 64, 64),
    "edm-imagenet64": (3, 64, 64),
}
COUNTS = {"edm-cifar10": 55_733_891, "edm-cifar10-ncsnpp": 56_397_827, "edm-ffhq64": 61_805_571}
COUNTS |= {"edm-afhqv2-64": 61_805_571, "edm-imagenet64": 295_899_267}


@pytest.mark.parametrize("name", EDM)
def test_every_published_edm_network_is_a_preset(name):
    label_dim = 1000 if name == "edm-imagenet64" else 0
    with torch.device("meta"):
        denoiser = build_network(UNet(**presets.load(name).network), EDM[name], label_dim=label_dim)
    count = sum(parameter.numel() for parameter in denoiser.parameters())
    assert COUNTS.get(name, count) == count


def test_a_conditional_preset_has_a_label_embedding():
    with torch.device("meta"):
        denoiser = build_network(UNet(**presets.load("edm-cifar10").network), (3, 32, 32), label_dim=10)
    assert tuple(denoiser.state_dict()["model.map_label.weight"].shape) == (128, 10)


@pytest.mark.parametrize("name", presets.names())
def test_every_preset_is_of_fields_that_there_are(name):
    preset = presets.load(name)
    network = UNet(**preset.network)
    pretrain = replace(
        tiny.pretrain(),
        network=network,
        objective=replace(tiny.pretrain().objective, **preset.objective),
        training=replace(tiny.training(), **preset.pretrain),
    )
    distill = tiny.distill(pretrain, "teacher")
    replace(
        distill,
        distillation=replace(distill.distillation, **preset.distillation),
        training=replace(tiny.training(), **preset.distill),
    )
    assert preset.about and 0 <= preset.augment_probability <= 1
    assert set(preset.observations) <= {"corruption", "sigma_obs", "cond"}
    json.dumps(preset.network)
