"""Coverage-guided fuzzing of every reader: `python -m tests.attack.fuzz [CPU SECONDS] [FOLDER]`; needs atheris.

It begins with a whole file of every kind and with tests/attack/corpus. What reaches new code is written into FOLDER; a
file that a reader stumbles over ends the search with its traceback, and lies in FOLDER as crash-*.
"""

import os
import shutil
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

CORPUS = Path(__file__).with_name("corpus")
SEED = 1


def main(arguments):
    """Fuzz for so many CPU seconds; 0 if nothing was found or atheris is missing, which is said."""
    if find_spec("atheris") is None:
        sys.stdout.write("skipped: atheris is not installed (python -m pip install atheris)\n")
        return
    import atheris

    with atheris.instrument_imports(include=["secateurs"]):
        from tests.attack import readers

    limit = float(arguments[0]) if arguments else 600.0
    folder = Path(arguments[1] if len(arguments) > 1 else tempfile.mkdtemp(prefix="secateurs-fuzz-"))
    for letter, content in readers.seeds().items():
        (folder / f"seed-{letter}").write_bytes(letter.encode() + content)
    tried = [0]

    def one(content):
        tried[0] += 1
        readers.read(content)
        if tried[0] % 64 == 0 and time.process_time() > limit:
            sys.stdout.write(f"{tried[0]} files were read in {time.process_time():.0f} CPU seconds\n")
            sys.stdout.flush()
            shutil.rmtree(readers.PLACE, ignore_errors=True)
            os._exit(0)

    flags = [
        f"-seed={SEED}",
        "-max_len=20000",
        "-rss_limit_mb=8000",
        "-timeout=60",
        f"-artifact_prefix={folder}{os.sep}",
    ]
    atheris.Setup([sys.argv[0], *flags, str(folder), str(CORPUS)], one)
    atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1:])
