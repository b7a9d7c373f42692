"""The page: HTML of a report's parts, in one file that needs no other."""

import base64
import dataclasses
import io
import json
import math
import re
import shlex
from collections.abc import Iterable
from dataclasses import dataclass
from html import escape
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from rsd_fast import corruptions
from rsd_fast.config import Distill, RunConfig
from rsd_fast.data import to_rgb

from .figures import Drawn
from .from_model import COLUMNS, Neighbours
from .reading import Measurement, Record, last, number
from .style import CSS, SLIDER
from .verdict import Sign, Verdict, measurable

MOST_GRIDS = 24
GRID_BYTES = 6 * 2**20  # of all grids together; they are encoded with loss where they are more
JPEG_QUALITY = (85, 60, 40)

STATES = {  # a mark, so that it does not depend on the colour
    "worked": "✓",
    "improving": "↗",
    "worse": "↩",
    "failed": "✗",
    "unknown": "?",
}


@dataclass(frozen=True, kw_only=True)
class Content:
    """All that the page shows; where a part is not to be had, a string says why."""

    record: Record
    verdict: Verdict
    signs: list[Sign]
    parameters: int | None
    observations: Image.Image | str
    neighbours: Neighbours | str
    paths: Image.Image | str
    bars: Drawn | None
    metrics: list[Drawn]
    losses: list[Drawn]
    signals: list[Drawn]
    throughput: list[Drawn]

    @property
    def figures(self) -> list[Drawn]:
        return [*([self.bars] if self.bars else []), *self.metrics, *self.losses, *self.signals, *self.throughput]


def render(content: Content) -> str:
    record = content.record
    name = escape(str(record.run.path))
    parts = [
        verdict_box(content),
        section("What was trained", table(described(content))),
        beside(content),
        over_time(record),
        section("Distances over training", figure_grid(content.metrics) or missing(no_metrics(record))),
        section("Losses", figure_grid(content.losses) or missing("The run has no log (log.jsonl).")),
        section("Signals of convergence", figure_grid(content.signals) or missing("The log has none of them.")),
        neighbours_section(content),
        paths_section(content),
        section("Speed and memory", throughput_words(record) + figure_grid(content.throughput)),
        section("All evaluations", evaluations(record.measurements)),
        HOW_TO_READ,
        commands(record.config, str(record.run.path)),
    ]
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{name} – rsd-fast report</title>\n<style>{CSS}</style>\n</head>\n<body>\n<main>\n"
        f"<h1>Report of <span>{name}</span></h1>\n" + "\n".join(filter(None, parts)) + "\n</main>\n</body>\n</html>\n"
    )


def section(title: str, body: str) -> str:
    return f"<section>\n<h2>{title}</h2>\n{body}\n</section>" if body else ""


def missing(reason: str) -> str:
    return f'<p class="missing">{words(reason)}</p>'


def words(text: str) -> str:
    """Text for the page, with options of the command line in one piece."""
    return re.sub(r"(?<![\w-])(--[a-z][a-z-]*)", r"<code>\1</code>", escape(text))


def no_metrics(record: Record) -> str:
    return f"Never measured. One measurement: rsd-fast evaluate --run {record.run.path} --metrics {measurable(record)}"


def verdict_box(content: Content) -> str:
    v = content.verdict
    command = f"<pre>{escape(v.command)}</pre>" if v.command else ""
    signs = "".join(
        f'<li class="{"trouble" if sign.trouble else "fine"}">{words(sign.text)}</li>' for sign in content.signs
    )
    if content.signs and not any(sign.trouble for sign in content.signs):
        signs = '<li class="fine"><strong>No sign of trouble.</strong></li>' + signs
    return (
        f'<section class="verdict {v.state}">\n<h2><span aria-hidden="true">{STATES[v.state]}</span> '
        f"{escape(v.headline)}</h2>\n<p>{words(v.text)}</p>\n<p>{words(v.advice)}</p>\n{command}\n"
        f"{figure_grid([content.bars] if content.bars else [])}\n<ul>{signs}</ul>\n</section>"
    )


def described(content: Content) -> list[list[str]]:
    """Rows (what, in words) of what was trained on what."""
    record, config = content.record, content.record.config
    o, t = config.observations, config.training
    channels, height, width = o.observation_shape
    origin = "clean images, corrupted once each by rsd-fast (--simulate)" if o.simulate else "corrupted images"
    operators = {name: about for name, (_, about) in corruptions.described().items()}
    operator = operators.get(o.corruption.partition(":")[0]) or "an operator of one's own"
    rows = [
        [
            "Data",
            f"{o.data}: {o.num_images:,} {origin}, {width}x{height} pixels, {channels} channel{'s'[: channels > 1]}",
        ],
        ["Corrupted by", f"{o.corruption}: {operator}"],
        ["Noise", noise_words(config)],
    ]
    if isinstance(config, Distill):
        rows.append(["Stage", f"2 of 2: a one-step generator, distilled from the teacher {config.teacher}"])
    else:
        rows.append(["Stage", "1 of 2: a teacher, that makes an image in many steps; distill makes it a generator"])
    size = f", {content.parameters:,} weights" if content.parameters else ""
    rows.append(["Network", f"{config.network.describe()}{size}"])
    trained = last(record.kimg)
    if math.isfinite(trained):
        done = f"{trained:,.4g} thousand images (kimg) of {t.kimg:,.4g} planned"
        took = f", in {duration(record.seconds)} on {t.device}" if math.isfinite(record.seconds) else ""
        rows.append(["Trained", f"{done}, {t.batch} a step{took}, {t.precision}"])
    else:
        rows.append(["Trained", "nothing logged yet"])
    return [[escape(cell) for cell in row] for row in rows]


def noise_words(config: RunConfig) -> str:
    o = config.observations
    if not o.sigma_obs:
        return "none"
    levels = f"{o.sigma_obs:g}" if o.sigma_obs_min is None else f"{o.sigma_obs_min:g} to {o.sigma_obs:g}"
    clean = f"; {o.clean_share:.0%} of the images have none" if o.clean_share else ""
    return (
        f"standard deviation {levels} where images span [-1, 1] ({o.sigma_obs * 127.5:.3g} of 255 grey levels){clean}"
    )


def duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"


def beside(content: Content) -> str:
    record = content.record
    parts = []
    if isinstance(content.observations, str):
        parts.append(missing(f"No observations to show: {content.observations}"))
    else:
        caption = "What the training saw: corrupted images, and nothing else."
        parts.append(figure(image(content.observations, "Grid of observations"), caption))
    if record.grids:
        kimg, path = record.grids[-1]
        caption = f"What it makes after {kimg} thousand images. Good ones look like your data would without corruption."
        if not isinstance(record.config, Distill) and not record.config.objective.conditional:
            caption = f"What the teacher makes after {kimg} thousand images. It undoes noise, but not blur or size."
        parts.append(figure(image_file(path, f"Grid of samples at {kimg} kimg"), caption))
    else:
        parts.append(missing("No sample grids (samples/KIMG.png)."))
    return section("Observations and samples", f'<div class="grid">{"".join(parts)}</div>')


def over_time(record: Record) -> str:
    if len(record.grids) < 2:
        return ""
    chosen = sorted({round(i) for i in np.linspace(0, len(record.grids) - 1, MOST_GRIDS)})
    grids = [record.grids[i] for i in chosen]
    files = shrunk([path for _, path in grids])
    stack = "".join(
        f'<img src="{uri}" alt="Samples at {kimg} kimg" data-kimg="{kimg}"{" hidden" if i + 1 < len(grids) else ""}>'
        for i, ((kimg, _), uri) in enumerate(zip(grids, files, strict=True))
    )
    slider = (
        f'<label hidden>Time <input type="range" min="0" max="{len(grids) - 1}" value="{len(grids) - 1}" '
        'aria-label="Point of the training"></label>'
    )
    caption = (
        "The same latents at every point, so that one can follow each image. Images should become clearer, "
        "and stay different from each other."
    )
    body = f'<div class="slider">{slider}<p><output>{grids[-1][0]}</output> thousand images (kimg)</p>{stack}</div>'
    return section("Samples over training", figure(body, caption) + f"<script>{SLIDER}</script>")


def shrunk(paths: list[Path]) -> list[str]:
    """Data URIs of pictures: the files as they are if they are small enough together, else JPEGs, or those smaller."""
    sizes = sum(path.stat().st_size for path in paths)
    if sizes <= GRID_BYTES:
        return [uri(path.read_bytes(), "png") for path in paths]
    for quality in JPEG_QUALITY:
        jpegs = [jpeg(path, quality) for path in paths]
        if sum(map(len, jpegs)) <= GRID_BYTES:
            break
    return [uri(data, "jpeg") for data in jpegs]


def jpeg(path: Path, quality: int) -> bytes:
    with Image.open(path) as picture:
        picture = picture.convert("RGB")
        if quality < JPEG_QUALITY[0]:
            picture.thumbnail((1024, 1024))
        file = io.BytesIO()
        picture.save(file, format="JPEG", quality=quality)
    return file.getvalue()


def neighbours_section(content: Content) -> str:
    title, n = "Nearest observations: does it repeat its data?", content.neighbours
    if isinstance(n, str):
        return section(title, missing(f"Not compared: {n}"))
    rows = []
    for i, ratio in enumerate(n.ratios):
        pair = [cell(n.samples[i], f"Sample {i + 1}"), cell(n.corrupted[i], f"Sample {i + 1}, corrupted")]
        observations = [cell(x, f"Observation {k + 1}-nearest to sample {i + 1}") for k, x in enumerate(n.nearest[i])]
        rows.append([*pair, *observations, f"{ratio:.2f}"])
    heads = ["sample", "as data", "nearest", *[f"{k}." for k in range(2, n.nearest.shape[1] + 1)], "distance"]
    o = content.record.config.observations
    limits = ""
    if o.sigma_obs:
        limits += " Noise hides small differences, and the more the stronger it is."
    if o.corruption != "identity":
        limits += " What the corruption removes cannot be compared, and differing masks count as a difference."
    caption = (
        f"Samples of {content.record.sampled}, what they would look like as observations, and the real observations "
        f"nearest to those, of {n.compared:,} compared. The distance is in units of the usual distance of an "
        f"observation to its nearest other one: about 1 is normal, far below 1 is a copy. Of {n.count} samples, "
        f"{n.nearer_share:.1%} are nearer than 99 % of the observations are to any other (1 % is normal).{limits}"
    )
    return section(title, figure(table(rows, heads, kind="pictures"), caption))


def cell(x: Tensor, alt: str) -> str:
    return image(Image.fromarray(pixels(x)), alt)


def pixels(x: Tensor) -> np.ndarray:
    """[C, H, W] -> [H, W, 3] uint8."""
    return to_rgb(x[None].cpu())[0].permute(1, 2, 0).numpy()


def paths_section(content: Content) -> str:
    title = "From image to image"
    if isinstance(content.paths, str):
        return section(title, missing(f"Not drawn: {content.paths}"))
    caption = (
        f"Each row: {COLUMNS} images on the way from one latent (left) to another (right). Gradual changes through "
        "images that are themselves plausible are a sign that it learned more than a list of images."
    )
    return section(title, figure(image(content.paths, "Rows of images between pairs"), caption))


def throughput_words(record: Record) -> str:
    if not math.isfinite(record.seconds):
        return missing("The run has no log (log.jsonl).")
    rate = np.nanmedian(record.column("images_per_sec")) if len(record.log) else math.nan
    words = f"Training took {duration(record.seconds)}"
    return f"<p>{words}, {rate:,.4g} images per second (median).</p>" if math.isfinite(rate) else f"<p>{words}.</p>"


def evaluations(measurements: Iterable[Measurement]) -> str:
    heads = [
        "checkpoint",
        "metric",
        "value",
        "floor",
        "samples",
        "reference",
        "real images",
        "features",
        "seed",
        "versions",
    ]
    rows = []
    for m in measurements:
        line, error = m.line, f" ± {m.error:.2g}" if math.isfinite(m.error) else ""
        versions = line.get("versions")
        rows.append(
            [
                m.checkpoint or rounded(m.kimg),
                m.metric,
                f"{m.value:.5g}{error}",
                rounded(m.floor, 5),
                rounded(m.num),
                hashed(line, "reference"),
                rounded(number(line.get("num_reference"))),
                hashed(line, "features"),
                rounded(number(line.get("seed"))),
                ", ".join(f"{k} {v}" for k, v in versions.items()) if isinstance(versions, dict) else "",
            ]
        )
    escaped = [[escape(cell) for cell in row] for row in rows]
    return table(escaped, heads) if rows else missing("None.")


def rounded(value: float, digits: int = 10) -> str:
    return f"{value:.{digits}g}" if math.isfinite(value) else "–"


def hashed(line: dict, key: str) -> str:
    """What was used, and the beginning of its hash."""
    name, digest = str(line.get(key) or "–"), str(line.get(f"{key}_hash") or "")
    return f"{name} [{digest[:12]}]" if digest else name


HOW_TO_READ = """<details>
<summary>How to read this page</summary>
<p>There are no clean images to compare with. So the model's images are corrupted as the data was, by the same operator
and noise, and this crowd of made-up observations is compared with the real ones (“proximal” distance). If the two
crowds cannot be told apart, the images behind them are likely alike. It cannot see what the corruption removes in every
image.</p>
<p>A distance depends on the number of samples and on the features it is computed from: compare equal ones only. The
“floor” is the distance that as many real images would have; 0 cannot be reached.</p>
<p>A <em>teacher</em> learns from the observations to remove noise, step by step. A <em>generator</em> is taught to make
in one step images that the teacher finds plausible once they are corrupted; a second network, the <em>fake score</em>,
follows the generator to tell how its images differ from the teacher's. σ (sigma) is a noise level, where images span
[-1, 1]. kimg is a thousand images seen (teacher) or made (generator) in training.</p>
<p>The verdict rests on the distance measured most often, a proximal one if there is one. Always look at the images,
too.</p>
</details>"""


def commands(config: RunConfig, run: str) -> str:
    """The settings, and how to go on."""
    quoted = shlex.quote(run)
    lines = [f"rsd-fast {config.kind} --out {quoted} --resume  # train on, with a larger --kimg"]
    if not isinstance(config, Distill):
        lines.append(f"rsd-fast distill --teacher {quoted} --out NEW_RUN")
    lines += [f"rsd-fast sample --run {quoted} --num 64 --out samples", f"rsd-fast report {quoted}"]
    settings = json.dumps(dataclasses.asdict(config), indent=2)
    return (
        "<details>\n<summary>Commands and settings</summary>\n"
        f"<pre>{escape(chr(10).join(lines))}</pre>\n<pre>{escape(settings)}</pre>\n</details>"
    )


def figure_grid(drawn: list[Drawn]) -> str:
    return f'<div class="grid">{"".join(figure(d.svg, d.caption) for d in drawn)}</div>' if drawn else ""


def figure(body: str, caption: str) -> str:
    return f'<figure><div class="card">{body}</div><figcaption>{words(caption)}</figcaption></figure>\n'


def table(rows: list[list[str]], heads: list[str] | None = None, kind: str = "") -> str:
    """A table of cells that are HTML; without heads the first column is one. It scrolls where it is too wide."""
    head = f"<thead><tr>{''.join(f'<th>{h}</th>' for h in heads)}</tr></thead>" if heads else ""
    first = "td" if head else "th"
    body = "".join(
        f"<tr><{first}>{row[0]}</{first}>{''.join(f'<td>{cell}</td>' for cell in row[1:])}</tr>" for row in rows
    )
    return f'<div class="scroll" tabindex="0"><table class="{kind}">{head}<tbody>{body}</tbody></table></div>'


def image(picture: Image.Image, alt: str) -> str:
    file = io.BytesIO()
    picture.save(file, format="PNG", optimize=True)
    return f'<img src="{uri(file.getvalue(), "png")}" alt="{escape(alt)}">'


def image_file(path: Path, alt: str) -> str:
    return f'<img src="{shrunk([path])[0]}" alt="{escape(alt)}">'


def uri(data: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
