"""Who may import whom: parses every import and fails on an arrow that the architecture does not have."""

import ast
from pathlib import Path

import pytest

from .house import ROOT, imported_modules, modules

# Modules of rsd_fast by their first name, and what each may import of the package.
ALLOWED = {
    "_version": set(),
    "_checkout": set(),
    "errors": set(),
    "registry": set(),
    "files": set(),
    "cuda_graphs": set(),
    "processes": set(),
    "progress": {"processes"},
    "pictures": {"data", "files"},
    "ops": {"kernels", "_C", "_checkout"},
    "schedules": set(),
    "generator_losses": set(),
    "augmentation": {"ops"},
    "noise_estimation": set(),
    "corruptions": {"ops"},
    "networks": {"config", "ops"},
    "objectives": {"config", "ops", "corruptions", "schedules", "networks"},
    "config": {"generator_losses", "presets"},
    "presets": set(),
    "sampling": {"schedules"},
    "data": {"ops", "corruptions", "files"},
    "methods": {
        "generator_losses",
        "ops",
        "augmentation",
        "corruptions",
        "schedules",
        "networks",
        "objectives",
        "sampling",
        "config",
    },
    "runs": {"config", "files"},
    "engine": {
        "evaluation",
        "methods",
        "corruptions",
        "config",
        "cuda_graphs",
        "files",
        "pictures",
        "processes",
        "runs",
    },
    "build": {"config", "corruptions", "networks", "objectives"},
    "generator": {"ops", "config", "corruptions", "methods", "networks", "objectives"},
    "hub": {"runs"},
    "loading": {"build", "config", "corruptions", "generator", "hub", "networks", "runs"},
    "sampler": {
        "config",
        "corruptions",
        "cuda_graphs",
        "generator",
        "loading",
        "methods",
        "networks",
        "objectives",
        "ops",
        "processes",
    },
    "push": {"config", "hub", "loading", "runs", "__version__"},
    "convert": {"build", "config", "corruptions", "files", "loading", "networks", "objectives", "presets", "runs"},
    "export": {"corruptions", "files", "generator", "loading", "methods", "networks", "ops", "runs"},
    "pipeline": {"data", "generator", "loading"},
    "run_dataset": {"config", "corruptions", "data"},
    "evaluation": {
        "__version__",
        "config",
        "convert",
        "corruptions",
        "data",
        "files",
        "hub",
        "objectives",
        "processes",
        "run_dataset",
        "runs",
        "sampler",
    },
    "train": {
        "ops",
        "build",
        "config",
        "corruptions",
        "data",
        "engine",
        "evaluation",
        "files",
        "loading",
        "methods",
        "networks",
        "pictures",
        "processes",
        "run_dataset",
        "runs",
    },
    "settings": {
        "augmentation",
        "build",
        "config",
        "corruptions",
        "data",
        "evaluation",
        "generator_losses",
        "loading",
        "noise_estimation",
        "objectives",
        "presets",
        "processes",
        "run_dataset",
        "runs",
    },
    "reporting": {
        "config",
        "corruptions",
        "data",
        "evaluation",
        "files",
        "generator",
        "methods",
        "objectives",
        "pictures",
        "run_dataset",
        "runs",
        "sampler",
    },
    "doctor": {"ops", "__version__"},
    "kernels": set(),
}
EVERYTHING = {
    "api",
    "cli",
    "demo",
    "__init__",
    "__main__",
}  # may import all; of these, only the entry point imports cli


MODULES = modules(ROOT)


def imported(name: str, path: Path) -> set[str]:
    """The top-level parts of rsd_fast that a file imports."""
    split = [module.split(".") for module in imported_modules(name, path, {*MODULES})]
    return {parts[1] for parts in split if parts[0] == "rsd_fast" and len(parts) > 1}


@pytest.mark.parametrize(("name", "path"), MODULES.items(), ids=[*MODULES])
def test_imports_follow_the_layers(name: str, path: Path) -> None:
    part = name.split(".")[1]
    found = imported(name, path) - {part}
    if part in EVERYTHING:
        assert part in ("cli", "__main__") or "cli" not in found
        return
    assert part in ALLOWED, f"{name}: give it a place in the layers"
    found -= {"errors", "registry"}  # which know of nothing else
    assert found <= ALLOWED[part], f"{name} imports {sorted(found - ALLOWED[part])}"


def test_the_core_of_a_method_is_all_the_engine_knows() -> None:
    for name, path in MODULES.items():
        if name.startswith("rsd_fast.engine."):
            text = path.read_text()
            assert "methods.pretrain" not in text and "methods.distill" not in text, name


def test_addresses_are_taken_in_one_file() -> None:
    assert [p.name for _, p in MODULES.items() if "data_ptr" in p.read_text()] == ["launch.py"]


def test_nothing_is_unpickled() -> None:
    for _, path in MODULES.items():
        names = {
            alias.name
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Import)
            for alias in node.names
        }
        assert "pickle" not in names, path
        assert "torch.load(" not in path.read_text(), path
