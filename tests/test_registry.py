"""Finding, reading and building mechanisms, and every way in which that can go wrong."""

import importlib.metadata
import subprocess
import sys
from pathlib import Path

import pytest

from attnbench import AttnbenchError, ImplementationError, Site, UnknownNameError, backends, registry

GOOD = """
from torch import Tensor, nn
from attnbench import Site, register_mechanism


@register_mechanism("{name}", title="A test", year=2026, pattern="static")
class Mechanism(nn.Module):
    def __init__(self, site: Site, *, gain: float = 1.0) -> None:
        super().__init__()
        self.gain = gain

    def forward(self, x: Tensor) -> Tensor:
        return self.gain * x
"""


def write(folder: Path, text: str, name: str = "mine") -> Path:
    path = folder / f"{name}.py"
    path.write_text(text.replace("{name}", name))
    return path


pytestmark = pytest.mark.usefixtures("isolated_registry")


def test_listing_imports_no_torch() -> None:
    code = "import sys, attnbench; attnbench.names(); attnbench.failures(); sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_names_are_those_of_the_files() -> None:
    folder = Path(__file__).parent.parent / "mechanisms"
    files = {path.stem for path in folder.glob("*.py") if not path.stem.startswith("_")}
    packages = {path.parent.name for path in folder.glob("*/__init__.py")}
    assert set(registry.names()) == files | packages
    assert not registry.failures()


def test_static_facts_are_those_of_the_decorator() -> None:
    for name in registry.names():
        spec = registry.get(name)
        spec.load()
        assert registry.MECHANISMS.state.registered[name][1] == spec.facts


def test_plugin_is_listed_and_built(tmp_path: Path) -> None:
    registry.add_plugin(write(tmp_path, GOOD))
    assert "mine" in registry.names()
    assert registry.get("mine").facts.year == 2026
    assert registry.get("mine").build(Site(8, 2, 4, 4), gain=3.0).gain == 3.0


def test_plugin_given_twice_is_one(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD)
    registry.add_plugin(path)
    registry.add_plugin(path)
    assert registry.names().count("mine") == 1


def test_computed_arguments_are_read_by_importing(tmp_path: Path) -> None:
    text = GOOD.replace('title="A test"', "title='A ' + 'test'")
    registry.add_plugin(write(tmp_path, text))
    assert registry.get("mine").facts.title == "A test"


def test_unknown_name_gives_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="did you mean shifted_window"):
        registry.get("shifted_windows")


def test_name_taken_twice_names_both_files(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD.replace("{name}", "full"))
    registry.names()
    with pytest.raises(AttnbenchError, match=r"full\.py.*mine\.py"):
        registry.add_plugin(path)


def test_name_taken_at_import_names_both(tmp_path: Path) -> None:
    registry.get("full").load()
    with pytest.raises(AttnbenchError, match=r"'full' is registered twice: in .*full\.py"):

        @registry.register_mechanism("full")
        def builder(site: Site) -> None:
            raise AssertionError


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("import no_such_package\n" + GOOD, "No module named 'no_such_package'"),
        ("def broken(:\n", "SyntaxError"),
        (GOOD + "\nraise RuntimeError('at import')\n", "RuntimeError: at import"),
        ("x = 1\n", "registers no mechanism"),
        (GOOD.replace('"static"', '"sometimes"'), "'sometimes' is not one of static, image, query"),
    ],
    ids=["missing import", "syntax error", "raises", "registers nothing", "wrong pattern"],
)
def test_broken_file_is_listed_as_failed_and_stops_nothing(tmp_path: Path, text: str, error: str) -> None:
    path = write(tmp_path, text)
    registry.add_plugin(path)
    assert error in registry.failures()[str(path)]
    assert "full" in registry.names()
    with pytest.raises(AttnbenchError, match="failed to import"):
        registry.get("mine")


def test_import_error_that_listing_cannot_see_is_one_clear_error(tmp_path: Path) -> None:
    registry.add_plugin(write(tmp_path, "from torch import no_such_thing\n" + GOOD))
    with pytest.raises(AttnbenchError, match=r"mine.*failed to import: ImportError"):
        registry.get("mine").load()


def test_plugin_that_is_not_there() -> None:
    with pytest.raises(AttnbenchError, match="is not a Python file"):
        registry.add_plugin("nowhere.py")


def test_entry_point(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, GOOD, "from_a_package")
    monkeypatch.syspath_prepend(tmp_path)
    entry = importlib.metadata.EntryPoint("from_a_package", "from_a_package", "attnbench.mechanisms")
    gone = importlib.metadata.EntryPoint("gone", "gone_package.module", "attnbench.mechanisms")
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: [entry, gone])
    assert registry.get("from_a_package").facts.title == "A test"
    assert any("gone_package" in error for error in registry.failures().values())


def test_per_stage_options() -> None:
    spec = registry.get("shifted_window")
    deep = Site(64, 2, 7, 7, stage=3)
    assert spec.options(deep) == {"window_size": 7}
    assert spec.options(deep, {"window_size": (1, 2, 3, 4)}) == {"window_size": 4}
    assert spec.options(Site(64, 2, 7, 7, stage=9), {"window_size": [1, 2]}) == {"window_size": 2}


@pytest.mark.parametrize("options", [{"no_such_option": 1}, {"window_size": 0}, {"padding": "wrong"}])
def test_wrong_option_is_one_clear_error(options: dict) -> None:
    with pytest.raises(AttnbenchError, match="shifted_window"):
        registry.get("shifted_window").build(Site(64, 2, 7, 7), **options)


def test_unknown_implementation() -> None:
    with pytest.raises(UnknownNameError, match="implementation of full 'spda'; did you mean sdpa"):
        registry.get("full").build(Site(64, 2, 7, 7), impl="spda")


def test_implementation_that_cannot_run_says_why() -> None:
    if isinstance(backends._probe_xformers(), str):
        with pytest.raises(ImplementationError, match="'xformers' cannot run here"):
            registry.get("full").build(Site(64, 2, 7, 7), impl="xformers")
    else:
        assert registry.get("full").build(Site(64, 2, 7, 7), impl="xformers").impl == "xformers"


@pytest.mark.parametrize("sizes", [(0, 1, 4, 4), (8, 3, 4, 4), (8, 2, 0, 4), (8, 2, 4, -1)])
def test_site_rejects_impossible_sizes(sizes: tuple[int, int, int, int]) -> None:
    with pytest.raises(ValueError, match=r"sizes of a site|not a multiple"):
        Site(*sizes)
