"""The documentation site: builds without a warning, and a link that leads nowhere is one."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("mkdocs")
pytest.importorskip("mkdocstrings")

ROOT = Path(__file__).parent.parent


def build(root: Path, site: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(site)]
    return subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=300)


def test_the_site_builds_and_is_whole(tmp_path: Path) -> None:
    done = build(ROOT, tmp_path)
    assert done.returncode == 0, done.stderr
    assert "figures/speed.svg" in (tmp_path / "index.html").read_text(encoding="utf-8")
    assert (tmp_path / "figures" / "speed.svg").is_file()
    assert (tmp_path / "shipped-report.html").read_bytes() == (ROOT / "results" / "report.html").read_bytes()
    api = (tmp_path / "api.html").read_text(encoding="utf-8")
    assert "Build a layout with a mechanism in its attention hole" in api
    assert 'src="http' not in (tmp_path / "index.html").read_text(encoding="utf-8")


@pytest.mark.slow
def test_a_link_to_nowhere_is_an_error(tmp_path: Path) -> None:
    root = tmp_path / "copy"
    root.mkdir()
    for name in ("docs", "results"):
        shutil.copytree(ROOT / name, root / name)
    shutil.copytree(ROOT / "attnbench", root / "attnbench", symlinks=True)
    for name in ("mkdocs.yml", "CONTRIBUTING.md", "CHANGELOG.md"):
        shutil.copy(ROOT / name, root / name)
    page = root / "docs" / "index.md"
    page.write_text(page.read_text(encoding="utf-8") + "\n[gone](nowhere.md)\n", encoding="utf-8")
    done = build(root, tmp_path / "site")
    assert done.returncode != 0
    assert "nowhere.md" in done.stderr
