"""Both stages, from a config to a finished run: builds data, networks and method, and lets the engine step them."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import torch

from rsd_fast import files, processes
from rsd_fast.build import build_denoiser
from rsd_fast.config import Distill, Pretrain, RunConfig
from rsd_fast.data import DataError, ImageArray, ObservedDataset
from rsd_fast.data.order import ShuffledObservations
from rsd_fast.engine import Trainer
from rsd_fast.engine.loop import DataSource
from rsd_fast.evaluation.training import CheckpointEvaluator
from rsd_fast.loading import load
from rsd_fast.methods import DistillMethod, Method, PretrainMethod
from rsd_fast.methods.base import PREVIEW_IMAGES
from rsd_fast.networks import Denoiser, compile_network, set_precision
from rsd_fast.ops.fft import to_channels
from rsd_fast.pictures import save_grid
from rsd_fast.run_dataset import open_observations
from rsd_fast.runs import Run, RunError

MASK_EXAMPLES, MAPS_EXAMPLES, SIGMA_EXAMPLES = 512, 32, 65536


def pretrain(
    config: Pretrain, out: str | os.PathLike, *, resume: bool = False, source: ImageArray | None = None
) -> Path:
    """Train a teacher into the run directory `out`; returns it.

    resume: go on from the newest checkpoint there. source: the data of the config, where it is already open.
    Raises RunError on a directory that cannot be used so, DataError on bad data, engine.NonFiniteLoss, and
    engine.Interrupted after saving.
    """
    dataset = open_observations(config.observations, source)

    def prepare(run: Run) -> None:
        shown = torch.arange(min(PREVIEW_IMAGES, len(dataset)))
        save_grid(dataset.pictures(shown), run.samples / "observations.png")

    def method(run: Run, device: torch.device) -> Method:
        torch.manual_seed(config.training.seed)  # initial weights come from torch's global generator
        network = build_denoiser(config)
        keep_examples(network, dataset)
        return PretrainMethod(config, _place(network, config, device))

    data = ShuffledObservations(
        dataset,
        seed=config.training.seed,
        symmetries=config.observations.augment,
        device=processes.local_device(config.training.device),
    )
    return _train(config, Run(Path(out)), resume=resume, prepare=prepare, method=method, data=data, observed=dataset)


def distill(config: Distill, out: str | os.PathLike, *, resume: bool = False, source: ImageArray | None = None) -> Path:
    """Distil config.teacher into a one-step generator in the run directory `out`; returns it. As `pretrain`.

    The observations serve to evaluate checkpoints alone, where config.monitoring asks for that.
    """

    def prepare(run: Run) -> None:
        # A copy, so that the run can be resumed when the teacher has moved on or is gone.
        with files.atomic_file(run.teacher_path) as temporary:
            shutil.copyfile(config.teacher, temporary)

    def method(run: Run, device: torch.device) -> Method:
        teacher = load(run.teacher_path, trusted=True).network
        return DistillMethod(config, _place(teacher, config, device))

    observed = None
    if config.monitoring.eval_kimg:
        try:
            observed = open_observations(config.observations, source)
        except (DataError, OSError) as error:
            raise DataError(f"{error}; without the observations go on with --eval-kimg 0") from None
    return _train(config, Run(Path(out)), resume=resume, prepare=prepare, method=method, observed=observed)


def keep_examples(network: Denoiser, dataset: ObservedDataset) -> None:
    """Let the network carry examples of the masks, coil maps and noise levels that only the data knows.

    They are a part of A, not of any image, and all that distilling and sampling need to know of the data.
    """
    bank = dataset.corruption.bank
    if bank is not None:
        mask, maps = bank.examples(MASK_EXAMPLES).mask, bank.examples(MAPS_EXAMPLES).maps
        network.mask_bank = None if mask is None else torch.from_numpy(mask)
        network.maps_bank = None if maps is None else to_channels(torch.from_numpy(maps))
    if dataset.levels.bank is not None:
        network.sigma_bank = torch.from_numpy(dataset.levels.bank[:: len(dataset) // SIGMA_EXAMPLES + 1].copy())


def _train(
    config: RunConfig,
    run: Run,
    *,
    resume: bool,
    prepare: Callable[[Run], None],
    method: Callable[[Run, torch.device], Method],
    data: DataSource | None = None,
    observed: ObservedDataset | None = None,
) -> Path:
    device = processes.local_device(config.training.device)
    # Initial weights and dropout draw from torch's global generators, which are put back as they were afterwards.
    generators = torch.random.fork_rng([device] if device.type == "cuda" else [])
    with processes.process_group(device), generators:
        if processes.rank() == 0:
            if not resume:
                if run.exists():
                    raise RunError(f"{run.path}: already holds a run; go on with --resume, or use a new folder")
                run.refuse_foreign_files()
                prepare(run)
            elif not run.exists():
                raise RunError(f"{run.path}: no run to resume (it has no config.json)")
            run.remove_leftovers()
        processes.barrier()
        built = method(run, device)
        if config.training.compile:
            for network in built.networks:
                compile_network(network)
        state = run.load_training() if resume else None
        evaluate = CheckpointEvaluator(config, observed) if config.monitoring.eval_kimg and observed else None
        Trainer(built, config, run, data=data, state=state, evaluate=evaluate).run_to_end()
    return run.path


def _place(network: Denoiser, config: RunConfig, device: torch.device) -> Denoiser:
    """On its device, channels-last (what convolutions are fastest in), in the run's precision."""
    network = network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    network.channels_last = True
    network.model.checkpoint_activations = config.training.checkpoint_activations  # type: ignore[assignment]
    set_precision(network, config.training.precision)
    return network
