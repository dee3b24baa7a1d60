"""Dead links in the Markdown files of this repository: to files, and to headings in them."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
_HEADING = re.compile(r"^#+\s+(.*)$", re.MULTILINE)


def anchors(text: str) -> set[str]:
    """The names under which the headings of a file can be linked to."""
    found = set()
    for heading in _HEADING.findall(_FENCE.sub("", text)):
        words = re.sub(r"[^\w\- ]", "", heading.lower())
        found.add(words.replace(" ", "-"))
    return found


def dead_links(file: Path) -> Iterator[str]:
    """Links of a file that lead nowhere."""
    text = file.read_text(encoding="utf-8")
    for link in _LINK.findall(_FENCE.sub("", text)):
        if "://" in link or link.startswith("mailto:"):
            continue
        path, _, anchor = link.partition("#")
        target = (file.parent / path).resolve() if path else file
        where = f"{file.relative_to(ROOT)}: {link}"
        if not target.exists():
            yield f"{where}: there is no such file"
        elif anchor and target.suffix == ".md" and anchor not in anchors(target.read_text("utf-8")):
            yield f"{where}: there is no such heading"


def main() -> None:
    """Print all dead links; exit status 1 if there are any."""
    files = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").glob("*.md")]
    found = [problem for file in sorted(files) for problem in dead_links(file)]
    for problem in found:
        print(problem)
    print(f"documents: {len(files)}, dead links: {len(found)}")
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
