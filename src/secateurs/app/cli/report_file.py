"""The report of a finished run, read back from its folder."""

from secateurs.app.cli.run_folder import RunFolder
from secateurs.app.report import Report
from secateurs.errors import DamageError

REPORT = "report.json"


def finished(folder: RunFolder) -> Report | None:
    """The report of a run that is finished, as it was written; None where it is not finished."""
    content = folder.report(REPORT)
    if content is None:
        return None
    try:
        return Report.from_json(content)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as cause:
        raise DamageError(f"{folder.path / REPORT} is no report ({cause!r}); put the original back") from cause
