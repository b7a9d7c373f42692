"""The report of a run: verdicts, parts, what it makes of broken and old runs, and (slow) how a browser shows it."""

import json
import math
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

import rsd_fast
from rsd_fast.build import build_denoiser
from rsd_fast.config import Monitoring, to_json
from rsd_fast.corruptions import Identity
from rsd_fast.errors import FieldError
from rsd_fast.reporting import from_model, write_report
from rsd_fast.reporting.reading import read_record
from rsd_fast.reporting.verdict import judge, lagging_bands, signs
from rsd_fast.run_dataset import open_observations
from rsd_fast.runs import OWN_NAMES, Run, RunError, save_model
from rsd_fast.sampler import Sampler
from tests import generators, tiny
from tests.command_line import run_in_process

EDGES = [0, 0.1, 0.3, 1, 3, 10, 80]
BANDS = len(EDGES) - 1
METRIC = {
    "metric": "proximal-pixel-fd",
    "standard_error": 0.01,
    "floor": 1.0,
    "num": 64,
    "reference": "digits",
    "num_reference": 1797,
    "reference_hash": "abcdef0123456789",
    "features": "pixels",
    "seed": 0,
    "versions": {"torch": "2.9"},
}
SECTIONS = [
    "What was trained",
    "Observations and samples",
    "Samples over training",
    "Distances over training",
    "Losses",
    "Signals of convergence",
    "Nearest observations",
    "From image to image",
    "Speed and memory",
    "All evaluations",
    "How to read this page",
    "Commands and settings",
]


def write_lines(path, lines):
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def log_line(step, **changes):
    teacher = [10.0 + band for band in range(BANDS)]
    by_sigma = {
        "edges": EDGES,
        "fake_loss": [None, None, 5.0, 6.0, 7.0, 8.0],
        "generator_fisher": [2.0 / step] * BANDS,
        "generator_teacher_loss": teacher,
        "generator_fake_loss": [loss * 0.9 for loss in teacher],
    }
    line = {"kimg": 0.016 * step, "step": step, "fake_loss": 20.0 + step, "generator_loss": -1.0 / step}
    line |= {"generator_teacher_loss": 11.0, "generator_fake_loss": 10.0}
    line |= {"fake_grad_norm": 2.0, "generator_grad_norm": 30.0, "generator_diversity": 0.5, "lr": 1e-3}
    line |= {"images_per_sec": 100.0 + step, "seconds": 60.0 * step, "peak_memory_gb": 0.5, "by_sigma": by_sigma}
    return line | changes


def measured(*values, step=0.016, **changes):
    return [
        METRIC | {"value": value, "kimg": i * step, "checkpoint": f"{i * step:010.3f}"} | changes
        for i, value in enumerate(values)
    ]


def make_run(path, config=None, *, log=None, metrics=(), grids=(0.0, 0.032, 0.064)):
    """A run's directory as training leaves it, its network with weights that matter."""
    config = config or generators.config()
    run = Run(path)
    run.samples.mkdir(parents=True)
    torch.manual_seed(0)
    network = build_denoiser(config)
    for parameter in network.parameters():
        parameter.data += torch.randn_like(parameter) * 0.1
    for kimg in grids:
        folder = path / "checkpoints" / f"{kimg:010.3f}"
        folder.mkdir(parents=True)
        save_model(folder / "model.safetensors", network.state_dict(), config, kimg)
        picture = np.random.default_rng(0).integers(0, 256, (60, 60, 3), dtype=np.uint8)
        Image.fromarray(picture).save(run.samples / f"{folder.name}.png")
        (path / "latest").write_text(folder.name + "\n")
    run.write_config(config)
    if log is not None:
        write_lines(run.log_path, log)
    if metrics:
        write_lines(run.metrics_path, metrics)
    return path


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished distillation; copied by tests that change it."""
    path = tmp_path_factory.mktemp("report") / "run"
    return make_run(path, log=[log_line(step) for step in range(1, 5)], metrics=measured(100.0, 10.0, 3.0, 2.9, 2.9))


@pytest.fixture
def own(run, tmp_path):
    return shutil.copytree(run, tmp_path / "run")


def page(run, **options):
    return write_report(run, **options).path.read_text(encoding="utf-8")


def text_of(html):
    """What a reader sees, in one line."""
    html = re.sub("</?code>", "", html)
    visible = re.sub(r"<(style|script|svg)\b.*?</\1>|<[^>]+>", " ", html, flags=re.DOTALL)
    return " ".join(visible.replace("&#x27;", "'").replace("&gt;", ">").split())


class Tags(HTMLParser):
    """Every start tag, and whether all that opened is closed in order."""

    VOID = ("meta", "img", "input", "br", "path", "use", "rect")

    def __init__(self, html):
        super().__init__()
        self.tags, self.open = [], []
        self.feed(html)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag


# The verdict


@pytest.mark.parametrize(
    ("values", "changes", "state"),
    [
        ((100, 10, 3, 2.9, 2.9), {}, "worked"),
        ((100, 60, 40, 20, 10), {}, "improving"),
        ((100, 95, 90, 84, 77), {}, "improving"),  # far from done, but on its way
        ((100, 10, 3, 2.9, 2.8), {}, "worked"),  # by 4 % in the last quarter
        ((100, 1.2, 1.0, 0.9, 0.8), {}, "worked"),  # below the floor chance decides
        ((100, 50, 2.0), {}, "improving"),  # since the half of the run
        ((100, 2.0), {}, "worked"),  # but when, nobody can say
        ((100, 10, 3, 5, 9), {}, "worse"),
        ((100, 10, 3, 3.1, 3.2), {}, "worked"),  # as much as neighbours differ
        ((100, 10, 3, 3.5, 3.6), {"standard_error": 0.5}, "worked"),  # within the error
        ((100, 10, 3, math.nan), {}, "worse"),
        ((100, 99, 98, 98, 97), {}, "failed"),
        ((100, 120, 140, 150, 160), {}, "failed"),
        ((1.5, 1.4, 1.45, 1.4, 1.4), {}, "worked"),  # at the floor from the beginning
        ((100, 40, 30, 30, 30), {"floor": None, "standard_error": None}, "worked"),
        ((100, 99, 98, 98, 98), {"floor": None, "standard_error": None}, "failed"),
        ((math.nan, math.inf), {}, "failed"),
        ((math.nan, 100, 3, 3), {}, "worked"),
        ((50,), {}, "unknown"),
        ((1.5,), {}, "worked"),
        ((100, 3, 3), {"metric": "fid"}, "worked"),
        ((0.1, 0.5, 0.9), {"metric": "precision"}, "unknown"),  # of which more is better
        ((), {}, "unknown"),
    ],
)
def test_the_verdict_of_measurements(own, values, changes, state):
    write_lines(own / "metrics.jsonl", measured(*values, **changes))
    verdict = judge(read_record(own))
    assert verdict.state == state
    assert all(math.isfinite(value) for value in verdict.distances.values())
    if not values:
        assert verdict.command == f"rsd-fast evaluate --run {own} --metrics proximal-pixel-fd --num 1000"


@pytest.mark.parametrize("values", [(100, 10, 3, 2.9, 2.9), (100, 10, 3, math.nan), (math.nan,), ()])
def test_the_page_shows_the_verdict(own, values):
    write_lines(own / "metrics.jsonl", measured(*values))
    verdict, html = judge(read_record(own)), page(own)
    assert f'class="verdict {verdict.state}"' in html
    assert all(part in text_of(html) for part in (verdict.headline, verdict.text, verdict.advice))
    assert ("Distances: " in html) == (len(verdict.distances) > 1)


def test_the_verdict_says_the_numbers_and_what_to_use(own):
    verdict = judge(read_record(own))
    assert verdict.text == (
        "Corrupted the way your data was, its images are at distance 2.9 from your data; it started at 100; as many "
        "real images would be at 1 (proximal-pixel-fd, lower is better)."
    )
    assert verdict.best.checkpoint == "000000.048"
    assert verdict.command is None  # that checkpoint is not there
    (own / "best").write_text("000000.064\n")
    verdict = judge(read_record(own))
    assert verdict.command == f"rsd-fast sample --run {own}/checkpoints/000000.064 --num 64 --out samples"
    (own / "best").write_text("gone\n")
    assert judge(read_record(own)).command is None
    write_lines(own / "metrics.jsonl", measured(9.0, 5.0, metric="fid"))
    assert judge(read_record(own)).text.startswith("Its images are at distance 5 from the reference images")


def test_the_headline_tells_how_far_it_came(own):
    for values, headline in [
        ((100, 10, 3, 2.9, 2.9), "Worked, as far as this distance can tell."),
        ((100, 10, 3, 2.9, 1.0), "Worked: corrupted alike, its images cannot be told from real ones by this distance."),
        ((100, 10, 3, 3, 2.0), "Worked, and is still improving: train longer."),
        ((100, 95, 90, 84, 77), "Still improving: train longer."),
        ((100, 10, 3, 5, 9), "Got worse after 0.032 kimg: use the best checkpoint, not the last."),
    ]:
        write_lines(own / "metrics.jsonl", measured(*values))
        assert judge(read_record(own)).headline == headline


def test_the_metric_measured_most_often_counts_and_a_proximal_one_first(own):
    many = measured(9, 8, 7, 6, metric="fid")
    twice = measured(100, 50, metric="proximal-fid")
    write_lines(own / "metrics.jsonl", many + twice + measured(100, 20, 10))
    assert judge(read_record(own)).best.value == 10
    write_lines(own / "metrics.jsonl", many + twice + measured(100, 20))
    assert judge(read_record(own)).best.value == 50  # of features, where both were measured as often
    config = read_record(own).config
    Run(own).write_config(replace(config, monitoring=Monitoring(eval_kimg=1.0)))
    assert judge(read_record(own)).best.value == 20  # of the one that chose the run's best
    write_lines(own / "metrics.jsonl", measured(100, 50) + measured(30, num=2000) + measured(100, 40))
    verdict = judge(read_record(own))
    assert [m.value for m in verdict.series] == [100, 40]  # of one number of samples, and the later of two


# Signs of trouble


def found(path, **options):
    return {sign.trouble: sign.text for sign in signs(read_record(path), **options) if sign.trouble}.get(True)


def test_signs_of_trouble(own):
    log = [log_line(step) for step in range(1, 9)]
    write_lines(own / "log.jsonl", log)
    assert found(own) is None and found(own, nearer_share=0.01) is None
    assert "repeat its data" in found(own, nearer_share=0.2)
    write_lines(own / "log.jsonl", [*log, log_line(9, generator_diversity=0.2)])
    assert "collapse" in found(own)
    write_lines(own / "log.jsonl", [*log, log_line(9, fake_loss=math.nan)])
    assert "Not finite at times: fake_loss." in found(own)
    write_lines(own / "log.jsonl", [*log, log_line(9, fake_loss=math.inf, generator_loss=None)])
    assert found(own).startswith("Not finite at times: fake_loss. ")  # what is not there is no trouble
    for line in log:
        line["by_sigma"]["generator_fake_loss"] = [loss * 1.1 for loss in line["by_sigma"]["generator_teacher_loss"]]
    write_lines(own / "log.jsonl", log)
    assert "raise --fake-lr" in found(own)
    assert lagging_bands(read_record(own)) == (4, 4)  # those above the data's noise, of 0.5
    for line in log[:6]:
        line["by_sigma"]["generator_fake_loss"] = [1e9] * BANDS
    for line in log[6:]:
        line["by_sigma"]["generator_fake_loss"] = [1.0] * BANDS
    write_lines(own / "log.jsonl", log)
    assert lagging_bands(read_record(own)) == (0, 4)  # of late


# The page


def test_every_section_is_there(run):
    html = page(run)
    text = text_of(html)
    for title in SECTIONS:
        assert title in text
    for words in (
        "1,797 clean images, corrupted once each by rsd-fast (--simulate), 8x8 pixels, 1 channel",
        f"identity: {Identity.about}",
        "standard deviation 0.5 where images span [-1, 1] (63.8 of 255 grey levels)",
        "a one-step generator, distilled from the teacher",
        "0.064 thousand images (kimg) of 0.064 planned, 16 a step, in 4 min 0 s on cpu, fp32",
        "No sign of trouble",
        "abcdef012345",
        "torch 2.9",
        "2.9 ± 0.01",
    ):
        assert words in text, words
    assert 'class="missing"' not in html
    assert html.count("<figure>") == html.count("<figcaption>") > 12


def test_the_page_is_well_formed_and_needs_no_other_file(run):
    html = page(run)
    tags = Tags(html).tags
    for tag, attributes in tags:
        for name in ("src", "href", "xlink:href"):
            assert attributes.get(name, "#").startswith(("#", "data:")), (tag, attributes[name])
        if tag == "img":
            assert attributes["alt"]
    assert "@import" not in html and not re.search(r"url\((?!#)", html)
    ids = [attributes["id"] for _, attributes in tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    used = set(re.findall(r"url\(#([^)]+)\)", html)) | set(re.findall(r'href="#([^"]+)"', html))
    assert used <= set(ids)
    assert ("html", {"lang": "en"}) in tags and any(a.get("name") == "viewport" for _, a in tags)


def test_names_cannot_write_into_the_page(tmp_path):
    nasty = "<script>alert(1)</script>&\"'$x_"
    config = generators.config()
    config = replace(config, teacher=nasty, observations=tiny.observations(data=nasty))
    lines = measured(3.0, 2.0, reference=nasty, features=nasty, checkpoint=nasty, versions={nasty: nasty})
    path = make_run(tmp_path / "a<b>&'c", config, log=[log_line(1)], metrics=lines)
    html = page(path, png=tmp_path / "png")
    assert "<script>alert" not in html and "a<b>" not in html
    Tags(html)
    assert "a source is" in text_of(html)  # why its data cannot be opened
    assert list((tmp_path / "png").glob("metric-*.png"))


def test_the_same_run_and_seed_give_the_same_bytes(run, tmp_path):
    first, again = (page(run, out=tmp_path / f"{i}.html", png=tmp_path / f"png{i}") for i in range(2))
    assert first == again != page(run, out=tmp_path / "other.html", seed=1)
    pictures = {path.name: path.read_bytes() for path in (tmp_path / "png0").iterdir()}
    assert pictures == {path.name: path.read_bytes() for path in (tmp_path / "png1").iterdir()}
    assert {
        "verdict.png",
        "metric-proximal-pixel-fd-pixels.png",
        "fake_loss.png",
        "generator_loss.png",
        "both-scores.png",
        "fisher.png",
        "fake-score-lead.png",
        "diversity.png",
        "images-per-sec.png",
        "neighbours.png",
        "interpolation.png",
    } <= pictures.keys()
    for name in pictures:
        with Image.open(tmp_path / "png0" / name) as picture:
            assert picture.width > 200


@pytest.mark.parametrize("kind", ["pretrain", "ncsnpp", "mask", "fourier"])
def test_every_kind_of_run(tmp_path, kind):
    config = tiny.pretrain() if kind == "pretrain" else generators.config(kind)
    html = page(make_run(tmp_path / "run", config))
    text = text_of(html)
    if kind == "pretrain":
        assert "1 of 2: a teacher" in text and "only a one-step generator makes an image of one latent" in text
        assert "rsd-fast distill --teacher" in text
    else:
        assert "9 images on the way" in text
    if kind == "fourier":
        assert "undersampled k-space (MRI)" in text
    assert "Not compared" not in text or kind == "fourier"


def test_what_a_run_lacks_is_said(tmp_path):
    path = tmp_path / "run"
    path.mkdir()
    (path / "config.json").write_text(to_json(tiny.pretrain(observations=tiny.observations(data="gone.npz"))))
    text = text_of(page(path))
    for words in (
        "Not known yet",
        "nothing logged yet",
        "No observations to show: gone.npz: no such file",
        "No sample grids",
        "Never measured",
        "The run has no log",
        "Not compared: the run has no checkpoint",
        "Not drawn: the run has no checkpoint",
        "All evaluations None.",
    ):
        assert words in text, words
    assert "Samples over training" not in text


def test_old_and_broken_logs(own):
    old = [{k: v for k, v in log_line(s).items() if k not in ("by_sigma", "generator_diversity")} for s in range(1, 5)]
    broken = [
        '{"kimg": 0.08, "fake_loss": ',
        "[1]",
        "null",
        "",
        '{"kimg": null}',
        '{"step": 3}',
        '{"kimg": 0.08, "fake_loss": NaN, "generator_loss": Infinity, "seconds": "long", "by_sigma": 3}',
        '{"kimg": 0.09, "by_sigma": {"edges": [0, 1], "generator_fisher": [1, 2, 3], "fake_loss": "x"}}',
    ]
    (own / "log.jsonl").write_text("\n".join([*map(json.dumps, old), *broken]) + "\n")
    with (own / "metrics.jsonl").open("a") as file:
        file.write('{"metric": 3}\n{"metric": "fid", "value": 2.5}\n{"metric": "kid", "value": null, "kimg": 1}\n{"me')
    with (own / "log.jsonl").open("ab") as file:
        file.write(b'{"kimg": 1, "\xff')
    (own / "samples" / "mine.png").write_bytes(b"no picture")
    html = page(own)
    text = text_of(html)
    assert "fake loss over training" in html and "by noise level" not in html
    assert "0.09 thousand images (kimg)" in text and "Not finite at times: fake_loss, generator_loss" in text
    assert " fid 2.5 " in text


def test_a_broken_checkpoint_costs_its_sections_alone(own):
    (own / "best").write_text("000000.064\n")
    (own / "checkpoints" / "000000.064" / "model.safetensors").write_bytes(b"cut short")
    assert "Not compared: " in text_of(page(own)) and "not a readable safetensors file" in text_of(page(own))


def test_a_long_run_makes_no_large_page(own):
    write_lines(own / "log.jsonl", [log_line(step) for step in range(1, 3001)])
    for i in range(100):
        noise = np.random.default_rng(i).integers(0, 256, (330, 330, 3), dtype=np.uint8)
        Image.fromarray(noise).save(own / "samples" / f"{i + 1:06d}.png")
    html = page(own)
    assert html.count("data-kimg") == 24
    assert 'data-kimg="0"' in html and "<output>100</output>" in html
    assert html.count("data:image/jpeg") >= 24  # 24 x 330 kB as they are
    assert len(html) < 10 * 2**20
    assert max(len(d) for d in re.findall(r' d="([^"]+)"', html)) < 30_000


def test_the_teachers_own_distance_is_drawn_beside(tmp_path, own):
    teacher = make_run(tmp_path / "teacher", tiny.pretrain(), metrics=measured(100.0, 5.0, 4.0))
    config = read_record(own).config
    file = teacher / "checkpoints" / "000000.032" / "model.safetensors"
    Run(own).write_config(replace(config, teacher=str(file)))
    assert [m.value for m in read_record(own).of_teacher] == [4.0]
    html = page(own)
    assert "it started at 100; its teacher is at 4; as many" in text_of(html)
    assert "last 2.9, its teacher 4, real images 1" in html  # bars
    assert "teacher 4<" in html  # a line beside the curve
    write_lines(own / "metrics.jsonl", measured(100.0, 3.0, num=32))  # another number: not to be compared
    assert "its teacher" not in judge(read_record(own)).text


# What is drawn


def test_a_copied_observation_is_found():
    """The neighbours of data that repeats itself are itself, and those of another law are not nearer than usual."""
    images = torch.randn(40, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    distances, index = from_model.nearest(images[:5] + 1e-4, images, 3, chunk=7)
    assert index[:, 0].tolist() == [0, 1, 2, 3, 4] and (distances[:, 0] < 0.01).all()
    expected = torch.cdist(images[:5].flatten(1), images.flatten(1)).sort(dim=1)
    assert torch.equal(index[:, 1:], expected.indices[:, 1:3])


class Copying:
    """Stands in for a sampler that makes the data's own images, or noise."""

    def __init__(self, run, images):
        sampler = Sampler(run)
        self.config, self.denoiser, self.device = sampler.config, sampler.denoiser, sampler.device
        self.one_step, self.shape, self.steps, self.images = True, sampler.shape, 18, images

    def batches(self, num, seed, batch):
        yield self.images[:num]


@pytest.mark.parametrize("sigma_obs", [0.0, 0.2])
def test_the_share_of_copies(run, sigma_obs):
    """Copies are nearer than observations are to each other; unseen images of the data's own law are not."""
    dataset = open_observations(tiny.observations(sigma_obs=sigma_obs))
    clean = dataset.clean(torch.arange(1797))
    copied = from_model.neighbours(Copying(run, clean[:512]), dataset, 0)
    assert copied.nearer_share > (0.99 if not sigma_obs else 0.3)
    assert copied.compared == 1797 and copied.count == 512 and copied.share == copied.nearer_share
    assert replace(copied, count=8).share is None
    assert np.median(copied.ratios) < 0.85
    half = open_observations(tiny.observations(sigma_obs=sigma_obs))
    half.source = replace(half.source, images=half.source.images[:1200], labels=half.source.labels[:1200])
    unseen = from_model.neighbours(Copying(run, clean[1200:]), half, 0)
    assert unseen.nearer_share < 0.05 and 0.8 < np.median(unseen.ratios) < 1.5


def test_paths_begin_and_end_at_samples_of_the_seed(run):
    sampler = Sampler(run)
    paths = from_model.paths(sampler, seed=3)
    assert paths.shape == (from_model.ROWS * from_model.COLUMNS, 1, 8, 8)
    samples = sampler.draw(torch.arange(2 * from_model.ROWS), 3)
    torch.testing.assert_close(paths[:: from_model.COLUMNS], samples[::2], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(paths[from_model.COLUMNS - 1 :: from_model.COLUMNS], samples[1::2], rtol=1e-4, atol=1e-4)


def test_latents_in_between_are_as_long():
    a, b = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    lengths = from_model.spherical(a, b, 9).flatten(1).norm(dim=1)
    assert (lengths / a.norm() - 1).abs().max() < 0.1


def test_fewer_samples_of_what_costs_more(run, tmp_path):
    assert from_model.affordable(Sampler(run)) == from_model.SAMPLES
    teacher = Sampler(make_run(tmp_path / "teacher", tiny.pretrain()))
    assert from_model.SHOWN <= from_model.affordable(teacher) <= from_model.SAMPLES


# The command


def test_the_command(own, tmp_path, capsys):
    code, out, err = run_in_process(capsys, "report", own, "--device", "cpu", "--png", tmp_path / "png", "--seed", 1)
    assert (code, err) == (0, "") and out.splitlines() == [judge(read_record(own)).headline, str(own / "report.html")]
    assert (tmp_path / "png" / "verdict.png").is_file()
    assert "report.html" in OWN_NAMES and not list(own.glob(".tmp-*"))
    code, out, _ = run_in_process(capsys, "report", own, "--out", tmp_path / "new" / "page.html")
    assert code == 0 and (tmp_path / "new" / "page.html").is_file()


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["gone"], 1, "gone: no such run"),
        ([], 2, "Missing argument 'RUN'"),
        (["{empty}"], 1, "not a run (it has no config.json)"),
        (["{run}", "--out", "page.pdf"], 2, "--out: expected FILE.html, got page.pdf"),
        (["{run}", "--out", "{folder}"], 2, "folder.html is a folder"),
        (["{broken}"], 1, "config.json: not JSON"),
    ],
)
def test_errors_are_one_line(run, tmp_path, capsys, arguments, code, message):
    for name in ("empty", "folder.html", "broken"):
        (tmp_path / name).mkdir()
    (tmp_path / "broken" / "config.json").write_text("{")
    places = {
        "run": run,
        "empty": tmp_path / "empty",
        "folder": tmp_path / "folder.html",
        "broken": tmp_path / "broken",
    }
    found, _, err = run_in_process(capsys, "report", *[a.format(**places) for a in arguments])
    assert found == code and message in err and len(err.strip().splitlines()) == 1


def test_python_writes_the_same_page(own, tmp_path):
    run = SimpleNamespace(path=own)  # as what `rsd_fast.distill` returns
    written = rsd_fast.report(run, out=tmp_path / "page.html", device="cpu")
    assert written.headline == judge(read_record(own)).headline
    assert written.path.read_text(encoding="utf-8") == page(own)
    with pytest.raises(FieldError, match=r"out: expected FILE\.html, got page\.pdf"):
        rsd_fast.report(own, out="page.pdf", device="cpu")
    with pytest.raises(RunError, match="no such run"):
        rsd_fast.report(tmp_path / "gone", device="cpu")


# A browser

CHROMIUM = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--virtual-time-budget=2000"),
]
PROBE = """<script>addEventListener("load", () => {
  const page = document.documentElement, input = document.querySelector("input");
  const before = document.querySelector("output").value;
  input.value = 0;
  input.dispatchEvent(new Event("input"));
  const shown = [...document.querySelectorAll(".slider img")].filter((image) => image.checkVisibility());
  const found = [innerWidth, page.scrollWidth, page.clientWidth, before, shown.length, shown[0].dataset.kimg];
  parent.postMessage(found.join(" "), "*");
});</script>"""
FRAME = """<!DOCTYPE html><body><script>
addEventListener("message", (event) => {{ document.body.dataset.found = event.data; }});
</script><iframe src="page.html" style="width: {width}px; height: 900px; border: 0"></iframe></body>"""


@pytest.mark.slow
def test_a_browser_shows_it(run, tmp_path):
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("needs chromium")
    html = page(run)
    (tmp_path / "page.html").write_text(html.replace("</body>", PROBE + "</body>"), encoding="utf-8")

    def browse(*arguments):
        command = [
            chromium,
            *CHROMIUM,
            f"--user-data-dir={tmp_path / 'profile'}",
            "--enable-logging=stderr",
            *arguments,
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
        assert "CONSOLE" not in done.stderr
        return done.stdout

    for width in (375, 1280):  # in a frame, for windows are never as narrow as a phone
        (tmp_path / "frame.html").write_text(FRAME.format(width=width))
        dom = browse("--window-size=1400,1000", "--dump-dom", (tmp_path / "frame.html").as_uri())
        found = re.search(r'data-found="([^"]+)"', dom)
        assert found, dom[:2000]
        inner, scrolled, client, before, shown, kimg = found[1].split()
        assert int(inner) == width and int(scrolled) <= int(client)
        assert (before, shown, kimg) == ("0.064", "1", "0")
    pdf = tmp_path / "page.pdf"
    browse(f"--print-to-pdf={pdf}", (run / "report.html").as_uri())
    assert pdf.read_bytes().startswith(b"%PDF") and pdf.stat().st_size > 20_000
