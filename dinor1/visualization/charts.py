"""Charts of experiments, drawn with matplotlib and written as PNG files."""

from collections.abc import Mapping, Sequence
from os import PathLike
from typing import Any

import numpy as np

from dinor1.utils.errors import InputError
from dinor1.utils.io import atomic_path


def new_figure(width: float, height: float) -> Any:
    """Make a matplotlib figure of the given size in inches, which needs no display.

    Raises:
        InputError: matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise InputError("a figure needs matplotlib: pip install 'dinor1[demo]'") from None
    # Give the figure a canvas that draws to files only.
    figure = Figure(figsize=(width, height), layout='constrained')
    FigureCanvasAgg(figure)
    return figure


def save_figure(figure: Any, path: str | PathLike) -> None:
    """Write a figure as PNG, completely or not at all; the same figure gives the same bytes."""
    with atomic_path(path) as temporary:
        # Drop the default metadata, which contains the version of matplotlib.
        figure.savefig(temporary, dpi=110, metadata={'Software': None})


def draw_queries(arms: Mapping[str, Mapping[str, Any]], path: str | PathLike) -> None:
    """Draw the queries of each decoder layer: which are matched, and how many respond to an object.

    Args:
        arms: Name of an arm -> record of :class:`dinor1.engine.QueryRecorder` with at least one object.
        path: PNG file.

    Raises:
        InputError: matplotlib is not installed.
    """
    # Draw the share of objects matched by each query, one panel per decoder layer.
    num_layers = len(next(iter(arms.values()))['matched_places'])
    figure = new_figure(4.2 * num_layers + 4.2, 3.6)
    axes = figure.subplots(1, num_layers + 1, squeeze=False)[0]
    for layer in range(num_layers):
        for name, record in arms.items():
            share = np.array(record['matched_places'][layer], dtype=float) / record['objects']
            axes[layer].step(range(1, len(share) + 1), share, where='mid', label=name or None)
        axes[layer].set(title=f'matched queries, decoder layer {layer + 1}', xlabel='index in the selection')
        axes[layer].grid(alpha=0.3)
    axes[0].set(ylabel='share of the objects')
    # Draw the number of queries per object in the last panel.
    width = 0.8 / len(arms)
    for i, (name, record) in enumerate(arms.items()):
        offsets = np.arange(num_layers) + i * width - 0.4
        bars = axes[-1].bar(offsets, record['covering'], width, align='edge', alpha=0.35)
        color = bars.patches[0].get_facecolor()[:3]
        label = f'{name}: cover (pale), and of the right class'.removeprefix(': ')
        axes[-1].bar(offsets, record['responding'], width, align='edge', color=color, label=label)
    axes[-1].set(title='queries per object', xlabel='decoder layer')
    axes[-1].set_xticks(range(num_layers), [str(layer + 1) for layer in range(num_layers)])
    # Leave room above the bars for the legend.
    axes[-1].set_ylim(top=1.3 * max(axes[-1].get_ylim()[1], 0.1))
    axes[-1].legend(fontsize=7)
    if any(arms):
        axes[0].legend(fontsize=7)
    save_figure(figure, path)


def draw_curves(
    panels: Mapping[str, Mapping[str, tuple[Sequence[float], Sequence[float]]]],
    path: str | PathLike,
    xlabel: str = 'iteration',
    log: Sequence[str] = (),
) -> None:
    """Draw lines over training, in one panel per title.

    Args:
        panels: Title of a panel -> name of a line -> its x and y.
        path: PNG file.
        xlabel: Label of the x axis of all panels.
        log: Titles of the panels with a logarithmic y axis.

    Raises:
        InputError: matplotlib is not installed.
    """
    # Lay out the panels in rows of up to three.
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    figure = new_figure(5.2 * columns, 3.8 * rows)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    # Draw the lines.
    for ax, (title, lines) in zip(axes, panels.items(), strict=False):
        for i, (name, (x, y)) in enumerate(lines.items()):
            ax.plot(x, y, color=f'C{i % 10}', linestyle='-' if i < 10 else '--', marker='.', label=name)
        ax.set(title=title, xlabel=xlabel, yscale='log' if title in log else 'linear')
        ax.grid(alpha=0.3)
        if lines:
            ax.legend(fontsize=7)
    # Remove the unused panels of the last row.
    for ax in axes[len(panels) :]:
        ax.remove()
    save_figure(figure, path)


def draw_intervals(panels: Mapping[str, Mapping[str, tuple[float, float]]], path: str | PathLike) -> None:
    """Draw differences from a baseline with their intervals, one row per arm.

    Args:
        panels: Title of a panel -> arm -> (mean, half width); with an infinite half width, only the mean is drawn.
        path: PNG file.

    Raises:
        InputError: matplotlib is not installed.
    """
    # Give each arm a row in all panels.
    arms = list(dict.fromkeys(arm for rows in panels.values() for arm in rows))
    figure = new_figure(3.4 + 2.6 * len(panels), 1.2 + 0.32 * len(arms))
    axes = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
    # Draw the intervals, and a line at no difference.
    for ax, (title, rows) in zip(axes, panels.items(), strict=True):
        for arm, (mean, half_width) in rows.items():
            half_width = half_width if np.isfinite(half_width) else None
            ax.errorbar(mean, arms.index(arm), xerr=half_width, fmt='o', color='C0', capsize=3, markersize=4)
        ax.axvline(0, color='k', linewidth=0.8)
        ax.set(title=title)
        ax.grid(alpha=0.3, axis='x')
    axes[0].set_yticks(range(len(arms)), arms, fontsize=8)
    axes[0].set_ylim(len(arms) - 0.5, -0.5)
    save_figure(figure, path)
