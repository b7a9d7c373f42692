"""FFHQ, CelebA-HQ and AFHQ-v2 at 64x64: the settings published for RSD (DDPM++ of EDM, 61.8 M parameters)."""

NETWORK = {
    "model_channels": 128,
    "channel_mult": (1, 2, 2, 2),
    "num_blocks": 4,
    "attn_levels": (2,),  # 16x16 of 64x64
    "dropout": 0.05,
}
PRETRAIN = {
    "kimg": 200_000.0,
    "batch": 256,
    "lr": 2e-4,
    "lr_rampup_kimg": 10_000.0,
    "ema_halflife_kimg": 500.0,
    "log_kimg": 50.0,
    "snapshot_kimg": 2500.0,
}
DISTILL = {
    "kimg": 100_000.0,
    "batch": 512,
    "lr": 1e-5,
    "beta1": 0.0,
    "ema_halflife_kimg": 500.0,
    "log_kimg": 50.0,
    "snapshot_kimg": 500.0,
}
DISTILLATION = {"alpha": 1.2, "fake_lr": 1e-5}
