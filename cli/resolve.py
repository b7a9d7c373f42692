"""From options to a config: preset under options, or a saved run under the few options that may change it."""

import dataclasses
import filecmp
import math
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click

from rsd_fast import augmentation, corruptions, objectives, presets, processes
from rsd_fast.build import build_denoiser
from rsd_fast.config import Distill, Distillation, Monitoring, Network, Observations, Pretrain, RunConfig, Training
from rsd_fast.config_objective import Objective
from rsd_fast.convert import CheckpointError
from rsd_fast.corruptions import Corruption
from rsd_fast.data import DataError, ImageArray, ObservedDataset, open_source
from rsd_fast.data.array import to_pixels
from rsd_fast.evaluation.frechet import MAX_FEATURES
from rsd_fast.evaluation.metrics import needs_features
from rsd_fast.evaluation.training import refuse_metrics
from rsd_fast.generator_losses import LOSSES
from rsd_fast.loading import load, model_file
from rsd_fast.run_dataset import open_observations
from rsd_fast.runs import Run, RunError

# What may differ between the sittings of a run: how long and where it runs, not what it computes.
CHANGEABLE = {
    *("kimg", "log_kimg", "snapshot_kimg", "device", "data", "micro_batch"),
    *("compile", "cuda_graphs", "checkpoint_activations", "concurrent_scores"),
}

EVAL_NUM = {"cpu": 1000, "cuda": 10_000}  # samples

COMPILED_STEPS = 2000  # of a run, from which on it is compiled unless the user says otherwise

Options = dict[str, Any]  # of the command line, by config field; None where not given


@contextmanager
def usage_errors() -> Iterator[None]:
    """A ValueError about a field becomes a usage error about its option: `lr: ...` -> `--lr: ...`."""
    try:
        yield
    except (DataError, CheckpointError):  # ValueErrors, too, but about a file
        raise
    except ValueError as error:
        field, colon, rest = str(error).partition(": ")
        if colon and field in {parameter.name for parameter in click.get_current_context().command.params}:
            raise click.UsageError(f"--{field.replace('_', '-')}: {rest}") from None
        raise click.UsageError(str(error)) from None


def resolve_device(name: str | None) -> str:
    import torch

    if name in (None, "auto"):
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise click.UsageError("--device: no CUDA device is available; use --device cpu")
    return str(name)


def resolve_precision(name: str | None, device: str) -> str:
    import torch

    if name == "tf32" and device != "cuda":
        raise click.UsageError("--precision: tf32 is a mode of NVIDIA GPUs; use fp32 or bf16")
    if name not in (None, "auto"):
        return str(name)
    if device == "cuda":
        return "bf16" if torch.cuda.get_device_capability() >= (8, 0) else "fp32"
    return "bf16" if cpu_has_bf16() else "fp32"


def cpu_has_bf16() -> bool:
    """Does the processor multiply bfloat16 itself? Emulated, it is many times slower than float32."""
    try:
        flags = Path("/proc/cpuinfo").read_text().split()
    except OSError:
        return False
    return not {"avx512_bf16", "amx_bf16"}.isdisjoint(flags)


def start_or_resume(options: Options) -> tuple[Run, bool]:
    """The run of --out, and whether to go on with it. Usage error where it holds one and none was asked for."""
    run, resume, either = Run(Path(options["out"])), options["resume"], options["resume_or_start"]
    if resume and either:
        raise click.UsageError("--resume and --resume-or-start exclude each other")
    if not run.exists():
        if resume:
            raise RunError(f"{run.path}: no run to resume (it has no config.json)")
        run.refuse_foreign_files()
    elif not (resume or either):
        raise RunError(f"{run.path}: already holds a run; go on with --resume, or use a new folder")
    return run, run.exists()


def pretrain_config(options: Options) -> tuple[Pretrain, bool, ImageArray | None]:
    """(config, resume, the data where it was opened on the way)."""
    run, resume = start_or_resume(options)
    if resume:
        return resumed(run, Pretrain, options), True, None
    with usage_errors():
        preset = None if options["preset"] in (None, "auto") else presets.load(options["preset"])
    if preset is not None:
        # What noise real observations hold, a preset cannot know.
        known = {k: v for k, v in preset.observations.items() if k != "sigma_obs" or options["simulate"]}
        options = options | {name: value for name, value in known.items() if options[name] is None}
    for name in ("data", "sigma_obs"):
        if options[name] is None:
            raise click.UsageError(f"Missing option '--{name.replace('_', '-')}'.")
    with usage_errors():
        observations, source, corruption = resolve_observations(options)
        if options["cond"] and not source.label_dim:
            raise click.UsageError(f"--cond: {options['data']} has no labels; --no-cond trains without")
        objective_name = objectives.resolve(
            options["objective"], observations.sigma_obs, corruption, observations.image_shape
        )
        refuse_idle(options, objective_name, corruption)
        device = resolve_device(options["device"])
        preset = preset or presets.load(presets.choose(observations.observation_shape[1], device))
        augment_probability = resolve_augmentation(options, preset, observations)
        augment_dim = augmentation.LABELS if augment_probability else 0
        network = Network(**{**preset.network, **given(options, Network), "augment_dim": augment_dim})
        if options["attn_resolutions"] is not None:
            sizes = [observations.observation_shape[1] >> level for level in range(len(network.channel_mult))]
            unknown = [r for r in options["attn_resolutions"] if r not in sizes]
            if unknown:
                raise ValueError(f"attn_resolutions: {unknown} are not among the levels' heights {sizes}")
            levels = tuple(sizes.index(r) for r in options["attn_resolutions"])
            network = dataclasses.replace(network, attn_levels=levels)
        config = Pretrain(
            preset=preset.name,
            observations=observations,
            network=network,
            objective=Objective(name=objective_name, **{**preset.objective, **given(options, Objective)}),
            training=training(preset.pretrain, options, device),
            augment_probability=augment_probability,
            monitoring=monitoring(options, device, observations),
        )
        check_network(config)
    return config, False, source


def resolve_augmentation(options: Options, preset: presets.Preset, observations: Observations) -> float:
    """--augment-probability; the preset's where the images are clean, 0 where they are not."""
    if options["augment_probability"] is not None:
        return options["augment_probability"]
    return preset.augment_probability if observations.clean else 0.0


def resolve_observations(options: Options) -> tuple[Observations, ImageArray, Corruption]:
    """(what the options say of the data, the data, A with what the data says of it)."""
    corruption = corruptions.parse(options["corruption"] or "identity")
    simulate, seed = bool(options["simulate"]), options["seed"] or 0
    level = options["sigma_obs"]
    named, least = isinstance(level, str), None
    if isinstance(level, tuple):
        least, level = level
    if named and simulate:
        raise ValueError(f"sigma_obs: '{level}' is for observations; with --simulate say how much noise to add")
    if least is not None and not simulate:
        raise ValueError("sigma_obs: of observations each level must be known; give `sigma_obs` in the npz, and 'data'")
    # Before the noise is estimated, floats may be anything; levels in the data are counted in by themselves.
    most = float("inf") if level == "estimate" else 0.0 if named else level
    source = open_source(options["data"], observations=not simulate, sigma_obs_max=most)
    if not simulate and level != "data" and source.sigma is not None:
        raise DataError(f"{options['data']}: holds sigma_obs, the noise of each image; use --sigma-obs data")
    if level == "data":
        if source.sigma is None:
            raise DataError(f"{options['data']}: holds no sigma_obs, one number an image; say it with --sigma-obs")
        least, level = float(source.sigma.min()), float(source.sigma.max())
    elif level == "estimate":
        level = estimated(source, options["data"])
        to_pixels(source.images, str(options["data"]), 1 + 10 * level)  # for its error
    dataset = ObservedDataset(source, corruption=corruption, sigma_obs=level, seed=seed, simulate=simulate)
    corruption = dataset.corruption
    observations = Observations(
        data=str(options["data"]),
        simulate=simulate,
        corruption=corruption.spec,
        sigma_obs=level,
        sigma_obs_min=least,
        clean_share=options["clean_share"] or 0.0,
        sigma_obs_in_data=options["sigma_obs"] == "data",
        seed=seed,
        num_images=len(source),
        image_shape=dataset.image_shape,
        observation_shape=dataset.observation_shape,
        label_dim=source.label_dim if options["cond"] else 0,
        augment=symmetries(options["augment"] or "none", corruption, dataset.observation_shape),
    )
    if observations.clean_share and not simulate:
        raise ValueError("clean_share: which images are clean must be known; give sigma_obs of each in the npz, or 0")
    return observations, source, corruption


def estimate_noise(data: str) -> Any:
    """`noise_estimation.NoiseEstimate` of the observations at `data`."""
    return noise_of(open_source(data, observations=True, sigma_obs_max=float("inf")), data)


def noise_of(source: ImageArray, data: str) -> Any:
    from rsd_fast.noise_estimation import estimate_sigma

    if source.kspace:
        raise DataError(f"{data}: k-space, whose noise is not estimated; it can be measured where nothing else is")
    try:
        return estimate_sigma(source.images, source.mask)
    except ValueError as error:
        raise DataError(f"{data}: {error}") from None


def estimated(source: ImageArray, data: str) -> float:
    """sigma_obs of observations, said on stderr."""
    found = noise_of(source, data)
    click.echo(f"sigma_obs {found.sigma:.4g}, 95 % interval {found.low:.4g} to {found.high:.4g}", err=True)
    return round(found.sigma, 4)


def symmetries(augment: str, corruption: Corruption, shape: tuple[int, int, int]) -> tuple[str, ...]:
    """The moves of --augment. ValueError where A does not permit them."""
    wanted = {
        "none": (),
        "hflip": (corruptions.HFLIP,),
        "flips": (corruptions.HFLIP, corruptions.VFLIP),
        "all": (corruptions.HFLIP, corruptions.VFLIP, corruptions.TRANSPOSE),
    }[augment]
    missing = [move for move in wanted if move not in corruption.symmetries]
    if missing:
        can = ", ".join(sorted(corruption.symmetries)) or "none"
        raise ValueError(f"augment: {missing[0]} makes another operator of '{corruption}'; it permits {can}")
    if corruptions.TRANSPOSE in wanted and shape[1] != shape[2]:
        raise ValueError(f"augment: quarter turns need square images, not {shape[1]}x{shape[2]}")
    return wanted


def refuse_idle(options: Options, objective: str, corruption: Corruption) -> None:
    """ValueError for an option that would change nothing."""
    conditional = objectives.OBJECTIVES[objective].kind.conditional
    if options["delta"] is not None and not (conditional and corruption.further_hides_by_share):
        what = "box_mask hides a second box instead" if conditional else f"objective '{objective}' hides nothing"
        raise ValueError(f"delta: {what}")
    if options["masked_loss"] is not None and objective != "ambient":
        raise ValueError(f"masked_loss: is of objective 'ambient', not '{objective}'")
    if options["hidden_noise"] is not None and not conditional:
        raise ValueError(f"hidden_noise: objective '{objective}' hides nothing")
    if options["label_dropout"] is not None and not options["cond"]:
        raise ValueError("label_dropout: without --cond there are no labels")
    for name in ("consistency_steps", "consistency_primes"):
        if options[name] is not None and not options["consistency"]:
            raise ValueError(f"{name}: without --consistency there is no such term")


def distill_config(options: Options) -> tuple[Distill, bool, ImageArray | None]:
    """(config, resume, the teacher's observations where they were opened on the way)."""
    run, resume = start_or_resume(options)
    if resume:
        return resumed(run, Distill, options), True, None
    if options["teacher"] is None:
        raise click.UsageError("Missing option '--teacher'.")
    file = model_file(options["teacher"])
    teacher = load(file).config
    if not isinstance(teacher, Pretrain):
        raise RunError(f"{options['teacher']}: holds a one-step generator; --teacher wants a run of rsd-fast pretrain")
    with usage_errors():
        device = resolve_device(options["device"])
        name = teacher.preset if options["preset"] in (None, "auto") else options["preset"]
        preset = presets.load(name)
        if options["alpha"] is not None and not LOSSES[options["loss"] or "sid"].uses_alpha:
            raise ValueError(f"alpha: the loss '{options['loss']}' has none")
        trained = training(preset.distill, options, device, distilling=True)
        source = None
        if options["eval_kimg"] is None:
            source = at_hand(teacher.observations, options)
            options = options | {"eval_kimg": trained.snapshot_kimg if source is not None else None}
        config = Distill(
            preset=name,
            teacher=str(file),
            observations=teacher.observations,
            network=dataclasses.replace(teacher.network, dropout=0.0, label_dropout=0.0),
            objective=teacher.objective,
            distillation=Distillation(**{**preset.distillation, **given(options, Distillation)}),
            training=trained,
            monitoring=monitoring(options, device, teacher.observations),
        )
    return config, False, source


def monitoring(
    options: Options, device: str, observations: Observations, saved: Monitoring | None = None
) -> Monitoring:
    """Of the options, under them of the run that is resumed, under that the defaults."""
    values: Options = {"eval_num": EVAL_NUM[device], "eval_metrics": default_metrics(observations)}
    if saved is not None:
        kept = ("tensorboard", "wandb") if not saved.eval_kimg else Monitoring.__dataclass_fields__
        values |= {name: getattr(saved, name) for name in kept}
        if options["eval_metrics"] is not None and options["eval_features"] is None:
            values |= {"eval_features": None, "eval_features_weights": None}
        if options["eval_kimg"] == 0:
            values["stop_patience"] = None
    resolved = Monitoring(**{**values, **given(options, Monitoring)})
    if resolved.eval_kimg:
        resolved = with_features(resolved, observations)
    else:
        for name in ("eval_num", "eval_metrics", "eval_features", "eval_features_weights"):
            if options[name] is not None:
                raise ValueError(f"{name}: without --eval-kimg nothing is evaluated")
    for option, package in (("tensorboard", "tensorboard"), ("wandb", "wandb")):
        if getattr(resolved, option) and find_spec(package) is None:
            raise ValueError(f"{option}: needs {package}; pip install 'rsd-fast[{option}]'")
    return resolved


def default_metrics(observations: Observations) -> tuple[str, ...]:
    """Pixels of small images: over the checkpoints of distillations they order as the distance to clean images does,
    which features of EfficientNet do not (benchmarks/selection.py). Those of larger ones are too many."""
    return ("proximal-pixel-fd",) if few_pixels(observations) else ("proximal-fid",)


def few_pixels(observations: Observations) -> bool:
    """Are the pixels of an observation, shown as an image, few enough for a Frechet distance?"""
    shapes = observations.image_shape, observations.observation_shape  # k-space, the larger, is shown as an image
    return min(map(math.prod, shapes)) <= MAX_FEATURES


def with_features(monitoring: Monitoring, observations: Observations) -> Monitoring:
    """With the default network for metrics that need one. ValueError for metrics that cannot be had."""
    refuse_metrics(monitoring)
    metrics = ", ".join(monitoring.eval_metrics)
    of_pixels = [metric for metric in monitoring.eval_metrics if not needs_features(metric)]
    if of_pixels and not few_pixels(observations):
        raise ValueError(f"eval_metrics: {of_pixels[0]} is for images of at most {MAX_FEATURES} values")
    weights = monitoring.eval_features_weights
    if weights is not None and not Path(weights).is_file():
        raise ValueError(f"eval_features_weights: {weights}: no such file")
    if not any(map(needs_features, monitoring.eval_metrics)):
        for name in ("eval_features", "eval_features_weights"):
            if getattr(monitoring, name) is not None:
                raise ValueError(f"{name}: {metrics} needs none")
        return monitoring
    if find_spec("torch_fidelity") is None:
        raise ValueError(f"eval_metrics: {metrics} needs torch-fidelity; pip install 'rsd-fast[metrics]'")
    from rsd_fast.evaluation import efficientnet, features

    name = monitoring.eval_features or efficientnet.NAME
    features.extractor(name)  # for its error
    if name == efficientnet.NAME and weights is None:
        efficientnet.find_weights()  # likewise
    return dataclasses.replace(monitoring, eval_features=name)


def at_hand(observations: Observations, options: Options) -> ImageArray | None:
    """The observations to evaluate a distillation with, of which nothing was said. If that is impossible, says why."""
    names = [field.name for field in dataclasses.fields(Monitoring) if field.name not in ("tensorboard", "wandb")]
    asked = any(options[name] is not None for name in names)
    try:
        if not asked:
            with_features(Monitoring(eval_metrics=default_metrics(observations)), observations)
        return open_observations(observations).source
    except (DataError, OSError, ValueError) as error:
        if asked:
            raise
        click.echo(f"checkpoints are not evaluated: {str(error).splitlines()[0]}", err=True)
        return None


def given(options: Options, kind: type) -> Options:
    """The options that were given and are fields of `kind`."""
    names = {field.name for field in dataclasses.fields(kind)}
    return {name: value for name, value in options.items() if name in names and value is not None}


def compile_pays(config: Training) -> bool:
    """Is it a gain to compile the networks of a distillation? On a CPU that takes a minute or two and a C++ compiler,
    and a tenth off a step then; what it does on a GPU has not been measured. Of `pretrain` it made nothing faster."""
    steps = config.kimg * 1000 / config.batch
    return config.device == "cpu" and steps >= COMPILED_STEPS and shutil.which(os.environ.get("CXX", "g++")) is not None


def training(preset: Options, options: Options, device: str, *, distilling: bool = False) -> Training:
    precision = resolve_precision(options["precision"], device)
    resolved = Training(**{**preset, **given(options, Training), "device": device, "precision": precision})
    if distilling and options["compile"] is None and "compile" not in preset:
        resolved = dataclasses.replace(resolved, compile=compile_pays(resolved))
    processes.share(resolved.batch, resolved.micro_batch)  # for its error, before anything is written
    return resolved


def check_network(config: RunConfig) -> None:
    """Build the network where it costs nothing, for its errors."""
    import torch

    with torch.device("meta"):
        build_denoiser(config)


def resumed(run: Run, kind: type, options: Options) -> Any:
    """The saved config, with the given options that may change. Usage error for any other that differs."""
    config = run.read_config()
    if not isinstance(config, kind):
        raise RunError(f"{run.path}: is a run of rsd-fast {config.kind}")
    options = {name: value for name, value in options.items() if value != "auto" or name == "micro_batch"}
    observations = config.observations
    if options.get("corruption"):
        with usage_errors():
            parsed, saved = (corruptions.parse(spec) for spec in (options["corruption"], observations.corruption))
        options["corruption"] = saved.spec if parsed.same_as(saved) else parsed.spec
    refuse_other_noise(run, observations, options.pop("sigma_obs", None))
    if options.get("augment"):
        shape = observations.observation_shape
        with usage_errors():
            options["augment"] = symmetries(options["augment"], corruptions.parse(observations.corruption), shape)
    refuse_changes(run, config, options)
    changes: dict[str, Options] = {}
    monitored = bool(given(options, Monitoring))
    for section in dataclasses.fields(config):
        values = getattr(config, section.name)
        if isinstance(config, Distill) and section.name == "observations":
            continue  # the teacher's; its seed is not the one of --seed
        settings = dataclasses.is_dataclass(values) and not isinstance(values, Monitoring)
        pairs = given(options, type(values)).items() if settings else ()
        for name, value in pairs:
            saved = getattr(values, name)
            if value == saved:
                continue
            if name not in CHANGEABLE:
                raise changed(run, name, saved)
            changes.setdefault(section.name, {})[name] = value
    with usage_errors():
        replaced = {name: dataclasses.replace(getattr(config, name), **new) for name, new in changes.items()}
        result = dataclasses.replace(config, **replaced)
        if monitored:
            found = monitoring(options, resolve_device(result.training.device), observations, config.monitoring)
            result = dataclasses.replace(result, monitoring=found)
    resolve_precision(result.training.precision, resolve_device(result.training.device))  # are they still to be had?
    return result


def refuse_other_noise(run: Run, observations: Observations, given: Any) -> None:
    """Usage error where --sigma-obs is given and is not what the run was started with."""
    if given in (None, "estimate"):  # an estimate was made when the run was started
        return
    least, greatest, in_data = observations.sigma_obs_min, observations.sigma_obs, observations.sigma_obs_in_data
    saved = "data" if in_data else greatest if least is None else (least, greatest)
    if given != saved:
        shown = f"{least:g}:{greatest:g}" if isinstance(saved, tuple) else saved
        raise changed(run, "sigma_obs", shown)


def refuse_changes(run: Run, config: Any, options: Options) -> None:
    """For the options that are no field of the config's sections, or not as they were given."""
    saved = {"preset": config.preset, "objective": config.objective.name}
    if isinstance(config, Pretrain):
        height = config.observations.observation_shape[1]
        saved["attn_resolutions"] = tuple(height >> level for level in config.network.attn_levels)
        saved["augment_probability"] = config.augment_probability
        if options.get("cond") is not None:
            saved["cond"] = bool(config.observations.label_dim)
    for name, value in saved.items():
        if options.get(name) not in (None, value):
            raise changed(run, name, value)
    if isinstance(config, Distill) and options.get("teacher") is not None:
        file = model_file(options["teacher"])
        if str(file) != config.teacher and not filecmp.cmp(file, run.teacher_path, shallow=False):
            raise changed(run, "teacher", config.teacher)


def changed(run: Run, name: str, saved: object) -> click.UsageError:
    option = name.replace("_", "-")
    return click.UsageError(f"--{option}: {run.path} was started with {saved}; a resumed run keeps it")
