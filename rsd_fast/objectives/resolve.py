"""Which objective observations ask for, and whether it can learn from them."""

from rsd_fast.config import OBJECTIVES
from rsd_fast.corruptions import Corruption, Identity
from rsd_fast.errors import FieldError

IDENTITY = Identity()


def resolve(
    name: str,
    sigma_obs: float,
    corruption: Corruption = IDENTITY,
    image_shape: tuple[int, int, int] = (1, 32, 32),
) -> str:
    """The objective for observations by the operator, of images, with noise of up to sigma_obs; `auto` chooses.

    Raises FieldError, with the reason, where they do not fit, or where nothing could be learned.
    """
    asked_for = corruption.objective
    of_whole_images = "tweedie" if sigma_obs > 0 else "standard"
    if name == "auto":
        name = asked_for or of_whole_images
    rule = OBJECTIVES[name]
    if rule.conditional and name != asked_for:
        raise FieldError("objective", f"'{name}' is for {rule.observations}, not for {corruption}")
    if not rule.noise and sigma_obs > 0:
        raise FieldError(
            "objective",
            f"'{name}' would learn the noise as if it were signal (sigma_obs is {sigma_obs:g}); "
            f"use '{asked_for or of_whole_images}'",
        )
    if name != asked_for and corruption.measures_kspace:
        raise FieldError("objective", f"'{name}' would learn k-space as if it were an image; use '{asked_for}'")
    if rule.noise and not rule.conditional and asked_for is not None:
        raise FieldError(
            "objective", f"'{name}' expects noise in every pixel, and missing ones have none; use '{asked_for}'"
        )
    if name == asked_for and (reason := corruption.why_unlearnable(image_shape, sigma_obs)):
        raise FieldError("objective", f"'{name}': {reason}")
    return name
