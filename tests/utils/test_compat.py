"""The fixes of ``dinor1.utils.compat``; the replacements of MMCV's operators are tested in ``tests/ops``."""

import importlib.machinery
import json
import subprocess
import sys
import types

import numpy as np
import pytest
import torch

from dinor1.utils import compat

# mmcv ------------------------------------------------------------------------------------------------------


def test_apply_keeps_compiled_operators(monkeypatch):
    compiled = types.ModuleType('mmcv._ext')
    compiled.__spec__ = importlib.machinery.ModuleSpec('mmcv._ext', loader=None)
    monkeypatch.setitem(sys.modules, 'mmcv._ext', compiled)
    before = dict(vars(compiled))
    compat.apply()
    assert sys.modules['mmcv._ext'] is compiled
    assert vars(compiled) == before


# transformers ----------------------------------------------------------------------------------------------

VOCABULARY = ['[PAD]', '[UNK]', '[CLS]', '[SEP]', '.', '?', 'cat', 'dog', 'bird', 'red', 'fish']


@pytest.fixture(scope='module')
def tiny_bert(tmp_path_factory):
    """Folder with a random BERT of two layers and a few words, as ``from_pretrained`` reads it."""
    from transformers import BertConfig, BertModel, BertTokenizerFast

    folder = tmp_path_factory.mktemp('bert')
    (folder / 'vocab.txt').write_text('\n'.join(VOCABULARY))
    BertTokenizerFast(str(folder / 'vocab.txt')).save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(VOCABULARY),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
    )
    BertModel(config, add_pooling_layer=False).save_pretrained(folder)
    return str(folder)


def test_tokenizer_batch_encode_plus_is_a_call(tiny_bert):
    from transformers import AutoTokenizer

    compat.fill_transformers()
    tokenizer = AutoTokenizer.from_pretrained(tiny_bert)
    texts = ['red cat .', 'dog']
    encoded = tokenizer.batch_encode_plus(texts, padding='longest', return_tensors='pt')
    assert encoded.input_ids.tolist() == [[2, 9, 6, 4, 3], [2, 7, 3, 0, 0]]
    assert encoded.attention_mask.tolist() == [[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]


@pytest.mark.parametrize('attention', ['sdpa', 'eager'])
def test_bert_encodes_phrases_separately(tiny_bert, attention):
    """The embedding of a phrase does not depend on the other phrases, but on its own words."""
    from mmdet.models.language_models import BertModel

    model = BertModel(
        name=tiny_bert,
        max_tokens=64,
        pad_to_max=False,
        use_sub_sentence_represent=True,
        special_tokens_list=['[CLS]', '[SEP]', '.', '?'],
    ).eval()
    model.language_backbone.body.model.set_attn_implementation(attention)
    with torch.no_grad():
        results = model(['red fish . dog .', 'cat . red fish .', 'red bird .'])
    embedded = results['embedded']  # a caption starts with [CLS]
    # Attention to other phrases is masked by the most negative float32, which is exactly 0 after the softmax.
    torch.testing.assert_close(embedded[0, 1:4], embedded[1, 3:6], rtol=0, atol=1e-6)
    assert (embedded[0, 1] - embedded[2, 1]).abs().max() > 1e-3
    # [CLS] red fish . dog . [SEP]: the phrases' token pairs, as the detector's text layers use them.
    blocks = torch.block_diag(*(torch.ones(n, n) for n in (1, 3, 2, 1)))
    assert torch.equal(results['masks'][0].float(), blocks)


# lvis ------------------------------------------------------------------------------------------------------


def test_lvis_eval_with_fixed_numpy_float(tmp_path):
    """The object of one class and one of two objects of the other are found: AP is 1 and 51 / 101."""
    from lvis import LVIS, LVISEval, LVISResults

    # Write the annotations.
    box = [10.0, 10.0, 40.0, 40.0]
    annotations = [(1, 1), (2, 2), (1, 2)]  # image, class
    ground_truth = dict(
        images=[dict(id=i, height=100, width=100, neg_category_ids=[], not_exhaustive_category_ids=[]) for i in (1, 2)],
        categories=[
            dict(id=1, name='a', frequency='r', image_count=1),
            dict(id=2, name='b', frequency='f', image_count=2),
        ],
        annotations=[
            dict(id=n, image_id=i, category_id=c, bbox=box, area=1600, segmentation=[])
            for n, (i, c) in enumerate(annotations, start=1)
        ],
    )
    path = tmp_path / 'lvis.json'
    path.write_text(json.dumps(ground_truth))
    # Evaluate.
    detections = [
        dict(image_id=1, category_id=1, bbox=box, score=0.9),
        dict(image_id=2, category_id=2, bbox=box, score=0.8),
    ]
    lvis_gt = LVIS(str(path))
    evaluation = LVISEval(lvis_gt, LVISResults(lvis_gt, detections), 'bbox')
    evaluation.run()
    results = evaluation.get_results()
    # A recall of 1/2 reaches 51 of the 101 recall thresholds. lvis adds a small number to divisors.
    assert results['APr'] == pytest.approx(1, abs=1e-9)
    assert results['APf'] == pytest.approx(51 / 101, abs=1e-9)
    assert 'float' not in vars(np)


# all together ----------------------------------------------------------------------------------------------


def test_compat_import_loads_no_package():
    packages = 'numpy torch torchvision transformers mmcv mmengine mmdet lvis'
    code = f'import sys, dinor1.utils.compat; assert not set({packages!r}.split()) & set(sys.modules)'
    subprocess.run([sys.executable, '-c', code], check=True)


def test_apply_is_idempotent():
    """A second call changes nothing."""
    from mmcv.ops import multi_scale_deform_attn
    from mmdet.models.language_models.bert import BertEncoder, BertModel

    def filled():
        return (
            multi_scale_deform_attn.multi_scale_deformable_attn_pytorch,
            BertModel.__init__,
            BertEncoder.forward,
        )

    compat.apply()
    compat.fill_transformers()
    before = filled()
    compat.apply()
    compat.fill_transformers()
    assert filled() == before


def test_deferred_packages_are_imported_on_use(tiny_bert):
    """The test needs a new process, because other tests have imported the packages."""
    code = f"""if True:
        import sys
        import dinor1
        dinor1.register_all()
        rare = {{'imgaug', 'tifffile', 'transformers'}}
        assert not rare & set(sys.modules), rare & set(sys.modules)
        # A transform for lane detection.
        from dinor1.registry import MODELS, OPTIMIZERS, TRANSFORMS
        steps = [dict(name='Resize', p=1.0, parameters=dict(size=dict(height=32, width=48)))]
        TRANSFORMS.build(dict(type='ImageAug', pipeline=steps))
        assert 'imgaug' in sys.modules
        # A language model.
        model = MODELS.build(dict(type='BertModel', name={tiny_bert!r}, max_tokens=64, pad_to_max=False))
        assert model(['cat dog'])['embedded'].shape == (1, 4, 32)
        # Adafactor is the one of transformers, TorchAdafactor that of torch.
        import torch
        optimizer = OPTIMIZERS.build(dict(type='Adafactor', params=[torch.nn.Parameter(torch.ones(2))], lr=None))
        assert type(optimizer).__module__.startswith('transformers')
    """
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_register_all_prints_nothing():
    command = 'import dinor1; dinor1.register_all(); dinor1.register_all()'
    done = subprocess.run([sys.executable, '-c', command], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, '', '')
