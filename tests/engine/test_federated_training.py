"""Whole runs on a federated data set: batches of one source, mixed images, an interruption."""

import json
import os
import signal
from pathlib import Path

import pytest

from dinor1.models.prompts import batch_scope, draw


@pytest.fixture(scope='module')
def federated(tiny_run_config):
    """Settings of the tiny recipe on a shapes world with two sources, each annotated for half of the classes."""
    # Write an annotation file in which each source has the boxes of half of the categories.
    dataset = tiny_run_config.train_dataloader.dataset.to_dict()
    path = Path(dataset['data_root']) / dataset['ann_file']
    data = json.loads(path.read_text())
    ids = [category['id'] for category in data['categories']]
    halves = dict(even=ids[::2], odd=ids[1::2])
    data['sources'] = [dict(name=name, exhaustive_category_ids=half) for name, half in halves.items()]
    source = {image['id']: 'odd' if i < 10 else 'even' for i, image in enumerate(data['images'])}
    data['images'] = [image | dict(source=source[image['id']]) for image in data['images']]
    data['annotations'] = [a for a in data['annotations'] if a['category_id'] in halves[source[a['image_id']]]]
    path.with_name('federated.json').write_text(json.dumps(data))

    # Mix images in the pipeline, and pass on the annotated classes.
    load, pack = dataset['pipeline'][:2], dataset['pipeline'][-1]
    keys = (*pack['meta_keys'], 'annotated_labels', 'exhaustive_labels')
    mix = [dict(type='PasteInstances', prob=0.5), dict(type='SameSourceMosaic', img_scale=(64, 64), prob=0.5)]
    resize, pad = dict(type='Resize', scale=(128, 128), keep_ratio=True), dict(type='Pad', size=(128, 128))
    dataset |= dict(
        ann_file='annotations/federated.json',
        federated=True,
        return_classes=True,
        pipeline=[*load, *mix, resize, pad, pack | dict(meta_keys=keys)],
    )
    return {
        'train_dataloader.dataset': dataset,
        'train_dataloader.batch_sampler': dict(_delete_=True, type='SourceBatchSampler'),
        'train_cfg.max_epochs': 2,
    }


def test_federated_images_are_offered_classes_of_their_source(train, federated, monkeypatch):
    # Record the classes that are offered in a training.
    scopes = []

    def watched(samples, labels, drawn):
        scope = batch_scope(samples, labels, drawn)
        scopes.append((drawn.labels.tolist(), [sample.exhaustive_labels for sample in samples], scope))
        return scope

    monkeypatch.setattr(draw, 'batch_scope', watched)
    _, record = train('run', **federated)
    assert all(scalars['loss'] == scalars['loss'] for scalars in record.history)
    assert len(scopes) == len(record.history) == 12
    # Check that they belong to the source of the image, or are all classes of the batch.
    for classes, exhaustive, scope in scopes:
        for own, offered in zip(exhaustive, scope.offered.tolist(), strict=True):
            chosen = {label for label, yes in zip(classes, offered, strict=True) if yes}
            assert chosen <= set(own) or chosen == set(classes)
    # 10 and 14 images make batches of 4 images of one source, and one batch of the remaining images per epoch.
    assert sum(len({tuple(own) for own in exhaustive}) > 1 for _, exhaustive, _ in scopes) == 2


def test_federated_resumed_training_equals_uninterrupted(train, federated):
    _, whole = train('whole', **federated)

    def stop(runner):
        if runner.iter == 8:
            os.kill(os.getpid(), signal.SIGTERM)

    _, first = train('parts', stop, **federated)
    assert len(first.history) == 9
    _, second = train('parts', **federated, resume=True)
    assert first.history + second.history == whole.history
