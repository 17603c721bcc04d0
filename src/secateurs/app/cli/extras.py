"""Find the extra that installs a missing package, from the metadata of secateurs."""

import re
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, distribution, requires

DISTRIBUTIONS = {"sklearn": "scikit-learn", "yaml": "pyyaml", "cv2": "opencv-python"}
"""Import name -> name of the package to install, where they differ."""


def remedy(missing: ImportError, extras: Sequence[str]) -> str:
    """Return a message with the extra to install for a missing package; `extras`: those of the command."""
    name = (missing.name or str(missing)).partition(".")[0]
    wanted = _key(DISTRIBUTIONS.get(name, name))
    brought = packages_by_extra()
    bringing = sorted((e for e, packages in brought.items() if wanted in packages), key=lambda e: len(brought[e]))
    if not bringing:
        return f"the package {name} is missing ({missing}); python -m pip install {wanted}"
    first = next((extra for extra in extras if extra in bringing), bringing[0])
    lacking = [e for e in extras if e != first and not all(map(_installed, brought.get(e, ())))]
    chosen = ",".join([first, *lacking])
    return f"the package {name} is missing ({missing}); python -m pip install 'secateurs[{chosen}]'"


def packages_by_extra() -> dict[str, tuple[str, ...]]:
    """Return extra -> its packages, without extras of extras; empty if secateurs is not installed."""
    try:
        lines = requires("secateurs") or []
    except PackageNotFoundError:
        return {}
    found: dict[str, tuple[str, ...]] = {}
    for line in lines:
        package = re.match(r"[\w.-]+", line)
        extra = re.search(r"extra\s*==\s*['\"]([\w-]+)['\"]", line)
        if package and extra and package[0] != "secateurs":
            found[extra[1]] = (*found.get(extra[1], ()), _key(package[0]))
    return found


def _installed(package: str) -> bool:
    try:
        distribution(package)
    except PackageNotFoundError:
        return False
    return True


def _key(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
