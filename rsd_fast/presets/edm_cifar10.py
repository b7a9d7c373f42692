"""EDM's DDPM++ ("VP") on clean CIFAR-10, 55.7 M parameters, and SiD from it; with --cond, by class.

Sources: Karras et al. 2022, appendix F; Zhou et al. 2024, appendix.
"""

OBSERVATIONS = {"corruption": "identity", "sigma_obs": 0.0}
NETWORK = {
    "architecture": "ddpmpp",
    "model_channels": 128,
    "channel_mult": (2, 2, 2),
    "num_blocks": 4,
    "attn_levels": (1,),  # 16x16 of 32x32
    "augment_dim": 9,
    "dropout": 0.13,
}
PRETRAIN = {
    "augment_probability": 0.12,
    "kimg": 200_000.0,
    "batch": 512,
    "lr": 1e-3,
    "lr_rampup_kimg": 10_000.0,
    "ema_halflife_kimg": 500.0,
    "log_kimg": 50.0,
    "snapshot_kimg": 2500.0,
}
DISTILL = {
    "kimg": 100_000.0,
    "batch": 256,
    "lr": 1e-5,
    "beta1": 0.0,
    "ema_halflife_kimg": 500.0,
    "log_kimg": 50.0,
    "snapshot_kimg": 500.0,
}
DISTILLATION = {"alpha": 1.2, "fake_lr": 1e-5}
