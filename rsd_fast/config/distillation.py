"""Settings of score distillation."""

from dataclasses import dataclass

from rsd_fast.errors import FieldError
from rsd_fast.generator_losses import LOSSES

from .setting import Settings, setting


@dataclass(frozen=True, kw_only=True)
class Distillation(Settings):
    """Settings of restoration score distillation (RSD, arXiv 2505.13377, section 4 of its method)."""

    loss: str = setting("sid", choices=LOSSES, help="Loss of the generator.")
    alpha: float = setting(1.2, at_least=0, help="SiD's alpha.")
    # sigma is drawn from the lower tmax/1000 of the grid of sigma_min, sigma_max and rho.
    tmax: float = setting(800.0, more_than=0, at_most=1000, help="Thousandths of the sampler's grid to draw from.")
    # G(z) = D_G(sigma_init z, sigma_init)
    sigma_init: float = setting(2.5, more_than=0, help="Noise level the generator starts at.")
    sigma_min: float = setting(0.002, more_than=0, help="Least noise level of the grid.")
    sigma_max: float = setting(80.0, more_than=0, help="Greatest noise level of the grid.")
    rho: float = setting(7.0, more_than=0, help="Exponent of the grid.")
    fake_lr: float = setting(1e-5, more_than=0, help="Adam's learning rate for the fake score.")
    fake_beta1: float = setting(0.0, at_least=0, below=1, help="Adam's first decay for the fake score.")
    generator_loss_scale: float = setting(
        100.0,
        more_than=0,
        help="Factor of the generator's loss, which matters only to Adam's epsilon and to clipping.",
    )
    # Its memory is that of the generator's activations.
    reuse_batch: bool = setting(
        False,
        help="One batch of the generator's images for both phases: a network pass in eleven less, more memory, and "
        "fake score and generator learn from the same images.",
    )
    concurrent_scores: bool = setting(False, help="Evaluate teacher and fake score on two CUDA streams.")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.sigma_max <= self.sigma_min:
            raise FieldError("sigma_max", f"expected more than sigma_min ({self.sigma_min}), got {self.sigma_max}")
