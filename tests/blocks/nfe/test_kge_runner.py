"""NFE as an MMEngine experiment: data set, model, metric, configs, and the tools that run them."""

import json
import runpy
import sys
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import default_collate, pseudo_collate

from dinor1.blocks.nfe import TripleDataset, filtered_ranking
from dinor1.blocks.nfe.dataset import KnowledgeGraphDataset
from dinor1.blocks.nfe.link_predictor import NFELinkPredictor
from dinor1.blocks.nfe.metric import LinkPredictionMetric
from dinor1.registry import DATASETS, METRICS, MODELS
from dinor1.utils.config import load_config
from dinor1.utils.errors import InputError

ROOT = Path(__file__).parents[3]
CONFIGS = sorted((ROOT / 'configs/blocks/nfe').glob('*.py'))
# Entities, relations and triples of the public files.
SIZES = {'wn18rr': (40_943, 11), 'fb15k-237': (14_541, 237)}


@pytest.fixture(scope='module')
def data_root(tmp_path_factory) -> Path:
    """A grid of 6 x 6 cells with four relations; an eighth of the triples is for validation, an eighth for the test."""
    root = tmp_path_factory.mktemp('data') / 'wn18rr'
    root.mkdir()
    # List the triples of four moves on the grid.
    moves = dict(right=(1, 0), left=(-1, 0), up=(0, 1), diagonal=(1, 1))
    lines = [
        f'{x},{y}\t{name}\t{x + dx},{y + dy}\n'
        for name, (dx, dy) in moves.items()
        for x in range(6)
        for y in range(6)
        if 0 <= x + dx < 6 and 0 <= y + dy < 6
    ]
    # Shuffle and split them.
    order = torch.randperm(len(lines), generator=torch.Generator().manual_seed(0)).tolist()
    lines = [lines[i] for i in order]
    for split, chosen in (('valid', lines[::8]), ('test', lines[1::8])):
        (root / f'{split}.txt').write_text(''.join(chosen))
    (root / 'train.txt').write_text(''.join(line for i, line in enumerate(lines) if i % 8 > 1))
    return root


SIZE = dict(num_entities=36, num_relations=4)


def test_kg_dataset_training_items_have_both_directions(data_root):
    dataset = KnowledgeGraphDataset(str(data_root), **SIZE)
    graph = TripleDataset.read(data_root)
    assert len(dataset) == 2 * len(graph.train)
    head, relation, tail = graph.train[3].tolist()
    assert dataset[6]['triple'].tolist() == [head, relation, tail]
    assert dataset[7]['triple'].tolist() == [tail, relation + 4, head]
    assert set(dataset[0]) == {'triple'}
    assert dataset.metainfo['relations'] == ('diagonal', 'left', 'right', 'up')
    batch = default_collate([dataset[i] for i in range(5)])
    assert batch['triple'].shape == (5, 3)


def test_kg_dataset_queries_have_known_tails(data_root):
    dataset = KnowledgeGraphDataset(str(data_root), 'test', test_mode=True)
    graph = TripleDataset.read(data_root)
    everything = torch.cat([graph.train, graph.valid, graph.test]).tolist()
    for i in range(0, len(dataset), 2):
        head, relation, tail = dataset[i]['triple'].tolist()
        assert dataset[i]['known'].tolist() == sorted(t for h, r, t in everything if (h, r) == (head, relation))
        assert dataset[i + 1]['known'].tolist() == sorted(h for h, r, t in everything if (r, t) == (relation, tail))


@pytest.mark.parametrize(
    ('kwargs', 'message'),
    [
        (dict(split='val'), "split must be one of train, valid, test; got 'val'"),
        (dict(num_entities=40_943), '36 entities, but the config says num_entities = 40943'),
        (dict(num_relations=11), '4 relations, but the config says num_relations = 11'),
    ],
)
def test_kg_dataset_bad_arguments_raise(data_root, kwargs, message):
    with pytest.raises(InputError, match=message):
        KnowledgeGraphDataset(str(data_root), **kwargs)


def test_link_predictor_and_metric_equal_filtered_ranking(data_root):
    """Batches through MMEngine's interface give the same numbers as one call of filtered_ranking."""
    torch.manual_seed(0)
    model = NFELinkPredictor(**SIZE, dim=8).eval()
    dataset = KnowledgeGraphDataset(str(data_root), 'test', test_mode=True)
    metric = LinkPredictionMetric(per_relation=True)
    metric.dataset_meta = dataset.metainfo
    # Rank batch by batch.
    for start in range(0, len(dataset), 7):
        batch = pseudo_collate([dataset[i] for i in range(start, min(start + 7, len(dataset)))])
        metric.process(batch, model.val_step(batch))
    metrics = metric.evaluate(len(dataset))
    # Rank all triples in one call.
    graph = TripleDataset.read(data_root)
    expected = filtered_ranking(model.nfe.score_all, graph.test, graph.filter(), num_relations=4)
    ranks = expected.pop('ranks')
    for name, value in expected.items():
        assert metrics[f'link_prediction/{name}'] == pytest.approx(value, rel=1e-12)
    relations = graph.test[:, 1].repeat_interleave(2)
    for number, name in enumerate(graph.relations):
        reciprocal = (1 / ranks[relations == number].double()).mean().item()
        assert metrics[f'link_prediction/mrr/{name}'] == pytest.approx(reciprocal, rel=1e-12)


def test_link_predictor_losses(data_root):
    triple = KnowledgeGraphDataset(str(data_root)).triples[:9]
    plain = NFELinkPredictor(**SIZE, dim=8)
    assert plain.loss(triple).keys() == {'loss_link'}
    torch.testing.assert_close(plain.loss(triple)['loss_link'], plain.nfe.loss(*triple.unbind(1)))
    torch.testing.assert_close(plain(triple), plain.nfe.score(*triple.unbind(1)))

    extended = NFELinkPredictor(**SIZE, dim=8, num_negatives=36, penalty=dict(weight=0.5, p=2))
    extended.load_state_dict(plain.state_dict())
    losses = extended(list(triple), mode='loss')
    # With all 36 entities drawn, the estimate equals the loss.
    torch.testing.assert_close(losses['loss_link'], plain.loss(triple)['loss_link'])
    torch.testing.assert_close(losses['loss_penalty'], 0.5 * plain.nfe.penalty(*triple.unbind(1), p=2))

    extended.num_negatives = 5
    torch.manual_seed(0)
    first = extended.loss(triple)['loss_link']
    torch.manual_seed(0)
    assert torch.equal(extended.loss(triple)['loss_link'], first)
    assert not torch.equal(extended.loss(triple)['loss_link'], first)


@pytest.mark.parametrize(
    ('kwargs', 'message'),
    [
        (dict(kind='nfe-9'), "NFELinkPredictor: kind must be one of .*; got 'nfe-9'"),
        (dict(num_negatives=37), r'num_negatives must be in \[1, 36\], the number of entities; got 37'),
        (dict(num_negatives=0), 'num_negatives must be'),
        (dict(ties='worst'), "ties must be one of .*; got 'worst'"),
    ],
)
def test_link_predictor_bad_arguments_raise(kwargs, message):
    with pytest.raises(InputError, match=message):
        NFELinkPredictor(**SIZE, **kwargs)
    with pytest.raises(ValueError, match="mode must be 'tensor', 'loss' or 'predict', got 'x'"):
        NFELinkPredictor(**SIZE, dim=2)(torch.zeros(1, 3, dtype=torch.long), mode='x')


# Configs and tools -----------------------------------------------------------------------------------------


def test_kge_configs_exist():
    assert {path.stem for path in CONFIGS} == {f'nfe_{data}{run}' for data in SIZES for run in ('', '_short')}


@pytest.mark.parametrize('path', CONFIGS, ids=lambda path: path.stem)
def test_kge_config_builds_at_full_size(path):
    cfg = load_config(str(path))
    name = path.stem.removeprefix('nfe_').removesuffix('_short')
    entities, relations = SIZES[name]
    assert (cfg.model.num_entities, cfg.model.num_relations) == (entities, relations)
    for loader, split in (('train_dataloader', 'train'), ('val_dataloader', 'valid'), ('test_dataloader', 'test')):
        dataset = cfg[loader].dataset
        assert dataset.data_root.endswith(f'/{name}')
        assert dataset.split == split
        assert (dataset.num_entities, dataset.num_relations) == (entities, relations)
        assert dataset.get('test_mode', False) == (split != 'train')
        assert DATASETS.get(dataset.type) is KnowledgeGraphDataset
    assert METRICS.get(cfg.val_evaluator.type) is LinkPredictionMetric
    # Build the full size on the meta device.
    with torch.device('meta'):
        model = MODELS.build(cfg.model)
    assert isinstance(model, NFELinkPredictor)
    if not path.stem.endswith('_short'):
        # The released settings of NFE-1.
        published = {'wn18rr': (1, 128, 0.005, 0.90), 'fb15k-237': (2, 1024, 0.001, 0.93)}[name]
        optimizer, scheduler = cfg.optim_wrapper.optimizer, cfg.param_scheduler[0]
        assert (model.nfe.kind, model.nfe.dim, cfg.train_cfg.max_epochs) == ('nfe-1', 1024, 50)
        assert (model.nfe.gamma, cfg.train_dataloader.batch_size, optimizer.lr, scheduler.gamma) == published
        assert model.num_negatives is None
        assert model.penalty is None


def run_tool(name, *arguments):
    """Run a tool in this process."""
    before, sys.argv = sys.argv, [f'tools/{name}.py', *map(str, arguments)]
    try:
        runpy.run_path(str(ROOT / f'tools/{name}.py'), run_name='__main__')
    finally:
        sys.argv = before


def small_config(tmp_path, **changes) -> str:
    """The full WN18RR config on the grid, with a small model."""
    cfg = Config.fromfile(ROOT / 'configs/blocks/nfe/nfe_wn18rr.py')
    cfg.merge_from_dict({'model.dim': 32, 'train_dataloader.batch_size': 128, 'optim_wrapper.optimizer.lr': 0.05})
    cfg.merge_from_dict({f'model.{key}': value for key, value in SIZE.items()})
    for loader in ('train', 'val', 'test'):
        cfg.merge_from_dict({f'{loader}_dataloader.dataset.{key}': value for key, value in SIZE.items()})
    cfg.merge_from_dict({'param_scheduler.0.gamma': 0.99, 'visualizer.vis_backends': [dict(type='LocalVisBackend')]})
    cfg.merge_from_dict(changes)
    path = tmp_path / 'config.py'
    cfg.dump(path)
    return str(path)


def test_kge_tools_train_and_test(data_root, tmp_path, monkeypatch):
    monkeypatch.setenv('DINOR1_DATA', str(data_root.parent))
    # Save rarely: saving takes longer than an epoch of so few triples.
    schedule = {'train_cfg.max_epochs': 45, 'train_cfg.val_interval': 15, 'default_hooks.checkpoint.interval': 45}
    config = small_config(tmp_path, **schedule)
    work_dir = tmp_path / 'run'
    run_tool('train', config, '--work-dir', work_dir, '--seed', '1')
    (best,) = work_dir.glob('best_link_prediction_mrr_epoch_*.pth')
    run_tool('test', config, best, '--work-dir', tmp_path / 'test')
    record = json.loads((tmp_path / 'test/metrics.json').read_text())
    assert record['ann_file'].endswith('wn18rr/test.txt')
    # Chance is about 0.11: the sum of the reciprocal ranks up to 36, divided by 36.
    assert record['metrics']['link_prediction/mrr'] > 0.5
    assert {'link_prediction/hits@1', 'link_prediction/mr', 'link_prediction/mrr/up'} <= record['metrics'].keys()
    # Rows of the tables keep their names.
    saved = torch.load(best, weights_only=False)
    assert saved['meta']['dataset_meta']['entities'][0] == '0,0'


def test_kge_training_resumes_exactly(data_root, tmp_path, monkeypatch):
    """A run that resumes after its second epoch ends with the same tables, also with random negatives."""
    monkeypatch.setenv('DINOR1_DATA', str(data_root.parent))
    changes = {'train_cfg.max_epochs': 3, 'model.num_negatives': 10, 'default_hooks.checkpoint.max_keep_ckpts': -1}
    config = small_config(tmp_path, **changes)
    run_tool('train', config, '--work-dir', tmp_path / 'whole')
    run_tool('train', config, '--work-dir', tmp_path / 'rest', '--resume', tmp_path / 'whole/epoch_2.pth')
    paths = [tmp_path / 'whole/epoch_2.pth', tmp_path / 'whole/epoch_3.pth', tmp_path / 'rest/epoch_3.pth']
    second, whole, rest = (torch.load(path, weights_only=False)['state_dict'] for path in paths)
    assert whole.keys() == {'nfe.entity', 'nfe.relation'}
    for name in whole:
        assert torch.equal(whole[name], rest[name])
        assert not torch.equal(whole[name], second[name])
