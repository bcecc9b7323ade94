"""Execute the runs of a study: train by `dinor1 train`, measure by the study's tools, and collect in the table."""

import datetime
import json
import os
import platform
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from dinor1.utils.errors import InputError
from dinor1.utils.io import locked, read_json, write_json
from dinor1.utils.processor import processor_name

from .collect import RESULT_NAME, collect_runs, read_result
from .results import read_rows, row_key
from .study import Run, Study

# Command line of dinor1 in a new process.
DINOR1 = (sys.executable, '-m', 'dinor1')


class Cost(NamedTuple):
    """Time and memory of commands.

    Attributes:
        seconds: Wall-clock time.
        cpu_seconds: Processor time, worker processes included.
        memory_mib: Largest resident memory of one process.
    """

    seconds: float = 0.0
    cpu_seconds: float = 0.0
    memory_mib: float = 0.0

    def plus(self, other: 'Cost') -> 'Cost':
        """Cost of two commands that run one after the other."""
        seconds, cpu_seconds = self.seconds + other.seconds, self.cpu_seconds + other.cpu_seconds
        return Cost(seconds, cpu_seconds, max(self.memory_mib, other.memory_mib))


def select(study: Study, arms: Sequence[str] | None, seeds: Sequence[int] | None) -> list[Run]:
    """Select the runs of some arms and seeds, and the runs that they start from.

    Raises:
        InputError: the study has no such arm or seed.
    """
    # Check the names.
    known_arms, known_seeds = {run.arm for run in study.runs}, {run.seed for run in study.runs}
    if unknown := set(arms or []) - known_arms:
        raise InputError(f'--only: no arm {sorted(unknown)}; the study has {sorted(known_arms)}')
    if unknown := set(seeds or []) - known_seeds:
        raise InputError(f'--seeds: no seed {sorted(unknown)}; the study has {sorted(known_seeds)}')
    # Select the runs, and those that they start from.
    chosen = {run.name for run in study.runs if run.arm in (arms or [run.arm]) and run.seed in (seeds or [run.seed])}
    for run in reversed(study.runs):
        if run.name in chosen and run.starts_from is not None:
            chosen.add(run.starts_from)
    return [run for run in study.runs if run.name in chosen]


def run_all(
    study: Study,
    runs: Sequence[Run],
    table: Path,
    work_dir: Path,
    jobs: int = 1,
    report: Callable[[str], None] = lambda line: None,
) -> None:
    """Execute the runs that are not in the table, and add each to the table when it is finished.

    Args:
        study: The study.
        runs: Runs of the study, in the order of the study.
        table: Table of the study; it is created if necessary.
        work_dir: Parent of the work directories of the runs.
        jobs: Number of parallel runs. Each gets an equal share of the threads, unless OMP_NUM_THREADS is set.
        report: Called with a line of progress after each run.

    Raises:
        InputError: ``jobs`` is not positive, the table is broken, or a run failed. Started runs are finished before.
    """
    if jobs < 1:
        raise InputError(f'--jobs must be at least 1, got {jobs}')
    # Find the unfinished runs.
    known = read_rows(table) if table.is_file() else []
    finished = {row_key(row) for row in known}
    waiting = [run for run in runs if run.key not in finished]
    threads = _threads(jobs)
    futures: dict[str, Future] = {}
    pool = ThreadPoolExecutor(jobs)

    def one(run: Run) -> dict[str, Any]:
        # Wait for the run that this run starts from, which was submitted before.
        if run.starts_from in futures:
            futures[run.starts_from].result()
        record = execute(run, study, work_dir, threads)
        collect_runs(work_dir / run.name, table)
        return record

    # Execute them in parallel, and report progress.
    try:
        for run in waiting:
            futures[run.name] = pool.submit(one, run)
        for i, run in enumerate(waiting):
            known.append(futures[run.name].result())
            left = datetime.timedelta(seconds=round(remaining(waiting[i + 1 :], known) / jobs))
            report(f'[{i + 1}/{len(waiting)}] {run.name} (ETA {left})')
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def remaining(runs: Sequence[Run], known: Sequence[dict[str, Any]]) -> float:
    """Estimate the total seconds of ``runs`` from finished runs with the same configs.

    Args:
        runs: Runs to execute.
        known: Records of finished runs; their mean is the estimate for a config without finished runs.
    """
    if not known:
        return 0.0
    # Group the durations by config.
    seconds: dict[str, list[float]] = {}
    for record in known:
        seconds.setdefault(record['config'], []).append(record['seconds'])
    # A config without a finished run gets the mean of all.
    everything = [value for values in seconds.values() for value in values]
    return sum(statistics.fmean(seconds.get(run.config, everything)) for run in runs)


def execute(run: Run, study: Study, work_dir: Path, threads: int | None = None) -> dict[str, Any]:
    """Train one run, or resume it after an interruption, measure it, and write ``result.json`` to its work directory.

    If this file exists, the run is finished and the file is read.

    Args:
        run: The run.
        study: The study of the run.
        work_dir: Parent of the work directories of this run and of the run that it starts from.
        threads: OMP_NUM_THREADS of the commands; None: the default of the libraries.

    Returns:
        Content of ``result.json``: the run's row of the table.

    Raises:
        InputError: a command failed, there is no checkpoint to start from, or the work directory is in use or belongs
            to another run.
    """
    own = work_dir / run.name
    with locked(own):
        _check_identity(own, run)
        if not (own / RESULT_NAME).is_file():
            write_json(_execute(run, study, work_dir, threads), own / RESULT_NAME, indent=1)
        return read_result(own / RESULT_NAME)


def _execute(run: Run, study: Study, work_dir: Path, threads: int | None) -> dict[str, Any]:
    # Train.
    own = work_dir / run.name
    environment = dict(os.environ) if threads is None else os.environ | {'OMP_NUM_THREADS': str(threads)}
    arguments = _training(run, own, work_dir)
    if not (own / 'metrics.json').is_file():
        _command(run, own, 'train', ['train', *arguments], environment)
    # Run the tools of the study.
    metrics, extra = read_json(own / 'metrics.json'), {}
    for name, template in (run.after or {}).items():
        out = own / f'{name}.json'
        checkpoint = (own / 'last_checkpoint').read_text().strip()
        if not Path(checkpoint).is_file():  # the work directory was moved
            checkpoint = str(own / Path(checkpoint).name)
        # Use the config that the training wrote to the work directory, which has the options of the arm.
        config = own / Path(run.config).name
        values = dict(config=str(config), checkpoint=checkpoint, work_dir=str(own), out=str(out))
        if not out.is_file():
            _command(run, own, name, [part.format(**values) for part in template], environment)
        extra[name] = read_json(out)
        metrics |= extra[name].pop('metrics', {})
    # Add files of the work directory, and curves of the training log.
    extra |= {name: read_json(own / file) for name, file in study.keep.items() if (own / file).is_file()}
    log = training_log(own)
    if study.curves:
        extra['curves'] = {name: [[line['iter'], line[name]] for line in log if name in line] for name in study.curves}
    if log:
        extra['seconds_per_iteration'] = round(statistics.median(line['time'] for line in log), 4)
    # Add the cost. It is unknown if the training continued after this process was killed.
    if not (own / 'cost.json').is_file():
        raise InputError(f'{own}: trained, but time and memory were not recorded; delete the folder to run it again')
    costs = read_json(own / 'cost.json')
    training = Cost(*costs['train'])
    return dict(
        arm=run.arm,
        seed=run.seed,
        config=run.config,
        config_hash=run.key.config_hash,
        options=list(run.options),
        start=run.start,
        command=shlex.join(['dinor1', 'train', *arguments]),
        metrics=metrics,
        seconds=round(sum(cost[0] for cost in costs.values()), 1),
        cpu_seconds=round(training.cpu_seconds, 1),
        train_seconds=round(training.seconds, 1),
        memory_mib=round(training.memory_mib),
        environment=_environment(threads),
        **extra,
    )


def _check_identity(own: Path, run: Run) -> None:
    """Record the run in its work directory; reject the directory if it holds another run with the same name."""
    identity = dict(config=run.config, options=list(run.options), start=run.start, seed=run.seed)
    if not (own / 'run.json').is_file():
        write_json(identity, own / 'run.json')
    elif read_json(own / 'run.json') != identity:
        raise InputError(f'{own}: holds a run of another config or other options; delete the folder to run it again')


def _training(run: Run, own: Path, work_dir: Path) -> list[str]:
    """Return the arguments of ``dinor1 train``."""
    arguments = [run.config, '--seed', str(run.seed), '--work-dir', str(own), '--resume']
    options = list(run.options)
    # Add the checkpoint to start from, unless the run has begun.
    if run.start is not None:
        checkpoint = work_dir / run.starts_from / run.start['checkpoint']
        begun = (own / 'last_checkpoint').is_file()
        if not begun and not checkpoint.is_file():
            raise InputError(
                f'{checkpoint}: no such checkpoint, but {run.name} starts from it; delete the row of '
                f'{run.starts_from} from the table to train it again'
            )
        if not run.start['resume']:
            options.append(f'load_from={checkpoint}')
        elif not begun:
            arguments.append(str(checkpoint))
    return [*arguments, '--cfg-options', *options] if options else arguments


def _command(run: Run, own: Path, name: str, command: list[str], environment: dict[str, str]) -> None:
    """Run a command of dinor1, or a script, and record its cost, including that of interrupted attempts."""
    # Run the command with its output in a log.
    log, costs = own / f'{name}.log', own / 'cost.json'
    program = (sys.executable,) if command[0].endswith('.py') else DINOR1
    start = time.perf_counter()
    with open(log, 'a') as file:
        process = subprocess.Popen([*program, *command], stdout=file, stderr=subprocess.STDOUT, env=environment)
        # Measure the cost of this process alone, which Windows does not report.
        if hasattr(os, 'wait4'):
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
            unit = 2**20 if sys.platform == 'darwin' else 2**10
            cost = Cost(time.perf_counter() - start, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / unit)
        else:
            process.wait()
            cost = Cost(time.perf_counter() - start)
    # Record the cost, and raise an error if the command failed.
    known = read_json(costs) if costs.is_file() else {}
    known[name] = Cost(*known.get(name, ())).plus(cost)
    write_json(known, costs)
    if process.returncode:
        lines = log.read_text(errors='replace').strip().splitlines() or [f'exit status {process.returncode}']
        raise InputError(f'{run.name}: {lines[-1].removeprefix("error: ")} ({log})')


def training_log(work_dir: Path) -> list[dict[str, float]]:
    """Lines of ``scalars.json`` of a training, by iteration; if a resumed run repeated an iteration, the last line."""
    lines: dict[int, dict[str, float]] = {}
    for path in sorted(work_dir.glob('*/vis_data/scalars.json')):
        for text in path.read_text().splitlines():
            line = _json_line(text)
            if 'loss' in line and 'iter' in line and 'time' in line:
                lines[line['iter']] = line
    return [lines[i] for i in sorted(lines)]


def _json_line(text: str) -> dict[str, Any]:
    """Parse a line of a log; returns an empty dict for an incomplete line of a killed process."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return {}


def _threads(jobs: int) -> int | None:
    import torch

    if jobs == 1 or 'OMP_NUM_THREADS' in os.environ:
        return None
    return max(1, torch.get_num_threads() // jobs)


def _environment(threads: int | None) -> dict[str, str]:
    import torch

    threads = torch.get_num_threads() if threads is None else threads
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f'CPU, {threads} threads'
    return dict(
        python=platform.python_version(),
        torch=torch.__version__,
        machine=platform.machine(),
        processor=processor_name(),
        device=device,
    )
