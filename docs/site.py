"""Hook of mkdocs: pages and images that lie outside docs/ become part of the site, and links to them lead there."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import click
import typer
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from vrbench.cli import app

ROOT = Path(__file__).resolve().parents[1]
PAGES = {"README.md": "index.md", "CONTRIBUTING.md": "CONTRIBUTING.md"}
FOLDERS = ("benchmarks/results/**/*", "leaderboards/reproduce/*/report.*", "leaderboards/reproduce/*/plots/*.png",
           "leaderboards/*/report/*.png")  # fmt: skip
LINK = re.compile(r"(\]\()(?:\.\./|docs/)([^)\s]+\))")


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add the files outside docs/ at the paths that they have in the repository, README.md as the start page."""
    extra = {name: ROOT / source for source, name in PAGES.items()}
    for pattern in FOLDERS:
        extra |= {file.relative_to(ROOT).as_posix(): file for file in ROOT.glob(pattern) if file.is_file()}
    for name, file in extra.items():
        files.append(File.generated(config, name, abs_src_path=str(file)))
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Make links relative to docs/, the root of the site, and write the command line reference."""
    if page.file.src_uri == "cli.md":
        return markdown + "".join(helps(typer.main.get_command(app), "vrbench"))
    if page.file.src_uri.startswith(("benchmarks/", "leaderboards/")):
        return markdown
    return LINK.sub(r"\1\2", markdown).replace("](README.md", "](index.md")


def helps(command: click.Command, name: str) -> Iterator[str]:
    """Yield a section with the `--help` text of each command; hidden ones are left out."""
    context = click.Context(command, info_name=name, terminal_width=100, max_content_width=100)
    yield f"\n## `{name}`\n\n```text\n{command.get_help(context)}\n```\n"
    for child in sorted(command.list_commands(context)) if isinstance(command, click.Group) else ():
        found = command.get_command(context, child)
        if found is not None and not found.hidden:
            yield from helps(found, f"{name} {child}")
