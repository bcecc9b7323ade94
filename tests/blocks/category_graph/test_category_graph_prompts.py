"""The category graph in the detector: no change with a closed gate, and the expected change with an open one."""

import copy

import pytest
import torch

from dinor1.blocks.category_graph import build_category_graph
from dinor1.blocks.category_graph.prompt_refiner import CategoryGraphPrompts
from dinor1.models import ReferenceModel
from dinor1.registry import MODELS
from dinor1.structures import BoxPrompts, PromptSet
from dinor1.utils.errors import InputError
from dinor1.utils.fingerprint import fingerprint

COLOURS, THINGS = ('red', 'blue'), ('cup', 'ball', 'hat', 'shoe')
NAMES = [f'{colour} {thing}' for colour in COLOURS for thing in THINGS]
GRAPH = dict(names=NAMES, parents='words', pe_dim=4)
REFINER = {'model.prompts.refiner': dict(type='CategoryGraphPrompts', graph=GRAPH, dim=16, num_heads=2)}
TEXT = {
    'model.prompts.language_model': dict(type='WordHashModel'),
    'model.prompts.text_prompts': 'class',
    'model.prompts.alignment': dict(loss_weight=2.0),
}


@pytest.fixture
def batch(make_batch):
    """``batch(counts)``: images with class names."""

    def make(counts=(2, 1), **kwargs):
        inputs, samples = make_batch(counts, **kwargs)
        for sample in samples:
            sample.set_metainfo(dict(text=tuple(NAMES)))
        return inputs, samples

    return make


def open_gate(model, value=0.5):
    torch.nn.init.constant_(model.prompt_refiner.refiner.gate, value)
    return model


def total(losses):
    return sum(value.sum() for name, value in losses.items() if 'loss' in name)


def without_draws(model):
    """Train the detector with the refiner in evaluation mode, so that the other random draws do not change."""
    model.train().prompt_refiner.eval()
    return model


# Identity at the start -------------------------------------------------------------------------------------


@pytest.mark.parametrize('extra', [{}, TEXT], ids=['visual', 'text and alignment'])
def test_category_graph_prompts_keep_initial_weights_of_model(build_tiny, extra):
    plain, refined = build_tiny(**extra).state_dict(), build_tiny(**extra, **REFINER).state_dict()
    assert all(torch.equal(refined[name], value) for name, value in plain.items())
    new = set(refined) - set(plain)
    assert new
    assert all(name.startswith('prompt_refiner.') for name in new)


@pytest.mark.parametrize('extra', [{}, TEXT], ids=['visual', 'text and alignment'])
@pytest.mark.parametrize('counts', [(2, 1), (0, 3), (0, 0)])
def test_category_graph_prompts_closed_gate_keeps_losses_bitwise(build_tiny, batch, counts, extra):
    losses = []
    for model in (build_tiny(**extra), without_draws(build_tiny(**extra, **REFINER))):
        torch.manual_seed(1)
        losses.append(model.loss(*batch(counts)))
    assert losses[0].keys() == losses[1].keys()
    assert all(torch.equal(losses[0][name], losses[1][name]) for name in losses[0])


def prompts_of(kind, model, samples):
    if kind == 'visual':
        embeddings = torch.randn(8, 32, generator=torch.Generator().manual_seed(3))
        return PromptSet.from_classes(embeddings, NAMES, mask=torch.arange(8) != 2)
    if kind == 'text':
        return model.text_prompt_set(NAMES)
    return [BoxPrompts(s.gt_instances.bboxes, s.gt_instances.labels, tuple(NAMES)) for s in samples]


@torch.no_grad()
@pytest.mark.parametrize('kind', ['visual', 'text', 'boxes'])
def test_category_graph_prompts_closed_gate_keeps_detections_of_checkpoint(build_tiny, batch, kind):
    """A model with the refiner and the weights of one without gives the same detections bitwise."""
    plain = build_tiny(seed=4, **TEXT).eval()
    refined = build_tiny(seed=5, **TEXT, **REFINER).eval()
    missing, unexpected = refined.load_state_dict(plain.state_dict(), strict=False)
    assert not unexpected
    assert all(name.startswith('prompt_refiner.') for name in missing)
    results = []
    for model in (plain, refined):
        inputs, samples = batch((2, 3))
        found = model.predict(inputs, samples, prompts_of(kind, model, samples))
        results.append([sample.pred_instances for sample in found])
    for before, after in zip(*results, strict=True):
        assert len(before)
        assert before.keys() == after.keys()
        for field in ('bboxes', 'scores', 'labels'):
            assert torch.equal(before[field], after[field])
    # Banks stay valid: the fingerprint covers the prompt encoders, and the refiner comes after them.
    assert fingerprint(plain) == fingerprint(refined)


# Once the gate is open --------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize('kind', ['visual', 'text', 'boxes'])
def test_category_graph_prompts_open_gate_changes_scores(build_tiny, batch, kind):
    model = build_tiny(**TEXT, **REFINER).eval()
    scores = []
    for value in (0.0, 0.5):
        open_gate(model, value)
        inputs, samples = batch((2, 3))
        logits, _ = model(inputs, samples, prompts=prompts_of(kind, model, samples))
        scores.append(logits.nan_to_num(neginf=0))
    assert (scores[0] - scores[1]).abs().max() > 1e-3


@torch.no_grad()
def test_category_graph_prompts_permuted_classes_permute_scores(build_tiny, batch):
    model = open_gate(build_tiny(**REFINER)).double().eval()
    inputs, samples = batch((1, 1))
    embeddings = torch.randn(8, 32, dtype=torch.float64)
    order = torch.randperm(8)
    logits = []
    for index in (torch.arange(8), order):
        prompts = PromptSet.from_classes(embeddings[index], [NAMES[i] for i in index])
        logits.append(model(inputs.double(), samples, prompts=prompts)[0])
    # float64; only the order of sums over prompts differs
    torch.testing.assert_close(logits[1], logits[0][..., order], atol=1e-10, rtol=0)


@pytest.mark.parametrize('counts', [(0, 0), (0, 2), (1,), (3, 2)])
@pytest.mark.parametrize('loss_grqo', [None, dict(type='GRQOLoss')])
@pytest.mark.parametrize('gate', [0.0, 0.5])
def test_category_graph_prompts_any_batch_reaches_every_parameter(build_tiny, batch, counts, loss_grqo, gate):
    """DDP waits for a gradient of each parameter; an image without boxes has one prompt of no class."""
    model = open_gate(build_tiny(**TEXT, **REFINER, **{'model.bbox_head.loss_grqo': loss_grqo}), gate).train()
    if loss_grqo is not None:
        model.reference = ReferenceModel(copy.deepcopy(model).eval())
    losses = model.loss(*batch(counts))
    assert all(value.isfinite().all() for value in losses.values())
    total(losses).backward()
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert not [name for name, p in parameters.items() if p.grad is None]
    assert all(p.grad.isfinite().all() for p in parameters.values())
    refiner = {name for name, p in parameters.items() if 'refiner' in name and p.grad.abs().sum() > 0}
    if gate:
        assert len(refiner) > 10
    else:
        assert refiner == {'prompt_refiner.refiner.gate'}


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_category_graph_prompts_autocast(build_tiny, batch, dtype):
    model = open_gate(build_tiny(**REFINER)).train()
    with torch.autocast('cpu', dtype):
        losses = model.loss(*batch((3, 0)))
    assert all(v.isfinite().all() for v in losses.values())
    total(losses).backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_category_graph_prompts_without_class_names_raises(build_tiny, make_batch):
    with pytest.raises(InputError, match='refiner, .* need class names; set return_classes=True'):
        build_tiny(**REFINER).loss(*make_batch((2, 1)))


# The module ------------------------------------------------------------------------------------------------


def make_module(gate=0.5, **kwargs) -> CategoryGraphPrompts:
    module = CategoryGraphPrompts(6, GRAPH, **dict(dim=8, num_heads=2, gate_init=gate) | kwargs)
    return module.double().eval()


def tokens(seed=0) -> PromptSet:
    """Two classes of two tokens and one, each with a separator, a frame token, and a class that is not offered."""
    generator = torch.Generator().manual_seed(seed)
    return PromptSet(
        embeddings=torch.randn(7, 6, dtype=torch.float64, generator=generator),
        names=('red cup', 'a stranger', 'blue hat'),
        labels=torch.tensor([-1, 0, 0, -1, 1, -1, 2]),
        mask=torch.tensor([True] * 6 + [False]),
        groups=torch.tensor([0, 1, 1, 1, 2, 2, 3]),
        negative=torch.zeros(3, dtype=torch.bool),
    )


def test_category_graph_prompts_all_tokens_of_class_change_equally():
    module, prompts = make_module(), tokens()
    refined = module.refine(prompts)
    delta = refined.embeddings - prompts.embeddings
    assert (delta[[0, 3, 5, 6]] == 0).all()
    torch.testing.assert_close(delta[1], delta[2])
    pooled = torch.stack([prompts.embeddings[1:3].mean(0), prompts.embeddings[4]])
    expected = module(pooled, ['red cup', 'a stranger']) - pooled
    torch.testing.assert_close(delta[[1, 4]], expected)
    assert (expected != 0).all()
    assert (refined.names, refined.labels is prompts.labels) == (prompts.names, True)


def test_category_graph_prompts_unknown_and_differently_written_names():
    module = make_module()
    x = torch.randn(3, 6, dtype=torch.float64)
    out = module(x, ['Red_Cup', 'a stranger', None])
    torch.testing.assert_close(out[[0]], module(x[[0]], ['red cup']))
    torch.testing.assert_close(out[[1]], module(x[[1]], ['another']))
    torch.testing.assert_close(out[[2]], module(x[[2]], [None]))


def test_category_graph_prompts_of_no_class_do_not_change():
    prompts = PromptSet.nothing(NAMES, torch.zeros(1, 6, dtype=torch.float64))
    assert make_module().refine(prompts) is prompts


def test_category_graph_prompts_checkpoint_holds_laplacian_code():
    """Another machine may compute other eigenvectors; those of the training are used."""
    module, other = make_module(), make_module()
    with torch.no_grad():
        module.code.copy_(torch.randn_like(module.code))
    x = torch.randn(8, 6, dtype=torch.float64)
    assert not torch.equal(module(x, NAMES), other(x, NAMES))
    other.load_state_dict(module.state_dict())
    assert torch.equal(module(x, NAMES), other(x, NAMES))
    # The graph moves with the module.
    assert other.float()(x.float(), NAMES).dtype == torch.float32
    assert torch.equal(other.graph.pe, module.code.float())
    clone = copy.deepcopy(module)
    assert torch.equal(clone(x, NAMES), module(x, NAMES))
    assert clone.graph.pe is clone.code


def test_category_graph_prompts_load_graph_from_file(tmp_path):
    build_category_graph(**GRAPH).save(tmp_path / 'graph.safetensors')
    module = CategoryGraphPrompts(6, str(tmp_path / 'graph.safetensors'), dim=8, num_heads=2)
    assert module.graph.names[:8] == tuple(NAMES)
    assert module.refiner.embed_pe.in_features == 4
    with pytest.raises(InputError, match='no such category graph'):
        CategoryGraphPrompts(6, str(tmp_path / 'absent.safetensors'))


def test_prompt_graph_refiner_is_registered():
    refiner = MODELS.build(dict(type='PromptGraphRefiner', embed_dim=6, dim=8, num_heads=2))
    assert type(refiner).__name__ == 'PromptGraphRefiner'
