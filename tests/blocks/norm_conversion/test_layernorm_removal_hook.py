"""LayerNormRemovalHook in runs of MMEngine's Runner."""

import copy
from types import SimpleNamespace

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.registry import DefaultScope
from mmengine.runner import Runner
from torch import nn

from dinor1.blocks.norm_conversion.layernorm_stages import has_split_values
from dinor1.blocks.norm_conversion.removal_hook import LayerNormRemovalHook
from dinor1.blocks.norm_conversion.remove_layernorm import remove_layernorm
from dinor1.blocks.normalization.fixed_std_norm import FixedStdLayerNorm
from dinor1.utils.checkpoint import check_checkpoint
from dinor1.utils.errors import InputError
from dinor1.utils.model_converters import convert_model
from tests.blocks.norm_conversion.converter_models import PlainViT, deviation, gpt2, inputs_of

ITERS = 14


class Classifier(BaseModel):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.backbone = PlainViT(layer_scale=False)
        for module in self.backbone.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0

    def forward(self, images, labels, mode='loss'):
        logits = self.backbone(images)
        if mode == 'loss':
            return dict(loss_ce=nn.functional.cross_entropy(logits, labels))
        return logits


def batches() -> list[dict]:
    generator = torch.Generator().manual_seed(0)
    return [
        dict(images=torch.randn(3, 16, 16, generator=generator) * (1 + i % 3), labels=torch.tensor(i % 5))
        for i in range(4 * ITERS)
    ]


class Recorder(Hook):
    """Records the state of every norm at the beginning of each iteration, and the losses."""

    priority = 'LOW'

    def __init__(self) -> None:
        self.states, self.losses, self.stds = [], [], []

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        norms = {n: m for n, m in runner.model.named_modules() if isinstance(m, FixedStdLayerNorm)}
        state = {n.removeprefix('backbone.'): (bool(m.is_fixed), bool(m.v_is_fixed)) for n, m in norms.items()}
        self.states.append(state)
        self.stds.append({n.removeprefix('backbone.'): m.std.clone() for n, m in norms.items()})

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.losses.append({name: float(value.detach()) for name, value in outputs.items()})


def run(tmp_path, name='run', iters=ITERS, resume=False, accumulate=1, model=None, **options):
    recorder = Recorder()
    hook = LayerNormRemovalHook(**dict(target='backbone') | options)
    runner = Runner(
        model=model or Classifier(),
        work_dir=str(tmp_path / name),
        train_dataloader=dict(
            dataset=batches(),
            batch_size=4,
            sampler=dict(type='DefaultSampler', shuffle=False),
            collate_fn=dict(type='default_collate'),
            num_workers=0,
        ),
        train_cfg=dict(by_epoch=False, max_iters=iters),
        optim_wrapper=dict(optimizer=dict(type='AdamW', lr=1e-3), accumulative_counts=accumulate),
        default_hooks=dict(checkpoint=dict(type='CheckpointHook', interval=iters, by_epoch=False)),
        custom_hooks=[hook, recorder],
        resume=resume,
        default_scope='dinor1',
        log_level='ERROR',
        experiment_name=f'{tmp_path.name}-{name}-{iters}-{resume}',
    )
    runner.train()
    return runner, recorder, hook


def switched_at(recorder: Recorder, switch: int) -> dict[str, int]:
    """First iteration in which each norm is switched; ``switch`` 0: ordinary, 1: values."""
    names = recorder.states[0]
    return {
        name: next(i for i, state in enumerate(recorder.states) if state[name][switch])
        for name in names
        if any(state[name][switch] for state in recorder.states)
    }


def test_removal_hook_switches_norms_at_their_steps(tmp_path):
    runner, recorder, hook = run(tmp_path, start=2, gap=(1, 2, 3, 1))
    # Starts of the stages: 2, then 2 + 2 * 1, then 4 + 2 * 2, then 8 + 2 * 3.
    main = {'blocks.0.norm2': 2, 'blocks.1.norm2': 3, 'blocks.0.norm1': 4, 'blocks.1.norm1': 6}
    assert switched_at(recorder, 0) == main
    assert switched_at(recorder, 1) == {**main, 'blocks.0.norm1': 8, 'blocks.1.norm1': 11}
    assert hook.schedule[-1] == (14, 'final', 'norm')
    # The last switch is due before iteration 14, after the end of this run: the norm is not switched.
    assert not runner.model.backbone.norm.is_fixed
    for name, step in main.items():
        values = switched_at(recorder, 1)[name]
        stds = [std[name] for std in recorder.stds]
        assert all(torch.equal(stds[i], stds[step]) for i in range(step, ITERS)), 'frozen from the earlier switch on'
        assert not torch.equal(stds[step], stds[step - 1])
        assert values >= step


def test_removal_hook_starts_and_gaps_per_stage_without_values(tmp_path):
    _, recorder, _ = run(tmp_path, order=('final', 'attention'), start=(3, 1), gap=4)
    expected = {'norm': 3, 'blocks.0.norm1': 1, 'blocks.1.norm1': 5}
    assert switched_at(recorder, 0) == switched_at(recorder, 1) == expected


def test_removal_hook_counts_optimizer_steps(tmp_path):
    _, recorder, _ = run(tmp_path, order=('mlp',), start=2, gap=3, accumulate=2, iters=12)
    assert switched_at(recorder, 0) == {'blocks.0.norm2': 4, 'blocks.1.norm2': 10}


def test_removal_hook_schedule_of_paper():
    """GPT-2 Small: starts 20 / 44 / 68 / 104, first position at 116; 106 is end-of-text, which is not implemented."""
    hook = LayerNormRemovalHook(
        order=('mlp', 'attention', 'values', 'final', 'first'),
        start=(20, 44, 68, 104, 116),
        gap=(2, 2, 3, 2, 10),
        per_position=1024,
    )
    stages = {stage: [f'h.{i}' for i in range(12)] for stage in ('mlp', 'attention', 'values')}
    schedule = hook.make_schedule({**stages, 'final': ['ln_f'], 'first': ['h.0', 'ln_f']})
    assert [at for at, stage, _ in schedule if stage == 'mlp'] == list(range(20, 44, 2))
    assert [at for at, stage, _ in schedule if stage == 'values'] == list(range(68, 104, 3))
    assert [at for at, stage, _ in schedule if stage in ('final', 'first')] == [104, 116, 116]
    rule = LayerNormRemovalHook(start=20, gap=(2, 2, 3, 2)).make_schedule({**stages, 'final': ['ln_f']})
    assert rule == schedule[:-2]


@pytest.mark.parametrize('at', [1, 5, 9])
def test_removal_hook_resumed_run_equals_uninterrupted(tmp_path, at):
    """Resume before the first switch, between queries and values, and while values are switched."""
    options = dict(start=2, gap=(1, 2, 3, 1), iters=12)
    whole, whole_record, _ = run(tmp_path, 'whole', **options)
    _, first, _ = run(tmp_path, 'parts', **{**options, 'iters': at})
    parts, second, _ = run(tmp_path, 'parts', resume=True, **options)
    assert first.losses + second.losses == whole_record.losses
    assert first.states + second.states == whole_record.states
    state = whole.model.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in parts.model.state_dict().items())


def test_layernorm_removal_converter_swaps_before_checkpoint_is_compared(tmp_path):
    """A run with swapped norms has the same schedule."""
    options = dict(start=2, gap=(1, 2, 3, 1), iters=6)
    first, record, _ = run(tmp_path, 'first', **options)
    checkpoint = str(tmp_path / 'first' / 'iter_6.pth')
    model = Classifier()
    with pytest.raises(InputError, match='another architecture'):
        check_checkpoint(model, checkpoint, resume=True)
    settings = dict(type='LayerNormRemoval', target='backbone', start=2, gap=(1, 2, 3, 1))
    model, (converter,) = convert_model(model, [settings])
    check_checkpoint(model, checkpoint, resume=True)
    (hook,) = converter.hooks()
    schedule, norms = list(hook.schedule), dict(model.named_modules())
    hook.before_run(SimpleNamespace(model=model, logger=first.logger))
    assert hook.schedule == schedule
    assert dict(model.named_modules()) == norms


def test_removal_hook_auxiliary_loss(tmp_path):
    """The loss equals the formula on the input of the last norm, and has a gradient."""
    inputs = []

    class Look(Recorder):
        def before_train_iter(self, runner, batch_idx, data_batch=None):
            norm = runner.model.backbone.norm
            self.handle = norm.register_forward_pre_hook(lambda _, args: inputs.append(args[0]))

        def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
            self.handle.remove()
            super().after_train_iter(runner, batch_idx, data_batch, outputs)

    for special in (True, False):
        inputs.clear()
        hook = LayerNormRemovalHook(target='backbone', aux_weight=0.3, first_is_special=special)
        look = Look()
        runner = Runner(
            model=Classifier(),
            work_dir=str(tmp_path / str(special)),
            train_dataloader=dict(
                dataset=batches(),
                batch_size=4,
                sampler=dict(type='DefaultSampler', shuffle=False),
                collate_fn=dict(type='default_collate'),
                num_workers=0,
            ),
            train_cfg=dict(by_epoch=False, max_iters=1),
            optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.0)),
            custom_hooks=[hook, look],
            default_scope='dinor1',
            log_level='ERROR',
            experiment_name=f'{tmp_path.name}-{special}',
        )
        runner.train()
        x = inputs[0].detach().double()
        sigma = (x.var(-1, correction=0) + 1e-5).sqrt()
        target = (sigma[:, 1:] if special else sigma).mean()
        expected = 0.3 * float((sigma - target).square().mean())
        # float32 against float64
        assert look.losses[0]['loss_ln_std'] == pytest.approx(expected, rel=1e-5)
        losses = look.losses[0]
        assert losses['loss'] == pytest.approx(losses['loss_ce'] + losses['loss_ln_std'], rel=1e-6)


def test_removal_hook_is_in_configs():
    with DefaultScope.overwrite_default_scope('dinor1'):
        hook = LayerNormRemovalHook(order=('mlp', 'final'), start=5, gap=(1, 2))
    assert isinstance(hook, LayerNormRemovalHook)
    assert hook.gap == (1, 2)


def test_removal_hook_target_has_no_gradient():
    hook = LayerNormRemovalHook()
    sigma = torch.tensor([[5.0, 1.0, 2.0, 3.0]], dtype=torch.float64, requires_grad=True)
    hook.std_loss(sigma).backward()
    torch.testing.assert_close(sigma.grad, 2 * (sigma.detach() - 2.0) / 4)


def test_removal_hook_without_auxiliary_loss_leaves_no_hooks(tmp_path):
    runner, recorder, _ = run(tmp_path, aux_weight=0, iters=2)
    assert set(recorder.losses[0]) == {'loss', 'loss_ce'}
    runner, recorder, _ = run(tmp_path, 'other', iters=2)
    assert 'loss_ln_std' in recorder.losses[0]
    batch = next(iter(runner.train_dataloader))
    assert set(runner.model.train()(**batch, mode='loss')) == {'loss_ce'}


def test_removal_hook_trained_model_folds(tmp_path):
    runner, _, _ = run(tmp_path, start=2, gap=1)
    backbone = runner.model.backbone.double()
    backbone.eval()
    assert all(bool(m.is_fixed) for m in backbone.modules() if isinstance(m, FixedStdLayerNorm))
    folded = remove_layernorm(backbone)
    assert folded.norm_report.names('kept') == []
    assert deviation(backbone, folded, **inputs_of('plain')) < 1e-10


def test_removal_hook_converts_language_model_as_submodule(tmp_path):
    """Converts Hugging Face's GPT-2 as a submodule; the swap keeps the optimizer's parameters."""

    class LM(BaseModel):
        def __init__(self):
            super().__init__()
            self.backbone = gpt2()

        def forward(self, images, labels, mode='loss'):
            ids = (images.flatten(1)[:, :8].abs() * 9).long() % 31
            return dict(loss_lm=self.backbone(input_ids=ids, labels=ids).loss)

    model = LM()
    # Train through all switches.
    before = {name: id(p) for name, p in model.named_parameters()}
    runner, recorder, _ = run(tmp_path, model=model, start=1, gap=1, iters=8)
    assert {name: id(p) for name, p in runner.model.named_parameters()} == before
    assert has_split_values(model.backbone.transformer.h[0].ln_1)
    assert switched_at(recorder, 0)['transformer.ln_f'] == 7
    assert switched_at(recorder, 1)['transformer.h.1.ln_1'] == 6
    # Fold the trained model.
    folded = remove_layernorm(copy.deepcopy(model.backbone))
    assert folded.norm_report.names('kept') == []


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(order=('mlp', 'head')), 'LayerNormRemovalHook: order must name stages'),
        (dict(start=0), 'expected start >= 1'),
        (dict(aux_weight=-1), 'aux_weight >= 0'),
        (dict(start=(1, 2)), 'start needs one number per stage'),
        (dict(gap=(1, 2, 3)), 'gap needs one number per stage'),
    ],
)
def test_removal_hook_bad_arguments_raise(options, message):
    with pytest.raises(InputError, match=message):
        LayerNormRemovalHook(**options)


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(target='neck'), "Classifier has no submodule 'neck'"),
        (dict(aux_norm='blocks.7.norm1'), "no norm called 'blocks.7.norm1'"),
        (dict(target='backbone.head'), 'no LayerNorm of Linear belongs to a stage'),
    ],
)
def test_removal_hook_bad_run_raises(tmp_path, options, message):
    with pytest.raises(InputError, match=message):
        run(tmp_path, **options)
