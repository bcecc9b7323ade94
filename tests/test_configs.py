"""Every config loads, runs what its name says, and builds, as far as that needs no data."""

import copy
import functools
import importlib.util
import json
import math
import re
import resource
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.hub import get_config
from mmengine.optim import build_optim_wrapper
from mmengine.runner import Runner
from torch import nn

from dinor1.engine import LossBalanceHook, PromptedTestLoop, PromptedValLoop, ReferenceModelHook
from dinor1.engine.loops import build_protocol
from dinor1.evaluation import TextPrompts, VisualGeneric, VisualInteractive
from dinor1.models import DINOGRQO, DINOR1, GRQOLoss
from dinor1.registry import DATASETS, HOOKS, LOOPS, METRICS, MODEL_CONVERTERS, MODELS, PARAM_SCHEDULERS
from dinor1.utils.config import load_config
from dinor1.utils.errors import InputError
from dinor1.utils.packaged_files import checksum_in_name

ROOT = Path(__file__).parents[1]
CONFIGS = ROOT / 'configs'
# Studies are lists of arms over recipes (tests/tools/test_run_study.py); zero-shot files evaluate and train nothing.
FILES = sorted(path for path in CONFIGS.rglob('*.py') if not {'_base_', 'studies'} & set(path.parts))
# Examples of the forms of GRQO, for the arms of studies.
FORMS = [path for path in sorted((CONFIGS / 'studies/grqo_forms').glob('*.py')) if path.stem != 'grqo_screening']
ZERO_SHOT = [path for path in FILES if '_zero-shot_' in path.name]
RECIPES = [path for path in FILES if path not in ZERO_SHOT]
DETECTORS = [path for path in RECIPES if path.parent.name in ('dino_r1', 'vis_gdino', 'category_graph')]
FEDERATED = [path for path in DETECTORS if '_photo' in path.name]
FULL_SIZE = [path for path in DETECTORS if '_swin-' in path.name]
MODEL_FILES = sorted((CONFIGS / '_base_/models').glob('dino_r1_*.py'))
DINO_GRQO = sorted((CONFIGS / 'dino_grqo').glob('*.py'))
STOCK = 'dino-4scale_r50_8xb2-12e_coco'
ALIGNED = CONFIGS / 'dino_r1/dino-r1_swin-t_align_8xb32_12e_coco.py'


def each(paths):
    return pytest.mark.parametrize('path', paths, ids=lambda path: path.stem)


@functools.cache
def _read(path: Path) -> Config:
    return load_config(str(path))


def read(path: Path) -> Config:
    """The config, the caller's to change: building a model, for one, fills in its config."""
    return copy.deepcopy(_read(path))


# Files -----------------------------------------------------------------------------------------------------


def test_the_announced_configs_are_there():
    expected = {f'vis-gdino_swin-{s}_{run}' for s in 'tbl' for run in ('8xb4_6e_o365', '8xb32_12e_coco')}
    expected |= {name.replace('vis-gdino', 'dino-r1') for name in expected}
    assert expected | {ALIGNED.stem} == {path.stem for path in FULL_SIZE}


@each(RECIPES)
def test_loads(path):
    cfg = read(path)
    assert cfg.default_scope == 'dinor1'
    assert {'model', 'train_cfg', 'optim_wrapper', 'default_hooks'} <= set(cfg)


@each(ZERO_SHOT)
def test_zero_shot_runs_a_model_of_the_zoo_with_prompts(path):
    cfg = read(path)
    size = re.fullmatch(r'dino-r1_(swin-\w)_zero-shot_lvis(-minival)?', path.stem)[1]
    assert cfg.model.backbone == read(CONFIGS / f'_base_/models/dino_r1_{size}.py').model.backbone
    assert cfg.test_evaluator.type == 'LVISFixedMetric'
    assert 'train_cfg' not in cfg
    # 1,203 classes do not fit one pass, and fixed AP has no cut per image.
    assert cfg.model.test_cfg.chunked_size > 0
    assert cfg.model.test_cfg.max_per_img >= 1000
    assert cfg.prompt_dataset.type == 'LVISPromptDataset'
    assert cfg.test_cfg.prompts.type == 'VisualGeneric'


def inheritance_depth(path: Path) -> int:
    bases = Config._get_base_files(str(path))
    return max((1 + inheritance_depth(path.parent / base) for base in bases), default=0)


@each(FILES)
def test_inheritance_is_at_most_two_deep(path):
    assert inheritance_depth(path) <= 2


@each(DETECTORS)
def test_the_name_says_what_runs(path):
    """dino-r1_swin-t_8xb4_6e_o365: 8 devices with 4 images each, 6 epochs, on Objects365."""
    kind, size, devices, batch, epochs, data = re.fullmatch(
        r'(dino-r1|vis-gdino)_(\S+?)(?:_align|_graph)?_(\d+)xb(\d+)_(\d+)e_(\S+)', path.stem
    ).groups()
    cfg = read(path)
    assert cfg.train_dataloader.batch_size == int(batch)
    if 'auto_scale_lr' in cfg:
        assert cfg.auto_scale_lr.base_batch_size == int(devices) * int(batch)
    assert cfg.train_cfg.max_epochs == int(epochs)
    assert ('reference' in cfg.default_hooks) == ('loss_grqo' in cfg.model.bbox_head) == (kind == 'dino-r1')
    # The suffix -lite0 stands for another backbone of the same detector.
    models = CONFIGS / '_base_/models'
    if size.endswith('-lite0'):
        assert cfg.model.backbone == read(models / 'lite0_backbone.py').lite0_backbone
    else:
        assert cfg.model.backbone == read(models / f'dino_r1_{size}.py').model.backbone
    folders = {'o365': 'objects365v1', 'photo-mix': 'photo_mix', 'photographs': 'photo_mix'}
    dataset = cfg.train_dataloader.dataset
    dataset = dataset.get('datasets', [dataset])[0]
    assert dataset.data_root.endswith(f'/{folders.get(data, data.split("-")[0])}')
    # Exemplars of an evaluation come from the data set that it evaluates.
    assert cfg.prompt_dataset.data_root == cfg.val_dataloader.dataset.data_root


def baseline(path: Path) -> Path:
    folder = CONFIGS / 'vis_gdino' if path.parent.name == 'dino_r1' else path.parent
    return folder / path.name.replace('dino-r1', 'vis-gdino')


@each([path for path in DETECTORS if path.name.startswith('dino-r1') and baseline(path).exists()])
def test_dino_r1_differs_from_its_baseline_by_the_loss_and_its_reference_alone(path):
    ours, theirs = read(path), read(baseline(path))
    assert ours.default_hooks.pop('reference')
    assert ours.model.bbox_head.pop('loss_grqo') == ours.pop('loss_grqo')
    assert ours.to_dict() == theirs.to_dict()


# Loops, hooks, optimizer, schedules ------------------------------------------------------------------------


class ThreeObjects:
    """A data set to take prompts from: what a protocol asks of one."""

    metainfo = dict(classes=('cat', 'dog'))

    def __len__(self):
        return 3

    def get_data_info(self, index):
        return dict(img_id=index, instances=[dict(bbox=[0, 0, 4, 4], bbox_label=index % 2)])


@each([*DETECTORS, *ZERO_SHOT])
def test_every_evaluation_gives_prompts_out_of_its_prompt_dataset(path):
    cfg = read(path)
    if path in FEDERATED:
        # Only classes that an image shows are offered to it: of others, its labels may say nothing.
        assert cfg.val_cfg.prompts.type == cfg.test_cfg.prompts.type == 'VisualInteractive'
        cfg.val_cfg.prompts.type = cfg.test_cfg.prompts.type = 'VisualGeneric'
    for loop, kind in ((cfg.val_cfg, PromptedValLoop), (cfg.test_cfg, PromptedTestLoop)):
        assert LOOPS.get(loop.type) is kind
        with pytest.raises(InputError, match='needs prompt_dataset'):
            build_protocol(loop.prompts, Config())
        protocol = build_protocol(dict(loop.prompts), Config(dict(prompt_dataset=ThreeObjects())))
        assert isinstance(protocol, VisualGeneric)
        assert (protocol.num_exemplars, protocol.seed) == (16, 0)
        assert len(protocol.exemplars) == 3
        # Another protocol needs no more than its name: --cfg-options test_cfg.prompts.type=TextPrompts
        for other in (TextPrompts, VisualInteractive):
            assert type(build_protocol(dict(loop.prompts, type=other.__name__), Config())) is other
    assert DATASETS.get(cfg.prompt_dataset.type) is not None
    assert cfg.prompt_dataset.test_mode


@each(RECIPES)
def test_hooks_and_converters_build(path):
    cfg = read(path)
    for hook in [*cfg.default_hooks.values(), *cfg.get('custom_hooks', [])]:
        HOOKS.build(hook)
    for converter in cfg.get('model_converters', []):
        MODEL_CONVERTERS.build(converter)
    head = cfg.model.get('bbox_head', {})
    if 'loss_grqo' in head:
        # Without the hook nothing would give the loss its reference.
        assert isinstance(MODELS.build(head.loss_grqo), GRQOLoss)
        assert isinstance(HOOKS.build(cfg.default_hooks.reference), ReferenceModelHook)


@each(FORMS)
def test_forms_of_grqo_build(path):
    cfg = read(path)
    assert inheritance_depth(path) <= 2
    hooks = [HOOKS.build(hook) for hook in [*cfg.default_hooks.values(), *cfg.get('custom_hooks', [])]]
    prompts = cfg.test_cfg.prompts.to_dict()
    assert build_protocol(prompts, Config(dict(prompt_dataset=ThreeObjects()))).num_exemplars == 16
    # Every loss that a hook balances is one of the head's.
    model = MODELS.build(cfg.model)
    balanced = [name for hook in hooks if isinstance(hook, LossBalanceHook) for name in hook.shares]
    assert all(getattr(model.bbox_head, name).loss_weight > 0 for name in balanced)
    # Each form differs from the supervised baseline by a single thing.
    own_draw = [hook.own_draw for hook in hooks if isinstance(hook, ReferenceModelHook)]
    assert len(balanced) + sum(own_draw) + ('exemplar_weighting' in prompts) == 1


@each([path for path in FULL_SIZE if path.name.startswith('dino-r1')])
def test_grqo_is_the_published_one(path):
    cfg = read(path)
    loss = MODELS.build(cfg.model.bbox_head.loss_grqo)
    assert (loss.objective, loss.alpha, loss.beta) == ('contrast', 1e-2, 0.04)
    assert (loss.groups, loss.one_sided_kl) == ('image', False)
    assert loss.num_mute(cfg.model.num_queries) == 300
    hook = HOOKS.build(cfg.default_hooks.reference)
    # One epoch of supervised fine-tuning, then GRQO.
    assert (hook.warmup, cfg.train_cfg.max_epochs) == (1, 6 if path.stem.endswith('o365') else 12)
    assert hook.refresh == 1
    assert hook.by_epoch


@each(FULL_SIZE)
def test_recipes_for_coco_start_from_public_weights(path):
    """Of their own size, and with the checksum in the name that torch.hub can check."""
    cfg = read(path)
    size = re.search(r'_(swin-\w)_', path.stem)[1]
    assert bool(cfg.load_from) == path.stem.endswith('_coco')
    if cfg.load_from:
        assert re.fullmatch(rf'https://\S+/grounding_dino_{size}_pretrain_\S+', cfg.load_from)
        assert len(checksum_in_name(cfg.load_from)) == 8


def stand_in() -> nn.Module:
    """Parts with the names that the optimizer treats differently."""
    language_model = nn.ModuleDict(dict(language_backbone=nn.Linear(1, 1)))
    return nn.ModuleDict(dict(backbone=nn.Linear(1, 1), language_model=language_model, encoder=nn.Linear(1, 1)))


@each(RECIPES)
def test_optimizer_and_schedules_build(path):
    cfg = read(path)
    wrapper = build_optim_wrapper(stand_in(), cfg.optim_wrapper)
    for scheduler in cfg.get('param_scheduler', []):
        PARAM_SCHEDULERS.build(scheduler, default_args=dict(optimizer=wrapper, epoch_length=10))
    assert all(math.isfinite(group['lr']) for group in wrapper.param_groups)


@pytest.mark.parametrize(('name', 'rate', 'steps'), [('8xb4_6e_o365', 2e-4, (4, 5)), ('8xb32_12e_coco', 4e-4, (8, 11))])
def test_learning_rate_over_a_run(name, rate, steps):
    epoch_length = 2000
    cfg = read(CONFIGS / f'vis_gdino/vis-gdino_swin-t_{name}.py')
    wrapper = build_optim_wrapper(stand_in(), cfg.optim_wrapper)
    assert {group['weight_decay'] for group in wrapper.param_groups} == {1e-4}
    assert wrapper.clip_grad_kwargs['max_norm'] == 0.1
    schedulers = [
        PARAM_SCHEDULERS.build(scheduler, default_args=dict(optimizer=wrapper, epoch_length=epoch_length))
        for scheduler in cfg.param_scheduler
    ]
    for epoch in range(cfg.train_cfg.max_epochs):
        for iteration in range(epoch_length):
            warm = min(1.0, 0.1 + 0.9 * (epoch * epoch_length + iteration) / 999)
            expected = rate * warm * 0.1 ** sum(epoch >= step for step in steps)
            if iteration in (0, 1, 500, 999, 1999):
                # Backbone and language model have a tenth of the rate. The seventh group is empty: MMEngine
                # keeps the rate itself there.
                rates = [group['lr'] for group in wrapper.param_groups[:6]]
                assert rates == pytest.approx([expected / 10] * 4 + [expected] * 2, rel=1e-6)
            wrapper.optimizer.step()
            for scheduler in schedulers:
                if not scheduler.by_epoch:
                    scheduler.step()
        for scheduler in schedulers:
            if scheduler.by_epoch:
                scheduler.step()


# Models ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope='module')
def count_params():
    path = ROOT / 'tools/analysis_tools/count_params.py'
    spec = importlib.util.spec_from_file_location('count_params', path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@each([*MODEL_FILES, ALIGNED])
def test_builds_with_the_parameters_that_the_model_zoo_states(path, count_params, untrained_bert):
    cfg = read(path)
    if cfg.model.backbone.type == 'TimmBackbone':
        pytest.importorskip('timm', reason="needs timm: pip install 'dinor1[lite]'")
    model = MODELS.build(cfg.model)
    assert isinstance(model, DINOR1)
    table = (ROOT / 'model_zoo.md').read_text().splitlines()
    assert count_params.row(str(path.relative_to(ROOT)), count_params.count(model)) in table


@each([path for path in DETECTORS if path != ALIGNED])
def test_every_detector_is_one_of_the_models_that_are_built_here(path):
    models = [read(model_file).model.to_dict() for model_file in MODEL_FILES]
    model = read(path).model.to_dict()
    # Another backbone has other channels and pixels.
    if '-lite0_' in path.stem:
        nano = read(CONFIGS / '_base_/models/dino_r1_nano.py').model.to_dict()
        model |= {part: nano[part] for part in ('backbone', 'neck', 'data_preprocessor')}
    # A category graph adds a part and changes none, and GRQO adds a loss.
    assert ('refiner' in model['prompts']) == ('_graph_' in path.stem)
    model['prompts'].pop('refiner', None)
    model['bbox_head'].pop('loss_grqo', None)
    # A large vocabulary is offered in parts.
    model['test_cfg'].pop('chunked_size', None)
    # The recipe for photographs adds a text side, and samples prompts in another way.
    if path.stem.endswith('_photographs'):
        for one in (model, *models):
            one['prompts'] = one['prompts']['encoder']
    assert model in models


@pytest.mark.parametrize('path', DINO_GRQO, ids=lambda path: path.stem)
def test_plain_dino_builds_and_is_evaluated_without_prompts(path):
    cfg = read(path)
    devices, batch, epochs = map(int, re.fullmatch(r'dino-grqo_\w+_(\d+)xb(\d+)_(\d+)e_\w+', path.stem).groups())
    assert (cfg.train_dataloader.batch_size, cfg.train_cfg.max_epochs) == (batch, epochs)
    if 'auto_scale_lr' in cfg:
        assert cfg.auto_scale_lr.base_batch_size == devices * batch
    assert (cfg.val_cfg.to_dict(), cfg.test_cfg.to_dict()) == (dict(type='ValLoop'), dict(type='TestLoop'))
    model = MODELS.build(cfg.model)
    assert isinstance(model, DINOGRQO)
    assert isinstance(model.bbox_head.active_grqo, GRQOLoss)
    assert model.bbox_head.loss_grqo.num_mute(model.num_queries) == round(model.num_queries / 3)


def test_plain_dino_is_that_of_mmdetection():
    """But for the types that take part in GRQO, and for what MMDetection leaves at its default."""
    ours, theirs = read(CONFIGS / 'dino_grqo/dino-grqo_r50_8xb2_12e_coco.py'), get_config(f'mmdet::dino/{STOCK}.py')
    model = ours.model
    assert (model.pop('type'), model.bbox_head.pop('type')) == ('DINOGRQO', 'DINOGRQOHead')
    assert model.pop('num_feature_levels') == 4
    model.bbox_head.pop('loss_grqo')
    theirs.model.pop('type')
    theirs.model.bbox_head.pop('type')
    assert model.to_dict() == theirs.model.to_dict()
    ours.optim_wrapper.clip_grad.norm_type = 2  # the default
    for key in ('optim_wrapper', 'param_scheduler', 'train_cfg', 'val_cfg', 'test_cfg'):
        assert ours[key] == theirs[key], key
    assert ours.auto_scale_lr.base_batch_size == theirs.auto_scale_lr.base_batch_size
    assert ours.train_dataloader.batch_size == theirs.train_dataloader.batch_size


def test_nano_has_at_most_two_million_parameters(count_params):
    counts = count_params.count(MODELS.build(read(CONFIGS / '_base_/models/dino_r1_nano.py').model))
    assert counts['total'] <= 2_000_000


def test_count_params_counts_each_parameter_once(count_params):
    shared = nn.Linear(3, 2)
    model = nn.ModuleDict(dict(backbone=shared, bbox_head=nn.Sequential(shared, nn.Linear(2, 1)), rest=nn.Linear(1, 1)))
    counts = count_params.count(model)
    assert {part: number for part, number in counts.items() if number} == dict(backbone=8, head=3, other=2, total=13)


# Language alignment ----------------------------------------------------------------------------------------


@pytest.fixture
def small_bert(tmp_path):
    """A saved BERT with two layers that knows two words."""
    from transformers import BertConfig, BertModel, BertTokenizerFast

    folder = tmp_path / 'bert'
    folder.mkdir()
    words = ['[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]', '.', '?', 'cat', 'dog']
    (folder / 'vocab.txt').write_text('\n'.join(words))
    BertTokenizerFast(str(folder / 'vocab.txt')).save_pretrained(folder)
    sizes = dict(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16)
    BertModel(BertConfig(vocab_size=len(words), **sizes)).save_pretrained(folder)
    return folder


def test_the_aligned_recipe_brings_class_names_to_the_loss(small_bert, build_tiny, tmp_path, monkeypatch):
    monkeypatch.setenv('DINOR1_DATA', str(tmp_path))
    cfg = load_config(str(ALIGNED))
    loader = cfg.train_dataloader
    images = [dict(id=i, file_name=f'{i}.png', width=96, height=64) for i in (1, 2)]
    folder = tmp_path / 'coco' / loader.dataset.data_prefix.img
    folder.mkdir(parents=True)
    for image in images:
        cv2.imwrite(str(folder / image['file_name']), np.full((64, 96, 3), 128, np.uint8))
    box = dict(bbox=[10, 10, 40, 30], area=1200, iscrowd=0)
    annotations = [dict(box, id=i, image_id=i, category_id=i) for i in (1, 2)]
    categories = [dict(id=1, name='cat'), dict(id=2, name='dog')]
    ann_file = tmp_path / 'coco' / loader.dataset.ann_file
    ann_file.parent.mkdir()
    ann_file.write_text(json.dumps(dict(images=images, annotations=annotations, categories=categories)))
    # The recipe's pipeline but for its size: 480 to 800 pixels would only take time here.
    loader.dataset.pipeline[3] = dict(type='Resize', scale=(96, 64), keep_ratio=True)
    loader.update(batch_size=2, num_workers=0, persistent_workers=False)
    batch = next(iter(Runner.build_dataloader(loader, seed=0)))
    assert [sample.text for sample in batch['data_samples']] == [('cat', 'dog')] * 2

    prompts = cfg.model.prompts
    prompts.language_model.name = str(small_bert)
    keys = ('language_model', 'alignment', 'text_prompts')
    model = build_tiny(**{f'model.prompts.{key}': prompts[key] for key in keys})
    data = model.data_preprocessor(batch, True)
    losses = model.loss(data['inputs'], data['data_samples'])
    # There are two classes, so that the choice between them is not certain.
    assert 0 < losses['loss_alignment'].item() < math.inf
    losses['loss_alignment'].backward()
    assert model.prompt_encoder.content_query.grad.abs().sum() > 0
    assert not any(parameter.requires_grad for parameter in model.language_model.parameters())
    assert len(model.text_prompt_set(['cat', 'dog']).embeddings) == 2


def test_the_config_of_the_first_gpu_run_reads_data_of_the_user(tmp_path):
    """The config in docs/first_gpu_run.md, with another folder."""
    page = (ROOT / 'docs/first_gpu_run.md').read_text()
    text = re.search(r'```python\n(.*?)```', page, re.DOTALL)[1]
    assert text.count("'/path/to/my_data'") == 1
    (tmp_path / 'my_data.py').write_text(text.replace('/path/to/my_data', str(tmp_path)))
    options = re.findall(r'([\w.]+)=(\S+)', re.search(r'my_data.py --amp.*?```', page, re.DOTALL)[0])
    cfg = load_config(tmp_path / 'my_data.py', {key: float(value) for key, value in options})
    assert cfg.optim_wrapper.optimizer.lr == 1e-4
    assert cfg.optim_wrapper.accumulative_counts * cfg.train_dataloader.batch_size == 32
    assert cfg.model.backbone.init_cfg is None
    assert cfg.load_from.startswith('https://')
    for split in ('train', 'val'):
        (tmp_path / 'images').mkdir(exist_ok=True)
        (tmp_path / 'annotations').mkdir(exist_ok=True)
        cv2.imwrite(str(tmp_path / f'images/{split}.png'), np.zeros((64, 96, 3), np.uint8))
        content = dict(
            images=[dict(id=1, file_name=f'{split}.png', width=96, height=64)],
            annotations=[dict(id=1, image_id=1, category_id=1, bbox=[10, 10, 40, 30], area=1200, iscrowd=0)],
            categories=[dict(id=1, name='screw')],
        )
        (tmp_path / f'annotations/{split}.json').write_text(json.dumps(content))
    for dataset in (cfg.train_dataloader.dataset, cfg.val_dataloader.dataset, cfg.prompt_dataset):
        built = DATASETS.build(dataset)
        assert built.metainfo['classes'] == ('screw',)
        assert len(built[0]['data_samples'].gt_instances) <= 1
    metric = METRICS.build(cfg.test_evaluator)
    assert metric.category_ids.tolist() == [1]


# A real step -----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_swin_t_takes_an_optimizer_step_on_the_cpu(make_batch, capsys):
    cfg = read(CONFIGS / 'vis_gdino/vis-gdino_swin-t_8xb4_6e_o365.py')
    cfg.model.backbone.init_cfg = None  # no download
    cfg.model.dn_cfg.group_cfg.num_dn_queries = 10
    torch.manual_seed(0)
    model = MODELS.build(cfg.model)
    model.init_weights()
    model.train()
    wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    got_gradient = set()
    for name, parameter in model.named_parameters():
        # train_step clears the gradients after the step.
        parameter.register_post_accumulate_grad_hook(lambda _, name=name: got_gradient.add(name))

    inputs, samples = make_batch((3, 2), side=320)
    images = [(image * 50 + 120).clamp(0, 255).byte() for image in inputs]
    start = time.perf_counter()
    log_vars = model.train_step(dict(inputs=images, data_samples=samples), wrapper)
    seconds = time.perf_counter() - start

    losses = {name: value.item() for name, value in log_vars.items()}
    assert all(math.isfinite(value) for value in losses.values())
    # Focal, L1 and GIoU of six decoder layers, as many for denoising, and the encoder's; and their sum.
    assert len([name for name in losses if 'loss_' in name]) == 3 * (6 + 6 + 1)
    trainable = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trainable - got_gradient == set()
    # Behind layers that start at zero, and in blocks that stochastic depth left out, the gradient itself is
    # zero; but the step moves something in every module.
    moved = {name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])}
    modules = {name.split('.')[0] for name in trainable if '.' in name}
    assert modules <= {name.split('.')[0] for name in moved}
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2
    with capsys.disabled():
        print(f'\nSwin-T, 2 images of 320 pixels: {seconds:.1f} s, peak memory {memory:.1f} GB')
