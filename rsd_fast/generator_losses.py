"""Losses of the generator, from what teacher f and fake score g make of its noised observation u_t.

    d = f - g,    r = f - u,    w = 1 / max(mean|r|, 1e-5)    (no gradient)

    sid   w sum( d (r - alpha d) ), through both networks      (Zhou et al. 2024, equation 23; `ops` has it fused)
    dmd   gradient -w d on u                                   (Yin et al. 2024, equations 7 and 8)
    sds   gradient -weight(sigma) r on u                       (Poole et al. 2023, equation 3)

each summed over pixels, d and r in the space of the observations, 0 where nothing was observed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from rsd_fast.registry import Registry

if TYPE_CHECKING:  # a program that only lists the losses need not wait for torch
    from torch import Tensor


class Terms(NamedTuple):
    """What a loss is computed from."""

    d: Tensor  # [B, ...]; 0 for a loss that asks for no fake score
    r: Tensor  # [B, ...]
    u: Tensor  # [B, ...]
    weight: Tensor  # [B], weight(sigma)
    alpha: float


@dataclass(frozen=True, kw_only=True)
class GeneratorLoss:
    """A loss in the registry.

    fn: `Terms` -> [B]. about: its line in help. needs_fake_score: False for one that asks only the teacher.
    through_scores: does its gradient pass through the networks? uses_alpha: does the setting alpha matter? fused: the
    name of the op in `rsd_fast.ops` that computes it of whole images, from both networks' outputs.
    """

    fn: Callable[[Terms], Tensor]
    about: str
    needs_fake_score: bool = True
    through_scores: bool = False
    uses_alpha: bool = False
    fused: str | None = None


def sid(d: Tensor, r: Tensor, alpha: float) -> Tensor:
    """SiD's loss [B] of d and r [B, ...]."""
    return _weight(r) * (d * (r - alpha * d)).flatten(1).sum(1)


def dmd(d: Tensor, r: Tensor, u: Tensor) -> Tensor:
    """DMD's loss [B]. Its value is no distance; what matters is its gradient, which reaches only u [B, ...]."""
    return -_weight(r) * (d.detach() * u).flatten(1).sum(1)


def sds(r: Tensor, u: Tensor, weight: Tensor) -> Tensor:
    """SDS's loss [B], likewise; weight [B] is that of the noise levels."""
    return -weight * (r.detach() * u).flatten(1).sum(1)


def _weight(r: Tensor) -> Tensor:
    return 1 / r.detach().flatten(1).abs().mean(1).clamp_min(1e-5)


LOSSES: Registry[GeneratorLoss] = Registry("loss", "loss")
LOSSES.add(
    "sid",
    GeneratorLoss(
        fn=lambda terms: sid(terms.d, terms.r, terms.alpha),
        about="score identity distillation, RSD's own",
        through_scores=True,
        uses_alpha=True,
        fused="score_difference_loss",
    ),
)
LOSSES.add(
    "dmd", GeneratorLoss(fn=lambda terms: dmd(terms.d, terms.r, terms.u), about="distribution matching distillation")
)
LOSSES.add(
    "sds",
    GeneratorLoss(
        fn=lambda terms: sds(terms.r, terms.u, terms.weight),
        about="score distillation sampling, which has no fake score",
        needs_fake_score=False,
    ),
)
