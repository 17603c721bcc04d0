"""Version of the installed library."""

from importlib.metadata import PackageNotFoundError, version


def library_version() -> str:
    """Return the installed version, or a text for a source tree that is not installed."""
    try:
        return version("secateurs")
    except PackageNotFoundError:
        return "not installed"
