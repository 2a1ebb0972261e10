"""The package as it is installed: nothing forgotten, names importable, types shipped."""

import tomllib
from pathlib import Path

import attnbench

ROOT = Path(__file__).parent.parent


def test_every_folder_of_code_is_in_the_wheel() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    listed = {ROOT / folder for folder in project["tool"]["setuptools"]["package-dir"].values()}
    code = {
        path.parent for top in ("attnbench", "mechanisms", "harness") for path in (ROOT / top).rglob("*.py")
    }
    resolved = {path.resolve() for path in listed}
    assert {path.resolve() for path in code} <= resolved
    assert set(project["tool"]["setuptools"]["packages"]) == set(project["tool"]["setuptools"]["package-dir"])


def test_links_show_the_same_picture() -> None:
    for name in ("mechanisms", "harness", "results"):
        link = ROOT / "attnbench" / name
        assert link.is_symlink()
        assert link.resolve() == ROOT / name


def test_version_is_said_once_in_each_place() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["project"]["version"] == attnbench.__version__
    assert f"## {attnbench.__version__}" in (ROOT / "CHANGELOG.md").read_text()


def test_public_names_exist() -> None:
    assert all(hasattr(attnbench, name) for name in attnbench.__all__)
