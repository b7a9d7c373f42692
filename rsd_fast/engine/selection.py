"""Which checkpoint is the best, and whether to go on: only the evaluations in a run's metrics.jsonl decide."""

import math
from pathlib import Path
from typing import Any

from rsd_fast import files
from rsd_fast.config import Monitoring
from rsd_fast.evaluation.metrics import needs_features


class Selection:
    """The evaluations of the metric that chooses, the first of `monitoring.eval_metrics`; lower is better.

    records: the objects of metrics.jsonl. Those that `rsd-fast evaluate` added do not count, nor do those with other
    features, numbers of images or seeds, which cannot be compared.
    """

    def __init__(self, records: list[dict[str, Any]], monitoring: Monitoring, seed: int) -> None:
        self.patience = monitoring.stop_patience
        metric = monitoring.eval_metrics[0]
        features = monitoring.eval_features if needs_features(metric) else "pixels"
        like = {
            "metric": metric,
            "features": features,
            "num": monitoring.eval_num,
            "seed": seed,
            "training": True,
        }.items()
        alike = [record for record in records if like <= {k: record.get(k) for k, _ in like}.items()]
        values = {record["checkpoint"]: record["value"] for record in alike}
        self.names = sorted(values)  # by age
        ranked = [name for name in self.names if math.isfinite(values[name])]
        self.best = min(ranked, key=values.__getitem__) if ranked else None
        self.best_value = values[self.best] if self.best is not None else math.nan

    @property
    def since_best(self) -> int:
        """How many evaluations came after the best one."""
        return len(self.names) - 1 - self.names.index(self.best) if self.best is not None else len(self.names)

    @property
    def exhausted(self) -> bool:
        return self.patience is not None and self.since_best >= self.patience

    def name_best(self, file: Path) -> None:
        """Write the best one's name to RUN/best, where it is not there already."""
        if self.best is not None and not (file.exists() and file.read_text().strip() == self.best):
            files.write_text(file, self.best + "\n")

    def report(self, records: list[dict[str, Any]]) -> str:
        """A line for a person on new evaluations of a checkpoint."""
        parts = []
        for record in records:
            floor = "" if record["floor"] is None else f" (real ones: {record['floor']:.4g})"
            parts.append(f"{record['metric']} {record['value']:.4g}{floor}")
        checkpoint = records[0]["checkpoint"]
        best = "the best so far" if checkpoint == self.best else f"the best is {self.best} with {self.best_value:.4g}"
        return f"{checkpoint}: {', '.join(parts)}; {best}"
