"""ReproducibilityHook in an iteration-based loop; the epoch-based loop is tested with the whole recipe."""

from types import SimpleNamespace

import pytest
from mmengine.dataset import ConcatDataset

from dinor1.engine.hooks import ReproducibilityHook
from dinor1.registry import DATASETS


@pytest.mark.parametrize('first', [0, 4, 5])
def test_reproducibility_hook_sets_epoch_in_iteration_loop(shapes_dir, first):
    """A pass over the data is an epoch, also for data sets in a wrapper, and after a resume at iteration ``first``."""
    # Make two data sets in a wrapper.
    part = dict(
        type='CocoPromptDataset',
        data_root=str(shapes_dir / 'shapes'),
        ann_file='annotations/val_base.json',
        data_prefix=dict(img='images/val_base/'),
        pipeline=[],
    )
    dataset = ConcatDataset([DATASETS.build(part), DATASETS.build(part)])
    loader = type('Loader', (), dict(dataset=dataset, __len__=lambda self: 4))()
    runner = SimpleNamespace(train_dataloader=loader, train_loop=object(), iter=first, epoch=0)
    # Run the hook, and record the epoch of both.
    hook, seen = ReproducibilityHook(), []
    hook.before_train_epoch(runner)
    for runner.iter in range(first, 13):
        seen.append({one.epoch for one in dataset.datasets})
        hook.after_train_iter(runner, 0)
    assert seen == [{i // 4} for i in range(first, 13)]
