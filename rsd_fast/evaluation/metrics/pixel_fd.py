"""pixel-fd: the Frechet distance of pixels as they are, neither clipped nor rounded, for small images."""

import math
from typing import TYPE_CHECKING, NamedTuple

from . import METRICS, ReferenceFeatures, Result, SetMetric

if TYPE_CHECKING:
    from torch import Tensor

    from ..frechet import Moments


class Fitted(NamedTuple):
    """Moments of a reference's pixels, which themselves are not kept, and the `floor` of as many samples."""

    moments: "Moments"
    floor: float | None


def prepare(reference: ReferenceFeatures) -> Fitted:
    from ..floor import floor, split_of
    from ..frechet import Moments, frechet_distance

    chosen, some, others = split_of(reference.count, reference.num), Moments(), Moments()
    for index, pixels in reference.blocks:
        among = chosen[index]
        for moments, part in ((some, pixels[among]), (others, pixels[~among])):
            if len(part):
                moments.add(part)
    moments = some + others
    between = frechet_distance(some, others) if some.count > 1 else math.nan
    return Fitted(moments, floor(between, some.count, reference.num, reference.count, len(moments.sum)))


def pixel_fd(pixels: "Tensor", reference: Fitted) -> Result:
    from ..frechet import ROWS, Moments, frechet_distance, standard_error

    value = frechet_distance(Moments(*pixels.split(ROWS)), reference.moments)
    return Result(value, standard_error(pixels, *reference.moments.fit()), reference.floor)


METRICS.add(
    "pixel-fd",
    SetMetric(
        about="Frechet distance of the pixels as they are, for small images",
        lower_is_better=True,
        compute=pixel_fd,
        prepare=prepare,
    ),
)
