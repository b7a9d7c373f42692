"""Who may import whom: parses every import and fails on an arrow that the architecture does not have."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# Modules of rsd_fast by their first name, and what each may import of the package.
ALLOWED = {
    "_version": set(),
    "_checkout": set(),
    "errors": set(),
    "registry": set(),
    "files": set(),
    "cuda_graphs": set(),
    "processes": set(),
    "pictures": {"data", "files"},
    "ops": {"kernels", "_C", "_checkout"},
    "schedules": set(),
    "generator_losses": set(),
    "augmentation": {"ops"},
    "noise_estimation": set(),
    "corruptions": {"ops"},
    "networks": {"ops"},
    "objectives": {"ops", "corruptions", "schedules", "networks"},
    "config": {"objectives"},
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
    "build": {"config", "corruptions", "networks"},
    "generator": {"ops", "config", "corruptions", "methods", "networks"},
    "hub": {"runs"},
    "loading": {"build", "config", "corruptions", "generator", "hub", "networks", "runs"},
    "sampler": {"config", "cuda_graphs", "generator", "loading", "methods", "networks", "processes"},
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
    "reporting": {
        "config",
        "data",
        "evaluation",
        "files",
        "generator",
        "methods",
        "pictures",
        "run_dataset",
        "runs",
        "sampler",
    },
    "settings": set(),
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


MODULES = {name.removesuffix(".__init__"): path for name, path in sources()}


def imported_modules(name: str, path: Path) -> set[str]:
    """Dotted names of what a file imports, wherever in the file, but for type checkers: of a module's attribute that
    module, of a package's module the module."""
    modules: set[str] = set()
    package = name.removesuffix(".__init__").split(".")
    pending: list[ast.AST] = [ast.parse(path.read_text())]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        pending += ast.iter_child_nodes(node)
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            levels = node.level - name.endswith(".__init__")
            base = package[: len(package) - levels] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            names = {f"{module}.{alias.name}" for alias in node.names}
            modules |= names if module == "rsd_fast" else {one if one in MODULES else module for one in names}
    return modules


def imported(name: str, path: Path) -> set[str]:
    """The top-level parts of rsd_fast that a file imports."""
    split = [module.split(".") for module in imported_modules(name, path)]
    return {parts[1] for parts in split if parts[0] == "rsd_fast" and len(parts) > 1}


@pytest.mark.parametrize(("name", "path"), sources(), ids=lambda value: value if isinstance(value, str) else "")
def test_imports_follow_the_layers(name: str, path: Path) -> None:
    part = name.split(".")[1]
    found = imported(name, path) - {part}
    if part in EVERYTHING:
        assert part in ("cli", "__main__") or "cli" not in found
        return
    assert part in ALLOWED, f"{name}: give it a place in the layers"
    found -= {"errors", "registry"}  # which know of nothing else
    assert found <= ALLOWED[part], f"{name} imports {sorted(found - ALLOWED[part])}"


def test_no_circles() -> None:
    """Neither at import nor within functions does a module import one that, through others, imports it."""
    graph = {
        module.removesuffix(".__init__"): imported_modules(module, path) & MODULES.keys() for module, path in sources()
    }
    graph.pop("rsd_fast")  # imports lazily, by name
    done: set[str] = set()

    def visit(module: str, above: tuple[str, ...]) -> None:
        assert module not in above, " -> ".join([*above[above.index(module) :], module])
        if module in done or module not in graph:
            return
        for other in sorted(graph[module]):
            visit(other, (*above, module))
        done.add(module)

    for module in graph:
        visit(module, ())


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
