"""The graph transformer compared with the numbers of its release and the paper's parameter counts."""

import numpy as np
import pytest
import torch
from torch import nn

from dinor1.blocks.graph_transformer import GraphTransformer, GraphTransformerLayer, graph_attention

# Names here of the released modules of a layer; those of nodes end in "_h" if there are edge features too.
NAMES = {'attention.Q': 'query', 'attention.K': 'key', 'attention.V': 'value', 'attention.proj_e': 'edge_query'}
for suffix, stream in (('', 'node'), ('_h', 'node'), ('_e', 'edge')):
    NAMES[f'O{suffix}'] = f'{stream}.out'
    for number in '12':
        NAMES[f'FFN{suffix}_layer{number}'] = f'{stream}.ffn{number}'
        NAMES[f'batch_norm{number}{suffix}'] = NAMES[f'layer_norm{number}{suffix}'] = f'{stream}.norm{number}'


@pytest.fixture(scope='module')
def oracle(shared_dir):
    with np.load(shared_dir / 'oracles/graph_public.npz') as file:
        return {key.removeprefix('gt_'): torch.from_numpy(file[key]) for key in file if key.startswith('gt_')}


def ours(released: str) -> str:
    """Name here of a released parameter of a layer."""
    module, _, parameter = released.rpartition('.')
    return f'{NAMES[module]}.{parameter}'


def layer_weights(oracle, prefix: str) -> dict[str, torch.Tensor]:
    return {ours(k.removeprefix(prefix)): v for k, v in oracle.items() if k.startswith(prefix)}


def close(actual, expected, bound=1e-9):
    """Compare float64 results, relative to the largest entry; only the order of sums differs."""
    assert (actual - expected).abs().max() <= bound * max(1.0, expected.abs().max().item())


def load(module: nn.Module, weights: dict[str, torch.Tensor]) -> None:
    missing, unexpected = module.load_state_dict(weights, strict=False)
    assert not unexpected
    assert all(name.endswith('num_batches_tracked') for name in missing)


@pytest.mark.shared
@pytest.mark.parametrize('training', [False, True], ids=['eval', 'train'])
@pytest.mark.parametrize('norm', ['batch', 'layer'])
@pytest.mark.parametrize('with_edges', [False, True], ids=['node', 'edge'])
def test_layer_equals_release(oracle, with_edges, norm, training):
    prefix = f'{"edge" if with_edges else "node"}_layer_{"bn" if norm == "batch" else "ln"}_'
    layer = GraphTransformerLayer(16, 4, edge_dim=16 if with_edges else None, norm=norm).double().train(training)
    load(layer, layer_weights(oracle, f'{prefix}_'))
    x = oracle['node_x'].clone().requires_grad_()
    mode = 'train' if training else 'eval'
    if with_edges:
        nodes, edges = layer(x, oracle['edge_index'], oracle['edge_x'])
        close(edges, oracle[f'{prefix}{mode}_edge_out'])
        total = nodes.square().sum() + edges.square().sum()
    else:
        nodes = layer(x, oracle['edge_index'])
        total = nodes.square().sum()
    close(nodes, oracle[f'{prefix}{mode}_out'])
    total.backward()
    close(x.grad, oracle[f'{prefix}{mode}_grad_x'], bound=1e-8)


def projections(layer: GraphTransformerLayer, x):
    return [layer.split_heads(linear(x)) for linear in (layer.query, layer.key, layer.value)]


@pytest.mark.shared
@pytest.mark.parametrize(('scale', 'key'), [(1, 'heads'), (10, 'heads_x10')])
def test_attention_without_edge_features_equals_release(oracle, scale, key):
    layer = GraphTransformerLayer(16, 4, norm='none', qkv_bias=True).double()
    load(layer, layer_weights(oracle, 'attn_bias__'))
    query, keys, value = projections(layer, oracle['node_x'] * scale)
    heads, logits = graph_attention(query, keys, value, oracle['edge_index'])
    close(heads, oracle[f'attn_bias_{key}'])
    # The second case tests the clamp: most logits exceed it.
    assert ((logits.sum(-1).abs() > 5).double().mean() > 0.5) == (scale == 10)


@pytest.mark.shared
@pytest.mark.parametrize(('scale', 'key'), [(1, 'heads'), (6, 'heads_x6')])
def test_attention_with_edge_features_equals_release(oracle, scale, key):
    layer = GraphTransformerLayer(16, 4, edge_dim=16, norm='none').double()
    load(layer, layer_weights(oracle, 'attn_edge__'))
    edge = layer.split_heads(layer.edge_query(oracle['edge_x']))
    heads, scores = graph_attention(
        *projections(layer, oracle['node_x'] * scale), oracle['edge_index'], edge=edge, eps=layer.eps
    )
    close(heads, oracle[f'attn_edge_{key}'])
    if scale == 1:
        close(scores, oracle['attn_edge_scores'])


@pytest.mark.shared
def test_attention_isolated_node_gives_zero(oracle):
    layer = GraphTransformerLayer(16, 4, edge_dim=16, norm='none').double()
    load(layer, layer_weights(oracle, 'attn_edge__'))
    kept = oracle['edge_index'][1] != 0
    edge = layer.split_heads(layer.edge_query(oracle['edge_x'][kept]))
    heads, _ = graph_attention(
        *projections(layer, oracle['node_x']), oracle['edge_index'][:, kept], edge=edge, eps=layer.eps
    )
    close(heads, oracle['attn_edge_heads_node0_isolated'])
    assert (heads[0] == 0).all()
    # Without edge features the release divides 0 by 0.
    plain, _ = graph_attention(*projections(layer, oracle['node_x']), oracle['edge_index'][:, kept])
    assert (plain[0] == 0).all()
    assert plain.isfinite().all()


def net_weights(oracle, prefix: str) -> dict[str, torch.Tensor]:
    weights = {}
    # Translate the released names.
    for key, value in oracle.items():
        if not key.startswith(prefix):
            continue
        name = key.removeprefix(prefix)
        if name.startswith('layers.'):
            _, number, rest = name.split('.', 2)
            name = f'layers.{number}.{ours(rest)}'
        for released, own in (
            ('embedding_lap_pos_enc', 'embed_pe'),
            ('embedding_h', 'embed'),
            ('embedding_e', 'embed_edge'),
            ('MLP_layer.FC_layers', 'head.layers'),
        ):
            name = name.replace(released, own) if name.startswith(released) else name
        weights[name] = value
    return weights


def graph_net(oracle, readout='mean') -> GraphTransformer:
    net = GraphTransformer(
        num_node_types=6, num_edge_types=4, dim=16, num_layers=3, num_heads=4, pe_dim=3, out_dim=1, readout=readout
    )
    load(net, net_weights(oracle, 'graph_net__'))
    return net


def union(oracle, **extra):
    return dict(
        x=oracle['batch_node_type'],
        edge_index=oracle['batch_edge_index'],
        pe=oracle['batch_lap_pe'].float(),
        batch=oracle['batch_graph_id'],
        **extra,
    )


@pytest.mark.shared
@pytest.mark.parametrize('training', [False, True], ids=['eval', 'train'])
def test_molecule_network_equals_release(oracle, training):
    net = graph_net(oracle).train(training)
    out = net(**union(oracle, edge_attr=oracle['batch_edge_type']))
    mode = 'train' if training else 'eval'
    # The release ran in float32.
    torch.testing.assert_close(out, oracle[f'graph_net_{mode}_out'], rtol=1e-4, atol=1e-5)
    loss = (out.double() - oracle['graph_net_targets']).abs().mean()
    torch.testing.assert_close(loss, oracle[f'graph_net_{mode}_l1'], rtol=1e-4, atol=1e-5)


@pytest.mark.shared
@pytest.mark.parametrize('readout', ['sum', 'max'])
def test_read_out_equals_release(oracle, readout):
    out = graph_net(oracle, readout).eval()(**union(oracle, edge_attr=oracle['batch_edge_type']))
    torch.testing.assert_close(out, oracle[f'graph_net_eval_out_{readout}'], rtol=1e-4, atol=1e-5)


@pytest.mark.shared
@pytest.mark.parametrize('training', [False, True], ids=['eval', 'train'])
def test_node_network_equals_release(oracle, training):
    net = GraphTransformer(num_node_types=6, dim=16, num_layers=3, num_heads=4, pe_dim=3, out_dim=4).train(training)
    load(net, net_weights(oracle, 'node_net__'))
    mode = 'train' if training else 'eval'
    torch.testing.assert_close(net(**union(oracle)), oracle[f'node_net_{mode}_out'], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ('kwargs', 'count'),
    [
        (dict(num_node_types=28, num_edge_types=4, dim=64, out_dim=1, readout='mean'), 588_353),
        (dict(num_node_types=28, num_edge_types=4, dim=64, out_dim=1, readout='mean', pe_dim=8), 588_929),
        (dict(num_node_types=7, dim=80, out_dim=6), 523_146),
        (dict(num_node_types=7, dim=80, out_dim=6, pe_dim=10), 524_026),
        (dict(num_node_types=3, dim=80, out_dim=2), 522_742),
        (dict(num_node_types=3, dim=80, out_dim=2, pe_dim=2), 522_982),
    ],
)
def test_network_parameter_counts_equal_table_1(kwargs, count):
    for norm in ('batch', 'layer'):
        with torch.device('meta'):
            net = GraphTransformer(norm=norm, **kwargs)
        assert sum(parameter.numel() for parameter in net.parameters()) == count
