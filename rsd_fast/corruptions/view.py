"""What a denoiser sees of an image: all of it, or what a further corrupted operator A~ leaves (Daras et al. 2023).

A denoiser of whole images takes x_t itself. One of masked images or k-space takes a state s, which diffuses, as an
image, with a condition beside it that says what is missing:

    s = A~ x + sigma n,      network input  A~* s,      condition  the mask of A~ as channels
"""

from torch import Tensor


class View:
    """All of an image: the state is the image, and there is no condition."""

    condition: Tensor | None = None  # [B, K, H, W], channels of the network's input
    kept: Tensor | None = None  # the draw's mask, 1 where a state is seen; None only where all is seen

    def measure(self, x: Tensor) -> Tensor:
        """A~ x, of images [B, C, H, W]; also keeps of noise in the state's space what is observed."""
        return x

    def image(self, state: Tensor) -> Tensor:
        """A~* s: the state as the network's input [B, C, H, W]."""
        return state

    def keep(self, state: Tensor) -> Tensor:
        """A state, or what has its shape, without what is not observed."""
        return state


class MaskView(View):
    """Pixels: A~ keeps those where kept [B, 1 or C, H, W] is 1, and so does A~*."""

    kept: Tensor

    def __init__(self, kept: Tensor, channels: int) -> None:
        self.kept = kept
        self.condition = kept.expand(-1, channels, -1, -1)

    def measure(self, x: Tensor) -> Tensor:
        return x * self.kept

    def image(self, state: Tensor) -> Tensor:
        return self.measure(state)

    def keep(self, state: Tensor) -> Tensor:
        return self.measure(state)
