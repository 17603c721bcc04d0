"""Which version of the library this is."""

from importlib.metadata import PackageNotFoundError, version


def library_version() -> str:
    """Give the installed version, or say that the source is run without being installed."""
    try:
        return version("secateurs")
    except PackageNotFoundError:
        return "not installed"
