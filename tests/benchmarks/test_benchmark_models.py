"""The models of a benchmark: parameters and results of the baselines, operations and memory."""

import inspect
import json

import pytest
import torch

from dinor1.benchmarks import memory, model_benchmark
from dinor1.benchmarks.baselines import BASELINES, build_model, caption_inputs
from dinor1.benchmarks.model_benchmark import Arm, count_flops, make_arms, make_step
from dinor1.benchmarks.models import BenchmarkModel, Workload

# This size gives 1,190 tokens; MMDetection's detector fails with fewer than 900.
SMALL = Workload((224, 256), prompts=3, boxes=2)
# Parameters in millions of Grounding DINO with Swin-T without its text model: about the 172 M of MM-Grounding-DINO less
# the 109 M of BERT. At nano size, our detector has 0.91 M; MMDetection's code fixes the width to 256.
MILLIONS = {
    'mmdetection': 64.09,
    'mmdetection+dinor1.ops': 64.09,
    'transformers': 63.36,
    'mmdetection-nano': 4.19,
    'transformers-nano': 0.85,
}


@pytest.fixture
def workload():
    return Workload((64, 96), batch=2, prompts=3, boxes=2)


def test_make_arms_combines_models_with_applicable_settings():
    arms = make_arms(['mmdetection', 'a/b.py'], ['float32', 'bfloat16'], ['auto', 'reference'], compiled=True)
    assert [arm.name for arm in arms] == [
        'mmdetection, float32, own, eager',
        'mmdetection, bfloat16, own, eager',
        *(f'b, {precision}, {rest}' for precision in ('float32', 'bfloat16') for rest in REST),
    ]


REST = ('auto, eager', 'reference, eager', 'auto, compiled')


def test_build_model_from_config_predicts_and_trains(model_files, workload):
    detector = build_model(model_files.config, workload)
    detector.model.eval()
    with torch.no_grad():
        samples = detector.predict()
    assert len(samples) == 2
    assert all(set(s.pred_instances.label_names) <= set(workload.names) for s in samples)
    _, step = make_step(Arm(model_files.config), 'training', workload)
    step()


@pytest.mark.parametrize('beta', [0.04, 0.0])
def test_build_model_from_config_with_grqo_has_reference_model(model_files, workload, tmp_path, beta):
    loss = dict(type='GRQOLoss', beta=beta)
    config = tmp_path / 'grqo.py'
    config.write_text(f'_base_ = {str(model_files.config)!r}\nmodel = dict(bbox_head=dict(loss_grqo={loss!r}))\n')
    model = build_model(str(config), workload).model
    assert model.bbox_head.loss_grqo.beta == beta
    assert (model.reference is None) == (beta == 0)
    _, step = make_step(Arm(str(config)), 'training', workload)
    step()


def test_caption_inputs_separate_names(workload):
    caption = caption_inputs(workload)
    assert caption['ids'][0].tolist() == [101, 2000, 1012, 2001, 1012, 2002, 1012, 102]
    assert caption['position_ids'][0].tolist() == [0, 0, 1, 0, 1, 0, 1, 0]
    # [CLS] and [SEP] attend to themselves only; a name and the dot after it attend to each other.
    groups = [[0], [1, 2], [3, 4], [5, 6], [7]]
    expected = torch.zeros(8, 8, dtype=torch.bool)
    for group in groups:
        for i in group:
            expected[i, group] = True
    assert torch.equal(caption['masks'][0], expected)


def test_caption_masks_equal_those_of_transformers(workload):
    import transformers
    from transformers.models.grounding_dino import modeling_grounding_dino as theirs

    caption, make = caption_inputs(workload), theirs.generate_masks_with_special_tokens_and_transfer_map
    # Newer releases take the special tokens as an argument.
    told = [torch.tensor(theirs.SPECIAL_TOKENS)][: len(inspect.signature(make).parameters) - 1]
    masks, positions = make(caption['ids'], *told)
    assert torch.equal(masks, caption['masks'])
    if transformers.__version__.startswith('5.17.'):
        # This release gives a delimiter position 0 instead of the one after its phrase.
        delimiters = torch.isin(caption['ids'], torch.tensor(theirs.SPECIAL_TOKENS))
        positions = torch.where(delimiters, caption['position_ids'], positions)
    assert torch.equal(positions, caption['position_ids'])


@pytest.mark.slow
@pytest.mark.parametrize('name', list(BASELINES))
def test_baseline_has_published_parameters_predicts_and_trains(name):
    detector = build_model(name, SMALL)
    assert sum(p.numel() for p in detector.model.parameters()) / 1e6 == pytest.approx(MILLIONS[name], abs=0.01)
    detector.model.eval()
    with torch.no_grad(), detector.context():
        assert len(detector.predict()) == 1
    detector.model.train()
    with detector.context():
        loss = detector.loss()
    loss.backward()
    assert torch.isfinite(loss)
    assert loss > 0


def test_mmcv_attention_context_uses_mmcv_implementation():
    from mmcv.ops import multi_scale_deform_attn as module

    from dinor1.utils import compat

    ours = module.multi_scale_deformable_attn_pytorch
    with compat.mmcv_attention():
        theirs = module.multi_scale_deformable_attn_pytorch
        assert theirs.__globals__['__name__'] == module.__name__
    assert module.multi_scale_deformable_attn_pytorch is ours
    arguments = (
        torch.randn(1, 6, 2, 4),
        torch.tensor([[2, 3]]),
        torch.rand(1, 5, 2, 1, 3, 2),
        torch.rand(1, 5, 2, 1, 3),
    )
    torch.testing.assert_close(theirs(*arguments), ours(*arguments), atol=1e-6, rtol=1e-5)


def test_measure_counts_flops_of_linear_layer(monkeypatch):
    """Two operations per weight and row; other settings of a model are not counted again."""

    def make(name, workload):
        model = torch.nn.Linear(5, 7)
        return BenchmarkModel(model, lambda: model(torch.ones(3, 5)), lambda: model(torch.ones(3, 5)).sum())

    monkeypatch.setattr(model_benchmark, 'build_model', make)
    arms = [Arm('a.py'), Arm('a.py', precision='bfloat16'), Arm('b.py', backend='reference')]
    rows = model_benchmark.measure(arms, 'inference', Workload((8, 8)), rounds=3, with_memory=False)
    assert [row['flops'] for row in rows] == 3 * [2 * 3 * 5 * 7]
    assert rows[0]['parameters'] == 42
    assert all(len(row['seconds']) == 3 and row['milliseconds']['fastest'] > 0 for row in rows)
    assert rows[0]['relative'] == 1
    rows = model_benchmark.measure(arms[:1], 'training', Workload((8, 8)), rounds=1, with_memory=False)
    assert 'flops' not in rows[0]
    assert rows[0]['milliseconds']['low'] == rows[0]['milliseconds']['high']


def test_count_flops_grows_with_image(model_files):
    counts = [count_flops(Arm(model_files.config), Workload((side, 64))) for side in (64, 128)]
    # All operations except those of decoder and prompts are proportional to the number of pixels.
    assert 1.7 < counts[1] / counts[0] < 2.05


def test_measure_failed_arm_is_a_row(monkeypatch):
    def make(name, workload):
        if name == 'bad.py':
            raise RuntimeError('too small\nmore')
        return BenchmarkModel(torch.nn.Linear(1, 1), lambda: None, lambda: None)

    monkeypatch.setattr(model_benchmark, 'build_model', make)
    arms = [Arm('bad.py'), Arm('good.py')]
    rows = model_benchmark.measure(
        arms, 'inference', Workload((8, 8)), rounds=1, clock='wall', with_flops=False, with_memory=False
    )
    assert rows[0]['error'] == 'RuntimeError: too small'
    assert rows[1]['relative'] == 1


def test_peak_memory_includes_freed_memory():
    def call():
        torch.ones(2**24).sum()

    peak = memory.peak_memory(call, 'cpu')
    if peak is None:
        pytest.skip('this system has no counter of peak memory that can be reset')
    # 64 MiB of floats, and a few pages of the interpreter.
    assert 60 < peak < 80
    assert memory.peak_memory(lambda: None, 'cpu') < 10


def test_peak_of_arm_in_new_process(model_files, workload):
    peak = model_benchmark.peak_of(Arm(model_files.config), 'inference', workload, lambda: None)
    assert peak is None or 0 <= peak < 500
    json.dumps(peak)
