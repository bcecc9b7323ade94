#!/usr/bin/env python
"""Draw how momentum increases the norm of a scale-invariant weight, and how the projection of SGDP and AdamP stops it.

This is the two-dimensional example of AdamP, arXiv 2006.08217: minimise f(w) = -cos(w, w*) from w0 = (1, 0). f depends
only on the direction of w, and the gradient is proportional to 1 / |w|: the longer w is, the less a step turns it.

The table compares |w| after the last step with the value computed from the lengths of the steps. Projected steps are
tangents, so that |w_T|^2 = 1 + sum |step_t|^2. With momentum b, |w_T|^2 = 1 + sum_t (|step_t|^2 + 2 sum_{k<t}
b^(t-k) |step_k|^2). For Adam there is no such identity.

Examples:
    python tools/analysis_tools/norm_growth.py
    python tools/analysis_tools/norm_growth.py --momentum 0.99 --steps 500 --out work_dirs/norm_growth.png
"""

import argparse
import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.optim import SGD, Adam, Optimizer

from dinor1.blocks.adamp import SGDP, AdamP
from dinor1.cli.exit_status import run_command
from dinor1.utils import markdown


class Path(NamedTuple):
    """Trajectory of an optimizer.

    Attributes:
        weights: (T + 1, 2), the first weight and the weight after every step.
        cosine: (T + 1,) cosine to the optimum.
        predicted: The last norm, computed from the lengths of the steps; None if no identity holds.
    """

    weights: Tensor
    cosine: Tensor
    predicted: float | None


def simulate(make: Callable[[list], Optimizer], angle: float, steps: int) -> tuple[Tensor, Tensor]:
    """Weights (T + 1, 2) and cosines (T + 1,) of a minimisation from (1, 0) to a direction ``angle`` degrees away."""
    goal = torch.tensor([math.cos(math.radians(angle)), math.sin(math.radians(angle))], dtype=torch.float64)
    # Use a matrix of one row, because one-dimensional weights are never projected.
    weight = torch.nn.Parameter(torch.tensor([[1.0, 0.0]], dtype=torch.float64))
    optimizer = make([weight])
    weights = [weight.detach()[0].clone()]
    for _ in range(steps):
        optimizer.zero_grad()
        (-(weight[0] @ goal) / weight.norm()).backward()
        optimizer.step()
        weights.append(weight.detach()[0].clone())
    weights = torch.stack(weights)
    return weights, weights @ goal / weights.norm(dim=1)


def predicted_norm(weights: Tensor, momentum: float) -> float:
    """Last norm by the identities in the module's docstring; momentum is 0 for projected steps."""
    squares = weights.diff(dim=0).square().sum(1)
    total, memory = 1.0, 0.0
    for square in squares.tolist():
        total += square + 2 * memory
        memory = momentum * (memory + square)
    return math.sqrt(total)


def paths(momentum: float, lr: float, adam_lr: float, angle: float, steps: int) -> dict[str, Path]:
    """Simulate every optimizer."""
    sgdp = dict(lr=lr, momentum=momentum, foreach=False)
    # Name -> (function that makes the optimizer, momentum in the identity or None if no identity holds).
    made = {
        'SGD': (lambda p: SGD(p, lr=lr), 0.0),
        f'SGD, momentum {momentum:g}': (lambda p: SGD(p, lr=lr, momentum=momentum), momentum),
        f'SGDP, momentum {momentum:g}': (lambda p: SGDP(p, **sgdp), 0.0),
        'SGDP, buffer kept whole': (lambda p: SGDP(p, **sgdp, project_buffer=False), 0.0),
        'SGDP, Nesterov': (lambda p: SGDP(p, **sgdp, nesterov=momentum > 0), 0.0),
        'Adam': (lambda p: Adam(p, lr=adam_lr), None),
        'AdamP': (lambda p: AdamP(p, lr=adam_lr, foreach=False), 0.0),
    }
    found = {}
    for name, (make, coefficient) in made.items():
        weights, cosine = simulate(make, angle, steps)
        found[name] = Path(weights, cosine, None if coefficient is None else predicted_norm(weights, coefficient))
    return found


def table(found: dict[str, Path]) -> str:
    """Markdown table of the last norms, and of the first step within 2.6 degrees (cosine 0.999) of the optimum."""
    rows = []
    for name, path in found.items():
        near = (path.cosine > 0.999).nonzero()
        arrival = str(int(near[0])) if len(near) else ''
        predicted = '' if path.predicted is None else f'{path.predicted:.6f}'
        rows.append([name, f'{path.weights[-1].norm():.6f}', predicted, arrival, f'{path.cosine[-1]:.6f}'])
    return markdown.table(['optimizer', 'norm', 'from the step lengths', 'steps to cosine 0.999', 'last cosine'], rows)


def draw(found: dict[str, Path], angle: float, filename: str) -> None:
    """Draw three panels: the trajectory, the norm, and the angle to the optimum."""
    import matplotlib

    matplotlib.use('Agg')
    import matplotlib.pyplot as plt

    from dinor1.utils.io import atomic_path

    # Draw the curves of every optimizer.
    figure, (plane, norm, rest) = plt.subplots(1, 3, figsize=(13, 4.2), layout='constrained')
    for number, (name, path) in enumerate(found.items()):
        style = dict(label=name, color=f'C{number}', linewidth=1.6, linestyle='--' if 'Adam' in name else '-')
        plane.plot(*path.weights.T, **style)
        norm.plot(path.weights.norm(dim=1), **style)
        degrees = torch.rad2deg(torch.acos(path.cosine.clamp(-1, 1)))
        rest.plot(degrees, **style)
    # Draw the optimum and the start, and label the axes.
    reach = max(float(path.weights.norm(dim=1).max()) for path in found.values())
    radians = math.radians(angle)
    plane.plot([0, reach * math.cos(radians)], [0, reach * math.sin(radians)], color='0.7', zorder=0)
    plane.annotate('optimum', (reach * math.cos(radians), reach * math.sin(radians)), color='0.4', fontsize=8)
    plane.plot([1], [0], 'ko', markersize=4)
    plane.set(title='weight', xlabel='$w_1$', ylabel='$w_2$', aspect='equal')
    norm.set(title='norm of the weight', xlabel='step', yscale='log')
    rest.set(title='angle to the optimum, degrees', xlabel='step')
    norm.yaxis.set_major_formatter('{x:g}')
    norm.yaxis.set_minor_formatter('{x:g}')
    rest.legend(fontsize=8)
    with atomic_path(filename) as temporary:
        figure.savefig(temporary, dpi=150)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--momentum', type=float, default=0.9, help='momentum of SGD and SGDP (default: 0.9)')
    parser.add_argument('--lr', type=float, default=0.1, help='learning rate of SGD and SGDP (default: 0.1)')
    parser.add_argument('--adam-lr', type=float, default=0.05, help='learning rate of Adam and AdamP (default: 0.05)')
    parser.add_argument('--angle', type=float, default=150, help='degrees from the start to the optimum (default: 150)')
    parser.add_argument('--steps', type=int, default=200, help='number of steps (default: 200)')
    parser.add_argument('--out', metavar='FILE.png', default='work_dirs/norm_growth.png', help='figure to write')
    args = parser.parse_args()

    from dinor1.utils.errors import InputError

    # Check the options.
    if not args.out.endswith(('.png', '.pdf', '.svg')):
        raise InputError(f'--out: {args.out}: name a file that ends in .png, .pdf or .svg')
    if args.steps < 1:
        raise InputError(f'--steps: must be at least 1, got {args.steps}')
    if not 0 <= args.momentum < 1:
        raise InputError(f'--momentum: must be in [0, 1), got {args.momentum}')
    if not 0 < args.angle < 180:
        raise InputError(f'--angle: must be between 0 and 180 degrees, got {args.angle}; at 180 the gradient is 0')
    if not (args.lr > 0 and args.adam_lr > 0):
        raise InputError(f'--lr and --adam-lr must be positive, got {args.lr} and {args.adam_lr}')
    # Simulate and report.
    found = paths(args.momentum, args.lr, args.adam_lr, args.angle, args.steps)
    print(table(found))
    draw(found, args.angle, args.out)
    print(f'Figure: {args.out}')


if __name__ == '__main__':
    run_command(main)
