"""RSD on multi-coil MRI, complex images of 384x320 from a quarter of k-space; published for R = 2, 6 and 8, too.

--corruption fourier:acceleration=8,acs_lines=20 for another. The network's input is the zero-filled image and the mask.
"""

from . import ffhq64

OBSERVATIONS = {"corruption": "fourier:acceleration=4,acs_lines=20", "sigma_obs": 0.0}
OBJECTIVE = {"delta": 0.1}
NETWORK = {**ffhq64.NETWORK, "channel_mult": (1, 1, 1, 1), "attn_levels": (), "dropout": 0.1}
PRETRAIN = {**ffhq64.PRETRAIN, "augment_probability": 0.0, "batch": 8}
DISTILL = {**ffhq64.DISTILL, "batch": 24, "lr": 1e-6, "beta1": 0.0, "clip": 1.0}
DISTILLATION = {"alpha": 1.2, "fake_lr": 5e-6}
