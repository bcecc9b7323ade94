#!/usr/bin/env python
"""Measure the equivariance errors of group convolutions, and write a figure and a JSON file.

The figure has three panels, on smooth random images:
- layers: error of a lifting layer per element of GL+(2), for the published kernels and for ours. The samples move with
  the image, so that only the grid and the window cause errors.
- network: change of the classifier's invariant features under the group, with new samples on both sides, against the
  number of samples N.
- integral: error of a weighted group convolution against one with very many samples. In theory it falls as N^(-1/2).

Examples:
    python tools/analysis_tools/lie_equivariance.py --out work_dirs/lie_equivariance
    python tools/analysis_tools/lie_equivariance.py --out work_dirs/quick --samples 5 10 20 --repeats 5
"""

import argparse
import math
import sys

import torch

from dinor1.blocks.lie import (
    AffineEquivariantNet,
    GLp2,
    GroupConv2d,
    LiftingConv2d,
    make_group,
    smooth_images,
    standard_elements,
)
from dinor1.cli.exit_status import run_command
from dinor1.utils import markdown
from dinor1.utils.errors import InputError
from dinor1.utils.io import atomic_path, write_json

LAYERS = {
    'published (k 5, w0 10, smooth mask)': dict(k=5, w0=10.0, mask='smooth'),
    'k 9, w0 10, smooth mask': dict(k=9, w0=10.0, mask='smooth'),
    'k 9, w0 3, smooth mask': dict(k=9, w0=3.0, mask='smooth'),
    'k 9, w0 3, bump 0.7': dict(k=9, w0=3.0, mask='bump', support_radius=0.7),
    'k 9, w0 10, bump 0.7': dict(k=9, w0=10.0, mask='bump', support_radius=0.7),
    'spline, k 5, 3 knots, bump 1': dict(k=5, kernel=dict(kind='spline', mask='bump')),
    'spline, k 7, 3 knots, bump 0.8': dict(k=7, kernel=dict(kind='spline', mask='bump', support_radius=0.8)),
}


def layer_errors(seeds: int) -> dict[str, dict[str, float]]:
    """Mean error per kind of kernel and element, over ``seeds`` random kernels, images and sets of 6 samples."""
    table = {}
    for name, options in LAYERS.items():
        rows = []
        for seed in range(seeds):
            torch.manual_seed(seed)
            layer = LiftingConv2d(GLp2(), 1, 4, hidden=32, **options)
            rows.append(layer.check_equivariance(seed=seed))
        table[name] = {element: sum(row[element] for row in rows) / seeds for element in rows[0]}
    return table


def network_errors(group: str, samples: list[int], repeats: int) -> dict[str, list[float]]:
    """Mean change of the pooled features of an untrained trunk, per element and number of samples."""
    # Choose the elements of the group.
    everything = dict(identity=torch.eye(2), **standard_elements(make_group(group)))
    elements = {k: h for k, h in everything.items() if k in ('identity', 'rotation 20', 'shear 0.2', 'scale 1.2')}
    # Measure with each number of samples.
    curves: dict[str, list[float]] = {name: [] for name in elements}
    for n_samples in samples:
        torch.manual_seed(0)
        net = AffineEquivariantNet(group, width=6, n_samples=n_samples, num_classes=None)
        errors = net.check_equivariance(elements, transport=False, size=30, num_images=1, repeats=repeats)
        for name, error in errors.items():
            curves[name].append(error)
    return curves


@torch.no_grad()
def integral_errors(samples: list[int], repeats: int, reference: int = 20_000) -> dict[str, list[float]]:
    """Relative error of the weighted convolution at the identity, for each number of samples.

    The kernel's width on the group, 0.3, is below sqrt(2 spd_var), so that weights have a finite variance.
    """
    # Make layers and an image.
    group = GLp2(angle='cos_sin')
    torch.manual_seed(0)
    options = dict(k=5, hidden=16, w0=3.0, mask='bump')
    lift = LiftingConv2d(group, 1, 1, padding=2, **options)
    conv = GroupConv2d(group, 1, 1, group_width=0.3, **options)
    generator = torch.Generator().manual_seed(0)
    image = smooth_images(1, 1, 21, 21, generator=generator)
    here = torch.eye(2)[None]

    def at_the_identity(n_samples: int) -> torch.Tensor:
        g, g_inv, weight = group.sample(n_samples, generator, rot='uniform', spd_var=0.1, importance=True)
        parts = zip(g.split(1000), g_inv.split(1000), weight.split(1000), strict=True)
        return sum(conv(lift(image, b), a, here, w) for a, b, w in parts)

    # Compare with very many samples.
    exact = at_the_identity(reference)

    def error(n_samples: int) -> float:
        errors = [((at_the_identity(n_samples) - exact).norm() / exact.norm()).square() for _ in range(repeats)]
        return torch.stack(errors).mean().sqrt().item()

    return {'weighted sum': [error(n_samples) for n_samples in samples]}


def slope(samples: list[int], errors: list[float]) -> float:
    """Exponent of N in a least-squares fit of a power law."""
    x = torch.tensor([math.log(n) for n in samples], dtype=torch.float64)
    y = torch.tensor([math.log(error) for error in errors], dtype=torch.float64)
    x = x - x.mean()
    return ((x * (y - y.mean())).sum() / x.square().sum()).item()


def draw(results: dict, path: str) -> None:
    """Write the figure.

    Raises:
        InputError: matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise InputError("the figure needs matplotlib: pip install 'dinor1[demo]'") from None
    figure = Figure(figsize=(16, 4.8), layout='constrained')
    FigureCanvasAgg(figure)
    # Draw the errors of layers.
    bars, network, integral = figure.subplots(1, 3)
    kinds = results['layers']
    elements = [name for name in next(iter(kinds.values())) if name != 'rotation 90']
    for i, (kind, errors) in enumerate(kinds.items()):
        offsets = [position + 0.8 * i / len(kinds) for position in range(len(elements))]
        bars.bar(offsets, [errors[name] for name in elements], 0.8 / len(kinds), align='edge', label=kind)
    bars.set_xticks([position + 0.4 for position in range(len(elements))], elements, fontsize=8)
    # Leave room above the bars for the legend.
    top = 30 * max(max(errors.values()) for errors in kinds.values())
    bars.set(yscale='log', ylabel='relative error', title='lifting layer, GL+(2), samples move along')
    bars.set_ylim(top=top)
    # Draw the errors of the network.
    for group, curves in results['network'].items():
        for name, errors in curves.items():
            network.plot(results['samples'], errors, 'o-' if group == 'gl2' else 's--', label=f'{group}, {name}')
    network.set(title='pooled features of the network, fresh samples')
    # Draw the errors of the integral, with the theory.
    for name, errors in results['integral'].items():
        exponent = results['slopes'][name]
        integral.plot(results['integral_samples'], errors, 'o-', label=f'{name}: N^{exponent:.2f}')
    first, start = results['integral_samples'][0], results['integral']['weighted sum'][0]
    theory = [start * (n / first) ** -0.5 for n in results['integral_samples']]
    integral.plot(results['integral_samples'], theory, 'k:', label='N^(-1/2)')
    integral.set(title='weighted group convolution against the integral')
    # Label the axes, and write the file.
    for axes, ticks in ((network, results['samples']), (integral, results['integral_samples'])):
        axes.set(xscale='log', yscale='log', xlabel='samples N', ylabel='relative error')
        axes.set_xticks(ticks, [str(n) for n in ticks])
        axes.set_xticks([], minor=True)
    for axes in (bars, network, integral):
        axes.legend(fontsize=7)
        axes.grid(alpha=0.3)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--out', required=True, metavar='PREFIX', help='writes PREFIX.png and PREFIX.json')
    parser.add_argument('--samples', type=int, nargs='+', default=[5, 10, 20, 40], help='numbers of samples, ascending')
    parser.add_argument('--groups', nargs='+', choices=['sl2', 'gl2'], default=['sl2', 'gl2'])
    parser.add_argument('--repeats', type=int, default=20, help='draws to average over (default: 20)')
    parser.add_argument('--seeds', type=int, default=4, help='random kernels per bar (default: 4)')
    args = parser.parse_args()
    # Check the options.
    if args.samples != sorted(set(args.samples)) or args.samples[0] < 1 or len(args.samples) < 2:
        raise InputError(f'--samples must be at least two ascending positive numbers, got {args.samples}')
    if min(args.repeats, args.seeds) < 1:
        raise InputError('--repeats and --seeds must be at least 1')
    # Measure, and fit power laws.
    torch.set_num_threads(1)
    integral_samples = [8 * n for n in args.samples]
    results = dict(
        command=' '.join(sys.argv),
        samples=args.samples,
        integral_samples=integral_samples,
        layers=layer_errors(args.seeds),
        network={group: network_errors(group, args.samples, args.repeats) for group in args.groups},
        integral=integral_errors(integral_samples, args.repeats),
    )
    results['slopes'] = {name: slope(integral_samples, errors) for name, errors in results['integral'].items()}
    for group, curves in results['network'].items():
        results['slopes'] |= {f'{group}, {name}': slope(args.samples, errors) for name, errors in curves.items()}
    # Report.
    draw(results, f'{args.out}.png')
    write_json(results, f'{args.out}.json', indent=2)
    rows = [[kind, *(f'{error:.3f}' for error in errors.values())] for kind, errors in results['layers'].items()]
    print(markdown.table(['kernel', *next(iter(results['layers'].values()))], rows))
    for name, exponent in results['slopes'].items():
        print(f'{name}: error falls as N^{exponent:.2f}')
    print(f'{args.out}.png, {args.out}.json')


if __name__ == '__main__':
    run_command(main)
