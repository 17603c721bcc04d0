"""Run jobs on Ray Tune, on this machine or a cluster, with limits on CPUs and GPUs; restart killed ones."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from secateurs.app.sweep.jobs import Job, Outcome, finish
from secateurs.errors import InputError

AGAIN = 3
"""Number of restarts of a trial whose process was killed or whose machine was lost."""


def available() -> bool:
    """True if Ray Tune is installed."""
    try:
        import_module("ray.tune")
    except ImportError:
        return False
    return True


def on_ray(
    every: Sequence[Job], *, store: Path, cpus: int, gpus: float, address: str | None = None, slots: int | None = None
) -> tuple[Outcome, ...]:
    """Run jobs as trials of Ray Tune, each with `cpus` CPUs and `gpus` GPUs; finished ones are skipped.

    address: of a cluster; None starts Ray on this machine, with all its CPUs or with `slots` times those of a trial.
    store: a folder for Ray's own records, which, like the jobs' folders, every machine of a cluster must see.
    """
    if not available():
        raise InputError("Ray Tune is not installed, so runs go one at a time; python -m pip install 'ray[tune]'")
    ray, tune = import_module("ray"), import_module("ray.tune")
    started = not ray.is_initialized()
    if started:
        local: dict[str, Any] = {"include_dashboard": False, "num_cpus": None if slots is None else slots * cpus}
        ray.init(address=address, log_to_driver=False, **({} if address else local))
    try:
        bounded = tune.with_resources(_trial, {"cpu": cpus, "gpu": gpus})
        tuner = tune.Tuner(
            bounded,
            param_space={"job": tune.grid_search(list(every))},
            tune_config=tune.TuneConfig(max_concurrent_trials=slots, reuse_actors=False),
            run_config=tune.RunConfig(
                name="sweep",
                storage_path=str(store.absolute()),
                verbose=0,
                failure_config=tune.FailureConfig(max_failures=AGAIN),
            ),
        )
        found = {result.config["job"].name: result for result in tuner.fit()}
        return tuple(_outcome(job, found[job.name]) for job in every)
    finally:
        if started:
            ray.shutdown()


def _trial(config: dict[str, Any]) -> dict[str, str]:
    """Run one job in a worker; a run that fails is a result, and only a killed worker is a failure of the trial."""
    return {"failure": finish(config["job"]).failure}


def _outcome(job: Job, result: Any) -> Outcome:
    if result.error is not None:
        return Outcome(job.name, f"its process was stopped {AGAIN + 1} times ({type(result.error).__name__})")
    return Outcome(job.name, str(result.metrics["failure"]))
