"""Measure parameters, operations, time and memory of detectors under several settings in one run."""

import contextlib
import dataclasses
import itertools
import statistics
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import dinor1
from dinor1.inference.acceleration import INFERENCE_DTYPES, compile_detector
from dinor1.ops import register_flops, use_ms_deform_attn_backend
from dinor1.utils.errors import InputError

from .baselines import BASELINES, build_model
from .memory import peak_memory
from .models import BenchmarkModel, Workload
from .timing import ratio, take_turns

PASSES = ('inference', 'training')


@dataclasses.dataclass(frozen=True)
class Arm:
    """A detector with its settings.

    Attributes:
        model: Config file, or name of a baseline.
        precision: A key of :data:`~dinor1.inference.acceleration.INFERENCE_DTYPES`; half precision uses autocast.
        backend: Backend of deformable attention in ``dinor1.ops``; ``own`` for baselines with their own operator.
        compiled: Whether the model is compiled by ``torch.compile``.
    """

    model: str
    precision: str = 'float32'
    backend: str = 'auto'
    compiled: bool = False

    @property
    def title(self) -> str:
        """Name of the model without folder."""
        return self.model if self.model in BASELINES else Path(self.model).stem

    @property
    def name(self) -> str:
        """Unique name of the arm: model and settings."""
        return f'{self.title}, {self.precision}, {self.backend}, {"compiled" if self.compiled else "eager"}'


def make_arms(models: list[str], precisions: list[str], backends: list[str], compiled: bool) -> list[Arm]:
    """Combine every model with every setting that applies; our backends and compilation do not apply to baselines."""
    arms = []
    for model, precision in itertools.product(models, precisions):
        if model in BASELINES:
            arms.append(Arm(model, precision, 'own' if BASELINES[model].own_operator else 'auto'))
            continue
        arms += [Arm(model, precision, backend) for backend in backends]
        if compiled:
            arms.append(Arm(model, precision, compiled=True))
    return list(dict.fromkeys(arms))


def make_step(arm: Arm, kind: str, workload: Workload) -> tuple[BenchmarkModel, Callable[[], object]]:
    """Build the model and a function that runs one prediction or one training step with AdamW, depending on ``kind``.

    Raises:
        InputError: the arm cannot run on this machine.
    """
    # Build the model.
    detector = build_model(arm.model, workload)
    detector.model.train(kind == 'training')
    if arm.compiled:
        if kind == 'training':
            raise InputError('--compile: compiles inference only')
        compile_detector(detector.model, workload.device, '--compile')
    optimizer = torch.optim.AdamW(detector.model.parameters(), lr=1e-6) if kind == 'training' else None

    # Set the precision and the operator for one step.
    @contextlib.contextmanager
    def setting() -> Iterator[None]:
        dtype, device = INFERENCE_DTYPES[arm.precision], workload.device.split(':')[0]
        backend = contextlib.nullcontext() if arm.backend == 'own' else use_ms_deform_attn_backend(arm.backend)
        with detector.context(), backend:
            # Use the setting of our detectors, which keep boxes and scores in float32.
            if kind == 'inference' and hasattr(detector.model, 'inference_dtype'):
                detector.model.inference_dtype = dtype
                yield
            else:
                with torch.autocast(device, dtype, enabled=dtype is not None):
                    yield

    def predict() -> object:
        with torch.no_grad(), setting():
            return detector.predict()

    def train() -> None:
        with setting():
            loss = detector.loss()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return detector, predict if kind == 'inference' else train


def count_flops(arm: Arm, workload: Workload) -> float:
    """Count the floating-point operations of a prediction (a product and a sum are two) by torch's counter.

    The counter covers matrix products, convolutions, attention and ``dinor1.ops``. It covers neither elementwise
    operations nor ``grid_sample``, which the baselines' own deformable attention uses.
    """
    # Use a backend that the counter covers: for few samples, a CPU would use the reference implementation.
    with_one_operator = dataclasses.replace(arm, precision='float32', compiled=False)
    if arm.backend != 'own':
        with_one_operator = dataclasses.replace(with_one_operator, backend='embedding_bag')
    detector, step = make_step(with_one_operator, 'inference', workload)
    # Disable gradients, because the counter adds hooks to parameters that require them.
    detector.model.requires_grad_(False)
    # Compute attention by matrix products: the counter has no formula for the attention kernel of a CPU.
    register_flops()
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        step()
    return float(counter.get_total_flops())


def _peak_in_child(arm: Arm, kind: str, workload: Workload, threads: int) -> float | None:
    torch.set_num_threads(threads)
    _, step = make_step(arm, kind, workload)
    step()
    return peak_memory(step, workload.device)


def peak_of(arm: Arm, kind: str, workload: Workload, step: Callable[[], object]) -> float | None:
    """Peak MiB beyond the memory held between calls; on a CPU, measured in a new process. See `peak_memory`."""
    if workload.device != 'cpu':
        return peak_memory(step, workload.device)
    # Register all components before the child process imports this module, and with it MMDetection.
    with ProcessPoolExecutor(1, mp_context=get_context('spawn'), initializer=dinor1.register_all) as pool:
        return pool.submit(_peak_in_child, arm, kind, workload, torch.get_num_threads()).result()


def measure(
    arms: list[Arm],
    kind: str,
    workload: Workload,
    rounds: int,
    warmup: int = 1,
    clock: str = 'wall',
    with_flops: bool = True,
    with_memory: bool = True,
) -> list[dict[str, Any]]:
    """Measure all arms alternately; returns one row per arm.

    Args:
        arms: Arms to compare; times are relative to the first arm that can run.
        kind: ``inference`` or ``training``.
        workload: Images, prompts and device.
        rounds: Timed calls of every arm.
        warmup: Calls of every arm before the timed ones.
        clock: See :func:`dinor1.benchmarks.timing.timed`.
        with_flops: Whether to count the operations of a prediction.
        with_memory: Whether to measure the peak memory.

    Returns:
        Rows with the arm's fields and ``kind``, ``parameters``, ``flops``, ``seconds`` of every round,
        ``milliseconds`` per image (``median``, ``low`` and ``high`` quartile, ``fastest``), ``relative`` and
        ``peak_mib``; or ``error``.

    Raises:
        InputError: a model does not exist, or cannot run on this machine.
    """
    rows, steps, flops = {}, {}, {}
    for arm in arms:
        # Build the arm and run it once or more.
        row = rows[arm.name] = dict(dataclasses.asdict(arm), title=arm.title, kind=kind)
        try:
            detector, step = make_step(arm, kind, workload)
            for _ in range(warmup):
                step()
        except InputError:
            raise
        except Exception as error:  # a failed arm, for example in a compiler, is a row of the table
            row['error'] = f'{type(error).__name__}: {(str(error).strip().splitlines() or [""])[0][:120]}'
            continue
        # Count parameters and operations, and measure memory.
        steps[arm.name] = step
        row['parameters'] = sum(p.numel() for p in detector.model.parameters())
        if with_flops and kind == 'inference':
            # Count once per model: settings do not change the operations.
            if arm.model not in flops:
                flops[arm.model] = count_flops(arm, workload)
            row['flops'] = flops[arm.model]
        if with_memory:
            row['peak_mib'] = peak_of(arm, kind, workload, step)
    # Time the arms alternately.
    measured = take_turns(steps, rounds, workload.device, clock, warmup=0)
    for name, one in measured.items():
        per_image = [1e3 * s / workload.batch for s in one.times]
        low, _, high = statistics.quantiles(per_image, n=4) if rounds > 1 else per_image * 3
        rows[name].update(
            seconds=one.times,
            milliseconds=dict(median=statistics.median(per_image), low=low, high=high, fastest=min(per_image)),
            relative=ratio(one.times, next(iter(measured.values())).times),
        )
    return list(rows.values())
