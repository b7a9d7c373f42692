"""The bundled 8x8 digits, and other images up to 16x16: minutes on two CPU cores (0.4 M parameters)."""

NETWORK = {
    "architecture": "ddpmpp",
    "model_channels": 24,
    "channel_mult": (1, 2),
    "num_blocks": 1,
    "attn_levels": (),
}
PRETRAIN = {
    "kimg": 64.0,
    "batch": 64,
    "lr": 2e-3,
    "lr_rampup_kimg": 2.0,
    "ema_halflife_kimg": 8.0,
    "ema_rampup": 0.1,
    "log_kimg": 4.0,
    "snapshot_kimg": 32.0,
}
DISTILL = {
    "kimg": 20.0,
    "batch": 64,
    "lr": 3e-4,
    "beta1": 0.0,
    "ema_halflife_kimg": 8.0,
    "ema_rampup": 0.3,
    "log_kimg": 2.0,
    "snapshot_kimg": 10.0,
}
DISTILLATION = {"alpha": 1.2, "fake_lr": 6e-4}
