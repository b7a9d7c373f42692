"""RSD on CelebA-HQ 64x64 with pixels missing, 60 % of them; published with 80 and 90 %, too.

--corruption random_mask:missing=0.8 for another share. The network's input is the image and its mask.
"""

from . import ffhq64

OBSERVATIONS = {"corruption": "random_mask:missing=0.6", "sigma_obs": 0.0}
OBJECTIVE = {"delta": 0.1}
NETWORK = {**ffhq64.NETWORK, "dropout": 0.1}
PRETRAIN = {**ffhq64.PRETRAIN, "augment_probability": 0.0, "clip": 1.0}
DISTILL = {**ffhq64.DISTILL, "beta1": 0.0, "clip": 1.0}
DISTILLATION = ffhq64.DISTILLATION
