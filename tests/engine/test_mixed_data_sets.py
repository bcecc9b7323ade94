"""Two data sets with other classes in one training, as MMEngine concatenates them."""

import copy

from dinor1.models.prompts import sampling


def test_classes_are_told_apart_by_name(train, tiny_run_config, monkeypatch):
    whole = tiny_run_config.train_dataloader.dataset.to_dict()
    names = ('solid circle', 'solid square'), ('solid square', 'solid cross', 'solid circle')
    parts = [copy.deepcopy(whole) | dict(metainfo=dict(classes=own), return_classes=True) for own in names]
    # An image of one data set may lack boxes of its classes; it stays, with the boxes that it has.
    dataset = dict(_delete_=True, type='ConcatDataset', datasets=parts, ignore_keys=['classes', 'palette'])
    drawn = []
    draw = sampling.sample_prompts

    def watched(labels, classes):
        found = draw(labels, classes)
        drawn.append(found.names())
        return found

    monkeypatch.setattr('dinor1.models.detectors.dino_r1.sample_prompts', watched)
    _, record = train('run', **{'train_dataloader.dataset': dataset, 'train_cfg.max_epochs': 1})
    assert len(record.history) == 12
    assert all(scalars['loss'] == scalars['loss'] for scalars in record.history)
    # By number, circle and square of one set would be square and cross of the other, and a batch have three prompts
    # with two of the classes mixed up.
    assert {name for prompts in drawn for name in prompts} - {None} == {*names[0], *names[1]}
    assert all(len(set(prompts)) == len(prompts) for prompts in drawn)
