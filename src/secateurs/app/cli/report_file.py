"""Read the report of a finished run from its folder."""

from secateurs.app.cli.run_folder import RunFolder
from secateurs.app.report import Report
from secateurs.errors import DamageError

REPORT = "report.json"


def finished(folder: RunFolder) -> Report | None:
    """Return the report of a finished run; None if it is not finished."""
    content = folder.report(REPORT)
    if content is None:
        return None
    try:
        return Report.from_json(content)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as cause:
        raise DamageError(f"{folder.path / REPORT} is no report ({cause!r}); put the original back") from cause
