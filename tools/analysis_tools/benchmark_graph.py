#!/usr/bin/env python
"""Time the graph transformer against PyTorch Geometric's TransformerConv, on batches of CLUSTER graphs.

  attention    queries, keys, values and attention of one layer, with the same weights; the outputs are compared
  network      a training step of the whole network, and of the same network with TransformerConv in its layers

Our attention has two implementations: over the list of edges, like TransformerConv, and by matrix products, which the
network chooses for batches of small and dense graphs such as these. On a CPU the tool measures processor time, to
which other programs do not contribute.

TransformerConv needs PyTorch Geometric (pip install 'dinor1[graph]'); without it only our implementations are timed.

Examples:
    python tools/analysis_tools/benchmark_graph.py
    python tools/analysis_tools/benchmark_graph.py --device cuda --graphs 128 --out bench.json
    python tools/analysis_tools/benchmark_graph.py --size-max 20 --dim 48 --heads 4 --layers 4 --graphs 16
"""

import argparse
import sys

from dinor1.benchmarks.timing import take_turns
from dinor1.cli.exit_status import run_command


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--graphs', type=int, default=32, help='graphs per batch (default: 32)')
    parser.add_argument('--size-max', type=int, default=35, help='one more than the largest community (default: 35)')
    parser.add_argument('--dim', type=int, default=80, help='width of the features (default: 80)')
    parser.add_argument('--heads', type=int, default=8, help='attention heads (default: 8)')
    parser.add_argument('--layers', type=int, default=10, help='layers of the network (default: 10)')
    parser.add_argument(
        '--repeat', type=int, default=5, help='rounds, in which all implementations alternate (default: 5)'
    )
    parser.add_argument('--device', default='cpu', help='default: cpu')
    parser.add_argument('--out', metavar='FILE.json', help='also write the numbers to a file')
    return parser.parse_args()


def build(args: argparse.Namespace, conv: type | None):
    """Build the network of the paper in both implementations, and with TransformerConv if it is installed."""
    import torch
    from torch import nn

    from dinor1.blocks.graph_transformer import GraphTransformer

    class ConvLayer(nn.Module):
        """One of our layers with TransformerConv as its attention, with the same weights."""

        def __init__(self, layer):
            super().__init__()
            self.conv = conv(
                layer.dim, layer.dim // layer.num_heads, heads=layer.num_heads, root_weight=False, bias=False
            )
            self.node = layer.node
            for name in ('query', 'key', 'value'):
                getattr(self.conv, f'lin_{name}').weight = getattr(layer, name).weight

        def forward(self, x, edge_index, **_):
            return self.node(x, self.conv(x, edge_index))

    def network(dense: bool):
        # The same seed gives all networks the same weights.
        torch.manual_seed(0)
        sizes = dict(dim=args.dim, num_layers=args.layers, num_heads=args.heads, out_dim=6)
        return GraphTransformer(num_node_types=7, dense=dense, **sizes).to(args.device)

    # Build the networks, and replace the attention of one.
    networks = {'ours': network(False), 'ours, dense': network(True)}
    if conv is not None:
        networks['TransformerConv'] = network(False)
        networks['TransformerConv'].layers = nn.ModuleList(map(ConvLayer, networks['TransformerConv'].layers))
    return networks


def main() -> None:
    args = parse_args()

    import torch

    from dinor1.blocks.graph_transformer import (
        dense_attention,
        dense_blocks,
        disjoint_union,
        graph_attention,
        make_sbm_cluster,
        weighted_node_cross_entropy,
    )
    from dinor1.cli.options import require_at_least
    from dinor1.utils.devices import as_device
    from dinor1.utils.errors import InputError
    from dinor1.utils.io import check_output, write_json

    # Check the options.
    require_at_least(1, args, 'graphs', 'dim', 'heads', 'layers', 'repeat')
    require_at_least(6, args, 'size_max')  # the smallest community has 5 nodes
    if args.dim % args.heads:
        raise InputError(f'--dim must be a multiple of --heads, got {args.dim} and {args.heads}')
    as_device(args.device, '--device')
    if args.out:
        check_output(args.out, '--out')
    try:
        from torch_geometric import __version__ as peer
        from torch_geometric import nn as peer_layers
    except ImportError:
        peer = peer_layers = None

    # Make the batch and the networks.
    batch = disjoint_union(make_sbm_cluster(args.graphs, 0, size_max=args.size_max))
    batch = {name: value.to(args.device) for name, value in batch.items() if value is not None}
    edge_index, num_edges = batch['edge_index'], batch['edge_index'].shape[1]
    networks = build(args, peer and peer_layers.TransformerConv)
    x = torch.randn(len(batch['x']), args.dim, device=args.device, requires_grad=True)
    layer = networks['ours'].layers[0]
    # Compute the blocks once, as the network does per batch for all layers.
    blocks = dense_blocks(edge_index, batch['batch'], args.graphs, torch.float32)

    def projected():
        return [layer.split_heads(linear(x)) for linear in (layer.query, layer.key, layer.value)]

    def step(network):
        logits = network(batch['x'], edge_index, batch=batch['batch'], num_graphs=args.graphs)
        network.zero_grad()
        weighted_node_cross_entropy(logits, batch['y'], 6).backward()

    # List the functions to time.
    attentions = {'ours': lambda: graph_attention(*projected(), edge_index)[0].flatten(1)}
    if blocks is not None:
        attentions['ours, dense'] = lambda: dense_attention(*projected(), blocks).flatten(1)
    if peer is not None:
        attentions['TransformerConv'] = lambda: networks['TransformerConv'].layers[0].conv(x, edge_index)
    cases = {
        'attention, forward': {name: torch.no_grad()(f) for name, f in attentions.items()},
        'attention, forward and backward': {name: lambda f=f: f().sum().backward() for name, f in attentions.items()},
        'network, training step': {name: lambda n=networks[name]: step(n) for name in attentions},
    }
    # Compare the outputs.
    reference = attentions['ours']()
    record = dict(
        command=' '.join(sys.argv),
        torch=torch.__version__,
        torch_geometric=peer,
        device=torch.cuda.get_device_name() if args.device.startswith('cuda') else 'cpu',
        threads=torch.get_num_threads(),
        graphs=args.graphs,
        nodes=len(x),
        edges=num_edges,
        largest_difference={name: (f() - reference).abs().max().item() for name, f in attentions.items()},
        cases={},
    )
    print(f'{args.graphs} graphs, {len(x)} nodes, {num_edges} edges, d = {args.dim}, {args.heads} heads')
    if peer is None:
        print("PyTorch Geometric is not installed (pip install 'dinor1[graph]'): only ours is timed")
    print(f'largest difference from ours: {record["largest_difference"]}')
    # Time the functions.
    clock = 'wall' if args.device.startswith('cuda') else 'cpu'
    for case, functions in cases.items():
        measured = take_turns(functions, args.repeat, args.device, clock)
        best = {name: min(one.times) for name, one in measured.items()}
        median = {name: one.median for name, one in measured.items()}
        record['cases'][case] = dict(fastest_seconds=best, median_seconds=median)
        for name, value in best.items():
            ratio = f'{best["TransformerConv"] / value:7.2f} x as fast as theirs' if peer else ''
            print(f'  {case:<32}{name:<16}{value * 1e3:9.1f} ms {num_edges / value / 1e6:8.2f} M edges/s{ratio}')
    if args.out:
        write_json(record, args.out, indent=2)


if __name__ == '__main__':
    run_command(main)
