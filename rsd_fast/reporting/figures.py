"""Figures of a report: matplotlib without a display, each small enough to be read on a phone.

The same numbers give the same bytes: no dates, and identifiers by a fixed salt.
"""

import io
import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .reading import Measurement, Record, finite
from .verdict import Verdict, best_of, fake_score_gap, floor_of, series_of

if TYPE_CHECKING:  # imported where it is used, so that no other command waits for it
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SIZE = (4.2, 2.9)  # inches, of points of which a phone's width shows some 300: letters stay legible
MOST_POINTS = 400  # of a curve; more are averaged in groups
LOG_RANGE = 20.0  # greatest over least, from which on an axis is logarithmic
STYLE: dict[Any, Any] = {"svg.hashsalt": "rsd-fast", "svg.fonttype": "none", "font.size": 9.5, "axes.titlesize": 10.5}
BLUE, ORANGE, GREEN, GREY, PURPLE = "#2563a8", "#c2570c", "#2e7d32", "#6b7280", "#7b4bab"

Curves = Iterable[tuple[str, np.ndarray, np.ndarray]]  # label, x, y


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """A figure with what goes below it."""

    name: str  # of its file
    caption: str
    figure: "Figure"
    svg: str

    def save(self, path: Path) -> None:
        self.figure.savefig(path, format="png", dpi=150, metadata={"Software": None})


def draw(name: str, alt: str, caption: str, plot: Callable[["Axes"], None], size: tuple[float, float] = SIZE) -> Drawn:
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=size, layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        plot(axes)
        name = re.sub(r"[^\w.-]+", "-", name)
        return Drawn(name=name, caption=caption, figure=figure, svg=_svg(figure, name, alt))


def _svg(figure: "Figure", name: str, alt: str) -> str:
    """To stand in a page beside others: no prolog, no metadata, identifiers of its own."""
    from html import escape

    file = io.StringIO()
    figure.savefig(file, format="svg", metadata={"Date": None})
    text = file.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    text = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", text)
    text = re.sub(r' (width|height)="[\d.]+pt"', "", text, count=2)
    return text.replace("<svg", f'<svg role="img" aria-label="{escape(alt)}"', 1)


def thinned(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Means of as many neighbours as leave MOST_POINTS, without the points that are not finite."""
    known = np.isfinite(x) & np.isfinite(y)
    x, y = x[known], y[known]
    group = math.ceil(len(x) / MOST_POINTS)
    if group < 2:
        return x, y
    starts = np.arange(0, len(x), group)
    counts = np.diff([*starts, len(x)])
    return np.add.reduceat(x, starts) / counts, np.add.reduceat(y, starts) / counts


def spread(values: np.ndarray) -> bool:
    """Do they ask for a logarithmic axis?"""
    return bool(len(values) and values.min() > 0 and values.max() > LOG_RANGE * values.min())


def curves(axes: "Axes", lines: Curves, *, title: str, log: bool | None = None, colours: Any = None) -> None:
    """Lines over kimg. log: of the y axis; None: where the values ask for it."""
    values, count = [], 0
    for i, (label, x, y) in enumerate(lines):
        x, y = thinned(x, y)
        colour = colours[i] if colours is not None else (BLUE, ORANGE, GREEN, GREY)[i % 4]
        axes.plot(x, y, "." if len(x) == 1 else "-", color=colour, label=label, linewidth=1.4)
        values.append(y)
        count += 1
    if log is None and spread(np.concatenate(values)):
        axes.set_yscale("log")
    axes.set(xlabel="thousand images (kimg)", title=title)
    if count > 1:
        axes.legend(fontsize=8, framealpha=0.7)


def verdict_bars(verdict: Verdict) -> Drawn | None:
    """Start, best, last and floor as bars on a logarithmic axis."""
    bars = {name: value for name, value in verdict.distances.items() if value > 0}
    if not verdict.series or len(bars) < 2:
        return None
    colours = {"start": GREY, "best": GREEN, "last": BLUE, "its teacher": PURPLE, "real images": ORANGE}

    def plot(axes: "Axes") -> None:
        axes.barh(list(bars), list(bars.values()), color=[colours[name] for name in bars], height=0.62)
        axes.set_xscale("log")
        low, high = min(bars.values()), max(bars.values())
        # A logarithmic axis has no zero: bars begin where the shortest still shows. The numbers need room on the right.
        axes.set_xlim(low / 2, high * (2 * high / low) ** 0.25)
        for place, value in enumerate(bars.values()):
            axes.text(value, place, f" {value:.3g}", va="center")
        axes.invert_yaxis()
        axes.grid(visible=False)
        axes.set_xlabel("distance, lower is better (log scale)")
        axes.tick_params(axis="x", which="both", bottom=False, labelbottom=False)  # the bars have their numbers

    return draw(
        "verdict",
        "Distances: " + ", ".join(f"{name} {value:.3g}" for name, value in bars.items()),
        "Distance to your data. “real images” is where as many real images would be: nothing can be expected to come "
        "much below it.",
        plot,
        (SIZE[0], 0.75 + 0.32 * len(bars)),
    )


def metric_curves(record: Record) -> list[Drawn]:
    """One for each metric and its features."""
    groups: dict[tuple[str, str], list[tuple[Measurement, ...]]] = {}
    for series in series_of(record.measurements):
        groups.setdefault((series[0].metric, series[0].features), []).append(series)
    others = [measurement for measurement in record.measurements if not math.isfinite(measurement.kimg)]
    labelled = [(measurement.checkpoint or "without kimg", measurement) for measurement in others]
    labelled += [("teacher", measurement) for measurement in record.of_teacher]
    return [_metric(key, groups[key], labelled) for key in groups]


def _metric(
    key: tuple[str, str], all_series: list[tuple[Measurement, ...]], others: list[tuple[str, Measurement]]
) -> Drawn:
    metric, features = key

    def plot(axes: "Axes") -> None:
        drawn_values = []
        for i, series in enumerate(all_series):
            colour = (BLUE, ORANGE, GREEN, GREY)[i % 4]
            x, y, error = (finite([getattr(m, name) for m in series]) for name in ("kimg", "value", "error"))
            several = f" {i + 1}" if len(all_series) > 1 else ""
            axes.plot(x, y, "o-", color=colour, markersize=3.5, label=f"{series[0].num:g} samples{several}")
            axes.fill_between(x, y - error, y + error, color=colour, alpha=0.2, linewidth=0)
            best, floor = best_of(series), floor_of(series)
            if best is not None:
                axes.plot([best.kimg], [best.value], "*", color=GREEN, markersize=12, label=f"best {best.value:.3g}")
            if math.isfinite(floor):
                axes.axhline(floor, color=colour, linestyle="--", linewidth=1, label=f"real images {floor:.3g}")
            drawn_values += [*y, floor]
            for label, other in others:
                if other.measure == series[0].measure and math.isfinite(other.value):
                    axes.axhline(other.value, color=GREY, linestyle=":", label=plain(f"{label} {other.value:.3g}"))
                    drawn_values.append(other.value)
        values = finite(drawn_values)
        if spread(values[np.isfinite(values)]):
            axes.set_yscale("log")
        axes.set(xlabel="thousand images (kimg)", title=plain(f"{metric} ({features})"))
        axes.legend(fontsize=8, framealpha=0.7)

    made, real, first = "its images", "the clean reference", all_series[0][0]
    if first.proximal:
        made, real = "observations made of its images", "the real observations"
    better = "lower is better" if first.distance else "higher is better"
    return draw(
        f"metric-{metric}-{features}",
        f"{metric} by {features} over training",
        f"{metric}, of {made} and {real}: {better}. The band is a standard error, the star the best, the dashed line "
        "where as many real images would be. Only values of equal numbers of samples compare.",
        plot,
    )


def plain(text: str) -> str:
    """Without formulas, for names that hold a dollar sign."""
    return text.replace("$", r"\$")


LOSS_WORDS = {
    "teacher_loss": "The teacher's denoising loss. It falls quickly, then slowly, and never reaches 0: noise cannot be "
    "foreseen. It says little about the images; the distances do.",
    "fake_loss": "The fake score's denoising loss on the generator's images. It follows the generator, so neither a "
    "rise nor a fall is good or bad in itself.",
    "generator_loss": "The generator's loss: by how much teacher and fake score differ on its images. It may be "
    "negative, and is noisy; near 0 they agree. It must not explode.",
}
PAIR = {"generator_teacher_loss": "teacher", "generator_fake_loss": "fake score"}
PAIR_WORDS = (
    "Both denoise the generator's images. The fake score, which learns from them, should do so better than the "
    "teacher: its line lies below. The closer the two, the more the generator's images are like the teacher's."
)


def losses(record: Record) -> list[Drawn]:
    figures = []
    for name in record.names("_loss"):
        if name not in PAIR and np.isfinite(record.column(name)).any():
            label = name.replace("_", " ")
            caption = LOSS_WORDS.get(name, f"{label} over training.")
            figures.append(draw(name, f"{label} over training", caption, _curve(record, name, label)))
    lines = [(label, record.kimg, record.column(name)) for name, label in PAIR.items()]
    if all(np.isfinite(y).any() for _, _, y in lines):
        title = "denoising the generator's images"
        figures.append(draw("both-scores", title, PAIR_WORDS, lambda axes: curves(axes, lines, title=title)))
    return figures


def _curve(record: Record, name: str, title: str, *, zero: bool = False) -> Callable[["Axes"], None]:
    """zero: from there on, so that small changes look small."""

    def plot(axes: "Axes") -> None:
        curves(axes, [(title, record.kimg, record.column(name))], title=title, log=False if zero else None)
        if zero:
            axes.set_ylim(0, 1.1 * np.nanmax(record.column(name)))

    return plot


def signals(record: Record) -> list[Drawn]:
    """Signals of convergence: what does not depend on the scale of a loss."""
    figures = []
    if np.isfinite(record.column("generator_diversity")).any():
        caption = (
            "How much the generator's images differ from each other: standard deviation over images, mean over pixels. "
            "It levels out; a steady fall towards 0 means that they become all alike (mode collapse)."
        )
        title = "diversity of the generator's images"
        figures.append(draw("diversity", title, caption, _curve(record, "generator_diversity", title)))
    fisher = record.by_sigma("generator_fisher")
    if np.isfinite(fisher).any():
        caption = (
            "How far the distribution of the generator's images is from the teacher's, by noise level (Fisher "
            "divergence, estimated). It falls towards 0 as they come to agree. Small noise levels show details, large "
            "ones the arrangement."
        )
        title = "distance from the teacher (Fisher)"
        figures.append(draw("fisher", title, caption, _bands(record, fisher, title)))
    gap = fake_score_gap(record)
    if np.isfinite(gap).any():
        caption = (
            "How much lower the fake score's loss is than the teacher's on the generator's images, as a share. Above 0 "
            "the fake score knows these images better than the teacher, as it must; near 0 at the end, both know them "
            "equally well. Below 0 it lags behind the generator: raise --fake-lr. Noise levels below the data's are "
            "left out, for nothing was trained there."
        )
        title = "lead of the fake score over the teacher"
        figures.append(draw("fake-score-lead", title, caption, _bands(record, gap, title, zero=True)))
    for name in ("teacher_loss", "fake_loss"):
        values = record.by_sigma(name)
        if np.isfinite(values).any():
            label = name.replace("_", " ") + " by noise level"
            caption = "The loss apart by noise level: which of them still improve, and which have come to rest."
            figures.append(draw(f"{name}-by-sigma", label, caption, _bands(record, values, label)))
    names = [name for name in record.names("_grad_norm") if np.isfinite(record.column(name)).any()]
    if names:
        lines = [(name.removesuffix("_grad_norm"), record.kimg, record.column(name)) for name in names]
        caption = (
            "Size of the gradients. Steady or falling is normal; jumps by a factor of ten or more ask for --clip 1."
        )
        title = "gradient norm"
        figures.append(draw("grad-norm", title, caption, lambda axes: curves(axes, lines, title=title)))
    return figures


def _bands(record: Record, values: np.ndarray, title: str, *, zero: bool = False) -> Callable[["Axes"], None]:
    """A line a band of noise levels, dark to light; with a line at zero where the sign matters."""

    def plot(axes: "Axes") -> None:
        import matplotlib

        edges = record.edges
        bands = [i for i in range(values.shape[1]) if np.isfinite(values[:, i]).any()]
        colours = matplotlib.colormaps["viridis"](np.linspace(0, 0.85, len(bands)))
        lines = [(f"σ {edges[i]:g} to {edges[i + 1]:g}", record.kimg, values[:, i]) for i in bands]
        curves(axes, lines, title=title, log=False if zero else None, colours=colours)
        if zero:
            axes.axhline(0, color=GREY, linewidth=1)

    return plot


def throughput(record: Record) -> list[Drawn]:
    known = {
        "images_per_sec": (
            "images per second",
            "Speed of training. Dips are other programs, or the first compilation.",
        ),
        "peak_memory_gb": ("peak memory, GB", "The most memory held so far: of the GPU, or of the process on a CPU."),
    }
    return [
        draw(name.replace("_", "-"), title, caption, _curve(record, name, title, zero=True))
        for name, (title, caption) in known.items()
        if np.isfinite(record.column(name)).any()
    ]
