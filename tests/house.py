"""What can be counted of how this code is kept, and the limits; `test_house.py` holds them.

    python tests/house.py [--list] [ROOT ...]

prints a table of the figures of this checkout, or of several, and with --list every place that counts.
"""

import argparse
import ast
import io
import tokenize
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = {"rsd_fast": "rsd_fast", "rsd_fast.cli": "cli", "rsd_fast.kernels": "kernels"}  # and their folders
VAGUE = {"found", "wanted", "given", "told", "shown"}
MOST_PARAMETERS, MOST_LINES = 7, 450
OPERATOR_BASES = {"Corruption", "BatchOperator"}

Places = list[str]


@dataclass(frozen=True)
class Figure:
    """Something to have little of: its places in a checkout, how many there may be, and what to do about one."""

    name: str
    places: Callable[[Path], Places]
    limit: int
    advice: str


def python_files(root: Path, *folders: str) -> Iterator[tuple[str, Path]]:
    """(path from the root, file); links are left out, by which a checkout may show a folder a second time."""
    for folder in folders:
        for path in sorted((root / folder).rglob("*.py")):
            name = path.relative_to(root)
            if not any((root / parent).is_symlink() for parent in name.parents):
                yield name.as_posix(), path


def nodes(path: Path) -> Iterator[ast.AST]:
    return ast.walk(ast.parse(path.read_text(encoding="utf-8")))


# Imports


def modules(root: Path) -> dict[str, Path]:
    """The file of every module that is installed, by its dotted name; a package's name ends in `.__init__`."""
    by_name = {}
    for package, folder in PACKAGES.items():
        for name, path in python_files(root, folder):
            by_name[".".join([package, *Path(name).with_suffix("").parts[1:]])] = path
    return by_name


def imported_modules(name: str, path: Path, known: set[str]) -> set[str]:
    """Dotted names of what a file imports, wherever in the file, but not what it imports only for type checkers.

    `from package import x` means the module package.x where there is one in `known`, else the package.
    """
    imported: set[str] = set()
    package = name.removesuffix(".__init__").split(".")
    pending: list[ast.AST] = [ast.parse(path.read_text(encoding="utf-8"))]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        pending += ast.iter_child_nodes(node)
        if isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            levels = node.level - name.endswith(".__init__")
            base = package[: len(package) - levels] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            names = {f"{module}.{alias.name}" for alias in node.names}
            imported |= names if module == "rsd_fast" else {one if one in known else module for one in names}
    return imported


def circles(root: Path) -> Places:
    """The shortest way from each module back to itself, or from each part of rsd_fast, a module or a package."""
    files = modules(root)
    known = {name.removesuffix(".__init__") for name in files}
    between_modules: dict[str, set[str]] = {}
    between_parts: dict[str, set[str]] = {}
    for name, path in files.items():
        if name != "rsd_fast.__init__":  # it imports lazily, by name
            imported = imported_modules(name, path, known) & known
            between_modules[name.removesuffix(".__init__")] = imported
            part = part_of(name)
            between_parts.setdefault(part, set()).update({part_of(module) for module in imported} - {part})
    ways = {}
    for graph in (between_modules, between_parts):
        for start in sorted(graph):
            if way := way_back(graph, start):
                ways.setdefault(frozenset(way), " -> ".join(way))
    return list(ways.values())


def part_of(module: str) -> str:
    return ".".join(module.split(".")[:2])


def way_back(graph: dict[str, set[str]], module: str) -> Places:
    """The modules on the shortest way from one back to itself, or none."""
    ways, seen = deque([[module]]), {module}
    while ways:
        way = ways.popleft()
        for following in sorted(graph[way[-1]] & graph.keys()):
            if following == module:
                return [*way, module]
            if following not in seen:
                seen.add(following)
                ways.append([*way, following])
    return []


# Operators


def operator_classes(root: Path) -> dict[str, ast.ClassDef]:
    """The classes of operators in rsd_fast/corruptions, by name."""
    classes = {
        node.name: node
        for _, path in python_files(root, "rsd_fast/corruptions")
        for node in nodes(path)
        if isinstance(node, ast.ClassDef)
    }
    operators = {name: node for name, node in classes.items() if name in OPERATOR_BASES}
    while more := {
        name: node for name, node in classes.items() if name not in operators and bases(node) & {*operators}
    }:
        operators |= more
    return operators


def bases(node: ast.ClassDef) -> set[str]:
    return {name for base in node.bases for name in names_in(base)}


def names_in(node: ast.AST) -> set[str]:
    """Every name and attribute in an expression."""
    identifiers = {each.id for each in ast.walk(node) if isinstance(each, ast.Name)}
    return identifiers | {each.attr for each in ast.walk(node) if isinstance(each, ast.Attribute)}


def is_operators(node: ast.AST, attribute: str) -> bool:
    """Is it an attribute of something that is called an operator, or a corruption?"""
    if not (isinstance(node, ast.Attribute) and node.attr == attribute):
        return False
    owner = node.value.func if isinstance(node.value, ast.Call) else node.value
    name = owner.attr if isinstance(owner, ast.Attribute) else owner.id if isinstance(owner, ast.Name) else ""
    return any(word in name.lower() for word in ("corruption", "operator"))


def class_tests(root: Path) -> Places:
    """Tests of an operator's class, kind or name outside rsd_fast/corruptions, and ops, which knows of no operators."""
    operators = operator_classes(root)
    kinds = {kind for node in operators.values() for kind in kinds_of(node)}
    return [
        f"{name}:{node.lineno} {ast.unparse(node)}"
        for name, path in python_files(root, "rsd_fast", "cli", "benchmarks")
        if not name.startswith(("rsd_fast/corruptions/", "rsd_fast/ops/"))
        for node in nodes(path)
        if isinstance(node, ast.expr | ast.MatchClass)
        if asks_for_class(node, {*operators}) or asks_for_kind(node, kinds)
    ]


def kinds_of(node: ast.ClassDef) -> set[str]:
    """The text that a class assigns to `kind`, if it does."""
    assigned = [each for each in node.body if isinstance(each, ast.Assign) and names_in(each.targets[0]) == {"kind"}]
    return {text for each in assigned for text in constants_in(each.value)}


def constants_in(node: ast.AST) -> set[str]:
    return {each.value for each in ast.walk(node) if isinstance(each, ast.Constant) and isinstance(each.value, str)}


def asks_for_class(node: ast.AST, operators: set[str]) -> bool:
    """isinstance(x, Operator), issubclass(x, Operator), type(x) is Operator, case Operator()."""
    if isinstance(node, ast.MatchClass):
        return bool(names_in(node.cls) & operators)
    if isinstance(node, ast.Call) and len(node.args) == 2 and ast.unparse(node.func) in ("isinstance", "issubclass"):
        return bool(names_in(node.args[1]) & operators)
    if isinstance(node, ast.Compare):
        sides = [node.left, *node.comparators]
        types = any(isinstance(side, ast.Call) and ast.unparse(side.func) == "type" for side in sides)
        return types and any(names_in(side) & operators for side in sides)
    return False


def asks_for_kind(node: ast.AST, kinds: set[str]) -> bool:
    """operator.kind, wherever it stands; x.kind == a kind of operators; operator.name == x."""
    if not isinstance(node, ast.Compare):
        return is_operators(node, "kind")
    sides = [node.left, *node.comparators]
    compared = [side for side in sides if isinstance(side, ast.Attribute) and side.attr == "kind"]
    if any(is_operators(side, "kind") for side in compared):
        return False  # that side counts by itself
    constants = {text for side in sides for text in constants_in(side)}
    return any(is_operators(side, "name") for side in sides) or (bool(compared) and bool(constants & kinds))


# Sizes, names, types


def parameters(function: ast.FunctionDef | ast.AsyncFunctionDef) -> list[str]:
    a = function.args
    arguments = [*a.posonlyargs, *a.args, *([a.vararg] if a.vararg else []), *a.kwonlyargs]
    arguments += [a.kwarg] if a.kwarg else []
    return [argument.arg for argument in arguments if argument.arg not in ("self", "cls")]


def long_signatures(root: Path) -> Places:
    return [
        f"{name}:{node.lineno} {node.name}, {len(parameters(node))} parameters"
        for name, path in python_files(root, "rsd_fast", "cli", "benchmarks")
        if not name.startswith("rsd_fast/ops/")
        for node in nodes(path)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and len(parameters(node)) > MOST_PARAMETERS
    ]


def long_files(root: Path) -> Places:
    sources = list(python_files(root, "rsd_fast", "cli", "kernels", "benchmarks"))
    sources += [(f"csrc/{path.name}", path) for path in sorted((root / "csrc").iterdir()) if path.is_file()]
    lengths = {name: len(path.read_text(encoding="utf-8").splitlines()) for name, path in sources}
    return [f"{name}, {length} lines" for name, length in lengths.items() if length > MOST_LINES]


def ignored_types(root: Path) -> Places:
    places = []
    for name, path in python_files(root, "rsd_fast", "cli", "kernels", "benchmarks", "tests", "examples"):
        for token in tokenize.generate_tokens(io.StringIO(path.read_text(encoding="utf-8")).readline):
            if token.type == tokenize.COMMENT and "type: ignore" in token.string:
                places.append(f"{name}:{token.start[0]} {token.string}")
    return places


def vague_names(root: Path) -> Places:
    """Every use of a variable or a parameter whose name does not say what it holds."""
    return [
        f"{name}:{node.lineno} {identifier}"
        for name, path in python_files(root, "rsd_fast", "cli", "kernels", "benchmarks")
        for node in nodes(path)
        if isinstance(node, ast.Name | ast.arg)
        and (identifier := node.id if isinstance(node, ast.Name) else node.arg) in VAGUE
    ]


FIGURES = [
    Figure("circles of imports", circles, 0, "move what both need into a module of its own"),
    Figure(
        "tests of an operator's class or kind outside corruptions/",
        class_tests,
        0,
        "let the operator answer: give Corruption a method or an attribute that says what is asked here",
    ),
    Figure(
        f"functions of more than {MOST_PARAMETERS} parameters outside ops and kernels",
        long_signatures,
        0,
        "give those that belong together an object, or split the function",
    ),
    Figure(f"files of more than {MOST_LINES} lines", long_files, 0, "split it by concept"),
    Figure("type: ignore", ignored_types, 5, "say the type: an assert, an overload, a Protocol or a cast"),
    Figure(
        f"uses of variables called {', '.join(sorted(VAGUE))}",
        vague_names,
        0,
        "name the variable by what it holds",
    ),
]


def table(roots: list[Path]) -> str:
    """A line for each figure, with a column for each checkout, and the limit."""
    width = max(len(figure.name) for figure in FIGURES)
    head = ["".ljust(width), *(f"{root.resolve().name:>12}" for root in roots), f"{'at most':>12}"]
    lines = [" ".join(head)]
    for figure in FIGURES:
        counts = [f"{len(figure.places(root)):12}" for root in roots]
        lines.append(" ".join([figure.name.ljust(width), *counts, f"{figure.limit:12}"]))
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description="Count what test_house.py limits.")
    parser.add_argument("root", nargs="*", type=Path, default=[ROOT], help="checkouts, one a column (this one)")
    parser.add_argument("--list", action="store_true", help="print every place that counts")
    options = parser.parse_args()
    print(table(options.root))
    if options.list:
        for root in options.root:
            for figure in FIGURES:
                print(f"\n{root}: {figure.name}: {figure.advice}", *figure.places(root), sep="\n    ")


if __name__ == "__main__":
    main()
