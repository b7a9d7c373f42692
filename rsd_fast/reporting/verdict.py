"""Did it work? In words, from a run's measurements; and signs of trouble, from its log."""

import math
import shlex
from dataclasses import dataclass

import numpy as np

from rsd_fast.evaluation.frechet import MAX_FEATURES

from .reading import Measurement, Record, last

# Of the distance between the start and the floor, what may be left for a run to have worked. A half is lenient: what is
# left after a good run depends on the data, while a run that failed stays near its start, or beyond.
WORKED_REMAINDER = 0.5
LATE = 0.1  # of the run: a first measurement after it tells nothing about the start
CLOSE_TO_FLOOR = 2.0  # times the floor: near what real images have, wherever the run began
IMPROVING_DROP = 0.05  # over the last quarter of the run; less would not be worth another run
WORSE_RISE = 0.1  # of the last over the best; measurements of neighbouring checkpoints differ by a few per cent
STANDARD_ERRORS = 2.0  # by which two values must differ to count as different, where their errors are known

DIVERSITY_LOSS = 0.5  # a generator whose images differ half as much as at the start has lost most of the data's modes
LAG = 0.02  # by which the fake score's loss is above the teacher's; ticks' means of equal networks differ by some 1 %
MEMORISED_SHARE = 0.05  # of samples that are nearer than 1 % of the observations are to each other; 1 % is normal

PREFERRED = ("proximal-fid", "proximal-kid", "proximal-pixel-fd")  # of those measured as often, after the run's own


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What a run came to: the state, a headline, and what it rests on."""

    state: str  # worked, improving, worse, failed, unknown
    headline: str
    text: str
    advice: str
    command: str | None = None  # to go on with
    series: tuple[Measurement, ...] = ()  # that it rests on, by kimg
    best: Measurement | None = None
    teacher: float = math.nan  # its distance, where it was measured alike

    @property
    def distances(self) -> dict[str, float]:
        """By name, those that are numbers."""
        if not self.series:
            return {}
        distances = {"start": self.series[0].value, "best": self.best.value if self.best else math.nan}
        distances |= {"last": self.series[-1].value, "its teacher": self.teacher, "real images": floor_of(self.series)}
        return {name: value for name, value in distances.items() if math.isfinite(value)}


def series_of(measurements: list[Measurement]) -> list[tuple[Measurement, ...]]:
    """Measurements that can be compared, each at another kimg, in its order; of two at one the later counts."""
    groups: dict[tuple[str, ...], dict[float, Measurement]] = {}
    for measurement in measurements:
        if math.isfinite(measurement.kimg):
            groups.setdefault(measurement.comparable, {})[measurement.kimg] = measurement
    return [tuple(group[kimg] for kimg in sorted(group)) for group in groups.values()]


def floor_of(series: tuple[Measurement, ...]) -> float:
    """The newest that was measured; NaN for none."""
    return last(np.array([m.floor for m in series]))


def best_of(series: tuple[Measurement, ...]) -> Measurement | None:
    finite = [m for m in series if math.isfinite(m.value)]
    return min(finite, key=lambda m: m.value if m.distance else -m.value, default=None)


def judge(record: Record) -> Verdict:
    """The verdict on a run: by a proximal metric where there is one, and by the one that was measured most often."""
    run, monitoring = shlex.quote(str(record.run.path)), record.config.monitoring
    preferred = (*monitoring.eval_metrics[: monitoring.eval_kimg > 0], *PREFERRED)

    def rank(series: tuple[Measurement, ...]) -> tuple[bool, int, int]:
        name = series[0].metric
        return series[0].proximal, len(series), -preferred.index(name) if name in preferred else -len(preferred)

    series = max(series_of([m for m in record.measurements if m.distance]), key=rank, default=())
    if not series:
        return Verdict(
            state="unknown",
            headline="Not known yet: no distance to the data was measured.",
            text="Losses alone do not tell whether the images are good.",
            advice="Train with --eval-kimg, or measure the newest checkpoint, and make this report again:",
            command=f"rsd-fast evaluate --run {run} --metrics {measurable(record)} --num 1000",
        )
    best = best_of(series)
    if best is None:
        return Verdict(
            state="failed",
            headline="Did not work: the distance to the data is no finite number.",
            text="The network's weights or images hold values that are not finite.",
            advice="Train again with a lower --lr, --clip 1 or --precision fp32, and check the data.",
            series=series,
        )
    state, headline = _state(series, best)
    name, command = record.best or best.checkpoint, None
    if name and (record.run.path / "checkpoints" / name / "model.safetensors").is_file():
        command = (
            f"rsd-fast sample --run {shlex.quote(str(record.run.path / 'checkpoints' / name))} --num 64 --out samples"
        )
    teacher = last(np.array([m.value for m in record.of_teacher if m.measure == best.measure]))
    return Verdict(
        state=state,
        headline=headline,
        text=_distances(series, best, teacher),
        advice=f"{ADVICE[state]} {name or f'at {best.kimg:g} kimg'}{':' if command else '.'}",
        command=command,
        series=series,
        best=best,
        teacher=teacher,
    )


def measurable(record: Record) -> str:
    """Metrics, and their features, that images of the run's size have."""
    shapes = record.config.observations.image_shape, record.config.observations.observation_shape
    if min(map(math.prod, shapes)) <= MAX_FEATURES:
        return "proximal-pixel-fd"
    return "proximal-fid --features efficientnet-lite0"


ADVICE = {  # followed by the name of the best checkpoint
    "worked": "Look at the samples below, then use the best checkpoint",
    "improving": "Go on with --resume and a larger --kimg. Until then use the best checkpoint",
    "worse": "Use the best checkpoint",
    "failed": "Check --corruption and --sigma-obs, look at the samples and the signs below, and train longer or with "
    "another --lr. The best checkpoint is",
    "unknown": "Measure other checkpoints, or look at the samples below. Measured was",
}


def _state(series: tuple[Measurement, ...], best: Measurement) -> tuple[str, str]:
    """(state, headline)"""
    start, newest, floor = _start(series), series[-1], floor_of(series)
    floor = floor if math.isfinite(floor) else 0.0
    good = floor > 0 and best.value <= CLOSE_TO_FLOOR * floor
    good |= best.value - floor <= WORKED_REMAINDER * (start.value - floor) and differ(start, best)
    indistinguishable = floor > 0 and best.value <= floor + STANDARD_ERRORS * (best.error if best.error > 0 else 0)
    late = series[0].kimg > LATE * newest.kimg
    if len(series) == 1 and not good:
        return "unknown", "Not known: it was measured only once."
    if late and not good:
        return "unknown", f"Not known: it was not measured before {series[0].kimg:g} kimg."
    if good and rose(best, newest):
        return "worse", f"Got worse after {best.kimg:g} kimg: use the best checkpoint, not the last."
    if indistinguishable:  # what is left to improve is chance
        alike = "corrupted alike, its images" if best.proximal else "its images"
        return "worked", f"Worked: {alike} cannot be told from real ones by this distance."
    if improving(series):
        return "improving", f"{'Worked, and is still' if good else 'Still'} improving: train longer."
    if good:
        return "worked", "Worked, as far as this distance can tell."
    return "failed", "Did not work, or not yet: it is hardly nearer to the data than at the start."


def _start(series: tuple[Measurement, ...]) -> Measurement:
    return next(m for m in series if math.isfinite(m.value))


def _distances(series: tuple[Measurement, ...], best: Measurement, teacher: float) -> str:
    """In words for somebody who does not know the metric."""
    text = f"Its images are at distance {best.value:.3g} from the reference images"
    if best.proximal:
        text = f"Corrupted the way your data was, its images are at distance {best.value:.3g} from your data"
    if len(series) > 1:
        text += f"; it started at {_start(series).value:.3g}"
    if math.isfinite(teacher):
        text += f"; its teacher is at {teacher:.3g}"
    if math.isfinite(floor_of(series)):
        text += f"; as many real images would be at {floor_of(series):.3g}"
    return f"{text} ({best.metric}, lower is better)."


def differ(a: Measurement, b: Measurement) -> bool:
    """By more than chance, as far as that is known?"""
    errors = [error for error in (a.error, b.error) if math.isfinite(error)]
    return not abs(a.value - b.value) <= STANDARD_ERRORS * math.hypot(*errors)


def rose(best: Measurement, newest: Measurement) -> bool:
    """Is the last worse than the best? What is not finite is."""
    return not newest.value <= best.value * (1 + WORSE_RISE) and differ(best, newest)


def improving(series: tuple[Measurement, ...]) -> bool:
    """Is the last the best, and was the distance larger a quarter of the run before?"""
    newest = series[-1]
    since = newest.kimg - series[0].kimg
    # Without a measurement near the last quarter's begin nobody can say when the distance fell.
    earlier = [m for m in series if 0.5 * since <= m.kimg - series[0].kimg <= 0.75 * since]
    if not earlier or newest is series[0] or newest is not best_of(series):
        return False
    before = earlier[-1]
    drop = (before.value - newest.value) * 0.25 * since / (newest.kimg - before.kimg)  # in a quarter of the run
    return drop > IMPROVING_DROP * before.value and differ(before, newest)


@dataclass(frozen=True, kw_only=True)
class Sign:
    """One thing that was looked for; trouble where it was found."""

    trouble: bool
    text: str


def signs(record: Record, nearer_share: float | None = None) -> list[Sign]:
    """What the log tells, and the share of samples nearer to observations than observations are to each other."""
    signs = []
    losses = record.names("_loss") + record.names("_grad_norm")
    if losses:
        bad = [name for name in losses if any(not math.isfinite(_raw(line.get(name))) for line in record.log)]
        text = f"Not finite at times: {', '.join(bad)}. Lower --lr, or use --clip 1 or --precision fp32."
        signs.append(Sign(trouble=bool(bad), text=text if bad else "Losses and gradients were finite throughout."))
    diversity = record.column("generator_diversity")
    diversity = diversity[np.isfinite(diversity)]
    if len(diversity) > 1:
        ratio = diversity[-1] / diversity[0] if diversity[0] else math.inf
        fell = bool(ratio < DIVERSITY_LOSS)
        text = f"The generator's images differ from each other {ratio:.2g} times as much as at the start"
        more = ": they collapse to few. Stop earlier, or lower --lr." if fell else ": no collapse."
        signs.append(Sign(trouble=fell, text=text + more))
    lag = lagging_bands(record)
    if lag is not None:
        behind, bands = lag
        lags = behind > bands / 2
        text = f"The fake score lags behind the generator in {behind} of {bands} bands of noise levels"
        more = ": raise --fake-lr." if lags else ": it keeps up." if not behind else ", which is not yet alarming."
        signs.append(Sign(trouble=lags, text=text + more))
    if nearer_share is not None:
        near = nearer_share > MEMORISED_SHARE
        text = (
            f"{nearer_share:.1%} of the samples are nearer to an observation than 99 % of observations are to any other"
        )
        more = (
            ": it may repeat its data, see the neighbours below." if near else " (1 % is normal): no memorisation seen."
        )
        signs.append(Sign(trouble=near, text=text + more))
    return signs


def lagging_bands(record: Record) -> tuple[int, int] | None:
    """(bands in which the fake score's loss was above the teacher's over the last quarter, bands); None: not logged."""
    gap = fake_score_gap(record)
    recent = gap[-max(1, math.ceil(len(gap) / 4)) :]
    bands = [column[np.isfinite(column)] for column in recent.T]
    means = [column.mean() for column in bands if len(column)]
    return (sum(mean < -LAG for mean in means), len(means)) if means else None


def fake_score_gap(record: Record) -> np.ndarray:
    """[lines, bands]: how far the fake score's loss on the generator's images is below the teacher's, as a share of it.

    NaN below the data's noise, where neither of them was trained.
    """
    teacher, fake = record.by_sigma("generator_teacher_loss"), record.by_sigma("generator_fake_loss")
    with np.errstate(divide="ignore", invalid="ignore"):
        gap = np.where(teacher > 0, (teacher - fake) / teacher, np.nan)
    untrained = np.array(record.edges[1:]) <= record.config.observations.sigma_least
    gap[:, untrained] = np.nan
    return gap


def _raw(value: object) -> float:
    """A logged value, where one that is missing is no trouble; JSON has NaN and Infinity as numbers, or null."""
    return float(value) if isinstance(value, int | float) else 0.0
