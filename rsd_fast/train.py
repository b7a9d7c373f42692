"""Both stages, from a config to a finished run: builds data, networks and method, and lets the engine step them."""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch

from rsd_fast import files, processes
from rsd_fast.build import build_denoiser
from rsd_fast.config import Distill, Pretrain, RunConfig
from rsd_fast.corruptions import Corruption
from rsd_fast.data import DataError, ImageArray, ObservedDataset
from rsd_fast.data.order import ShuffledObservations
from rsd_fast.engine import Trainer
from rsd_fast.engine.loop import Callback, DataSource
from rsd_fast.evaluation.training import CheckpointEvaluator
from rsd_fast.loading import load
from rsd_fast.methods import DistillMethod, Method, PretrainMethod
from rsd_fast.methods.base import PREVIEW_IMAGES
from rsd_fast.networks import Denoiser, compile_network, place, set_checkpointing, set_precision
from rsd_fast.ops.fft import to_channels
from rsd_fast.pictures import save_grid
from rsd_fast.run_dataset import open_observations
from rsd_fast.runs import Run, RunError

MASK_EXAMPLES, MAPS_EXAMPLES, SIGMA_EXAMPLES = 512, 32, 65536


def pretrain(
    config: Pretrain,
    out: str | os.PathLike,
    *,
    resume: bool = False,
    source: ImageArray | None = None,
    corruption: Corruption | None = None,
    callback: Callback | None = None,
) -> Path:
    """Train a teacher into the run directory `out`; returns it.

    resume: go on with the newest checkpoint there. source: the data of the config, where it is already open.
    corruption: the config's operator, where it was given as an object. callback: as for `engine.Trainer`.
    Raises RunError on a directory that cannot be used so, DataError on bad data, engine.NonFiniteLoss, and
    engine.Interrupted after saving.
    """
    stage = _Pretraining(config, corruption, open_observations(config.observations, source, corruption))
    return _train(stage, Run(Path(out)), resume=resume, callback=callback)


def distill(
    config: Distill,
    out: str | os.PathLike,
    *,
    resume: bool = False,
    source: ImageArray | None = None,
    corruption: Corruption | None = None,
    callback: Callback | None = None,
) -> Path:
    """Distil config.teacher into a one-step generator in the run directory `out`; returns it. As `pretrain`.

    The observations only serve to evaluate checkpoints, where config.monitoring asks for that.
    """
    observed = None
    if config.monitoring.eval_kimg:
        try:
            observed = open_observations(config.observations, source, corruption)
        except (DataError, OSError) as error:
            raise DataError(f"{error}; without the observations go on with --eval-kimg 0") from None
    return _train(_Distillation(config, corruption, observed), Run(Path(out)), resume=resume, callback=callback)


class _Stage(Protocol):
    """What differs between the stages."""

    @property
    def config(self) -> RunConfig: ...

    @property
    def corruption(self) -> Corruption | None:
        """The operator, where it was given as an object."""
        ...

    @property
    def observed(self) -> ObservedDataset | None:
        """What checkpoints are evaluated against."""
        ...

    def prepare(self, run: Run) -> None:
        """Put into a new run what it holds beside its checkpoints."""
        ...

    def method(self, run: Run, device: torch.device) -> Method:
        """The method, with its networks on the device."""
        ...

    def data(self) -> DataSource | None:
        """What the method learns from, where it reads data."""
        ...


@dataclass(frozen=True)
class _Pretraining:
    config: Pretrain
    corruption: Corruption | None
    observed: ObservedDataset

    def prepare(self, run: Run) -> None:
        first = torch.arange(min(PREVIEW_IMAGES, len(self.observed)))
        save_grid(self.observed.pictures(first), run.samples / "observations.png")

    def method(self, run: Run, device: torch.device) -> Method:
        torch.manual_seed(self.config.training.seed)  # initial weights come from torch's global generator
        network = build_denoiser(self.config, self.corruption)
        keep_examples(network, self.observed)
        return PretrainMethod(self.config, _placed(network, self.config, device), self.corruption)

    def data(self) -> DataSource:
        return ShuffledObservations(
            self.observed,
            seed=self.config.training.seed,
            symmetries=self.config.observations.augment,
            device=processes.local_device(self.config.training.device),
        )


@dataclass(frozen=True)
class _Distillation:
    config: Distill
    corruption: Corruption | None
    observed: ObservedDataset | None

    def prepare(self, run: Run) -> None:
        # A copy, so that the run can be resumed when the teacher has moved on or is gone.
        with files.atomic_file(run.teacher_path) as temporary:
            shutil.copyfile(self.config.teacher, temporary)

    def method(self, run: Run, device: torch.device) -> Method:
        teacher = load(run.teacher_path, trusted=True, corruption=self.corruption).network
        return DistillMethod(self.config, _placed(teacher, self.config, device), self.corruption)

    def data(self) -> None:
        return None


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


def _train(stage: _Stage, run: Run, *, resume: bool, callback: Callback | None) -> Path:
    config, observed = stage.config, stage.observed
    device = processes.local_device(config.training.device)
    # Initial weights and dropout draw from torch's global generators, which are put back as they were afterwards.
    generators = torch.random.fork_rng([device] if device.type == "cuda" else [])
    with processes.process_group(device), generators:
        if processes.rank() == 0:
            _prepare(stage, run, resume)
        processes.barrier()
        method = stage.method(run, device)
        if config.training.compile:
            for network in method.networks:
                compile_network(network)
        state = run.load_training() if resume else None
        evaluate = None
        if config.monitoring.eval_kimg and observed is not None:
            evaluate = CheckpointEvaluator(config, observed, stage.corruption)
        data = stage.data()
        Trainer(method, config, run, data=data, state=state, evaluate=evaluate, callback=callback).run_to_end()
    return run.path


def _prepare(stage: _Stage, run: Run, resume: bool) -> None:
    """The directory of a run, new or to go on with. Raises RunError where it is the other."""
    if resume and not run.exists():
        raise RunError(f"{run.path}: no run to resume (it has no config.json)")
    if not resume:
        if run.exists():
            raise RunError(f"{run.path}: already holds a run; go on with --resume, or use a new folder")
        run.refuse_foreign_files()
        stage.prepare(run)
    run.remove_leftovers()


def _placed(network: Denoiser, config: RunConfig, device: torch.device) -> Denoiser:
    """On its device, channels-last (what convolutions are fastest in), in the run's precision."""
    network = place(network, device)
    network.channels_last = True
    set_checkpointing(network, config.training.checkpoint_activations)
    set_precision(network, config.training.precision)
    return network
