"""FFHQ at 64x64, and a start for other images of that size: the settings published for RSD (DDPM++, 61.8 M parameters).

Where the published ones differ: CelebA-HQ dropout .15, AFHQ-v2 dropout .25, --lr 5e-6, --alpha 1 and --beta1 0.
"""

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
    "beta1": 0.9,
    "ema_halflife_kimg": 500.0,
    "log_kimg": 50.0,
    "snapshot_kimg": 500.0,
}
DISTILLATION = {"alpha": 1.2, "fake_lr": 1e-5}
