"""Scripts of others that the site carries, taken from installed packages: DataTables, from the package `itables`."""

from __future__ import annotations

import re
from importlib.metadata import Distribution, PackageNotFoundError, distribution

from vrbench.core.errors import VrbenchError

PACKAGE = "itables"
BUNDLE = "itables/html/dt_bundle.js"
_EXPORT = re.compile(r"export\s*\{([^{}]*)\};?")
WANTED = "default"
"""The export that is DataTables itself."""


def files() -> dict[str, str]:
    """Name in the site's assets -> content: the script, and the licences that it comes under.

    Raises:
        VrbenchError: the package is not installed, or its bundle is not built as it was.
    """
    try:
        package = distribution(PACKAGE)
    except PackageNotFoundError as error:
        raise VrbenchError(f"the package {PACKAGE!r} is not installed; pip install {PACKAGE}") from error
    return {
        "datatables.js": classic_script(_text(package, BUNDLE), f"{PACKAGE} {package.version}"),
        "datatables.LICENSE.txt": _licence(package),
    }


def classic_script(module: str, source: str) -> str:
    """An ES module whose default export is DataTables, as a script that sets `window.DataTable`.

    Browsers refuse modules from `file://`, but not scripts.

    Args:
        source: where it is from, for the sentence.

    Raises:
        VrbenchError: it has not one export, or none of that name.
    """
    exports = _EXPORT.findall(module)
    names = dict(reversed(pair.split(" as ")) for pair in exports[0].split(",") if " as " in pair) if exports else {}
    names = {name.strip(): local.strip() for name, local in names.items()}
    if len(exports) != 1 or WANTED not in names:
        raise VrbenchError(
            f"{source} has no {BUNDLE} that exports it as {WANTED!r} once; another version of it is needed"
        )
    body = _EXPORT.sub(lambda _: f"window.DataTable={names[WANTED]};", module)
    return f'(function(){{"use strict";\n{body}\n}})();\n'


def _text(package: Distribution, name: str) -> str:
    with open(str(package.locate_file(name)), encoding="utf-8") as file:
        return file.read()


def _licence(package: Distribution) -> str:
    """The package's licence; those of what is in the bundle stand at its end."""
    named = [str(file) for file in package.files or () if file.name == "LICENSE"]
    if not named:
        raise VrbenchError(f"{PACKAGE} {package.version} comes without its licence; another version of it is needed")
    return "datatables.js is the bundle of itables; the licences of its parts stand at the end of it.\n\n" + _text(
        package, sorted(named)[0]
    )
