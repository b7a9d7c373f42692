"""Options that several commands share, as click decorators. A default of None is filled in from the preset."""

import math
from collections.abc import Callable
from typing import Any, TypeVar

import click

from .source_option import SourceOption

Command = TypeVar("Command", bound=Callable[..., Any])
Decorator = Callable[[Command], Command]


def join(*decorators: Decorator) -> Decorator:
    def decorate(command: Command) -> Command:
        for decorator in reversed(decorators):
            command = decorator(command)
        return command

    return decorate


class Integers(click.ParamType):
    """Comma-separated integers, e.g. 1,2,2; `none` for no element."""

    name = "integers"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        if isinstance(value, tuple):
            return value
        if value.strip().lower() == "none":
            return ()
        try:
            return tuple(int(item) for item in value.split(","))
        except ValueError:
            self.fail(f"expected integers with commas between, e.g. 1,2,2, got '{value}'", param, ctx)


class Number(click.FloatRange):
    """A finite number in a range; click's own lets nan and inf through."""

    name = "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number", param, ctx)
        return number


NUMBER = Number()
POSITIVE = Number(min=0, min_open=True)
AT_LEAST_0 = Number(min=0)
FRACTION = Number(min=0, max=1, max_open=True)
COUNT = click.IntRange(min=1)
SEED = click.IntRange(min=0, max=2**64 - 1)

debug = click.option("--debug", is_flag=True, expose_value=False, help="Show the traceback of an error.")
json_flag = click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
device = click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda"]),
    default="auto",
    show_default=True,
    help="Where to compute.",
)
seed = click.option("--seed", type=SEED, default=0, show_default=True, help="Of all random numbers.")
# Every command takes --seed and --device; those that have no use for them, hidden.
unused_seed = click.option("--seed", type=SEED, expose_value=False, hidden=True)
of_every_command = join(
    click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), expose_value=False, hidden=True),
    unused_seed,
)
precision = click.option(
    "--precision",
    type=click.Choice(["auto", "fp32", "tf32", "bf16"]),
    help="Of the networks; weights, losses and averages stay float32. auto: bf16 where the hardware has it.  "
    "[default: auto]",
)
compile_network = click.option(
    "--compile/--no-compile", default=False, help="torch.compile the network, which takes minutes.  [default: no]"
)
cuda_graphs = click.option(
    "--cuda-graphs/--no-cuda-graphs",
    default=False,
    help="Replay a batch's kernels from a CUDA graph rather than launch them one by one.  [default: no]",
)
batch_out = click.option("--batch", type=COUNT, default=256, show_default=True, help="Images a forward pass.")
num = click.option("--num", type=COUNT, required=True, help="Number of images.")
heun_steps = click.option(
    "--steps",
    type=COUNT,
    default=18,
    show_default=True,
    help="Heun steps of a teacher (2 steps - 1 evaluations).",
)
truncate = click.option(
    "--truncate", is_flag=True, help="Stop a teacher's sampling at sigma_obs, below which it was not trained."
)


class NoiseLevel(click.ParamType):
    """A number; two with a colon between, the least and the greatest of a range; `data`; or `estimate`."""

    name = "noise level"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str) or value in ("data", "estimate"):
            return value
        levels = [AT_LEAST_0.convert(part, param, ctx) for part in value.split(":")]
        if len(levels) > 2 or levels != sorted(levels):
            self.fail(f"expected a number, LEAST:GREATEST, data or estimate, got '{value}'", param, ctx)
        return levels[0] if len(levels) == 1 else tuple(levels)


class MicroBatch(click.ParamType):
    """A number of images, or `auto`."""

    name = "micro-batch"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value == "auto" or isinstance(value, int):
            return value
        if not value.isdecimal() or int(value) < 1:
            self.fail(f"expected a number of images or auto, got '{value}'", param, ctx)
        return int(value)


class Names(click.ParamType):
    """Comma-separated names."""

    name = "names"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        return value if isinstance(value, tuple) else tuple(n.strip() for n in value.split(",") if n.strip())


clean_share = click.option(
    "--clean-share", type=FRACTION, metavar="P", help="Share of the images that hold no noise.  [default: 0]"
)
SPEC_HELP = (
    "A: identity, gaussian_blur:size=9,std=2, motion_blur:size=9,angle=30, random_mask:missing=0.6, box_mask:size=8, "
    "downsample:factor=2, fourier:acceleration=4,acs_lines=20, compose:SPEC+SPEC, or module.name of your own."
)

observation = join(
    click.option("--data", cls=SourceOption, metavar="SRC", help="Source: {sources}."),
    click.option("--simulate", is_flag=True, default=None, help="SRC holds clean images: corrupt each once."),
    click.option(
        "--corruption",
        metavar="SPEC",
        help=f"How the observations came about. {SPEC_HELP}  [default: identity]",
    ),
    click.option(
        "--sigma-obs",
        type=NoiseLevel(),
        metavar="S",
        help="Standard deviation of the observations' noise, images in [-1, 1]; 0 for none; LEAST:GREATEST where it "
        "differs from image to image; data: `sigma_obs` of an npz says; estimate: from the observations.",
    ),
    clean_share,
    click.option(
        "--augment",
        type=click.Choice(["none", "hflip", "flips", "all"]),
        help="Move observations and masks: mirrored left to right, in both directions, or with quarter turns, too; "
        "where A and the image's shape permit.  [default: none]",
    ),
)

run = join(
    click.option("--out", metavar="RUN", required=True, type=click.Path(), help="Folder of the run."),
    click.option("--resume", is_flag=True, help="Go on with the run in --out; an error if there is none."),
    click.option("--resume-or-start", is_flag=True, help="Go on with the run in --out, or start one."),
    click.option("--dry-run", is_flag=True, help="Print the resolved config as JSON and stop."),
    debug,
)

network = join(
    click.option(
        "--architecture",
        type=click.Choice(["ddpmpp", "ncsnpp", "adm"]),
        help="Network: DDPM++, NCSN++ or ADM.  [default: ddpmpp]",
    ),
    click.option("--model-channels", type=COUNT, metavar="N", help="Channels of the first level."),
    click.option("--channel-mult", type=Integers(), metavar="N,..", help="Multiples of them, one a level."),
    click.option("--num-blocks", type=COUNT, metavar="N", help="Residual blocks a level."),
    click.option(
        "--attn-resolutions",
        type=Integers(),
        metavar="N,..",
        help="Heights with self-attention in pixels, or none.",
    ),
    click.option("--dropout", type=FRACTION, help="Share of features dropped in training."),
    click.option("--label-dropout", type=FRACTION, help="Share of labels withheld in training.  [default: 0]"),
    click.option("--gated/--no-gated", default=None, help="Gated convolutions.  [default: no-gated]"),
    click.option(
        "--hidden-noise",
        type=click.Choice(["infinite", "sigma"]),
        help="ambient, fourier: the noise level that hidden pixels count as in preconditioning and loss; sigma is "
        "ambient diffusion's own, with outputs for the mask, too.  [default: infinite]",
    ),
    click.option("--sigma-data", type=POSITIVE, help="Standard deviation of clean images.  [default: 0.5]"),
)

training = join(
    click.option(
        "--preset", metavar="P", help="Defaults of the other options; `rsd-fast presets` lists them.  [default: auto]"
    ),
    click.option("--kimg", type=POSITIVE, help="Thousand images to train on, in all."),
    click.option("--batch", type=COUNT, help="Images a step, over all processes."),
    click.option(
        "--micro-batch",
        type=MicroBatch(),
        metavar="N|auto",
        help="Images a forward pass; auto: as many as fit into memory.  [default: the whole batch]",
    ),
    click.option("--lr", type=POSITIVE, help="Adam's learning rate."),
    click.option("--lr-rampup-kimg", type=AT_LEAST_0, help="Thousand images of linear warm-up."),
    click.option("--beta1", type=FRACTION, help="Adam's first decay."),
    click.option("--beta2", type=FRACTION, help="Adam's second decay."),
    click.option("--adam-eps", type=POSITIVE, help="Adam's epsilon.  [default: 1e-8]"),
    click.option("--clip", type=POSITIVE, help="Largest norm of the gradient.  [default: no clipping]"),
    click.option("--ema-halflife-kimg", type=POSITIVE, help="Half-life of the weights' average, thousand images."),
    click.option("--ema-rampup", type=POSITIVE, help="The half-life is at most this share of the images seen."),
    precision,
    click.option(
        "--compile/--no-compile",
        default=None,
        help="torch.compile the networks.  [default: distill does on a CPU with a C++ compiler, from 2000 steps on]",
    ),
    click.option(
        "--cuda-graphs/--no-cuda-graphs",
        default=None,
        help="Replay each phase's kernels from a CUDA graph rather than launch them one by one.  [default: no]",
    ),
    click.option(
        "--checkpoint-activations/--no-checkpoint-activations",
        default=None,
        help="Keep of each block its input alone, and evaluate it again for its gradient: less memory, a third more "
        "time.  [default: no]",
    ),
    click.option("--log-kimg", type=POSITIVE, help="Thousand images between log lines."),
    click.option("--snapshot-kimg", type=POSITIVE, help="Thousand images between checkpoints."),
    click.option("--seed", type=SEED, help="Of all random numbers.  [default: 0]"),
    click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), help="Where to compute.  [default: auto]"),
)

monitoring = join(
    click.option(
        "--eval-kimg",
        type=AT_LEAST_0,
        help="Thousand images between evaluations of a checkpoint, which name the best one; 0: none.  [default: of "
        "distill as --snapshot-kimg, where the teacher's observations are at hand; of pretrain 0]",
    ),
    click.option(
        "--eval-num", type=click.IntRange(min=2), help="Samples of each.  [default: 1000 on a CPU, else 10000]"
    ),
    click.option(
        "--eval-metrics",
        type=Names(),
        metavar="NAME,..",
        help="Proximal ones of `rsd-fast evaluate`; the first chooses the best checkpoint.  "
        "[default: proximal-pixel-fd; of more than 4096 values an image proximal-fid]",
    ),
    click.option(
        "--eval-features",
        metavar="NAME",
        help="Network of the metrics that need one, as --features of `rsd-fast evaluate`.  "
        "[default: efficientnet-lite0]",
    ),
    click.option("--eval-features-weights", metavar="FILE", type=click.Path(), help="Its weights."),
    click.option(
        "--stop-patience", type=COUNT, help="Stop when so many evaluations in a row are no better.  [default: never]"
    ),
    click.option(
        "--tensorboard/--no-tensorboard", default=None, help="Log to RUN/tensorboard, too, live.  [default: no]"
    ),
    click.option("--wandb", metavar="PROJECT", help="Log to Weights & Biases, too, live."),
)
