"""A run, pushed with a card that says what it is."""

import dataclasses
import os
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

from rsd_fast import __version__
from rsd_fast import config as configs
from rsd_fast.config import Distill, RunConfig
from rsd_fast.loading import load, model_file
from rsd_fast.runs import Run, RunError, save_model

from .hub import client, reason


def push_to_hub(
    run: str | os.PathLike,
    repo_id: str,
    *,
    private: bool = False,
    license: str | None = None,
    token: str | None = None,
) -> str:
    """Upload a run's averaged weights, config, sample grid and `model_card` as the hub's model `user/name`.

    run: a run directory, or what convert wrote. license: the hub's name of one, for the card. token: of the hub; by
    default the one that `hf auth login` stored. What only the machine knows of (paths of the data and the teacher) is
    left out. Returns the model's address. Raises RunError, one line that names the cause.
    """
    hub = client(os.fspath(run))
    with tempfile.TemporaryDirectory() as folder:
        write_folder(run, Path(folder), repo_id=repo_id, license=license)
        try:
            api = hub.HfApi(token=token)
            address = api.create_repo(repo_id, private=private, exist_ok=True)
            api.upload_folder(repo_id=repo_id, folder_path=folder, commit_message=f"rsd-fast {__version__}")
        except Exception as error:
            raise RunError(f"{repo_id}: could not be pushed: {reason(error)}") from None
    return str(address)


def write_folder(
    run: str | os.PathLike, folder: Path, *, repo_id: str = "user/name", license: str | None = None
) -> None:
    """What `push_to_hub` uploads: model.safetensors, config.json, README.md and samples.png."""
    file = model_file(run)
    network, config, kimg = load(file)
    config = public(config)
    save_model(folder / "model.safetensors", network.state_dict(), config, kimg)
    (folder / "config.json").write_text(configs.to_json(config), encoding="utf-8")
    samples = Run(Path(run)).samples / f"{file.parent.name}.png"
    if samples.is_file():
        shutil.copyfile(samples, folder / "samples.png")
    metrics = _metrics(Run(Path(run)), file.parent.name)
    parameters = sum(parameter.numel() for parameter in network.parameters())
    card = model_card(config, kimg, parameters, metrics, repo_id=repo_id, license=license, picture=samples.is_file())
    (folder / "README.md").write_text(card, encoding="utf-8")


def public(config: RunConfig) -> RunConfig:
    """The config without the folders of this machine."""
    name = Path(config.observations.data).name
    config = dataclasses.replace(config, observations=dataclasses.replace(config.observations, data=name))
    if isinstance(config, Distill):
        config = dataclasses.replace(config, teacher=_name(Path(config.teacher)))
    return config


def _name(teacher: Path) -> str:
    """A teacher's, without the folders that it lies in: of the hub's cache its id, of a run `run/checkpoint`."""
    cached = re.search(r"models--([^/]+)--([^/]+)/snapshots/(\w+)/", teacher.as_posix())
    if cached:
        return f"{cached[1]}/{cached[2]}@{cached[3]}"
    folder = teacher.parent if teacher.name == "model.safetensors" else teacher
    return f"{folder.parents[1].name}/{folder.name}" if folder.parent.name == "checkpoints" else folder.name


def _metrics(run: Run, checkpoint: str) -> list[dict[str, Any]]:
    """The newest evaluation of each kind, of a checkpoint."""
    kind = ("metric", "reference", "num", "features", "seed")
    mine = [record for record in run.metrics() if record.get("checkpoint") == checkpoint]
    return list({tuple(record.get(name) for name in kind): record for record in mine}.values())


def _measured(m: dict[str, Any]) -> str:
    """A line of the card's table."""
    error = f" ± {m['standard_error']:.2g}" if m.get("standard_error") else ""
    reference = "" if m["reference"] is None else Path(str(m["reference"])).name
    return f"| {m['metric']} | {m['value']:.4f}{error} | {m['num']} | {reference} | {m['features']} |"


def model_card(
    config: RunConfig,
    kimg: float,
    parameters: int,
    metrics: list[dict[str, Any]],
    *,
    repo_id: str = "user/name",
    license: str | None = None,
    picture: bool = False,
) -> str:
    """The model's README.md: what it was trained on, how that was corrupted, its metrics, and how to use it."""
    o, network, one_step = config.observations, config.network, isinstance(config, Distill)
    shape = "x".join(map(str, o.image_shape))
    title = repo_id.partition("/")[2].partition("@")[0]
    seen = "images" if o.clean else "corrupted images alone, y = A(x) + sigma_obs eps"
    what = f"A diffusion teacher D(x, sigma) of {seen}."
    if one_step:
        what = f"A one-step image generator, distilled from a diffusion teacher of {seen}."
    noise = f"{o.sigma_obs:g}" if o.sigma_obs_min is None else f"{o.sigma_obs_min:g} to {o.sigma_obs:g}"
    if o.clean_share:
        noise += f", but {100 * o.clean_share:g} % of the images without"
    rows = [
        ("images", f"{shape} (C, H, W), values in [-1, 1]"),
        ("data", f"{o.data}" + (f", {o.num_images} images" if o.num_images else "")),
        ("corruption A", f"`{o.corruption}`" + (" (simulated, once for each image)" if o.simulate else "")),
        ("noise sigma_obs", noise),
        ("classes", str(o.label_dim) if o.label_dim else "none"),
        ("objective", config.objective.name),
        ("network", f"{network.architecture}, {parameters:,} weights"),
        ("trained on", f"{kimg:g} thousand images" if kimg else "not known (converted)"),
    ]
    if isinstance(config, Distill):
        d = config.distillation
        rows.append(("distillation", f"{d.loss}, alpha {d.alpha:g}, sigma_init {d.sigma_init:g}"))
    front = ["library_name: rsd-fast", "pipeline_tag: unconditional-image-generation"]
    front += [f"license: {license}"] if license else []
    front += ["tags:", "- diffusion", "- restoration-score-distillation", "- corrupted-data"]
    table = [f"| {name} | {value} |" for name, value in rows]
    if metrics:
        measured = ["| metric | value | samples | reference | features |", "|---|---|---|---|---|"]
        measured += map(_measured, metrics)
    else:
        measured = ["None recorded; `rsd-fast evaluate` appends them to a run."]
    use = (
        f'generator = rsd_fast.load_generator("{repo_id}")\nimages = generator.sample(16, seed=0)  # [16, {shape}]'
        if one_step
        else f'denoiser = rsd_fast.load_denoiser("{repo_id}")  # D(x, sigma)'
    )
    return "\n".join(
        [
            "---",
            *front,
            "---",
            f"# {title}",
            "",
            what,
            f"{'Made with' if kimg else 'Converted by'} rsd-fast {__version__}, restoration score distillation"
            " ([arXiv 2505.13377](https://arxiv.org/abs/2505.13377)).",
            "",
            *(["![Samples](samples.png)", ""] if picture else []),
            "| | |",
            "|---|---|",
            *table,
            "",
            "## Metrics",
            "",
            *measured,
            "",
            "## Use",
            "",
            "```python",
            "import rsd_fast",
            "",
            use,
            "```",
            "",
            "`config.json` has every setting. The weights are safetensors: nothing in them is executed.",
            "",
        ]
    )
