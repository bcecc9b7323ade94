"""Train on two data sets with different classes, concatenated by MMEngine."""

import copy

from dinor1.models.prompts import sampling


def test_concatenated_data_sets_match_classes_by_name(train, tiny_run_config, monkeypatch):
    # Make two data sets whose classes have different indices.
    whole = tiny_run_config.train_dataloader.dataset.to_dict()
    names = ('solid circle', 'solid square'), ('solid square', 'solid cross', 'solid circle')
    parts = [copy.deepcopy(whole) | dict(metainfo=dict(classes=own), return_classes=True) for own in names]
    dataset = dict(_delete_=True, type='ConcatDataset', datasets=parts, ignore_keys=['classes', 'palette'])
    # Record the names of the prompts.
    drawn = []
    draw = sampling.sample_prompts

    def watched(labels, classes):
        found = draw(labels, classes)
        drawn.append(found.names())
        return found

    monkeypatch.setattr('dinor1.models.prompts.draw.sample_prompts', watched)
    _, record = train('run', **{'train_dataloader.dataset': dataset, 'train_cfg.max_epochs': 1})
    assert len(record.history) == 12
    assert all(scalars['loss'] == scalars['loss'] for scalars in record.history)
    # Matched by index, circle and square of one set would be square and cross of the other.
    assert {name for prompts in drawn for name in prompts} - {None} == {*names[0], *names[1]}
    assert all(len(set(prompts)) == len(prompts) for prompts in drawn)
