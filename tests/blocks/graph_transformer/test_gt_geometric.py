"""Batches, readouts, padding and Laplacian codes compared with PyTorch Geometric."""

import pytest
import torch

from dinor1.blocks.graph_transformer import (
    GraphTransformer,
    dense_blocks,
    disjoint_union,
    laplacian_positional_encoding,
    make_sbm_cluster,
    read_out,
)

geometric = pytest.importorskip('torch_geometric', reason="needs PyTorch Geometric: pip install 'dinor1[graph]'")

POOLS = {'mean': 'global_mean_pool', 'sum': 'global_add_pool', 'max': 'global_max_pool'}


@pytest.fixture(scope='module')
def graphs():
    return make_sbm_cluster(4, seed=0, size_max=12)


@pytest.fixture(scope='module')
def batch(graphs):
    """The same graphs as a batch of PyTorch Geometric."""
    data = [geometric.data.Data(x=g.x, edge_index=g.edge_index, y=g.y) for g in graphs]
    return geometric.data.Batch.from_data_list(data)


def test_disjoint_union_equals_geometric_batch(graphs, batch):
    union = disjoint_union(graphs)
    for name in ('x', 'edge_index', 'y', 'batch'):
        assert torch.equal(union[name], batch[name])
    assert torch.equal(union['sizes'], batch.ptr.diff())


def test_network_accepts_geometric_batch(graphs, batch):
    net = GraphTransformer(num_node_types=7, dim=16, num_layers=2, num_heads=2, out_dim=6).eval()
    union = disjoint_union(graphs)
    ours = net(union['x'], union['edge_index'], batch=union['batch'])
    assert torch.equal(net(batch.x, batch.edge_index, batch=batch.batch), ours)


@pytest.mark.parametrize('dtype', [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize('kind', POOLS)
def test_read_out_equals_geometric_pooling(kind, dtype):
    """Graphs 1 and 3 have no nodes; nodes of a graph need not be neighbours."""
    rows, graph = torch.randn(7, 5, dtype=dtype), torch.tensor([2, 0, 2, 4, 4, 0, 2])
    theirs = getattr(geometric.nn, POOLS[kind])(rows, graph, 5)
    assert torch.equal(read_out(rows, graph, 5, kind), theirs)


def test_dense_padding_and_adjacency_equal_geometric(batch):
    blocks = dense_blocks(batch.edge_index, batch.batch, 4, torch.float32)
    rows = torch.randn(len(batch.x), 8)
    padded, _ = geometric.utils.to_dense_batch(rows, batch.batch)
    assert torch.equal(padded.flatten(0, 1)[blocks.place], rows)
    adjacency = geometric.utils.to_dense_adj(batch.edge_index, batch.batch)
    assert torch.equal(adjacency.transpose(1, 2)[:, None], blocks.adjacency)


def test_laplacian_encoding_is_eigenvector_of_geometric_laplacian(graphs):
    graph = graphs[0]
    index, weight = geometric.utils.get_laplacian(
        graph.edge_index, normalization='sym', dtype=torch.float64, num_nodes=graph.num_nodes
    )
    laplacian = torch.zeros(graph.num_nodes, graph.num_nodes, dtype=torch.float64).index_put(tuple(index), weight)
    pe, values = laplacian_positional_encoding(graph.edge_index, graph.num_nodes, 6, return_eigenvalues=True)
    torch.testing.assert_close(laplacian @ pe.double(), pe.double() * values.double(), rtol=0, atol=1e-6)


def test_laplacian_encoding_equals_geometric_up_to_signs(graphs):
    """For less than 100 nodes; above, their solver starts at random."""
    for graph in graphs:
        assert graph.num_nodes < 100
        transform = geometric.transforms.AddLaplacianEigenvectorPE(6, attr_name='pe', is_undirected=True)
        theirs = transform(geometric.data.Data(x=graph.x, edge_index=graph.edge_index)).pe
        ours = laplacian_positional_encoding(graph.edge_index, graph.num_nodes, 6)
        signs = (ours * theirs).sum(0).sign()
        torch.testing.assert_close(theirs.float() * signs, ours, rtol=0, atol=2e-5)
