"""What can be counted of how the code is kept stays within its limits; and the counting itself."""

from pathlib import Path

import pytest

from . import house


@pytest.mark.parametrize("figure", house.FIGURES, ids=lambda figure: figure.name)
def test_the_house_is_in_order(figure: house.Figure) -> None:
    places = figure.places(house.ROOT)
    listed = "\n    ".join(places)
    assert len(places) <= figure.limit, (
        f"{figure.name}: {len(places)}, at most {figure.limit}; {figure.advice}\n    {listed}"
    )


def checkout(root: Path, **files: str) -> Path:
    """A small one; the names of its files have _ for /."""
    for folder in ("rsd_fast/corruptions", "rsd_fast/ops", "cli", "kernels", "benchmarks", "csrc", "tests", "examples"):
        (root / folder).mkdir(parents=True)
    (root / "rsd_fast" / "corruptions" / "base.py").write_text(
        "class Corruption:\n    kind = 'linear'\n\nclass Mask(Corruption):\n    kind = 'mask'\n\n"
        "class BoxMask(Mask):\n    def bound(self):\n        return isinstance(self, Mask)\n\nclass Bank:\n    pass\n"
    )
    for name, text in files.items():
        (root / (name.replace("_", "/") + ".py")).write_text(text)
    return root


@pytest.mark.parametrize(
    ("code", "counted"),
    [
        ("isinstance(a, Mask)", True),
        ("isinstance(a, corruptions.BoxMask | int)", True),
        ("issubclass(kind, (int, Corruption))", True),
        ("type(a) is Mask", True),
        ("corruption.kind", True),
        ("self.operator.kind == kind", True),
        ("a.kind == 'mask'", True),
        ("parse(spec).kind in ('mask', 'linear')", True),
        ("self.corruption.name == 'fourier'", True),
        ("isinstance(a, Bank)", False),
        ("config.kind == 'pretrain'", False),
        ("type(a) is int", False),
        ("print(corruption.name)", False),
    ],
)
def test_tests_of_an_operators_class_are_counted(tmp_path: Path, code: str, counted: bool) -> None:
    root = checkout(tmp_path, cli_x=f"y = {code}\n")
    assert len(house.class_tests(root)) == counted


def test_patterns_of_operators_are_counted(tmp_path: Path) -> None:
    root = checkout(tmp_path, cli_x="match a:\n    case Mask():\n        pass\n")
    assert len(house.class_tests(root)) == 1


def test_circles_are_named(tmp_path: Path) -> None:
    root = checkout(
        tmp_path,
        cli_a="def f():\n    from .b import c\n",
        cli_b="from rsd_fast.cli import d\n",
        cli_d="from . import a\n",
        cli_e="from .a import f\nif TYPE_CHECKING:\n    from . import a\n",
    )
    assert house.circles(root) == ["rsd_fast.cli.a -> rsd_fast.cli.b -> rsd_fast.cli.d -> rsd_fast.cli.a"]
    (root / "cli" / "d.py").write_text("from rsd_fast.kernels.k import x\n")
    (root / "kernels" / "k.py").write_text("import rsd_fast.cli.e2\n")
    (root / "cli" / "e2.py").write_text("")
    assert house.circles(root) == ["rsd_fast.cli -> rsd_fast.kernels -> rsd_fast.cli"], "of packages, not of modules"


def test_sizes_names_and_ignored_types_are_counted(tmp_path: Path) -> None:
    seven, eight = ("def f(self, {}, *args, k, **rest): ...\n".format(", ".join("abcdefg"[:n])) for n in (4, 5))
    root = checkout(
        tmp_path,
        cli_long="x = 1\n" * 451,
        cli_just="x = 1\n" * 450,
        cli_parameters=seven + eight,
        cli_names="def f(given): return [found for found in given]\nx.shown = f(told=1)\n",
        cli_types="x = 'type: ignore'  # type: ignore[assignment]\n",
    )
    (root / "rsd_fast" / "ops" / "op.py").write_text(eight)
    assert house.long_files(root) == ["cli/long.py, 451 lines"]
    assert house.long_signatures(root) == ["cli/parameters.py:2 f, 8 parameters"]
    assert sorted(house.vague_names(root)) == ["cli/names.py:1 found"] * 2 + ["cli/names.py:1 given"] * 2
    assert house.ignored_types(root) == ["cli/types.py:1 # type: ignore[assignment]"]


def test_the_table_has_a_column_for_each_checkout(tmp_path: Path) -> None:
    root = checkout(tmp_path / "small", cli_long="x = 1\n" * 451)
    lines = house.table([root, root]).splitlines()
    assert lines[0].split() == ["small", "small", "at", "most"]
    assert [line.split()[-3:] for line in lines[1:] if line.startswith("files of")] == [["1", "1", "0"]]
