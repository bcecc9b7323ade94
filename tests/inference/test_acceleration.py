"""bfloat16 and compilation: results are close or equal to those without them, and the number of graphs is known."""

import pytest
import torch
from torch import nn

from dinor1.inference.acceleration import compile_detector, set_inference_dtype
from dinor1.inference.inferencer import DINOR1Inferencer
from dinor1.structures import PromptBatch, PromptSet
from dinor1.utils.errors import InputError

TARGET = '0.png'
BOXES = [[5, 5, 30, 40], [20, 10, 60, 50]]


@pytest.fixture
def model(build_tiny):
    model = build_tiny(**{'model.test_cfg.max_per_img': 100}).eval()
    for name, parameter in model.named_parameters():
        # Change the initial values, at which fusion layers and box heads have almost no effect.
        if name.endswith(('gamma_v', 'gamma_l')):
            parameter.data.fill_(0.3)
        if 'reg_branches' in name:
            parameter.data.normal_(std=0.05)
    return model


@pytest.fixture
def batch(make_batch):
    """``batch(num_prompts, side)`` makes the arguments of the model: two images and prompts for them."""

    def make(num_prompts, side=64, shapes=None):
        inputs, samples = make_batch((1, 1), side=side, shapes=shapes)
        embeddings = torch.randn(num_prompts, 32, generator=torch.Generator().manual_seed(num_prompts))
        prompts = PromptSet.from_classes(embeddings, [f'class {i}' for i in range(num_prompts)])
        return dict(inputs=inputs, data_samples=samples, prompts=prompts)

    return make


class Graphs(list):
    """Backend of torch.compile that records the graphs and runs them unchanged."""

    def __call__(self, graph, example_inputs):
        self.append(graph)
        return graph


# ---------------------------------------------------------------- compilation


@torch.no_grad()
def test_compile_makes_two_graphs_for_any_number_of_prompts(model, batch):
    """One graph of backbone and neck, and one from encoder to decoder, without breaks or further graphs."""
    torch._dynamo.reset()
    calls = [batch(count) for count in (3, 5, 8)]
    expected = [model(**call) for call in calls]
    graphs = Graphs()
    compile_detector(model, 'cpu', backend=graphs)
    for call, wanted in zip(calls, expected, strict=True):
        for got, want in zip(model(**call), wanted, strict=True):
            # Eager mode uses the backend 'reference' for so few samples: equal up to float32 rounding.
            torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-5)
        assert len(graphs) == 2
    attention = [str(node.target) for node in graphs[1].graph.nodes if 'ms_deform_attn' in str(node.target)]
    # One encoder layer and two decoder layers.
    assert attention == 3 * ['dinor1.ms_deform_attn_predicted.default']


@torch.no_grad()
def test_compile_makes_new_graphs_for_padding_size_and_dtype(model, batch):
    torch._dynamo.reset()
    graphs = Graphs()
    compile_detector(model, 'cpu', backend=graphs)
    model(**batch(3))
    for call, added in [
        (batch(3, shapes=[(64, 48), (56, 64)]), 1),  # the graph of the backbone is reused
        (batch(3, side=96), 2),
    ]:
        before = len(graphs)
        model(**call)
        assert len(graphs) == before + added
    set_inference_dtype(model, 'bfloat16', 'dtype')
    before = len(graphs)
    model(**batch(3))
    assert len(graphs) == before + 2


SELECTIVE = {
    'model.encoder': dict(
        _delete_=True,
        type='SelectiveEncoder',
        num_layers=1,
        num_fusion_layers=1,
        fusion_threshold=0.02,
        fusion=dict(embed_dims=64, init_values=0.3, dropout=0.0),
    ),
    'model.decoder.decoder_fusion': 'selective',
    'model.bbox_head.query_map': True,
}


@torch.no_grad()
def test_compile_of_selective_fusion_makes_two_graphs(build_tiny, batch):
    """Gates depend on the image, but do not break the graph or need further ones."""
    torch._dynamo.reset()
    model = build_tiny(**SELECTIVE).eval()
    calls = [batch(count) for count in (3, 5)]
    expected = [model(**call) for call in calls]
    graphs = Graphs()
    compile_detector(model, 'cpu', backend=graphs)
    for call, wanted in zip(calls, expected, strict=True):
        for got, want in zip(model(**call), wanted, strict=True):
            torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-5)
    assert len(graphs) == 2


@pytest.mark.parametrize('threshold', [0.02, 1.0])
@torch.no_grad()
def test_bfloat16_with_selective_fusion_is_finite(build_tiny, batch, threshold):
    model = build_tiny(**SELECTIVE).eval()
    model.encoder.fusion_threshold = model.decoder.fusion_threshold = threshold
    set_inference_dtype(model, 'bfloat16', 'dtype')
    logits, boxes = model(**batch(3))
    assert logits.isfinite().all()
    assert ((boxes > 0) & (boxes < 1)).all()


def test_compile_rejects_a_missing_compiler(model, monkeypatch):
    monkeypatch.setenv('CXX', 'no-such-compiler')
    with pytest.raises(InputError, match=r'--compile: there is no C\+\+ compiler \(no-such-compiler\).*leave'):
        compile_detector(model, 'cpu', '--compile')
    assert 'extract_feat' not in vars(model)


def test_acceleration_rejects_other_models():
    for function in (lambda m: compile_detector(m, 'cpu'), lambda m: set_inference_dtype(m, 'bfloat16', 'dtype')):
        with pytest.raises(InputError, match='not available for a Linear; use the config of a DINOR1'):
            function(nn.Linear(1, 1))


# ---------------------------------------------------------------- bfloat16


@torch.no_grad()
def test_bfloat16_is_close_and_keeps_the_head_in_float32(model, batch, monkeypatch):
    call = batch(4)
    expected_logits, expected_boxes = model(**call)
    seen = {}
    for name in ('cls_branches', 'reg_branches'):
        for branch in getattr(model.bbox_head, name):
            branch.register_forward_hook(
                lambda module, inputs, output, name=name: seen.setdefault(name, set()).update(
                    {t.dtype for t in (*inputs, output) if t.is_floating_point()}
                )
            )
    model.encoder.layers[0].ffn.layers[0][0].register_forward_hook(
        lambda module, inputs, output: seen.setdefault('ffn', set()).add(output.dtype)
    )
    set_inference_dtype(model, 'bfloat16', 'dtype')
    logits, boxes = model(**call)
    assert seen['cls_branches'] == seen['reg_branches'] == {torch.float32}
    assert seen['ffn'] == {torch.bfloat16}
    assert logits.dtype == boxes.dtype == torch.float32
    # Queries may be selected in another order, so that logits are compared by token: 8 bits, three layers.
    scores = {}
    for dtype in ('float32', 'bfloat16'):
        set_inference_dtype(model, dtype, 'dtype')
        scores[dtype] = token_logits(model, **call)
    difference = (scores['float32'] - scores['bfloat16']).abs()
    # For other random weights the largest of the 672 differences is up to 7 %, the mean up to 1.2 %.
    assert 0 < difference.mean() < 0.02 * scores['float32'].std()
    assert difference.max() < 0.1 * scores['float32'].std()
    assert (logits.sigmoid().amax() - expected_logits.sigmoid().amax()).abs() < 0.05
    assert ((boxes > 0) & (boxes < 1)).all()
    assert boxes.shape == expected_boxes.shape


def token_logits(model, inputs, data_samples, prompts):
    """(bs, T, K) logits of all encoder tokens."""
    features = model.encode_image(inputs, data_samples)
    prompts = PromptBatch.stack([prompts] * len(inputs))
    with torch.autocast('cpu', dtype=model.inference_dtype, enabled=model.inference_dtype is not None):
        memory, prompts, *_ = model.encoder(features, prompts)
        return model.token_scores(memory, features, prompts).logits


def test_inference_dtype_does_not_change_training(model, make_batch):
    model.train()
    losses = []
    for dtype in ('float32', 'bfloat16'):
        set_inference_dtype(model, dtype, 'dtype')
        torch.manual_seed(0)
        losses.append(model.loss(*make_batch((2, 1))))
    assert {k: v.item() for k, v in losses[0].items()} == {k: v.item() for k, v in losses[1].items()}


@pytest.fixture(scope='module')
def inferencers(model_files):
    return {dtype: DINOR1Inferencer(*model_files, 'cpu', dtype=dtype) for dtype in ('float32', 'bfloat16')}


def test_inferencer_in_bfloat16_is_close_to_float32(inferencers, image_folder):
    found = {}
    for dtype, inferencer in inferencers.items():
        inferencer.set_prompts(visual=[(str(image_folder / TARGET), BOXES, ['cat', 'dog'])])
        assert inferencer.prompts.embeddings.dtype == torch.float32
        (sample,) = inferencer.predict(str(image_folder / TARGET), score_thr=0.0)
        found[dtype] = sample.pred_instances.scores
    assert found['bfloat16'].dtype == torch.float32
    # Compare the mean: single scores differ more where another token is selected.
    assert 0 < (found['float32'] - found['bfloat16']).abs().mean() < 0.01


def test_inferencer_rejects_unknown_dtypes(model_files):
    with pytest.raises(InputError, match='dtype float16: must be one of float32, bfloat16'):
        DINOR1Inferencer(*model_files, 'cpu', dtype='float16')
