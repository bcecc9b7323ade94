"""Progress and remaining time from lines of MMEngine's log."""

from types import SimpleNamespace

import pytest
from mmengine.logging import MessageHub
from mmengine.runner import LogProcessor

from dinor1.utils.log_progress import Progress, RemainingTime, read_progress

CONFIG = "max_epochs = 12\ntrain_cfg = dict(\n    max_epochs=4, type='EpochBasedTrainLoop', val_interval=1)\n"
START = '11/30 02:31:12 - mmengine - INFO - '


def lines(*texts):
    return CONFIG + ''.join(f'{START}{text}  lr: 1.7e-03  eta: 0:00:01  loss: 37.9\n' for text in texts)


@pytest.mark.parametrize(
    ('texts', 'expected', 'fraction', 'said'),
    [
        (['Epoch(train) [1][ 50/250]'], Progress('train', 1, 4, 50, 250), 0.05, 'epoch 1/4, 5 %'),
        (['Epoch(train)   [3][250/250]'], Progress('train', 3, 4, 250, 250), 0.75, 'epoch 3/4, 75 %'),
        (
            ['Epoch(train) [1][250/250]', 'Epoch(val) [1][10/75]'],
            Progress('val', 1, 4, 10, 75),
            0.25,
            'validation, epoch 1/4, 25 %',
        ),
        (['Epoch(test) [ 30/ 75]'], Progress('test', None, 4, 30, 75), 0.4, '40 %'),
        (['Iter(train) [ 150/1500]'], Progress('train', None, 4, 150, 1500), 0.1, '10 %'),
    ],
)
def test_read_progress_uses_last_line(texts, expected, fraction, said):
    progress = read_progress(lines(*texts))
    assert progress == expected
    assert progress.fraction == pytest.approx(fraction)
    assert str(progress) == said


def test_read_progress_of_incomplete_log():
    assert read_progress('') is None
    assert read_progress(CONFIG) is None
    # Without the config in the log, the number of epochs is unknown.
    progress = read_progress('Epoch(train) [2][ 50/250]  lr: 1.0')
    assert progress.fraction is None
    assert str(progress) == 'epoch 2/?'
    assert read_progress('Epoch(val) [2][ 50/250]').fraction is None


@pytest.mark.parametrize(
    ('by_epoch', 'expected'),
    [(True, Progress('train', 2, None, 3, 8)), (False, Progress('train', None, None, 11, 24))],
)
def test_read_progress_reads_lines_of_mmengine(by_epoch, expected):
    """The installed release of MMEngine writes such a line for iteration 11 of three epochs of 8 iterations."""
    hub = MessageHub('log progress')
    hub.update_scalars({'train/lr': 0.1, 'train/time': 0.1, 'train/data_time': 0.1, 'train/loss': 2.0})
    loop = SimpleNamespace(dataloader=range(8))
    counters = dict(epoch=1, iter=10, max_iters=24, max_epochs=3, world_size=1)
    loops = dict(train_loop=loop, _train_loop=loop, train_dataloader=loop.dataloader)
    runner = SimpleNamespace(**counters, **loops, message_hub=hub)
    _, text = LogProcessor(by_epoch=by_epoch).get_log_after_iter(runner, 2, 'train')
    assert read_progress(text) == expected


def test_remaining_time_from_observed_speed():
    remaining = RemainingTime()
    assert remaining.seconds(0.0) is None
    remaining.observe(None, 1.0)
    # Half of this resumed run was done before.
    remaining.observe(0.5, 10.0)
    remaining.observe(0.5, 15.0)
    assert remaining.seconds(15.0) is None
    remaining.observe(0.6, 20.0)
    assert remaining.seconds(20.0) == pytest.approx(40.0)
    # The remaining time falls between two lines of the log.
    remaining.observe(0.6, 25.0)
    assert remaining.seconds(25.0) == pytest.approx(35.0)
    assert remaining.seconds(500.0) == 0.0
