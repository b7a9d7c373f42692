"""Generators for other programs: torch.export, ONNX, and the call that users of diffusers know."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

import rsd_fast
from rsd_fast import export
from rsd_fast.runs import RunError
from tests import generators

OTHER_PROGRAM = """
import sys, torch
program = torch.export.load(sys.argv[1]).module()
images = program(latents=torch.load(sys.argv[2], weights_only=True))
torch.save(images, sys.argv[3])
assert not any(name.partition(".")[0] == "rsd_fast" for name in sys.modules)
"""


def expected(made, inputs, seed=0):
    count = len(inputs["latents"])
    labels = inputs["labels"].argmax(1) if "labels" in inputs else None
    return made.sample(count, seed, labels=labels)


def test_an_exported_program_runs_where_there_is_no_rsd_fast(tmp_path):
    made = generators.generator()
    export.write_torch_export(made, tmp_path / "gen.pt2")
    inputs = export.example_inputs(made, batch=5)
    torch.save(inputs["latents"], tmp_path / "latents.pt")
    files = [tmp_path / name for name in ("gen.pt2", "latents.pt", "images.pt")]
    subprocess.run([sys.executable, "-W", "error", "-c", OTHER_PROGRAM, *files], check=True, cwd=tmp_path)
    images = torch.load(tmp_path / "images.pt", weights_only=True)
    torch.testing.assert_close(images.clamp(-1, 1), expected(made, inputs), rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("kind", generators.KINDS)
def test_exports_give_the_generators_images_at_any_batch(tmp_path, kind):
    import onnxruntime

    generators.write(tmp_path / "run", kind)
    made = rsd_fast.load_generator(tmp_path / "run")
    export.write_torch_export(tmp_path / "run", tmp_path / "gen.pt2")
    program = torch.export.load(tmp_path / "gen.pt2").module()
    export.write_onnx(tmp_path / "run", tmp_path / "gen.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "gen.onnx")
    for batch in (1, 2, 5):
        inputs = export.example_inputs(made, batch)
        images = expected(made, inputs)
        assert (program(**inputs).clamp(-1, 1) - images).abs().max() < 1e-5
        (of_onnx,) = session.run(["images"], {name: value.numpy() for name, value in inputs.items()})
        assert (torch.from_numpy(of_onnx).clamp(-1, 1) - images).abs().max() < 1e-4


@pytest.mark.slow
def test_an_onnx_file_that_differs_is_not_written(tmp_path, monkeypatch):
    import onnxruntime

    class Session:
        def __init__(self, path, providers):
            assert path.is_file()

        def run(self, names, inputs):
            return [np.zeros_like(inputs["latents"])]

    monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
    with pytest.raises(RunError, match=r"gen.onnx: ONNX differs from PyTorch by .*; nothing was written"):
        export.write_onnx(generators.generator(), tmp_path / "gen.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("write", [export.write_onnx, export.write_torch_export])
def test_exports_refuse_other_names_and_files_that_are_there(tmp_path, write):
    made = generators.generator()
    with pytest.raises(ValueError, match="expected a name that ends in"):
        write(made, tmp_path / "gen.bin")
    name = "gen.onnx" if write is export.write_onnx else "gen.pt2"
    (tmp_path / name).write_text("mine")
    with pytest.raises(RunError, match="exists already"):
        write(made, tmp_path / name)
    assert (tmp_path / name).read_text() == "mine"


def test_onnx_without_its_packages_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(RunError, match=r"onnxscript; pip install 'rsd-fast\[onnx\]'"):
        export.write_onnx(generators.generator(), tmp_path / "gen.onnx")


# The pipeline


def pipeline(tmp_path, kind="plain"):
    generators.write(tmp_path / "run", kind)
    return rsd_fast.OneStepPipeline.from_pretrained(tmp_path / "run")


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def test_the_pipeline_gives_pictures(tmp_path):
    images = pipeline(tmp_path)(batch_size=3, generator=seeded()).images
    assert len(images) == 3 and all(isinstance(image, Image.Image) and image.size == (8, 8) for image in images)


def test_the_pipeline_gives_one_image_in_three_forms(tmp_path):
    pipe = pipeline(tmp_path)
    pictures = pipe(2, generator=seeded()).images
    arrays = pipe(2, generator=seeded(), output_type="np").images
    (tensors,) = pipe(2, generator=seeded(), output_type="pt", return_dict=False)
    assert arrays.shape == (2, 8, 8, 1) and tensors.shape == (2, 1, 8, 8)
    assert arrays.min() >= 0 and arrays.max() <= 1
    np.testing.assert_array_equal(arrays, tensors.permute(0, 2, 3, 1).numpy())
    np.testing.assert_array_equal(np.asarray(pictures[1])[:, :, :1], (arrays[1] * 255).round().astype(np.uint8))


def test_the_pipelines_images_are_those_of_its_generator(tmp_path):
    pipe = pipeline(tmp_path)
    first, again = (pipe(2, generator=seeded(), output_type="pt").images for _ in range(2))
    other = pipe(2, generator=seeded(1), output_type="pt").images
    assert torch.equal(first, again) and not torch.equal(first, other)
    torch.manual_seed(0)
    assert not torch.equal(pipe(2, output_type="pt").images, pipe(2, output_type="pt").images)


def test_the_pipeline_takes_classes(tmp_path):
    pipe = pipeline(tmp_path, "adm")
    of_list = pipe(2, class_labels=[3, 3], generator=seeded(), output_type="pt").images
    of_number = pipe(2, class_labels=3, generator=seeded(), output_type="pt").images
    other = pipe(2, class_labels=[3, 4], generator=seeded(), output_type="pt").images
    assert torch.equal(of_list, of_number)
    torch.testing.assert_close(other[0], of_list[0])
    assert not torch.equal(other[1], of_list[1])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_inference_steps": 50}, "num_inference_steps: a one-step generator takes 1, got 50"),
        ({"output_type": "jpg"}, "output_type: expected pil, np or pt, got 'jpg'"),
        ({"class_labels": 1}, "labels: the network is not conditional"),
        ({"batch_size": 0}, "num: expected at least 1"),
    ],
)
def test_the_pipeline_refuses_what_it_cannot_do(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        pipeline(tmp_path)(**options)
