"""Studies: several arms, several seeds, one table.

A study is a Python file of assignments, read as MMEngine reads configs::

    title = 'Norms of a small ViT on MNIST'
    config = 'configs/normalization/vit_mnist.py'    # of every arm that names no other
    options = []                                     # --cfg-options of every arm
    arms = {'LN': [], 'RMSNorm': ['model.backbone.norm_cfg.type=RMSNorm']}
    seeds = [0, 1, 2]
    metrics = {'accuracy/top1': 'top-1, %'}          # metric of the last validation -> head of its column
    note = 'Paper: ...'                              # below the table

An arm is a list of ``--cfg-options``, or ``dict(config=..., options=[...])``. A run is one arm with one seed, and
leaves one small JSON file; tables come from these files and from nothing else.
"""

import statistics
from pathlib import Path
from typing import Any, NamedTuple

from mmengine.config import Config

from dinor1.errors import InputError
from dinor1.fileio import read_json

_NEEDED = ('title', 'arms', 'seeds', 'metrics')


class Run(NamedTuple):
    """One arm with one seed.

    Attributes:
        arm: Name of the arm.
        seed: Seed of tools/train.py.
        config: Config file.
        options: ``--cfg-options``.
    """

    arm: str
    seed: int
    config: str
    options: tuple[str, ...]

    @property
    def name(self) -> str:
        """File name without suffix."""
        arm = ''.join(c if c.isalnum() or c in '.-' else '-' for c in self.arm)
        return f'{arm}_seed{self.seed}'


class Study(NamedTuple):
    """What a study file says.

    Attributes:
        path: The file.
        title: Heading of the table.
        runs: Every arm with every seed, seed by seed: after the first round there is a table of all arms.
        metrics: Name of a metric -> head of its column.
        note: Text below the table.
    """

    path: Path
    title: str
    runs: tuple[Run, ...]
    metrics: dict[str, str]
    note: str


def load_study(path: str | Path) -> Study:
    """Read a study file.

    Raises:
        InputError: there is no such file, something is missing in it, or two runs would share a result file.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f'{path}: no such study')
    try:
        content = Config.fromfile(path).to_dict()
    except Exception as error:
        raise InputError(f'{path}: cannot be read as a study ({type(error).__name__}: {error})') from error
    missing = [key for key in _NEEDED if not content.get(key)]
    if missing:
        raise InputError(f'{path}: not a study, it has no {", ".join(missing)}')
    runs = [_run(path, content, arm, seed) for seed in content['seeds'] for arm in content['arms']]
    if len({run.name for run in runs}) != len(runs):
        raise InputError(f'{path}: two runs have the same name; give each arm and each seed once')
    return Study(path, content['title'], tuple(runs), content['metrics'], content.get('note', ''))


def _run(path: Path, content: dict[str, Any], arm: str, seed: int) -> Run:
    own = content['arms'][arm]
    own = own if isinstance(own, dict) else dict(options=own)
    config = own.get('config', content.get('config'))
    if config is None:
        raise InputError(f'{path}: arm {arm!r} names no config, and neither does the study')
    if not Path(config).is_file():
        raise InputError(f'{path}: arm {arm!r}: {config}: no such config file; start in the root of the repository')
    return Run(arm, seed, config, (*content.get('options', []), *own.get('options', [])))


def read_runs(study: Study, folder: str | Path) -> dict[str, list[dict[str, Any]]]:
    """Result files of the runs that are finished, by arm.

    Raises:
        InputError: a file is broken, lacks a metric, or was made by another command.
    """
    found: dict[str, list[dict[str, Any]]] = {run.arm: [] for run in study.runs}
    for run in study.runs:
        path = Path(folder) / f'{run.name}.json'
        if not path.is_file():
            continue
        record = read_json(path)
        if record.get('config') != run.config or record.get('options') != list(run.options):
            raise InputError(f'{path}: made with another config or other options; delete it to run it again')
        missing = [name for name in study.metrics if name not in record.get('metrics', {})]
        if missing:
            raise InputError(f'{path}: has no {", ".join(missing)}; delete it to run it again')
        found[run.arm].append(record)
    return found


def table(study: Study, folder: str | Path) -> str:
    """Markdown: a row per arm with mean and sample standard deviation over its finished seeds.

    Raises:
        InputError: no run is finished; see also :func:`read_runs`.
    """
    found = read_runs(study, folder)
    if not any(found.values()):
        raise InputError(f'{folder}: no finished run of {study.path}')
    heads = ['arm', 'seeds', *study.metrics.values(), 'minutes']
    lines = [f'| {" | ".join(heads)} |', '|---|---:' + '|---:' * (len(study.metrics) + 1) + '|']
    for arm, records in found.items():
        if records:
            cells = [_cell([record['metrics'][name] for record in records]) for name in study.metrics]
            minutes = statistics.fmean(record['seconds'] for record in records) / 60
            lines.append(f'| {arm} | {len(records)} | {" | ".join(cells)} | {minutes:.1f} |')
    command = f'```bash\npython tools/analysis_tools/run_study.py {study.path}\n```'
    return '\n\n'.join(filter(None, ['\n'.join(lines), study.note.strip(), command]))


def _cell(values: list[float]) -> str:
    mean = f'{statistics.fmean(values):.3f}'
    return mean if len(values) == 1 else f'{mean} ± {statistics.stdev(values):.3f}'


def insert(path: str | Path, name: str, text: str) -> None:
    """Replace what stands between ``<!-- NAME:begin -->`` and ``<!-- NAME:end -->`` in a file.

    Raises:
        InputError: the file does not have the two lines, once and in this order.
    """
    from dinor1.fileio import atomic_path

    path = Path(path)
    content = path.read_text() if path.is_file() else ''
    begin, end = f'<!-- {name}:begin -->', f'<!-- {name}:end -->'
    if content.count(begin) != 1 or content.count(end) != 1 or content.index(begin) > content.index(end):
        raise InputError(f'{path}: expected one line {begin} and after it one line {end}; add them where the text goes')
    before, rest = content.split(begin)
    with atomic_path(path) as temporary:
        temporary.write_text(f'{before}{begin}\n\n{text}\n\n{end}{rest.split(end)[1]}')
