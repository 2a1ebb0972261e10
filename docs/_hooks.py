"""What mkdocs does besides: pages and files from outside docs/, and links to what is not on the site."""

import re
from pathlib import Path, PurePosixPath
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
PAGES = {
    "CONTRIBUTING.md": "CONTRIBUTING.md",
    "CHANGELOG.md": "CHANGELOG.md",
    "results/README.md": "results.md",
}
"""Pages of the site that lie elsewhere in the repository, by path there."""
REPORT = "shipped-report.html"
_LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\((?!https?:|#|mailto:)([^)#\s]+)(#[^)\s]*)?\)")


def on_files(files: Files, config: Any) -> Files:
    """Add the pages, the shipped figures and the shipped report."""
    for source, page in PAGES.items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text(encoding="utf-8")))
    for figure in sorted((ROOT / "results" / "figures").glob("*.svg")):
        files.append(File.generated(config, f"figures/{figure.name}", abs_src_path=str(figure)))
    report = ROOT / "results" / "report.html"
    files.append(File.generated(config, REPORT, abs_src_path=str(report)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """A link to a file of the repository that is no page becomes its path."""
    came_from = {new: old for old, new in PAGES.items()}
    folder = PurePosixPath(came_from.get(page.file.src_uri, f"docs/{page.file.src_uri}")).parent

    def link(match: re.Match[str]) -> str:
        picture, text, target, anchor = match.groups()
        path = _normal(folder / target)
        uri = PAGES.get(path) or (path.removeprefix("docs/") if path.startswith("docs/") else "")
        if uri and files.get_file_from_path(uri) is not None:
            return f"{picture}[{text}]({uri}{anchor or ''})"
        if path.startswith("results/figures/"):
            return f"{picture}[{text}]({path.removeprefix('results/')})"
        if path == "results/report.html":
            return f"[{text}]({REPORT})"
        if not (ROOT / path).exists():
            return match.group(0)  # mkdocs says that it leads nowhere
        return f"{text} (`{path}`)" if text.strip("`") != path else f"`{path}`"

    return _LINK.sub(link, markdown)


def _normal(path: PurePosixPath) -> str:
    parts: list[str] = []
    for part in path.parts:
        parts = parts[:-1] if part == ".." else [*parts, part]
    return "/".join(part for part in parts if part != ".")
