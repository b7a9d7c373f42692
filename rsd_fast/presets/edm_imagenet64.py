"""EDM's ADM on clean ImageNet 64x64 by class, 295.9 M parameters, and SiD from it.

Sources: Karras et al. 2022, appendix F; Zhou et al. 2024, appendix.
"""

OBSERVATIONS = {"corruption": "identity", "sigma_obs": 0.0, "cond": True}
NETWORK = {
    "architecture": "adm",
    "model_channels": 192,
    "channel_mult": (1, 2, 3, 4),
    "num_blocks": 3,
    "attn_levels": (1, 2, 3),  # 32x32, 16x16 and 8x8 of 64x64
    "dropout": 0.1,
}
PRETRAIN = {
    "kimg": 2_500_000.0,
    "batch": 4096,
    "lr": 1e-4,
    "lr_rampup_kimg": 10_000.0,
    "ema_halflife_kimg": 50_000.0,
    "log_kimg": 200.0,
    "snapshot_kimg": 10_000.0,
}
DISTILL = {
    "kimg": 500_000.0,
    "batch": 8192,
    "lr": 4e-6,
    "beta1": 0.0,
    "ema_halflife_kimg": 2_000.0,
    "log_kimg": 200.0,
    "snapshot_kimg": 2_000.0,
}
DISTILLATION = {"alpha": 1.2, "fake_lr": 4e-6}
