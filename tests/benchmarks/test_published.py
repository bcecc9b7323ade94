"""Published checkpoints: the whole command on tiny files, and the names of the weights at full size."""

import copy
import json
import textwrap

import cv2
import numpy as np
import pytest
import torch
from mmcv.transforms import Compose
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.hub import get_config

from dinor1.benchmarks import Comparison, PublishedResult, VerifyOptions, published, verify
from dinor1.cli.main import main
from dinor1.registry import MODELS
from dinor1.utils import compat
from dinor1.utils.checkpoint import load_weights
from dinor1.utils.config import load_config
from dinor1.utils.errors import InputError
from dinor1.utils.io import sha256

NAMES = ('cat', 'red dog', 'fish')
POSITION_IDS = 'language_model.language_backbone.body.model.embeddings.position_ids'
T = published.MM_GROUNDING_DINO_T

# MMDetection's published config with fewer layers; its code fixes the width.
GROUNDING_DINO = f"""
_base_ = '{T.grounding_dino}'
model = dict(
    num_queries=20,
    backbone=dict(embed_dims=12, depths=[1, 1, 1, 1], num_heads=[1, 2, 2, 4], drop_path_rate=0.0),
    neck=dict(in_channels=[24, 48, 96]),
    encoder=dict(num_layers=1, layer_cfg=dict(ffn_cfg=dict(feedforward_channels=64))),
    decoder=dict(num_layers=2, layer_cfg=dict(ffn_cfg=dict(feedforward_channels=64))),
    test_cfg=dict(max_per_img=10),
)
"""
DINOR1 = """
_base_ = 'dinor1::vis_gdino/vis-gdino_swin-t_8xb32_12e_coco.py'
model = dict(
    num_queries=20,
    transformer=dict(feedforward_channels=64),
    backbone=dict(embed_dims=12, depths=[1, 1, 1, 1], num_heads=[1, 2, 2, 4], drop_path_rate=0.0),
    neck=dict(in_channels=[24, 48, 96]),
    encoder=dict(num_layers=1),
    decoder=dict(num_layers=2),
    test_cfg=dict(max_per_img=10),
)
"""


@pytest.fixture(scope='module')
def bert(tmp_path_factory):
    """Folder with a BERT of one layer and eleven words, as transformers saves it."""
    from transformers import BertConfig, BertModel, BertTokenizerFast

    folder = tmp_path_factory.mktemp('bert')
    words = ['[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]', '.', '?', 'cat', 'red', 'dog', 'fish']
    (folder / 'vocab.txt').write_text('\n'.join(words))
    BertTokenizerFast(str(folder / 'vocab.txt')).save_pretrained(folder)
    torch.manual_seed(0)
    sizes = dict(hidden_size=24, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32)
    BertModel(BertConfig(vocab_size=len(words), **sizes), add_pooling_layer=False).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory, bert):
    """Random weights with the names of the published ones, including BERT's buffer of older releases."""
    folder = tmp_path_factory.mktemp('weights')
    (folder / 'theirs.py').write_text(textwrap.dedent(GROUNDING_DINO))
    cfg = Config.fromfile(folder / 'theirs.py').model
    cfg.language_model.name, cfg.encoder.num_cp, cfg.backbone.init_cfg = bert, 0, None
    torch.manual_seed(0)
    model = MODELS.build(dict(cfg, type='mmdet.GroundingDINO'))
    model.init_weights()
    for name, parameter in model.named_parameters():
        # Change the initial values, with which every box equals its reference.
        if 'reg_branches' in name:
            parameter.data.normal_(std=0.05)
    state = model.state_dict() | {POSITION_IDS: torch.arange(512)[None]}
    path = folder / 'weights.pth'
    torch.save(dict(meta={}, state_dict=state), path)
    return path.rename(folder / f'tiny-{sha256(path)[:8]}.pth')


@pytest.fixture(scope='module')
def coco(tmp_path_factory, bert, checkpoint):
    """Four images in COCO's folders; their objects are the detections with the highest scores of the random weights."""
    # Build the detector with the random weights.
    root = tmp_path_factory.mktemp('coco')
    (root / 'val2017').mkdir()
    (root / 'annotations').mkdir()
    (root / 'ours.py').write_text(DINOR1)
    theirs = get_config(T.grounding_dino)
    language_model = theirs.model.language_model.to_dict() | dict(name=bert)
    cfg = load_config(root / 'ours.py', {'model.prompts.language_model': language_model})
    model = MODELS.build(cfg.model).eval()
    load_weights(model, str(checkpoint), missing=('prompt_encoder.',), surplus=(POSITION_IDS,))
    steps = [step for step in theirs.test_dataloader.dataset.pipeline if step.type != 'LoadAnnotations']
    pipeline, prompts = Compose(steps), model.text_prompt_set(NAMES)
    # Write images, and annotate the best detections.
    rng = np.random.default_rng(0)
    images, annotations = [], []
    for image_id in (9, 4, 7, 1):
        path = root / 'val2017' / f'{image_id:012}.jpg'
        cv2.imwrite(str(path), rng.integers(0, 255, (12, 160, 3), dtype=np.uint8))
        images.append(dict(id=image_id, file_name=path.name, width=160, height=12))
        data = pseudo_collate([pipeline(dict(img_path=str(path), img_id=image_id))])
        with torch.no_grad():
            found = model.predict(**rename(model.data_preprocessor(data)), prompts=prompts)[0].pred_instances
        for (x1, y1, x2, y2), label in zip(found.bboxes[:3].tolist(), found.labels[:3].tolist(), strict=True):
            box = [x1, y1, x2 - x1, y2 - y1]
            target = dict(image_id=image_id, category_id=label + 1, bbox=box, area=box[2] * box[3], iscrowd=0)
            annotations.append(dict(target, id=len(annotations) + 1))
    categories = [dict(id=i + 1, name=name) for i, name in enumerate(NAMES)]
    content = dict(images=images, annotations=annotations, categories=categories)
    (root / 'annotations/instances_val2017.json').write_text(json.dumps(content))
    return root


def rename(data):
    """Convert the output of a data preprocessor to arguments of ``predict``."""
    return dict(batch_inputs=data['inputs'], batch_data_samples=data['data_samples'])


@pytest.fixture
def tiny(tmp_path, checkpoint):
    """A published result with configs of the tiny detectors, and a file:// address of their weights."""
    (tmp_path / 'theirs.py').write_text(GROUNDING_DINO)
    (tmp_path / 'ours.py').write_text(f"{DINOR1}load_from = 'file://{checkpoint}'\n")
    return PublishedResult('tiny', 0.0, 4, str(tmp_path / 'theirs.py'), str(tmp_path / 'ours.py'))


@pytest.fixture
def options(tmp_path, coco, bert):
    return VerifyOptions(str(coco), bert=bert, device='cpu', work_dir=str(tmp_path / 'work'))


# the comparison --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('ap', 'agrees'), [(50.4, True), (50.5, True), (50.3, True), (50.501, False), (50.299, False), (0.0, False)]
)
def test_comparison_agrees_within_tolerance(ap, agrees):
    comparison = Comparison('mmdetection', ap, T.ap)
    assert comparison.agrees is agrees
    assert ('differs by more than 0.1' in str(comparison)) is not agrees


def test_comparison_of_subset_has_no_verdict():
    comparison = Comparison('dinor1', 61.0, None)
    assert comparison.agrees is None
    assert str(comparison) == 'dinor1: AP 61.00'


# the whole command -----------------------------------------------------------------------------------------


@pytest.fixture
def command(tiny, coco, bert, tmp_path, monkeypatch, capsys):
    """``command(*options, ap=...)`` runs the command on the tiny files; returns exit status and output."""

    def run(*arguments, ap=0.0):
        planted = PublishedResult(tiny.name, ap, tiny.num_images, tiny.grounding_dino, tiny.dinor1)
        monkeypatch.setattr(verify, '__defaults__', (planted,))
        monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'torch'))
        files = ['--data-root', str(coco), '--bert', bert, '--device', 'cpu', '--work-dir', str(tmp_path / 'work')]
        with pytest.raises(SystemExit) as stop:
            main(['verify-published', *files, *arguments])
        return stop.value.code, capsys.readouterr()

    return run


def test_verify_published_gives_equal_ap_for_both_detectors(command, tmp_path, checkpoint):
    """The checkpoint is downloaded, both detectors have the same AP, and the AP determines the exit status."""
    status, output = command()
    record = json.loads((tmp_path / 'work/verify_published.json').read_text())
    first, second = (result['ap'] for result in record['results'])
    assert [result['detector'] for result in record['results']] == ['mmdetection', 'dinor1']
    # Every object is found, and most detections are false positives.
    assert 10 < first <= 100
    assert first == pytest.approx(second, abs=0.01)
    assert status == 1
    assert record['checkpoint_sha256'] == sha256(checkpoint)
    assert (tmp_path / 'torch/hub/checkpoints' / checkpoint.name).is_file()
    assert f'dinor1: AP {second:.2f}, published 0.0' in output.out
    # With the measured AP as the published one, the exit status is 0. Nothing is downloaded again.
    status, output = command('--detector', 'dinor1', ap=first)
    assert (status, 'Fetching' in output.err) == (0, False)


def test_verify_published_subset_evaluates_first_images(command, tmp_path, checkpoint):
    arguments = ['--subset', '2', '--checkpoint', str(checkpoint), '--detector', 'dinor1']
    status, output = command(*arguments, ap=99.0)
    assert status == 0
    assert 'not compared with the published AP' in output.out
    assert 'published 99' not in output.out
    content = json.loads((tmp_path / 'work/instances_val2017_first_2.json').read_text())
    assert [image['id'] for image in content['images']] == [9, 4]
    assert {annotation['image_id'] for annotation in content['annotations']} == {9, 4}


# errors ----------------------------------------------------------------------------------------------------


def refused(options, result, **changes):
    with pytest.raises(InputError) as error:
        verify(VerifyOptions(**{**vars(options), **changes}), result)
    assert '\n' not in str(error.value)
    return str(error.value)


def test_verify_without_network_names_path_of_checkpoint(options, tiny, tmp_path, monkeypatch):
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'torch'))
    address = 'http://127.0.0.1:9/tiny-01234567.pth'  # the port of "discard", where nothing listens
    config = tmp_path / 'ours.py'
    config.write_text(f"{DINOR1}load_from = '{address}'\n")
    message = refused(options, tiny)
    assert message.startswith('tiny-01234567.pth: cannot be fetched (http://127.0.0.1:9/tiny-01234567.pth: ')
    assert message.endswith(f'put it at {tmp_path}/torch/hub/checkpoints/tiny-01234567.pth')


def test_verify_without_network_names_files_of_bert(options, tiny, monkeypatch):
    from mmdet.models.language_models import bert

    def unreachable(name):
        raise OSError(f'We could not connect\nto load {name}')

    compat.fill_transformers()
    monkeypatch.setattr(bert.AutoTokenizer, 'from_pretrained', unreachable)
    assert 'https://huggingface.co/bert-base-uncased into a folder' in refused(options, tiny, bert=None)
    assert refused(options, tiny).endswith('give a folder with BERT')
    assert 'no such folder' in refused(options, tiny, bert='absent')


def test_verify_rejects_wrong_files(options, tiny, tmp_path, checkpoint):
    assert 'no such checkpoint' in refused(options, tiny, checkpoint='absent.pth')
    assert 'give --download, or put' in refused(options, tiny, checkpoint=str(checkpoint), data_root=str(tmp_path))
    assert '--subset must be at least 1' in refused(options, tiny, subset=0)
    official = PublishedResult(T.name, T.ap, T.num_images, tiny.grounding_dino, tiny.dinor1)
    assert 'has 4 images, but the published AP is of 5,000' in refused(options, official, checkpoint=str(checkpoint))


def test_verify_warns_of_another_checkpoint(options, tiny, tmp_path, checkpoint, capsys):
    state = torch.load(checkpoint)['state_dict']
    del state['level_embed']
    torch.save(dict(state_dict=state), tmp_path / 'other.pth')
    message = refused(options, tiny, checkpoint=str(tmp_path / 'other.pth'))
    assert '1 missing, such as level_embed' in message
    assert 'is not the published file tiny-' in capsys.readouterr().err


# full size -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('recipe', 'config'),
    [
        ('dino_r1/dino-r1_swin-t_8xb32_12e_coco', 'grounding_dino_swin-t_pretrain_obj365_goldg_grit9m_v3det'),
        ('dino_r1/dino-r1_swin-t_align_8xb32_12e_coco', 'grounding_dino_swin-t_pretrain_obj365_goldg_grit9m_v3det'),
        ('dino_r1/dino-r1_swin-b_8xb32_12e_coco', 'grounding_dino_swin-b_pretrain_obj365_goldg_v3det'),
        ('dino_r1/dino-r1_swin-l_8xb32_12e_coco', 'grounding_dino_swin-l_pretrain_obj365_goldg'),
    ],
)
def test_published_weights_lack_only_prompt_encoder(recipe, config, untrained_bert):
    """Names and shapes are those of MMDetection's detector; recipes without text do not use its language model."""
    # Build both models.
    ours = load_config(recipe)
    assert f'/{config}/grounding_dino_swin-' in ours.load_from
    theirs = get_config(f'mmdet::mm_grounding_dino/{config}.py').model
    theirs.encoder.num_cp = 0
    public = MODELS.build(dict(theirs, type='mmdet.GroundingDINO')).state_dict()
    own = MODELS.build(copy.deepcopy(ours.model)).state_dict()
    # Compare the names and shapes of their weights.
    missing = {name.split('.')[0] for name in own.keys() - public.keys()}
    surplus = {name.split('.')[0] for name in public.keys() - own.keys()}
    aligned = '_align_' in recipe
    assert missing == {'prompt_encoder', *(['alignment'] if aligned else [])}
    assert surplus == (set() if aligned else {'language_model', 'text_feat_map'})
    assert [name for name in own.keys() & public.keys() if own[name].shape != public[name].shape] == []


def test_published_configs_belong_to_the_checkpoint():
    """MMDetection's config has the name of the checkpoint file that our recipe downloads."""
    name = T.grounding_dino.split('/')[-1].removesuffix('.py')
    assert f'/{name}/{name}_' in load_config(T.dinor1).load_from
    assert T.ap == 50.4
