"""What every test shares: one thread, repeatable examples, and data sets that may be absent."""

import os
import signal
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, settings

import secateurs  # noqa: F401 (before pytest collects prune.py alone, and puts the module in the place of the verb)

collect_ignore = ["plugin", "core_only.py"]  # another project, and a script for another environment

settings.register_profile("laws", derandomize=True, deadline=None)
settings.register_profile(
    "fuzz",
    derandomize=False,
    deadline=None,
    max_examples=2000,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)


def pytest_configure(config):
    """Examples are the same on every run, unless another profile is asked for."""
    settings.load_profile(config.getoption("--hypothesis-profile") or "laws")
    torch.set_num_threads(1)


def pytest_runtest_setup(item):
    """A test marked `gpu` says why it did not run."""
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")


@pytest.fixture
def ctrl_c():
    """Ctrl-C as Python has it: a shell makes what it runs in the background deaf to it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="session")
def data_root():
    """The folder of data sets and trained checkpoints."""
    folder = os.environ.get("SECATEURS_DATA")
    if not folder:
        pytest.skip("needs data sets: set SECATEURS_DATA to the folder that holds them")
    if not Path(folder).is_dir():
        pytest.fail(f"SECATEURS_DATA is {folder!r}, which is not a folder")
    return Path(folder)
