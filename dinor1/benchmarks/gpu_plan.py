"""Plans of measurements, of at most five minutes each, on a GPU machine that is available only for minutes.

A plan is a list of commands of this project's tools. Each command has a time limit, may fail without ending the others,
and writes its results as soon as it has them. The record of the plan is rewritten after every change, so that nothing
is lost if the machine is lost.
"""

import contextlib
import dataclasses
import json
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from dinor1.benchmarks.machine import machine
from dinor1.studies.run import training_log
from dinor1.utils.command import last_lines, run_logged
from dinor1.utils.errors import InputError
from dinor1.utils.io import read_json, write_json

PLANS = ('check', 'train')
# A recipe on generated data, because the data of photographs are too large to transfer.
RECIPE = 'configs/dino_r1/dino-r1_nano_1xb8_6e_shapes.py'
MAX_DATA_BYTES = 30 * 10**6
SWIN_T = 'configs/_base_/models/dino_r1_swin-t.py'
SWIN_T_RECIPES = (
    'configs/vis_gdino/vis-gdino_swin-t_8xb4_6e_o365.py',
    'configs/dino_r1/dino-r1_swin-t_8xb4_6e_o365.py',
)
NANO = 'configs/_base_/models/dino_r1_nano.py'
NANO_RECIPES = ('configs/vis_gdino/vis-gdino_nano_1xb8_6e_shapes.py', RECIPE)
BASELINES = ('mmdetection+dinor1.ops', 'transformers')
NANO_BASELINES = ('mmdetection-nano', 'transformers-nano')
TOOLS = 'tools/analysis_tools'
# Columns of a training log that are copied to the record.
_CURVE = ('epoch', 'iter', 'loss', 'time', 'memory')


@dataclasses.dataclass(frozen=True)
class Part:
    """A command of a plan.

    Attributes:
        name: Name in the record.
        command: Arguments of Python: a tool and its options.
        seconds: Time limit; time that earlier parts did not use is added.
        has_result: Whether the tool writes its result to ``--out FILE.json``.
        work_dir: Work directory of a training, whose log is the result; None for other commands.
    """

    name: str
    command: tuple[str, ...]
    seconds: float
    has_result: bool = True
    work_dir: Path | None = None


@dataclasses.dataclass(frozen=True)
class Training:
    """The training of the plan ``train``.

    Attributes:
        recipe: Config file.
        data: Archive (tar) of the data set's folder, at most 30 MB; None: the shapes world is generated.
    """

    recipe: str = RECIPE
    data: Path | None = None

    def check(self) -> None:
        """Check the files.

        Raises:
            InputError: a file is missing, or the archive is too large.
        """
        if not Path(self.recipe).is_file():
            raise InputError(f'--recipe {self.recipe}: no such config file')
        if self.data is None:
            return
        if not self.data.is_file():
            raise InputError(f'--data {self.data}: no such file')
        if self.data.stat().st_size > MAX_DATA_BYTES:
            raise InputError(
                f'--data {self.data}: larger than {MAX_DATA_BYTES // 10**6} MB; pack fewer or smaller images'
            )


def check_parts(dry_run: bool) -> list[Part]:
    """Parts of the plan ``check``: correctness and times of the operator, then inference and baselines.

    Args:
        dry_run: Whether to use tiny sizes on a CPU.
    """
    # Choose the sizes.
    if dry_run:
        operator = ('--workloads', 'nano-decoder', '--dtypes', 'float32', '--rounds', '2')
        tiny = ('--size', '64', '96', '--prompts', '3', '--rounds', '2', '--no-memory')
        model, device = (NANO, '--baselines', *NANO_BASELINES, *tiny), 'cpu'
        checks: tuple[str, ...] = ('--interpret',)
    else:
        operator = ('--workloads', 'encoder', 'decoder', '--rounds', '20')
        model = (SWIN_T, '--baselines', *BASELINES, '--rounds', '20', '--warmup', '3')
        checks, device = ('--checks-only',), 'cuda'
    ops = (f'{TOOLS}/benchmark_ops.py', *operator, '--device', device)
    infer = (f'{TOOLS}/benchmark.py', *model, '--precisions', 'bfloat16', '--device', device, '--no-flops')
    # Compile the reference, which takes long, only for the smallest set of calls.
    first = () if dry_run else ('--dtypes', 'bfloat16', '--compile')
    return [
        Part('correctness', (f'{TOOLS}/gpu_check.py', *checks, '--minutes', '1.3'), 90),
        Part('operator, batch 1', (*ops, '--batch', '1', *first, '--minutes', '1'), 70),
        Part('operator, batch 8', (*ops, '--batch', '8', '--minutes', '0.3'), 25),
        Part('inference, batch 1', (*infer, '--batch', '1'), 45),
        Part('inference, batch 8', (*infer, '--batch', '8'), 45),
    ]


def train_parts(dry_run: bool, out: Path, scratch: Path, training: Training) -> list[Part]:
    """Parts of the plan ``train``: time of a training step, then a training in the remaining time.

    Args:
        dry_run: Whether to use tiny sizes on a CPU.
        out: Folder for the weights.
        scratch: Folder for the data set and the work directory.
        training: The training.
    """
    # Choose the sizes.
    if dry_run:
        tiny = ('--size', '64', '96', '--batch', '2', '--prompts', '3', '--boxes', '2', '--rounds', '2', '--no-memory')
        step = (*NANO_RECIPES, '--baselines', *NANO_BASELINES, *tiny, '--device', 'cpu')
        sizes = ('--num-train', '32', '--num-val-base', '8', '--num-val-novel', '8', '--num-support-novel', '8')
        amp: tuple[str, ...] = ()
        options = ('train_cfg.max_epochs=2', 'param_scheduler.0.total_steps=2', 'param_scheduler.0.pct_start=0.5')
    else:
        step = (*SWIN_T_RECIPES, '--baselines', *BASELINES, '--batch', '4', '--rounds', '8', '--device', 'cuda')
        sizes, options, amp = (), (), ('--amp', 'bfloat16')
    # Make the commands.
    data, work_dir = scratch / 'data', scratch / 'training'
    if training.data is None:
        unpack = ('tools/dataset_converters/make_shapes.py', '--out', str(data / 'shapes'), *sizes)
    else:
        unpack = ('-m', 'tarfile', '-e', str(training.data), str(data))
    hook = ('type=HalfWeightsHook', f'path={out}/weights.pth')
    options = (*(f'default_hooks.half_weights.{option}' for option in hook), *options)
    train = ('tools/train.py', training.recipe, *amp, '--work-dir', str(work_dir), '--cfg-options', *options)
    bench = (f'{TOOLS}/benchmark.py', *step, '--passes', 'training', '--precisions', 'bfloat16', '--no-flops')
    return [
        Part('training step', bench, 80),
        Part('data', unpack, 30, has_result=False),
        Part('training', train, 165, has_result=False, work_dir=work_dir),
    ]


def run_plan(
    name: str,
    parts: Sequence[Part],
    out: Path,
    scratch: Path,
    device: str,
    environment: dict[str, str] | None = None,
    report: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Run the parts one after the other, each within its time limit.

    ``out/NAME.json`` is the record and ``out/NAME.log`` the output of all parts.

    Args:
        name: ``'check'`` or ``'train'``.
        parts: The commands.
        out: Folder for record, log and weights.
        scratch: Folder for temporary files.
        device: ``cpu`` (a dry run) or ``cuda``.
        environment: Environment variables of the commands. Default: those of this process.
        report: Called with a line after each part.

    Returns:
        The record: ``machine``, and for each of ``parts`` its command, limit, seconds, ``status`` (``ok``, ``failed``,
        ``stopped``), ``error`` and ``result``.
    """
    path, log = out / f'{name}.json', out / f'{name}.log'
    record: dict[str, Any] = dict(plan=name, dry_run=device == 'cpu', machine=machine(device), parts={})
    write_json(record, path, indent=1)
    end = time.monotonic()
    for part in parts:
        # Add the limits, so that a part may use the time that earlier parts did not use.
        end += part.seconds
        shown = shlex.join(['python', *part.command]).replace(str(scratch), '$SCRATCH').replace(str(out), '$OUT')
        row = record['parts'][part.name] = dict(command=shown, limit=part.seconds, status='stopped', result=None)
        try:
            _run(part, row, log, scratch, end, environment, lambda: write_json(record, path, indent=1))
        finally:
            write_json(record, path, indent=1)
        report(f'{part.name}: {row["status"]} after {row["seconds"]:.0f} s {row.get("error", "")}'.rstrip())
    return record


def _run(
    part: Part,
    row: dict[str, Any],
    log: Path,
    scratch: Path,
    end: float,
    environment: dict[str, str] | None,
    save: Callable[[], None],
) -> None:
    """Run a part and fill in its row; see :func:`run_plan`."""
    # Prepare the command.
    start = time.monotonic()
    result = scratch / f'{part.name.replace(", ", "_").replace(" ", "_")}.json'
    command = [sys.executable, *part.command, *(('--out', str(result)) if part.has_result else ())]
    row['seconds'] = 0.0
    offset = log.stat().st_size if log.is_file() else 0

    def collect() -> None:
        row['seconds'] = round(time.monotonic() - start, 1)
        found = row['result']
        if part.work_dir is not None:
            found = training_result(part.work_dir)
        elif result.is_file():
            # Ignore a file that is not JSON.
            with contextlib.suppress(InputError):
                found = read_json(result)
        if found != row['result']:
            row['result'] = found
            save()

    # Run it, and collect results while it runs.
    limit = end - start
    status = run_logged(command, log, collect, limit, environment=environment)
    collect()
    # Describe how it ended.
    lines = last_lines(log, offset=offset)
    if time.monotonic() >= end:
        # A training is expected to use all its time.
        finished = part.work_dir is not None and row['result'] is not None
        row.update(status='ok' if finished else 'stopped', error=f'ended by the time limit, {limit:.0f} s')
    elif status:
        marked = [line for line in lines if line.startswith(('error: ', 'FAILED '))]
        row.update(status='failed', error=(marked or lines or [f'exit status {status}'])[-1][:300])
    else:
        row.update(status='ok')


def training_result(work_dir: Path) -> dict[str, Any] | None:
    """Curve and validations of a training from its log; None before the first line of the log."""
    log = training_log(work_dir)
    if not log:
        return None
    curve = [{key: line[key] for key in _CURVE if key in line} for line in log]
    return dict(curve=curve, validations=validations(work_dir))


def validations(work_dir: Path) -> list[dict[str, float]]:
    """Metrics of each validation, in the order of the log."""
    found = []
    for path in sorted(work_dir.glob('*/vis_data/scalars.json')):
        for text in path.read_text().splitlines():
            # The last line may be incomplete.
            with contextlib.suppress(json.JSONDecodeError):
                line = json.loads(text)
                if 'loss' not in line:
                    found.append({key: value for key, value in line.items() if key not in ('time', 'data_time')})
    return found
