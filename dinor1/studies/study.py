"""Studies with several arms and seeds, and a table of their results.

A study is a Python file of assignments, read in the way MMEngine reads configs::

    title = 'Norms of a small ViT on MNIST'
    config = 'configs/blocks/normalization/vit_mnist.py'    # for every arm without its own config
    options = []                                     # --cfg-options of every arm
    arms = {'LN': [], 'RMSNorm': ['model.backbone.norm_cfg.type=RMSNorm']}
    seeds = [0, 1, 2]
    metrics = {'accuracy/top1': 'top-1, %'}          # metric of the last validation -> column header
    note = 'Paper: ...'                              # text below the table

An arm is a list of ``--cfg-options``, or a dict with any of these keys::

    dict(
        config='...', options=[...],
        seeds=[0],                                                    # instead of the study's
        start=dict(arm='LN', checkpoint='epoch_1.pth', resume=True),  # continue an earlier arm's run of that seed
        after={...},                                                  # instead of the study's
    )

``resume=True`` restores weights, optimizer and iteration, so that arms share their first epochs; without it, only
weights are loaded (``load_from``). Besides the metrics of the last validation, three more keys add results to a row::

    after = {'measures': ['tools/analysis_tools/measure_detector.py', '{checkpoint}', '--out', '{out}']}
    keep = {'gradients': 'loss_gradients.json'}    # files of the work directory
    curves = ['loss', 'grqo_kl']                   # scalars of the training log

``after`` names tools that run after the training. ``{config}`` (that of the arm, with its options), ``{checkpoint}``
(the last one), ``{work_dir}`` and ``{out}`` are replaced. Each tool writes a JSON file ``{out}``, whose ``metrics`` are
added to those of the run.

A run is one arm with one seed. It adds one row to the table of the study (:mod:`dinor1.studies.results`), from which
tables in Markdown are made.
"""

import difflib
import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from mmengine.config import Config

from dinor1.utils import markdown
from dinor1.utils.config_files import CONFIGS, find_config
from dinor1.utils.errors import InputError

from .results import RowKey, config_hash, read_rows, row_key

_NEEDED = ('title', 'arms', 'seeds', 'metrics')


class Run(NamedTuple):
    """One arm with one seed.

    Attributes:
        arm: Name of the arm.
        seed: Seed of ``dinor1 train``.
        config: Config file.
        options: ``--cfg-options``.
        start: ``arm``, ``checkpoint`` and ``resume`` of the run to start from; None for a training from scratch.
        after: Name -> command of the tools that run after the training.
    """

    arm: str
    seed: int
    config: str
    options: tuple[str, ...]
    start: dict[str, Any] | None = None
    after: dict[str, list[str]] | None = None

    @property
    def name(self) -> str:
        """Name of the run and of its work directory."""
        return _run_name(self.arm, self.seed)

    @property
    def key(self) -> RowKey:
        """Key of its row in the table."""
        return RowKey(self.arm, self.seed, config_hash(self.config, self.options, self.start))

    @property
    def starts_from(self) -> str | None:
        """Name of the run to start from; None for a training from scratch."""
        return None if self.start is None else _run_name(self.start['arm'], self.seed)


def _run_name(arm: str, seed: int) -> str:
    return f'{"".join(c if c.isalnum() or c in ".-" else "-" for c in arm)}_seed{seed}'


class Study(NamedTuple):
    """Content of a study file.

    Attributes:
        path: The file.
        title: Heading of the table.
        runs: Every arm with every seed, seed by seed, so that the first seed already gives a table of all arms.
        metrics: Name of a metric -> heading of its column.
        note: Text below the table.
        keep: Key in the row -> JSON file of the work directory.
        curves: Scalars of the training log that are copied to the row.
    """

    path: Path
    title: str
    runs: tuple[Run, ...]
    metrics: dict[str, str]
    note: str
    keep: dict[str, str]
    curves: tuple[str, ...]


def _find_study(path: Path) -> Path:
    """The file of a study: a path, or the name of one that comes with dinor1.

    Raises:
        InputError: there is no such study.
    """
    if path.is_file():
        return path
    # Otherwise look for the name among the studies of dinor1.
    folder = CONFIGS / 'studies'
    named = folder / f'{path.name.removesuffix(".py")}.py'
    if named.is_file():
        return named
    # Propose a similar name.
    names = sorted(file.stem for file in folder.glob('*.py'))
    close = difflib.get_close_matches(path.stem, names, n=1)
    hint = f'did you mean {close[0]}?' if close else f'there are {", ".join(names)}'
    raise InputError(f'{path}: no such study; {hint}')


def load_study(path: str | Path) -> Study:
    """Read a study file.

    Raises:
        InputError: the file does not exist or is incomplete, or two runs would share a work directory.
    """
    # Read the file.
    path = _find_study(Path(path))
    try:
        content = Config.fromfile(path).to_dict()
    except Exception as error:
        raise InputError(f'{path}: cannot be read as a study ({type(error).__name__}: {error})') from error
    missing = [key for key in _NEEDED if not content.get(key)]
    if missing:
        raise InputError(f'{path}: not a study, it has no {", ".join(missing)}')
    # Make a run of every arm with every seed.
    seeds_of = {
        arm: own.get('seeds', content['seeds']) if isinstance(own, dict) else content['seeds']
        for arm, own in content['arms'].items()
    }
    seeds = list(dict.fromkeys([*content['seeds'], *(seed for own in seeds_of.values() for seed in own)]))
    once = all(len(set(own)) == len(own) for own in (content['seeds'], *seeds_of.values()))
    runs = [_run(path, content, arm, seed) for seed in seeds for arm in content['arms'] if seed in seeds_of[arm]]
    if not once or len({run.name for run in runs}) != len(runs):
        raise InputError(f'{path}: two runs have the same name; give each arm and each seed once')
    # Check that every run comes after the run that it starts from.
    earlier: set[str] = set()
    for run in runs:
        if run.starts_from is not None and run.starts_from not in earlier:
            raise InputError(
                f'{path}: arm {run.arm!r} starts from arm {run.start["arm"]!r}, which has no run of seed {run.seed} '
                'before it; put that arm first, with this seed'
            )
        earlier.add(run.name)
    keep, curves = content.get('keep', {}), tuple(content.get('curves', ()))
    return Study(path, content['title'], tuple(runs), content['metrics'], content.get('note', ''), keep, curves)


def _run(path: Path, content: dict[str, Any], arm: str, seed: int) -> Run:
    own = content['arms'][arm]
    own = own if isinstance(own, dict) else dict(options=own)
    # Check the config.
    config = own.get('config', content.get('config'))
    if config is None:
        raise InputError(f'{path}: arm {arm!r} names no config, and neither does the study')
    try:
        find_config(config)
    except InputError as error:
        raise InputError(f'{path}: arm {arm!r}: {error}') from None
    # Check the start.
    start = own.get('start')
    if start is not None:
        if not {'arm', 'checkpoint'} <= set(start) <= {'arm', 'checkpoint', 'resume'}:
            raise InputError(f"{path}: arm {arm!r}: start needs 'arm' and 'checkpoint', and may have 'resume'")
        start = dict(resume=False, **start) if 'resume' not in start else dict(start)
    options = (*content.get('options', []), *own.get('options', []))
    return Run(arm, seed, config, options, start, dict(own.get('after', content.get('after', {}))))


def read_runs(study: Study, results: str | Path) -> dict[str, list[dict[str, Any]]]:
    """Read the rows of the finished runs, by arm.

    Args:
        study: The study.
        results: Table file of the study; a missing file has no rows.

    Raises:
        InputError: the table is broken, or the row of a run lacks a metric or was made with other settings.
    """
    rows = {row_key(row): row for row in (read_rows(results) if Path(results).is_file() else [])}
    found: dict[str, list[dict[str, Any]]] = {run.arm: [] for run in study.runs}
    for run in study.runs:
        row = rows.get(run.key)
        # Reject a row with other settings.
        if row is None:
            if other := [key for key in rows if (key.arm, key.seed) == (run.arm, run.seed)]:
                raise InputError(
                    f'{results}: the row of {other[0]} was made with another config or other options; delete it to run '
                    'it again'
                )
            continue
        # Check the metrics.
        missing = [name for name in study.metrics if name not in row.get('metrics', {})]
        if missing:
            raise InputError(f'{results}: the row of {run.key} has no {", ".join(missing)}; delete it to run it again')
        found[run.arm].append(row)
    return found


def table(study: Study, results: str | Path) -> str:
    """Markdown table with a row per arm: mean and sample standard deviation over its finished seeds.

    Args:
        study: The study.
        results: Table file of the study.

    Raises:
        InputError: no run is finished; see also :func:`read_runs`.
    """
    found = read_runs(study, results)
    if not any(found.values()):
        raise InputError(f'{results}: no finished run of {study.path}; run the study first')
    heads = ['arm', 'seeds', *study.metrics.values(), 'minutes']
    rows = []
    for arm, records in found.items():
        if records:
            cells = [_cell([record['metrics'][name] for record in records]) for name in study.metrics]
            minutes = statistics.fmean(record['seconds'] for record in records) / 60
            rows.append([arm, len(records), *cells, f'{minutes:.1f}'])
    # Show the path in the repository instead of that of the installation.
    path = Path('configs') / study.path.relative_to(CONFIGS) if study.path.is_relative_to(CONFIGS) else study.path
    command = f'```bash\ndinor1 study run {path}\n```'
    return '\n\n'.join(filter(None, [markdown.table(heads, rows), study.note.strip(), command]))


def _cell(values: list[float]) -> str:
    mean = f'{statistics.fmean(values):.3f}'
    return mean if len(values) == 1 else f'{mean} ± {statistics.stdev(values):.3f}'


def insert(path: str | Path, name: str, text: str) -> None:
    """Replace the text between ``<!-- NAME:begin -->`` and ``<!-- NAME:end -->`` in a file.

    Raises:
        InputError: see :func:`check_marks`.
    """
    from dinor1.utils.io import atomic_path

    check_marks(path, [name])
    begin, end = _marks(name)
    before, rest = Path(path).read_text().split(begin)
    with atomic_path(path) as temporary:
        temporary.write_text(f'{before}{begin}\n\n{text}\n\n{end}{rest.split(end)[1]}')


def check_marks(path: str | Path, names: Iterable[str]) -> None:
    """Check that :func:`insert` can fill a file, before the text is made.

    Raises:
        InputError: the file does not exist, or does not have the two lines of each name, once and in this order.
    """
    if not Path(path).is_file():
        raise InputError(f'{path}: no such file; check the path')
    content = Path(path).read_text()
    for begin, end in map(_marks, names):
        if content.count(begin) != 1 or content.count(end) != 1 or content.index(begin) > content.index(end):
            raise InputError(
                f'{path}: expected one line {begin} and after it one line {end}; add them where the text should be'
            )


def _marks(name: str) -> tuple[str, str]:
    return f'<!-- {name}:begin -->', f'<!-- {name}:end -->'
