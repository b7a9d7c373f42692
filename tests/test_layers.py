"""Who may import whom: parses every import and fails on an arrow that the architecture does not have."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# Modules of rsd_fast by their first name, and what each may import of the package.
ALLOWED = {
    "_version": set(),
    "files": set(),
    "graphs": set(),
    "pictures": {"data", "files"},
    "ops": {"kernels", "_C"},
    "schedules": set(),
    "augmentation": {"ops"},
    "noise_estimation": set(),
    "corruptions": {"ops"},
    "networks": {"ops"},
    "objectives": {"ops", "corruptions", "schedules", "networks"},
    "config": {"objectives"},
    "presets": set(),
    "sampling": {"schedules"},
    "data": {"ops", "corruptions", "files"},
    "methods": {"ops", "augmentation", "corruptions", "schedules", "networks", "objectives", "sampling", "config"},
    "engine": {"methods", "corruptions", "config", "files", "graphs", "pictures"},
    "hub": {"config", "engine", "loading", "__version__"},
    "loading": {"ops", "config", "corruptions", "graphs", "hub", "networks", "methods", "engine", "sampling"},
    "convert": {"config", "corruptions", "engine", "files", "loading", "networks", "objectives", "presets"},
    "export": {"corruptions", "engine", "files", "loading", "methods", "networks", "ops"},
    "pipeline": {"data", "loading"},
    "observations": {"config", "corruptions", "data"},
    "evaluation": {
        "__version__",
        "config",
        "convert",
        "corruptions",
        "data",
        "engine",
        "files",
        "hub",
        "loading",
        "observations",
    },
    "train": {
        "ops",
        "config",
        "corruptions",
        "data",
        "engine",
        "evaluation",
        "files",
        "loading",
        "methods",
        "networks",
        "observations",
        "pictures",
    },
    "report": {"config", "data", "engine", "evaluation", "files", "loading", "methods", "observations", "pictures"},
    "doctor": {"ops", "__version__"},
    "kernels": set(),
}
EVERYTHING = {
    "cli",
    "demo",
    "__init__",
    "__main__",
}  # may import all; of these, only the entry point imports cli


def sources() -> list[tuple[str, Path]]:
    """(dotted module name, file) of everything installed."""
    found = [("rsd_fast", p) for p in (ROOT / "rsd_fast").rglob("*.py")]
    found += [("rsd_fast.cli", p) for p in (ROOT / "cli").rglob("*.py")]
    found += [("rsd_fast.kernels", p) for p in (ROOT / "kernels").rglob("*.py")]
    named = []
    for prefix, path in found:
        base = ROOT / {"rsd_fast": "rsd_fast", "rsd_fast.cli": "cli", "rsd_fast.kernels": "kernels"}[prefix]
        named.append((".".join([prefix, *path.relative_to(base).with_suffix("").parts]), path))
    return named


def imported(name: str, path: Path) -> set[str]:
    """The top-level parts of rsd_fast that a file imports, wherever in the file."""
    parts = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            package = name.split(".")[: -node.level] if node.level else []
            module = ".".join([*package, *([node.module] if node.module else [])])
            modules = [f"{module}.{alias.name}" for alias in node.names]
        else:
            continue
        for module in modules:
            head, *rest = module.split(".")
            if head == "rsd_fast" and rest:
                parts.add(rest[0])
    return parts


@pytest.mark.parametrize(("name", "path"), sources(), ids=lambda value: value if isinstance(value, str) else "")
def test_imports_follow_the_layers(name: str, path: Path) -> None:
    part = name.split(".")[1]
    found = imported(name, path) - {part}
    if part in EVERYTHING:
        assert part in ("cli", "__main__") or "cli" not in found
        return
    assert part in ALLOWED, f"{name}: give it a place in the layers"
    assert found <= ALLOWED[part], f"{name} imports {sorted(found - ALLOWED[part])}"


def test_the_core_of_a_method_is_all_the_engine_knows() -> None:
    for name, path in sources():
        if name.startswith("rsd_fast.engine."):
            text = path.read_text()
            assert "methods.pretrain" not in text and "methods.distill" not in text, name


def test_addresses_are_taken_in_one_file() -> None:
    assert [p.name for _, p in sources() if "data_ptr" in p.read_text()] == ["_native.py"]


def test_nothing_is_unpickled() -> None:
    for _, path in sources():
        names = {
            alias.name
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Import)
            for alias in node.names
        }
        assert "pickle" not in names, path
        assert "torch.load(" not in path.read_text(), path
