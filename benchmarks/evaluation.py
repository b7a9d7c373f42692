"""Seconds of each stage of an evaluation, the first time and the second.

    python benchmarks/evaluation.py [--num 2000] [--device cpu] [--features efficientnet-lite0] [--json FILE]

The one-step generator of the CIFAR-10 network (55.7 M weights, random ones: time does not depend on them) makes `num`
images of 32x32, which are compared with 10,000 random ones in fid, kid, precision and recall; only in pixel-fd where
torch-fidelity is not installed. Images are made while features of the last batch are computed, so that the stages'
seconds add up to more than the whole. The second time, features of the reference come from the cache.
"""

import argparse
import json
import os
import tempfile
import time
from dataclasses import asdict, replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from timing import machine

from rsd_fast import config as configs
from rsd_fast import files, presets
from rsd_fast.build import build_denoiser
from rsd_fast.data import write_npz
from rsd_fast.evaluation import HowCompared, Stopwatch, evaluate_path
from rsd_fast.runs import save_model
from rsd_fast.sampler import Sampling

METRICS = ["fid", "kid", "precision", "recall"]
NUM_REFERENCE = 10_000


def generator(folder: Path, small: bool) -> Path:
    """A checkpoint folder of the network, not trained."""
    preset = presets.load("cifar10")
    network = configs.UNet(**preset.network)
    if small:
        network = replace(network, model_channels=16, num_blocks=1)
    shape = (3, 32, 32)
    observations = configs.Observations(
        data="none",
        simulate=True,
        corruption="identity",
        sigma_obs=0.2,
        seed=0,
        num_images=1,
        image_shape=shape,
        observation_shape=shape,
    )
    config = configs.Distill(
        preset="cifar10",
        teacher="none",
        observations=observations,
        network=network,
        objective=configs.Objective(name="tweedie"),
        distillation=configs.Distillation(),
        training=configs.Training(),
    )
    torch.manual_seed(0)
    folder.mkdir(parents=True)
    save_model(folder / "model.safetensors", build_denoiser(config).state_dict(), config, 0.0)
    return folder


def reference(path: Path) -> Path:
    images = np.random.default_rng(0).integers(0, 256, (NUM_REFERENCE, 3, 32, 32), np.uint8)
    write_npz(path, images)
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--num", type=int, help="samples  [2000 on a CPU, else 50,000]")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=("cpu", "cuda"))
    parser.add_argument("--precision", default="bf16", choices=("fp32", "bf16"))
    parser.add_argument("--features", default="efficientnet-lite0")
    parser.add_argument("--features-weights", help="file of its weights")
    parser.add_argument("--batch", type=int, help="images at a time  [64 on a CPU, else 1024]")
    parser.add_argument("--small", action="store_true", help="a small network, to try the script")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    cpu = options.device == "cpu"
    options.num = options.num or (2000 if cpu else 50_000)
    options.batch = options.batch or (64 if cpu else 1024)
    whole = find_spec("torch_fidelity") is not None
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["RSD_FAST_CACHE"] = str(Path(scratch) / "cache")
        model, images = generator(Path(scratch) / "model", options.small), reference(Path(scratch) / "reference.npz")
        for time_of in ("first", "second"):
            watch, start = Stopwatch(), time.perf_counter()
            results = evaluate_path(
                METRICS if whole else ["pixel-fd"],
                str(model),
                reference=str(images),
                num=options.num,
                sampled=Sampling(precision=options.precision),
                compared=HowCompared(
                    features=options.features if whole else None,
                    features_weights=options.features_weights,
                    device=options.device,
                    batch=options.batch,
                    progress=True,
                    watch=watch,
                ),
            )
            seconds = {stage: round(value, 2) for stage, value in watch.seconds.items()}
            rows.append({"time": time_of, **seconds, "total": round(time.perf_counter() - start, 2)})
            print(", ".join(f"{name} {value}" for name, value in rows[-1].items()), flush=True)
    assert all(np.isfinite(result.value) for result in results)
    if options.json:
        names = ("num", "device", "precision", "features", "batch", "small")
        record = {
            "machine": machine(options.device),
            **{name: getattr(options, name) for name in names},
            "seconds": rows,
            "results": [asdict(result) for result in results],
        }
        files.write_text(options.json, json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
