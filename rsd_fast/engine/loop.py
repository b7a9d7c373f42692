"""The training loop, the same for every method: steps, averages, checkpoints, log.

It counts in images seen. Random numbers are a function of (seed, images seen), so that a resumed run is the same run.
"""

import contextlib
import dataclasses
import enum
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rsd_fast import config as configs
from rsd_fast import processes
from rsd_fast.config import RunConfig
from rsd_fast.corruptions import Observation
from rsd_fast.cuda_graphs import on_stream
from rsd_fast.methods.base import Batch, Method, Phase
from rsd_fast.pictures import save_grid
from rsd_fast.runs import Run, RunError, TrainingState, load_into

from .ema import Ema
from .log import Log, Statistics, peak_memory_gb
from .memory import largest_micro_batch
from .publish import Publisher
from .selection import Selection
from .signals import StopSignal
from .step import PhaseStep

# Observations and labels of the images at positions of the training order; and what will probably be asked for next.
DataSource = Callable[[range, range], tuple[Observation, Tensor]]
# Metrics of a checkpoint's folder, as metrics.jsonl has them; the first is the one that chooses, lower being better.
Evaluate = Callable[[Path], list[dict[str, Any]]]
# It is called with each record of log.jsonl; True stops the run.
Callback = Callable[[dict[str, Any]], bool | None]

BY_SIGMA = ("loss", "fisher", "teacher_loss", "fake_loss")  # statistics that are kept apart by noise level


class NonFiniteLoss(Exception):
    """A loss or gradient became infinite or NaN; the run stops before anything of it is saved."""


class Interrupted(Exception):
    """SIGINT or SIGTERM came; the run was saved."""


class Ending(enum.Enum):
    """Why a run ends. It is saved before, whatever the reason, and evaluated unless it was interrupted."""

    FINISHED = enum.auto()  # it has seen as many images as it was to see
    INTERRUPTED = enum.auto()  # SIGINT or SIGTERM came, to this process or to another
    STOPPED = enum.auto()  # the callback asked for it
    EXHAUSTED = enum.auto()  # too many evaluations in a row were no better than the best one


class Trainer:
    """Trains a method's phases until `training.kimg` thousand images have been seen.

    data: gives observations to methods that read them. state: the checkpoint to go on from. evaluate: computes a
    checkpoint's metrics, each `monitoring.eval_kimg`, in every process. callback: is called in the first process with
    each record of log.jsonl; where it returns True, the run is saved and evaluated as at its end, and stops.
    """

    def __init__(
        self,
        method: Method,
        config: RunConfig,
        run: Run,
        *,
        data: DataSource | None = None,
        state: TrainingState | None = None,
        evaluate: Evaluate | None = None,
        callback: Callback | None = None,
    ) -> None:
        self.method, self.run, self.data, self.evaluate, self.callback = method, run, data, evaluate, callback
        self.config, self.monitoring = config, config.monitoring
        self.training = t = config.training
        self.device = next(method.product().parameters()).device
        self.total_images = math.ceil(t.kimg * 1000 / t.batch) * t.batch
        self.images_seen = 0
        self.seconds = 0.0  # spent on training, over all sittings
        # The phases' graphs are replayed in the order of their capture, and may therefore share their memory.
        graphs = {"warmup": 0, "pool": torch.cuda.graph_pool_handle()} if t.cuda_graphs else None
        self.stream = torch.cuda.Stream(self.device) if t.cuda_graphs else None  # the default one cannot be captured
        self.steps = [PhaseStep(method, phase, t, self.device, graphs) for phase in method.phases]
        self.emas = [
            Ema(phase.network, phase.ema, halflife_kimg=t.ema_halflife_kimg, rampup=t.ema_rampup)
            for phase in method.phases
            if phase.ema is not None
        ]
        self.resumed = state is not None
        if state is not None:
            self.restore(state)
        self.statistics = Statistics()
        self.finite = torch.ones((), dtype=torch.bool, device=self.device)
        self.stop_signal = StopSignal()
        self.share = processes.share(t.batch, t.micro_batch)  # images a step in this process
        self.micro_batch = t.micro_batch if isinstance(t.micro_batch, int) else self.share
        if t.micro_batch == "auto":  # config.json says what that comes to
            self.micro_batch = self.fitting()
            self.training = dataclasses.replace(t, micro_batch=self.micro_batch)
            self.config = dataclasses.replace(config, training=self.training)

    def fitting(self) -> int:
        """The largest micro-batch that fits into memory, the same in every process."""

        def attempt(images: int) -> None:
            for number, step in enumerate(self.steps, start=1):
                step.gradients([self.batch(range(images), number)])
                step.optimizer.zero_grad(set_to_none=True)

        moments = sum(2 * p.nbytes for step in self.steps if not step.optimizer.state for p in step.parameters)
        return processes.least(largest_micro_batch(attempt, self.share, self.device, reserve=moments))

    @property
    def kimg(self) -> float:
        return self.images_seen / 1000

    def run_to_end(self) -> None:
        """Train, log, save and evaluate. Raises NonFiniteLoss, and Interrupted after saving on SIGINT or SIGTERM."""
        log = self.open_log()
        with contextlib.closing(log), self.stop_signal:
            if not self.resumed:
                self.snapshot(log)
            log.say(self.cost())
            ending = self.evaluated(log, self.finished())
            self.start_tick()
            while ending is None:
                self.step()
                log.advance(self.kimg)
                ending = self.interrupted() or self.finished()
                if ending or self.tick_due():
                    ending = self.tick(log, ending)
        if ending is Ending.INTERRUPTED:
            name = self.stop_signal.name or "another process was stopped"
            raise Interrupted(f"{name}: {self.run.path} is saved at {self.kimg:g} kimg; go on with --resume")

    def open_log(self) -> Log:
        publisher = Publisher(
            self.run.path,
            kimg=self.kimg,
            tensorboard=self.monitoring.tensorboard,
            project=self.monitoring.wandb,
            config=configs.to_json(self.config),
        )
        return Log(
            self.run.log_path,
            total_kimg=self.total_images / 1000,
            kimg=self.kimg,
            title=self.config.kind,
            headline=tuple(f"{phase.name}_loss" for phase in self.method.phases),
            publisher=publisher,
        )

    def finished(self) -> Ending | None:
        return Ending.FINISHED if self.images_seen >= self.total_images else None

    def interrupted(self) -> Ending | None:
        """Did a signal come, to any process? Several agree at ticks, so that all leave after the same step."""
        if processes.world_size() == 1:
            return Ending.INTERRUPTED if self.stop_signal.number is not None else None
        if not self.tick_due():
            return None
        flag = torch.full((), float(self.stop_signal.number is not None), device=self.device)
        return Ending.INTERRUPTED if processes.reduce(flag, "max").item() else None

    def tick_due(self) -> bool:
        intervals = self.training.snapshot_kimg, self.training.log_kimg, self.monitoring.eval_kimg
        return self.finished() is not None or any(map(self.passed, intervals))

    def start_tick(self) -> None:
        self.tick_start, self.tick_images = time.perf_counter(), self.images_seen

    def tick(self, log: Log, ending: Ending | None) -> Ending | None:
        """Log the steps since the last tick, and save and evaluate where that is due; why the run ends, if it does."""
        self.check_finite()
        elapsed = time.perf_counter() - self.tick_start
        self.seconds += elapsed
        record = self.record((self.images_seen - self.tick_images) / elapsed)
        log.tick(record)
        if self.callback_stops(record):
            ending = ending or Ending.STOPPED
        if ending or self.passed(self.training.snapshot_kimg) or self.passed(self.monitoring.eval_kimg):
            self.snapshot(log)
        if ending is not Ending.INTERRUPTED:
            ending = self.evaluated(log, ending)
        self.start_tick()
        return ending

    def callback_stops(self, record: dict[str, Any]) -> bool:
        """Call the callback in the first process; its answer, in every process."""
        return processes.broadcast(processes.rank() == 0 and self.callback is not None and bool(self.callback(record)))

    def evaluated(self, log: Log, ending: Ending | None) -> Ending | None:
        """Evaluate the newest checkpoint where that is due, and name the best one; why the run ends, if it does.

        What was evaluated before is in metrics.jsonl, so that a resumed run decides as one that was never interrupted.
        Only the first process writes that file, and it decides for all.
        """
        if self.evaluate is None:
            return ending
        if self.evaluation_due(ending):
            self.add_evaluation(log, self.evaluate)
        history = self.history()
        if processes.rank() == 0:
            history.name_best(self.run.path / "best")
        if processes.broadcast(history.exhausted) and ending is None:
            log.say(f"no evaluation after {history.best} was better, {history.since_best} in a row: stopped")
            return Ending.EXHAUSTED
        return ending

    def history(self) -> Selection:
        return Selection(self.run.metrics(), self.monitoring, self.training.seed)

    def newest_checkpoint(self) -> Path:
        return self.run.checkpoint(round(self.kimg, 3))

    def evaluation_due(self, ending: Ending | None) -> bool:
        """At the beginning, at the end and each eval_kimg, unless a run that was resumed has done it before."""
        due = ending is not None or not self.images_seen or self.passed(self.monitoring.eval_kimg)
        return processes.broadcast(due and self.newest_checkpoint().name not in self.history().names)

    def add_evaluation(self, log: Log, evaluate: Evaluate) -> None:
        records = evaluate(self.newest_checkpoint())
        if processes.rank() == 0:
            self.run.add_metrics(records)
            log.publisher.scalars({record["metric"]: record["value"] for record in records}, self.kimg)
            log.say(self.history().report(records))

    def cost(self) -> str:
        """What a step is made of, in words."""
        evaluations = self.method.network_evaluations()
        apart = ", ".join(f"{name} {count}" for name, count in evaluations.items())
        parts = "" if self.micro_batch == self.share else f" in micro-batches of {self.micro_batch}"
        return f"{self.training.batch} images a step{parts}, each {sum(evaluations.values())} network passes ({apart})"

    def passed(self, interval_kimg: float) -> bool:
        """Did the last step reach a multiple of the interval, if there is one? The same at every sitting."""
        if not interval_kimg:
            return False
        before = self.images_seen - self.training.batch
        return self.images_seen // (interval_kimg * 1000) > before // (interval_kimg * 1000)

    def step(self) -> None:
        """One iteration: every phase once, on `batch` images."""
        start = self.images_seen + processes.rank() * self.share
        # Dropout draws from torch's own generator: tie it, too, to the images seen.
        torch.manual_seed((self.training.seed * 1_000_003 + start) % 2**63)
        with on_stream(self.stream):
            for number, step in enumerate(self.steps, start=1):
                name = step.phase.name
                statistics = step.gradients(self.batches(start, number))
                for statistic, values in statistics.items():
                    self.statistics.add(f"{name}_{statistic}", values)
                    if statistic in BY_SIGMA:
                        self.statistics.add_by_sigma(f"{name}_{statistic}", values, statistics["sigma"])
                    if statistic == "loss":
                        self.finite &= torch.isfinite(values).all()
                processes.sum_gradients(step.parameters)
                norm = step.update(self.lr_factor())
                self.statistics.add(f"{name}_grad_norm", norm)
                self.finite &= torch.isfinite(norm)
                if self.device.type == "cpu" and processes.world_size() == 1:
                    self.check_finite(step.phase)  # elsewhere reading the flag every step would stall: done at ticks
            self.images_seen += self.training.batch
            for ema in self.emas:
                ema.update(self.images_seen, self.training.batch)

    def batches(self, start: int, step: int) -> list[Batch]:
        """This process's share of a step that begins at image number `start`, in micro-batches."""
        parts = range(start, start + self.share, self.micro_batch)
        return [self.batch(range(first, first + self.micro_batch), step) for first in parts]

    def batch(self, positions: range, step: int) -> Batch:
        sample = torch.arange(positions.start, positions.stop, device=self.device)
        within = positions.stop < self.images_seen + (processes.rank() + 1) * self.share
        first = positions.stop if within else positions.stop + self.training.batch - self.share
        then = range(first, first + len(positions))
        observation, labels = self.data(positions, then) if self.data is not None else (None, None)
        return Batch(sample=sample, step=step, observation=observation, labels=labels)

    def lr_factor(self) -> float:
        ramp_images = self.training.lr_rampup_kimg * 1000
        return min((self.images_seen + self.training.batch) / ramp_images, 1.0) if ramp_images else 1.0

    def check_finite(self, phase: Phase | None = None) -> None:
        if not processes.reduce(self.finite.float(), "min").item():
            where = f"the {phase.name}'s loss or gradient" if phase else "a loss or gradient since the last tick"
            raise NonFiniteLoss(
                f"{self.run.path}: {where} is not finite at {self.kimg:g} kimg; nothing of it was saved. "
                "Try a lower --lr, --clip 1, or --precision fp32, and check the data"
            )

    def record(self, images_per_sec: float) -> dict[str, Any]:
        """One line of log.jsonl: means since the last tick, and of sigma the least and the greatest, too."""
        record: dict[str, Any] = {"kimg": self.kimg, "step": self.images_seen // self.training.batch}
        for name, (mean, least, greatest) in self.statistics.summary().items():
            record[name] = mean
            if name.endswith("_sigma"):
                record[name + "_min"], record[name + "_max"] = least, greatest
        record["by_sigma"] = self.statistics.by_sigma()
        record["lr"] = float(self.steps[-1].optimizer.param_groups[0]["lr"])
        record["images_per_sec"] = images_per_sec
        record["seconds"] = self.seconds
        record["peak_memory_gb"] = peak_memory_gb(self.device)
        return record

    def snapshot(self, log: Log) -> None:
        """A checkpoint and a sample grid, written by the first process."""
        if processes.rank() == 0:
            kimg = round(self.kimg, 3)
            folder = self.run.save(kimg, self.config, self.method.product().state_dict(), self.capture())
            grid = self.run.samples / f"{folder.name}.png"
            save_grid(self.method.preview(), grid)
            log.publisher.picture(grid, self.kimg)
        processes.barrier()

    def capture(self) -> TrainingState:
        tensors: dict[str, Tensor] = {}
        for step in self.steps:
            phase = step.phase
            for name, parameter in phase.network.named_parameters():
                tensors[f"{phase.name}.weight.{name}"] = parameter
                for key, value in step.optimizer.state.get(parameter, {}).items():
                    tensors[f"{phase.name}.{key}.{name}"] = value
        counters = {"images_seen": self.images_seen, "seconds": self.seconds}
        return TrainingState(tensors=tensors, counters=counters, product={})

    def restore(self, state: TrainingState) -> None:
        try:
            self.fill(state)
        except KeyError as error:
            raise RunError(f"{self.run.latest()}: does not fit its own configuration: {error} is missing") from None

    def fill(self, state: TrainingState) -> None:
        self.images_seen, self.seconds = state.counters["images_seen"], state.counters["seconds"]
        load_into(self.method.product(), state.product, self.run.path)
        for step in self.steps:
            phase, weights = step.phase, {}
            for name, parameter in phase.network.named_parameters():
                weights[name] = state.tensors[f"{phase.name}.weight.{name}"]
                moments = step.optimizer.state[parameter]
                for key in ("step", "exp_avg", "exp_avg_sq"):
                    saved = state.tensors.get(f"{phase.name}.{key}.{name}")
                    if saved is not None:  # absent before the first step
                        like = parameter if key != "step" else saved
                        moments[key] = torch.empty_like(like, device=self.device).copy_(saved)
            phase.network.load_state_dict(weights | dict(phase.network.named_buffers()))
