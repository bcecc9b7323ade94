"""The graph transformer as an MMEngine experiment: data sets, model, metrics, configs, and the tools that run them."""

import json
import pickle
import runpy
import sys
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import FUNCTIONS

from dinor1.blocks.graph_transformer import (
    complete_edges,
    laplacian_positional_encoding,
    make_sbm_cluster,
    make_sbm_pattern,
    sbm_accuracy,
    weighted_node_cross_entropy,
)
from dinor1.blocks.graph_transformer.dataset import NUM_GRAPHS, SBMDataset, SBMGraphs, graph_collate
from dinor1.blocks.graph_transformer.metrics import MeanAbsoluteError, SBMAccuracy
from dinor1.blocks.graph_transformer.plateau_hook import PlateauHook
from dinor1.blocks.graph_transformer.predictor import GraphPredictor
from dinor1.blocks.graph_transformer.zinc import ZINC
from dinor1.registry import DATASETS, METRICS, MODELS
from dinor1.utils.config import load_config
from dinor1.utils.errors import InputError

ROOT = Path(__file__).parents[3]
CONFIGS = sorted((ROOT / 'configs/blocks/graph_transformer').glob('*.py'))
SMALL = dict(size_max=9, num_graphs=6)


# SBM -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(('task', 'make'), [('cluster', make_sbm_cluster), ('pattern', make_sbm_pattern)])
@pytest.mark.parametrize(('split', 'number'), [('train', 0), ('test', 2)])
def test_sbm_dataset_items_equal_generated_graphs(task, make, split, number):
    dataset = SBMDataset(task, split, SMALL | dict(seed=5), pe_dim=3)
    expected = make(6, 5, size_max=9, split=number)
    assert len(dataset) == 6
    for item, graph in zip(dataset, expected, strict=True):
        assert torch.equal(item.x, graph.x)
        assert torch.equal(item.y, graph.y)
        # The edges are in another order.
        assert torch.equal(item.edge_index.unique(dim=1), graph.edge_index.unique(dim=1))
        code = laplacian_positional_encoding(graph.edge_index, graph.num_nodes, 3)
        torch.testing.assert_close(item.pe, code)
    # The seed of the training does not affect the graphs.
    other = SBMDataset(task, split, SMALL | dict(seed=5), pe_dim=3, seed=9)
    assert torch.equal(other[0].edge_index, dataset[0].edge_index)
    assert SBMDataset(task, split, SMALL | dict(seed=5))[0].pe is None


def test_sbm_dataset_chunks_change_nothing(monkeypatch):
    whole = SBMDataset('pattern', graphs=SMALL | dict(num_patterns=4))
    monkeypatch.setattr('dinor1.blocks.graph_transformer.dataset.CHUNK', 4)
    parts = SBMDataset('pattern', graphs=SMALL | dict(num_patterns=4))
    assert all(torch.equal(a.edge_index, b.edge_index) for a, b in zip(whole, parts, strict=True))


def test_sbm_dataset_full_graphs_keep_code():
    sparse = SBMDataset('cluster', graphs=SMALL, pe_dim=2)[0]
    full = SBMDataset('cluster', graphs=SMALL, pe_dim=2, full_graph=True)[0]
    assert torch.equal(full.edge_index, complete_edges(full.num_nodes))
    assert torch.equal(full.pe, sparse.pe)


def test_sbm_dataset_published_numbers_of_graphs(monkeypatch):
    asked = []

    def count(num_graphs, seed, **kwargs):
        asked.append(num_graphs)
        return []

    monkeypatch.setattr('dinor1.blocks.graph_transformer.dataset.make_sbm_pattern', count)
    for split, number in zip(('train', 'val', 'test'), NUM_GRAPHS['pattern'], strict=True):
        asked.clear()
        SBMDataset('pattern', split)
        assert sum(asked) == number


@pytest.mark.parametrize(
    ('kwargs', 'message'),
    [
        (dict(task='colour'), "expected a task of cluster, pattern .* got 'colour' and 'train'"),
        (dict(task='cluster', split='valid'), "got 'cluster' and 'valid'"),
        (
            dict(task='cluster', graphs=dict(size_min=9, size_max=9)),
            'SBMDataset: expected 1 <= size_min < size_max, got 9 and 9',
        ),
        (dict(task='pattern', graphs=dict(num_patterns=0)), 'num_patterns must be positive'),
        (dict(task='pattern', graphs=dict(num_graphs=-1)), 'num_graphs and seed must not be negative'),
        (dict(task='cluster', graphs=dict(num_graphs=1), pe_dim=-1), 'k must not be negative'),
        (
            dict(task='cluster', graphs=dict(size_maximum=9)),
            "SBMDataset: graphs: unknown key 'size_maximum'; did you mean 'size_max'",
        ),
    ],
)
def test_sbm_dataset_bad_arguments_raise(kwargs, message):
    with pytest.raises(InputError, match=message):
        SBMDataset(**kwargs)
    assert len(SBMDataset('cluster', graphs=SBMGraphs(num_graphs=0))) == 0


def test_graph_collate_omits_missing_fields():
    batch = graph_collate([SBMDataset('cluster', graphs=SMALL)[i] for i in range(3)])
    assert set(batch) == {'x', 'edge_index', 'y', 'batch', 'sizes'}
    assert FUNCTIONS.get('graph_collate') is graph_collate


# ZINC ------------------------------------------------------------------------------------------------------


def molecule(num_atoms, seed):
    generator = torch.Generator().manual_seed(seed)
    bonds = torch.randint(0, 4, (num_atoms, num_atoms), generator=generator).triu(1)
    return dict(
        num_atom=num_atoms,
        atom_type=torch.randint(0, 28, (num_atoms,), generator=generator, dtype=torch.int8),
        bond_type=(bonds + bonds.T).to(torch.int8),
        logP_SA_cycle_normalized=torch.randn(1, generator=generator),
    )


@pytest.fixture
def zinc(tmp_path) -> Path:
    """Files in the benchmark's format: molecules of 9 to 12 atoms, and the indices of some."""
    root = tmp_path / 'zinc'
    root.mkdir()
    for split in ('train', 'val', 'test'):
        molecules = [molecule(9 + i % 4, seed=i) for i in range(10)]
        (root / f'{split}.pickle').write_bytes(pickle.dumps(molecules))
        (root / f'{split}.index').write_text('7,0,3,5\n')
    return root


def test_zinc_reads_molecules(zinc):
    dataset = ZINC(str(zinc), 'val', pe_dim=8)
    assert len(dataset) == 4
    assert dataset.ann_file.endswith('zinc/val.pickle')
    for graph, number in zip(dataset, (7, 0, 3, 5), strict=True):
        expected = molecule(9 + number % 4, seed=number)
        assert graph.x.tolist() == expected['atom_type'].tolist()
        table = torch.zeros(len(graph.x), len(graph.x), dtype=torch.long)
        table[graph.edge_index[0], graph.edge_index[1]] = graph.edge_attr
        assert torch.equal(table, expected['bond_type'].long())
        assert (graph.edge_attr > 0).all()
        assert torch.equal(graph.y, expected['logP_SA_cycle_normalized'][None])
        assert graph.pe.shape == (len(graph.x), 8)
    assert len(ZINC(str(zinc), 'val', subset=False)) == 10


def test_zinc_full_graphs(zinc):
    sparse, full = (ZINC(str(zinc), pe_dim=2, full_graph=f)[0] for f in (False, True))
    assert torch.equal(full.edge_index, complete_edges(len(full.x)))
    assert (full.edge_attr == 0).all()
    assert torch.equal(full.pe, sparse.pe)


class Bomb:
    def __reduce__(self):
        return (exec, ('raise SystemExit("the file ran a program")',))


@pytest.mark.parametrize(
    ('spoil', 'message'),
    [
        (
            lambda r: (r / 'train.pickle').unlink(),
            r'train.pickle: no such file; see data/README.md for where ZINC goes',
        ),
        (lambda r: (r / 'train.pickle').write_bytes(b'no pickle'), 'train.pickle: not one of the files of ZINC'),
        (
            lambda r: (r / 'train.pickle').write_bytes(pickle.dumps([Bomb()])),
            'holds builtins.exec, which is not a tensor',
        ),
        (lambda r: (r / 'train.pickle').write_bytes(pickle.dumps({})), 'expected a list of molecules, found dict'),
        (lambda r: (r / 'train.pickle').write_bytes(pickle.dumps([{}] * 9)), 'molecule 0 is damaged'),
        (lambda r: (r / 'train.index').unlink(), 'train.index: no such file'),
        (lambda r: (r / 'train.index').write_text('1;2'), 'expected numbers separated by commas'),
        (lambda r: (r / 'train.index').write_text('1,10'), 'numbers outside of the 10 molecules of train.pickle'),
    ],
)
def test_zinc_bad_files_raise(zinc, spoil, message):
    spoil(zinc)
    with pytest.raises(InputError, match=message):
        ZINC(str(zinc))
    with pytest.raises(InputError, match="split must be one of train, val, test; got 'valid'"):
        ZINC(str(zinc), 'valid')


# Model and metrics -----------------------------------------------------------------------------------------


def node_model(**kwargs) -> GraphPredictor:
    torch.manual_seed(0)
    sizes = dict(num_node_types=7, dim=16, num_layers=2, num_heads=2, out_dim=6, pe_dim=3)
    return GraphPredictor('node', **sizes | kwargs)


def cluster_batch(count=3):
    dataset = SBMDataset('cluster', graphs=SMALL, pe_dim=3)
    return graph_collate([dataset[i] for i in range(count)])


def test_graph_predictor_modes_agree():
    model, batch = node_model().eval(), cluster_batch()
    logits = model(**batch)
    loss = model(**batch, mode='loss')
    torch.testing.assert_close(loss['loss_node'], weighted_node_cross_entropy(logits, batch['y'], 6))
    outputs = model.val_step(batch)
    assert [len(o) for o in outputs] == batch['sizes'].tolist()
    torch.testing.assert_close(torch.cat(outputs), logits)
    with pytest.raises(ValueError, match="mode must be 'tensor', 'loss' or 'predict', got 'x'"):
        model(**batch, mode='x')


@pytest.mark.parametrize('sign_flip', ['batch', 'graph'])
def test_graph_predictor_flips_signs_in_training_only(sign_flip):
    model, batch = node_model(norm='none', sign_flip=sign_flip), cluster_batch()
    outs = [model(**batch) for _ in range(6)]
    assert any(not torch.equal(out, outs[0]) for out in outs)
    model.eval()
    assert torch.equal(model(**batch), model(**batch))
    # The result must be one of the eight patterns of three signs, for each graph (or for all).
    codes = []
    model.train().network.forward = lambda *args, pe, **kwargs: codes.append(pe) or pe
    for _ in range(8):
        model(**batch)
    for code in codes:
        signs = [(code / batch['pe'])[batch['batch'] == g].nanmedian(0).values for g in range(3)]
        assert all(s.abs().allclose(torch.ones(3)) for s in signs)
        if sign_flip == 'batch':
            assert torch.equal(signs[0], signs[1])
            assert torch.equal(signs[0], signs[2])
    if sign_flip == 'graph':
        assert any(not torch.equal(c[batch['batch'] == 0] / c[:1], c[:1]) for c in codes)


def test_graph_predictor_without_codes_ignores_them():
    model, batch = node_model(pe_dim=0).eval(), cluster_batch()
    with_codes = model(**batch)
    del batch['pe']
    assert torch.equal(model(**batch), with_codes)


def test_graph_predictor_regression(zinc):
    model = GraphPredictor(
        'graph', 1, pe_dim=4, num_node_types=28, num_edge_types=4, dim=16, num_layers=2, num_heads=2
    ).eval()
    dataset = ZINC(str(zinc), pe_dim=4)
    metric = MeanAbsoluteError()
    outs = []
    for first in (0, 2):
        batch = graph_collate([dataset[first], dataset[first + 1]])
        outs.append(model(**batch))
        torch.testing.assert_close(model(**batch, mode='loss')['loss_l1'], (outs[-1] - batch['y']).abs().mean())
        metric.process(batch, model.val_step(batch))
    targets = torch.cat([graph.y for graph in dataset])
    expected = (torch.cat(outs) - targets).abs().mean().item()
    assert metric.evaluate(4)['regression/mae'] == pytest.approx(expected, rel=1e-5)


def test_sbm_accuracy_metric_per_batch_and_pooled():
    generator = torch.Generator().manual_seed(0)
    # Collect results of two batches.
    metric, accuracies, losses, logits, targets = SBMAccuracy(4), [], [], [], []
    for sizes in ([5, 7], [30]):
        batch_logits = [torch.randn(n, 4, generator=generator) for n in sizes]
        target = torch.randint(0, 4, (sum(sizes),), generator=generator)
        metric.process(dict(y=target), batch_logits)
        joined = torch.cat(batch_logits)
        accuracies.append(sbm_accuracy(joined, target, 4))
        losses.append(weighted_node_cross_entropy(joined, target, 4).item())
        logits.append(joined)
        targets.append(target)
    # Compare with means over batches, and with the pooled accuracy.
    result = metric.evaluate(3)
    assert result['sbm/accuracy'] == pytest.approx(sum(accuracies) / 2)
    assert result['sbm/loss'] == pytest.approx(sum(losses) / 2)
    assert result['sbm/accuracy_pooled'] == pytest.approx(sbm_accuracy(torch.cat(logits), torch.cat(targets), 4))
    assert result['sbm/accuracy'] != pytest.approx(result['sbm/accuracy_pooled'])


def test_sbm_accuracy_metric_ignores_padding_of_last_batch():
    """Two processes, three graphs: the sampler repeats the first graph, and MMEngine drops the repetition."""
    generator = torch.Generator().manual_seed(0)
    logits = [torch.randn(n, 4, generator=generator) for n in (5, 7, 6)]
    targets = [torch.randint(0, 4, (len(one),), generator=generator) for one in logits]
    metrics = [SBMAccuracy(4), SBMAccuracy(4)]
    metrics[0].process(dict(y=torch.cat([targets[0], targets[2]])), [logits[0], logits[2]])
    metrics[1].process(dict(y=torch.cat([targets[1], targets[0]])), [logits[1], logits[0]])
    gathered = [one for pair in zip(metrics[0].results, metrics[1].results, strict=True) for one in pair][:3]
    pooled = metrics[0].compute_metrics(gathered)['accuracy_pooled']
    assert pooled == pytest.approx(sbm_accuracy(torch.cat(logits), torch.cat(targets), 4))


@pytest.mark.parametrize(
    ('make', 'message'),
    [
        (lambda: GraphPredictor('edge', 2, in_dim=1), "expected a task of node, graph .* got 'edge' and 'batch'"),
        (lambda: GraphPredictor('node', 2, in_dim=1, sign_flip='all'), "got 'node' and 'all'"),
        (lambda: GraphPredictor('node', 2, in_dim=1, readout='mean'), "readout 'mean' does not fit the task 'node'"),
        (lambda: GraphPredictor('graph', 2), 'GraphPredictor: give either in_dim'),
        (lambda: SBMAccuracy(3, 'best'), "SBMAccuracy: mode must be one of present, released; got 'best'"),
        (lambda: PlateauHook(0), 'PlateauHook: min_lr must be positive, got 0'),
    ],
)
def test_graph_predictor_and_metrics_bad_arguments_raise(make, message):
    with pytest.raises(InputError, match=message):
        make()


# Configs and tools -----------------------------------------------------------------------------------------


def test_graph_configs_exist():
    names = {path.stem for path in CONFIGS}
    assert names == {'sbm_cluster', 'sbm_pattern', 'zinc', 'sbm_cluster_1000', 'sbm_cluster_short', 'sbm_pattern_short'}


@pytest.mark.parametrize('path', CONFIGS, ids=lambda path: path.stem)
def test_graph_config_builds_and_runs(path):
    cfg = load_config(str(path))
    published = {
        'sbm_cluster': (524_026, 32, 5e-4, 10, 10),
        'sbm_pattern': (522_982, 26, 5e-4, 10, 2),
        'zinc': (588_929, 128, 7e-4, 15, 8),
    }
    # Build the model without memory.
    with torch.device('meta'):
        model = MODELS.build(cfg.model)
    assert isinstance(model, GraphPredictor)
    for split in ('train', 'val', 'test'):
        loader = cfg[f'{split}_dataloader']
        assert loader.dataset.split == split
        assert loader.collate_fn.type == 'graph_collate'
        assert DATASETS.get(loader.dataset.type) in (SBMDataset, ZINC)
        assert loader.dataset.pe_dim == cfg.model.pe_dim
        assert loader.batch_size == cfg.train_dataloader.batch_size
    assert METRICS.get(cfg.val_evaluator.type) in (SBMAccuracy, MeanAbsoluteError)
    # Compare with the published settings.
    if path.stem in published:
        count, batch_size, rate, patience, k = published[path.stem]
        assert sum(p.numel() for p in model.parameters()) == count
        assert (cfg.train_dataloader.batch_size, cfg.optim_wrapper.optimizer.lr) == (batch_size, rate)
        assert (cfg.param_scheduler[0].patience, cfg.model.pe_dim, cfg.train_cfg.max_epochs) == (patience, k, 1000)
        assert model.network.layers[0].num_heads == 8
        assert len(model.network.layers) == 10


def run_tool(name, *arguments):
    """Run a tool in this process."""
    before, sys.argv = sys.argv, [f'tools/{name}.py', *map(str, arguments)]
    try:
        runpy.run_path(str(ROOT / f'tools/{name}.py'), run_name='__main__')
    finally:
        sys.argv = before


def small_config(tmp_path, name='sbm_cluster_short', **changes) -> str:
    cfg = Config.fromfile(ROOT / f'configs/blocks/graph_transformer/{name}.py')
    cfg.merge_from_dict({'model.dim': 16, 'model.num_layers': 2, 'model.num_heads': 2})
    cfg.merge_from_dict({'visualizer.vis_backends': [dict(type='LocalVisBackend')], **changes})
    path = tmp_path / 'config.py'
    cfg.dump(path)
    return str(path)


def test_graph_tools_train_and_test(tmp_path):
    """A few epochs find dense communities far above chance, which is 16.7 %."""
    changes = {'train_cfg.max_epochs': 12, 'train_cfg.val_interval': 12, 'optim_wrapper.optimizer.lr': 5e-3}
    for split, count in (('train', 48), ('val', 16), ('test', 16)):
        changes |= {f'{split}_dataloader.dataset.graphs.{k}': v for k, v in dict(size_max=9, num_graphs=count).items()}
    config = small_config(tmp_path, **changes)
    run_tool('train', config, '--work-dir', tmp_path / 'run', '--seed', '1')
    run_tool('test', config, tmp_path / 'run/epoch_12.pth', '--work-dir', tmp_path / 'test')
    metrics = json.loads((tmp_path / 'test/metrics.json').read_text())['metrics']
    assert metrics['sbm/accuracy'] > 30
    assert metrics['sbm/loss'] < 1.7
    assert metrics.keys() == {'sbm/accuracy', 'sbm/accuracy_pooled', 'sbm/loss'}


def test_plateau_hook_resumes_exactly_and_stops_at_min_lr(tmp_path):
    """The released schedule; with patience 0 and a loss that cannot fall, each epoch halves the learning rate."""
    changes = {
        'param_scheduler': [dict(type='ReduceOnPlateauLR', monitor='sbm/loss', factor=0.5, patience=0, threshold=9.0)],
        'train_cfg.max_epochs': 9,
        'train_cfg.val_interval': 1,
        'default_hooks.checkpoint.max_keep_ckpts': -1,
        'default_hooks.plateau.min_lr': 2e-4,
    }
    for split in ('train', 'val', 'test'):
        changes |= {f'{split}_dataloader.dataset.graphs.{k}': v for k, v in dict(size_max=9, num_graphs=20).items()}
    config = small_config(tmp_path, **changes)
    run_tool('train', config, '--work-dir', tmp_path / 'whole')
    # 1e-3, and after each epoch 5e-4, 2.5e-4, 1.25e-4.
    assert sorted(p.stem for p in (tmp_path / 'whole').glob('epoch_*.pth')) == [f'epoch_{i}' for i in range(1, 4)]
    run_tool('train', config, '--work-dir', tmp_path / 'rest', '--resume', tmp_path / 'whole/epoch_2.pth')
    whole, rest = (torch.load(tmp_path / f'{run}/epoch_3.pth', weights_only=False) for run in ('whole', 'rest'))
    assert whole['optimizer']['param_groups'][0]['lr'] == rest['optimizer']['param_groups'][0]['lr'] == 2.5e-4
    for name, value in whole['state_dict'].items():
        assert torch.equal(value, rest['state_dict'][name])


@pytest.mark.parametrize('peer', [False, True])
def test_graph_benchmark_runs(peer, tmp_path, capsys, monkeypatch):
    if peer:
        pytest.importorskip('torch_geometric.nn')
    else:
        monkeypatch.setitem(sys.modules, 'torch_geometric', None)
    sizes = ('--graphs', 2, '--size-max', 7, '--dim', 8, '--heads', 2, '--layers', 1, '--repeat', 1)
    run_tool('analysis_tools/benchmark_graph', *sizes, '--out', tmp_path / 'bench.json')
    said, record = capsys.readouterr().out, json.loads((tmp_path / 'bench.json').read_text())
    assert ('PyTorch Geometric is not installed' in said) == (not peer)
    names = {'ours', 'ours, dense'} | ({'TransformerConv'} if peer else set())
    assert len(record['cases']) == 3
    assert all(set(case['fastest_seconds']) == names for case in record['cases'].values())
    # float32, and no logit exceeds the clamp.
    assert max(record['largest_difference'].values()) < 1e-5
