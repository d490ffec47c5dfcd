"""Third-party scripts of the site, taken from installed packages: DataTables, from the package `itables`."""

from __future__ import annotations

import re
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from vrbench.core.errors import VrbenchError

PACKAGE = "itables"
BUNDLE = "itables/html/dt_bundle.js"
_EXPORT = re.compile(r"export\s*\{([^{}]*)\};?")


def vendored_files() -> dict[str, str]:
    """Return the script and its licences, by name in the site's assets.

    Raises:
        VrbenchError: the package is not installed, or its bundle is not built as expected.
    """
    try:
        package = distribution(PACKAGE)
    except PackageNotFoundError as error:
        raise VrbenchError(f"the package {PACKAGE!r} is not installed; pip install {PACKAGE}") from error
    licences = sorted(str(file) for file in package.files or () if file.name == "LICENSE")
    if not licences:
        raise VrbenchError(f"{PACKAGE} {package.version} has no licence file; another version of it is needed")
    about = "datatables.js is the bundle of itables; the licences of its parts are at the end of it.\n\n"
    return {
        "datatables.js": classic_script(_text(package, BUNDLE), f"{PACKAGE} {package.version}"),
        "datatables.LICENSE.txt": about + _text(package, licences[0]),
    }


def classic_script(module: str, source: str) -> str:
    """Return an ES module whose default export is DataTables as a script that sets `window.DataTable`.

    Browsers refuse modules from `file://`, but not scripts.

    Args:
        source: where it is from, for the message.

    Raises:
        VrbenchError: it does not have exactly one list of exports with a default.
    """
    exports = _EXPORT.findall(module)
    default = re.search(r"([\w$]+)\s+as\s+default\b", exports[0]) if len(exports) == 1 else None
    if default is None:
        raise VrbenchError(f"{source} has no {BUNDLE} with one default export; another version of it is needed")
    body = _EXPORT.sub(lambda _: f"window.DataTable={default[1]};", module)
    return f'(function(){{"use strict";\n{body}\n}})();\n'


def _text(package: Distribution, name: str) -> str:
    return Path(str(package.locate_file(name))).read_text(encoding="utf-8")
