"""Images of 28x28 to 64x64 on a CPU: a start to be seen in half an hour on two cores (1.6 M parameters)."""

NETWORK = {
    "architecture": "ddpmpp",
    "model_channels": 16,
    "channel_mult": (1, 2, 4),
    "num_blocks": 1,
    "attn_levels": (),
}
PRETRAIN = {
    "kimg": 72.0,
    "batch": 64,
    "lr": 1e-3,
    "lr_rampup_kimg": 2.0,
    "ema_halflife_kimg": 10.0,
    "ema_rampup": 0.1,
    "log_kimg": 4.0,
    "snapshot_kimg": 12.0,
}
DISTILL = {
    "kimg": 18.0,
    "batch": 32,
    "lr": 2e-4,
    "beta1": 0.0,
    "ema_halflife_kimg": 8.0,
    "ema_rampup": 0.3,
    "log_kimg": 1.0,
    "snapshot_kimg": 3.0,
}
DISTILLATION = {"alpha": 1.2, "fake_lr": 4e-4}
