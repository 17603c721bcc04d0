"""Keep Lightning's advice out of the output, and its global switches out of the process."""

import logging
import signal
import warnings
from collections.abc import Generator
from contextlib import contextmanager

import torch

UNWANTED = (
    r".*does not have many workers.*",  # images in memory need none; --workers is the user's choice
    r".*The number of training batches.*is smaller than the logging interval.*",
    r".*GPU available but not used.*",
    r".*It is recommended to use `self.log.*sync_dist=True.*",  # every process validates on all images
    r".*Checkpoint directory .* exists and is not empty.*",  # a resumed run's always is
    r".*The dirpath has changed from.*",  # a run folder may be moved; nothing in it depends on where it lies
    r".*`isinstance\(treespec, LeafSpec\)` is deprecated.*",  # lightning 2.6 on torch 2.14
    r".*`torch.jit.script` is deprecated.*",
    r".*Precision .* is not supported by the model summary.*",
)


@contextmanager
def quietly() -> Generator[None]:
    """Silence the warnings above and Lightning's notes; afterwards put determinism and Ctrl-C back as they were."""
    logs = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [log.level for log in logs]
    strict, warn_only = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    benchmark, interrupt = torch.backends.cudnn.benchmark, signal.getsignal(signal.SIGINT)
    with warnings.catch_warnings():
        for message in UNWANTED:
            warnings.filterwarnings("ignore", message=message)
        for log in logs:
            log.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for log, level in zip(logs, levels, strict=True):
                log.setLevel(level)
            torch.use_deterministic_algorithms(strict, warn_only=warn_only)
            torch.backends.cudnn.benchmark = benchmark
            if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
                signal.signal(signal.SIGINT, interrupt)
