"""Evaluating the checkpoints of a run while it trains, without a clean image."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from rsd_fast import processes
from rsd_fast.config import Monitoring, Pretrain, RunConfig
from rsd_fast.corruptions import Corruption
from rsd_fast.data import ObservedDataset
from rsd_fast.errors import FieldError
from rsd_fast.sampler import Sampler, Sampling

from .evaluator import Evaluator
from .metrics import METRICS, PROXIMAL, SetMetric, find
from .observed import observe_as, pictures_of
from .runs import HowCompared, features_of
from .samples import of_model, samples_of

BATCH = 256


class CheckpointEvaluator:
    """Proximal metrics of checkpoints against the observations that the run, or its teacher, was trained on.

    The same numbers as `rsd-fast evaluate --run CHECKPOINT` with the metrics, features and number of samples of
    `config.monitoring` gives, a teacher's samples being truncated where there is noise. Features of the observations
    are computed once, and kept on disk. Raises ValueError for metrics that cannot be had.
    """

    def __init__(self, config: RunConfig, data: ObservedDataset, corruption: Corruption | None = None) -> None:
        self.config, self.corruption = config, corruption
        m, t = config.monitoring, config.training
        share = processes.share(t.batch, None)
        self.batch = min(t.micro_batch if isinstance(t.micro_batch, int) else share, BATCH)
        truncate = isinstance(config, Pretrain) and config.observations.sigma_least > 0
        self.how = Sampling(truncate=truncate, precision=t.precision)
        metrics = list(m.eval_metrics)
        compared = HowCompared(features=m.eval_features, features_weights=m.eval_features_weights, device=t.device)
        self.evaluator = Evaluator(
            metrics,
            observed=pictures_of(data),
            observe=observe_as(data, config, t.seed),
            features=features_of(metrics, compared),
            batch=self.batch,
        )

    def __call__(self, checkpoint: Path) -> list[dict[str, Any]]:
        """The evaluations of a checkpoint, as metrics.jsonl has them."""
        seed, num = self.config.training.seed, self.config.monitoring.eval_num
        device = processes.local_device(self.config.training.device)
        sampler = Sampler(checkpoint, device, corruption=self.corruption, **asdict(self.how))
        # Not kept while they come: they take less long than the training that a kill costs.
        samples = replace(samples_of(sampler, num, seed, self.batch, self.how), kept=False)
        results = of_model(self.evaluator(samples), sampler, seed, self.how)
        return [asdict(replace(result, training=True)) for result in results]


def refuse_metrics(monitoring: Monitoring) -> None:
    """FieldError for metrics that are not known, or cannot choose a checkpoint, before anything is trained."""
    records = [find(metric, SetMetric, "eval_metrics") for metric in monitoring.eval_metrics]
    if not records[0].lower_is_better:
        choosing = [name for name, metric in METRICS.items() if metric.proximal and metric.lower_is_better]
        expected = " or ".join(PROXIMAL + name for name in choosing)
        raise FieldError("eval_metrics", f"the first chooses the best checkpoint, and must be {expected}")
