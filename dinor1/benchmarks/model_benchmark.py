"""Parameters, operations, time and memory of detectors under several settings, measured in one run."""

import contextlib
import dataclasses
import itertools
import platform
import statistics
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from dinor1.inference.acceleration import INFERENCE_DTYPES, compile_detector
from dinor1.ops import register_flops, use_ms_deform_attn_backend
from dinor1.utils.errors import InputError

from .baselines import PEERS, make_contender
from .memory import peak_memory
from .models import Contender, Task
from .timing import ratio, take_turns

PASSES = ('inference', 'training')


@dataclasses.dataclass(frozen=True)
class Arm:
    """A detector under a setting.

    Attributes:
        contender: Config file, or a peer's name.
        precision: A key of :data:`~dinor1.inference.acceleration.INFERENCE_DTYPES`; half precision by autocast.
        backend: Of deformable attention, where the contender computes it by ``dinor1.ops``.
        compiled: Whether by ``torch.compile``.
    """

    contender: str
    precision: str = 'float32'
    backend: str = 'auto'
    compiled: bool = False

    @property
    def title(self) -> str:
        """The contender's name without folder."""
        return self.contender if self.contender in PEERS else Path(self.contender).stem

    @property
    def name(self) -> str:
        """All that tells arms apart, in a few words."""
        return f'{self.title}, {self.precision}, {self.backend}, {"compiled" if self.compiled else "eager"}'


def make_arms(contenders: list[str], precisions: list[str], backends: list[str], compiled: bool) -> list[Arm]:
    """Every contender under every setting that applies to it: peers know neither our backends nor compilation."""
    arms = []
    for contender, precision in itertools.product(contenders, precisions):
        if contender in PEERS:
            arms.append(Arm(contender, precision, 'own' if PEERS[contender].own_operator else 'auto'))
            continue
        arms += [Arm(contender, precision, backend) for backend in backends]
        if compiled:
            arms.append(Arm(contender, precision, compiled=True))
    return list(dict.fromkeys(arms))


def make_step(arm: Arm, kind: str, task: Task) -> tuple[Contender, Callable[[], object]]:
    """The contender and one call of the pass ``kind``: a prediction, or a training step with AdamW.

    Raises:
        InputError: the arm cannot run here.
    """
    contender = make_contender(arm.contender, task)
    contender.model.train(kind == 'training')
    if arm.compiled:
        if kind == 'training':
            raise InputError('--compile: compiles inference only')
        compile_detector(contender.model, task.device, '--compile')
    optimizer = torch.optim.AdamW(contender.model.parameters(), lr=1e-6) if kind == 'training' else None

    @contextlib.contextmanager
    def setting() -> Iterator[None]:
        dtype, device = INFERENCE_DTYPES[arm.precision], task.device.split(':')[0]
        backend = contextlib.nullcontext() if arm.backend == 'own' else use_ms_deform_attn_backend(arm.backend)
        with contender.around(), backend:
            # A detector of ours keeps in float32 what must be, given its own switch.
            if kind == 'inference' and hasattr(contender.model, 'inference_dtype'):
                contender.model.inference_dtype = dtype
                yield
            else:
                with torch.autocast(device, dtype, enabled=dtype is not None):
                    yield

    def predict() -> object:
        with torch.no_grad(), setting():
            return contender.predict()

    def train() -> None:
        with setting():
            loss = contender.loss()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return contender, predict if kind == 'inference' else train


def count_flops(arm: Arm, task: Task) -> float:
    """Floating-point operations of a prediction (a product and a sum are two), as torch's counter knows them.

    It counts matrix products, convolutions, attention and ``dinor1.ops``; not ``grid_sample``, which the peers' own
    deformable attention is made of, and nothing elementwise.
    """
    with_one_operator = dataclasses.replace(arm, precision='float32', compiled=False)
    if arm.backend != 'own':
        # On a few samples a CPU would take the definition, which the counter cannot see.
        with_one_operator = dataclasses.replace(with_one_operator, backend='bags')
    contender, step = make_step(with_one_operator, 'inference', task)
    # The counter hooks into the graph of whatever asks for a gradient, and a prediction has none.
    contender.model.requires_grad_(False)
    # The attention kernel of a CPU has no formula; its definition by matrix products has.
    register_flops()
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        step()
    return float(counter.get_total_flops())


def _peak_in_child(arm: Arm, kind: str, task: Task, threads: int) -> float | None:
    torch.set_num_threads(threads)
    _, step = make_step(arm, kind, task)
    step()
    return peak_memory(step, task.device)


def peak_of(arm: Arm, kind: str, task: Task, step: Callable[[], object]) -> float | None:
    """Peak MiB beyond what is held between calls; on a CPU measured in a process of its own, see `peak_memory`."""
    if task.device != 'cpu':
        return peak_memory(step, task.device)
    with ProcessPoolExecutor(1, mp_context=get_context('spawn')) as pool:
        return pool.submit(_peak_in_child, arm, kind, task, torch.get_num_threads()).result()


def measure(
    arms: list[Arm],
    kind: str,
    task: Task,
    rounds: int,
    warmup: int = 1,
    clock: str = 'wall',
    with_flops: bool = True,
    with_memory: bool = True,
) -> list[dict[str, Any]]:
    """One row per arm; the arms take turns.

    Args:
        arms: What to compare; times are relative to the first that runs.
        kind: ``inference`` or ``training``.
        task: Images, prompts and device.
        rounds: Timed calls of every arm.
        warmup: Calls of every arm before.
        clock: See :func:`dinor1.benchmarks.timing.timed`.
        with_flops: Count operations of a prediction.
        with_memory: Measure the peak.

    Returns:
        Rows with the arm's fields and ``kind``, ``parameters``, ``flops``, ``seconds`` of every round,
        ``milliseconds`` per image (``median``, ``low`` and ``high`` quartile, ``fastest``), ``relative`` and
        ``peak_mib``; or ``error``.

    Raises:
        InputError: a contender does not exist, or can never run here.
    """
    rows, steps, flops = {}, {}, {}
    for arm in arms:
        row = rows[arm.name] = dict(dataclasses.asdict(arm), title=arm.title, kind=kind)
        try:
            contender, step = make_step(arm, kind, task)
            for _ in range(warmup):
                step()
        except InputError:
            raise
        except (RuntimeError, ValueError, NotImplementedError) as error:  # one arm's failure is a row of the table
            row['error'] = f'{type(error).__name__}: {str(error).strip().splitlines()[0][:120]}'
            continue
        steps[arm.name] = step
        row['parameters'] = sum(p.numel() for p in contender.model.parameters())
        if with_flops and kind == 'inference':
            # The setting does not change what is computed.
            if arm.contender not in flops:
                flops[arm.contender] = count_flops(arm, task)
            row['flops'] = flops[arm.contender]
        if with_memory:
            row['peak_mib'] = peak_of(arm, kind, task, step)
    seconds = take_turns(steps, rounds, task.device, clock, warmup=0)
    for name, times in seconds.items():
        per_image = [1e3 * s / task.batch for s in times]
        low, _, high = statistics.quantiles(per_image, n=4) if rounds > 1 else per_image * 3
        rows[name].update(
            seconds=times,
            milliseconds=dict(median=statistics.median(per_image), low=low, high=high, fastest=min(per_image)),
            relative=ratio(times, next(iter(seconds.values()))),
        )
    return list(rows.values())


def processor() -> str:
    """The name of this machine's processor, as far as the system tells."""
    info = Path('/proc/cpuinfo')
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.split(':', 1)[1].strip() for line in lines if line.startswith('model name')]
    return names[0] if names else platform.processor() or platform.machine()
