"""Hooks of the site: links that leave docs/ lead to pages made of the repository's other files, or become code."""

import re
from pathlib import Path
from posixpath import normpath, relpath

from mkdocs.structure.files import File

ROOT = Path(__file__).parents[1]
LINK = re.compile(r"(!?)\[([^\]]+)\]\((?!\w+:|#)([^)#\s]+)(#[^)\s]*)?\)")
PAGES = [
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    *sorted(str(p.relative_to(ROOT)) for p in ROOT.glob("results/**/*.md")),
]
PICTURES = sorted(str(p.relative_to(ROOT)) for p in ROOT.glob("results/**/*.png"))


def on_files(files, config):
    """Add the repository's own pages and pictures, below `repository/`."""
    for name in PAGES:
        text = (ROOT / name).read_text("utf-8")
        files.append(File.generated(config, f"repository/{name}", content=text))
    for name in PICTURES:
        files.append(File.generated(config, f"repository/{name}", content=(ROOT / name).read_bytes()))
    return files


def place(name):
    """Where a file of the repository stands in the site, or None."""
    if name.startswith("docs/"):
        return name.removeprefix("docs/")
    return f"repository/{name}" if name in PAGES or name in PICTURES else None


def on_page_markdown(markdown, page, config, files):
    """Resolve every relative link as it is meant in the repository."""
    here = page.file.src_uri
    source = here.removeprefix("repository/") if here.startswith("repository/") else f"docs/{here}"
    base = source.rpartition("/")[0]

    def moved(match):
        mark, words, target, anchor = match.groups()
        name = normpath(f"{base}/{target}" if base else target)
        found = place(name)
        if found is not None:
            return f"{mark}[{words}]({relpath(found, here.rpartition('/')[0] or '.')}{anchor or ''})"
        if (ROOT / name).exists():  # a source file, which the site does not show
            return words
        return match[0]  # nowhere: the link check says so

    return LINK.sub(moved, markdown)
