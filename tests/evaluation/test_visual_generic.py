"""The draw of exemplars, and the prompt bank of them."""

import json

import cv2
import numpy as np
import pytest
import torch

from dinor1.datasets import CocoPromptDataset
from dinor1.evaluation import build_bank, draw_exemplars, embed_exemplars, iisr
from dinor1.evaluation.prompt_protocols import VisualGeneric
from dinor1.utils.errors import InputError

PIPELINE = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(64, 64), keep_ratio=True),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='PackDetInputs'),
]


@pytest.fixture
def write(tmp_path):
    """``write(order)`` stores ten noise images of two sizes with boxes of three classes, listed in ``order``."""

    def write(order=range(10), name='a', boxes=True):
        rng = np.random.default_rng(0)
        images, annotations = [], []
        for i in range(10):
            height, width = (48, 64) if i % 2 else (128, 96)
            cv2.imwrite(str(tmp_path / f'{i}.png'), rng.integers(0, 255, (height, width, 3), dtype=np.uint8))
            images.append(dict(id=i + 1, file_name=f'{i}.png', width=width, height=height))
            for j in range(3):
                # The third class occurs once; every image has crowd boxes.
                category = 3 if (i, j) == (4, 2) else 1 + (i + j) % 2
                box = [int(v) for v in (*rng.integers(0, 20, 2), *rng.integers(10, 25, 2))]
                number = len(annotations) + 1
                annotations.append(
                    dict(id=number, image_id=i + 1, category_id=category, bbox=box, area=1.0, iscrowd=int(j == 1))
                )
        content = dict(
            images=[images[i] for i in order],
            annotations=annotations if boxes else [],
            categories=[dict(id=k, name=n) for k, n in enumerate(('cat', 'dog', 'owl'), 1)],
        )
        path = tmp_path / f'{name}.json'
        path.write_text(json.dumps(content))
        return CocoPromptDataset(
            ann_file=str(path), data_prefix=dict(img=str(tmp_path)), pipeline=PIPELINE, test_mode=True
        )

    return write


def as_set(exemplars):
    return {(e.img_id, e.bbox, e.label) for e in exemplars}


def test_draw_exemplars_rejects_no_instance_and_no_number(write):
    with pytest.raises(InputError, match='no instance'):
        draw_exemplars(write(boxes=False))
    with pytest.raises(InputError, match='at least 1'):
        draw_exemplars(write(), 0)


def test_draw_exemplars_limits_classes_and_skips_crowds(write):
    dataset = write()
    exemplars = draw_exemplars(dataset, 4)
    assert np.bincount([e.label for e in exemplars]).tolist() == [4, 4, 1]
    usable = {
        (info['img_id'], tuple(instance['bbox']), instance['bbox_label'])
        for info in map(dataset.get_data_info, range(10))
        for instance in info['instances']
        if not instance['ignore_flag']
    }
    assert as_set(exemplars) <= usable
    assert len(as_set(draw_exemplars(dataset, 1000))) == len(usable)


def test_draw_exemplars_depends_on_seed_not_on_order_of_images(write):
    first = draw_exemplars(write(), 4, seed=3)
    assert as_set(first) == as_set(draw_exemplars(write(reversed(range(10)), 'b'), 4, seed=3))
    assert any(as_set(first) != as_set(draw_exemplars(write(), 4, seed=s)) for s in (4, 5))


def test_draw_of_fewer_exemplars_is_a_subset(write):
    """Draws with different N differ by their number only."""
    assert as_set(draw_exemplars(write(), 2)) <= as_set(draw_exemplars(write(), 5))


def test_build_bank_averages_embeddings_of_single_boxes(write, build_tiny):
    model, dataset = build_tiny().eval(), write()
    exemplars = draw_exemplars(dataset, 3)
    bank = build_bank(model, dataset, exemplars)
    assert bank.names == ('cat', 'dog', 'owl')
    assert bank.num_exemplars == (3, 3, 1)
    single = {e: build_bank(model, dataset, [e]).embeddings[0] for e in exemplars}
    for i in range(3):
        rows = torch.stack([v for e, v in single.items() if e.label == i])
        torch.testing.assert_close(bank.embeddings[i], rows.mean(0))


def test_build_bank_restores_mode_of_model(write, build_tiny):
    model, dataset = build_tiny().train(), write()
    build_bank(model, dataset, draw_exemplars(dataset, 1))
    assert model.training


@pytest.mark.parametrize('seed', [-1, 1.0, True])
def test_seeds_of_draws_must_not_be_negative(seed):
    from dinor1.evaluation.seeds import non_negative

    with pytest.raises(InputError, match='integer of at least 0'):
        non_negative(seed)


# Whole images, aggregated exemplars, and their similarity ---------------------------------------------------


def test_draw_of_whole_images_takes_all_instances_of_a_class(write):
    dataset = write()
    exemplars = draw_exemplars(dataset, 2, whole_images=True)
    for label, images in ((0, 2), (1, 2), (2, 1)):
        own = [e for e in exemplars if e.label == label]
        drawn = {e.index for e in own}
        assert len(drawn) == images
        instances = sum(
            instance['bbox_label'] == label and not instance['ignore_flag']
            for index in drawn
            for instance in dataset.get_data_info(index)['instances']
        )
        assert len(own) == instances
    assert as_set(exemplars) == as_set(draw_exemplars(write(reversed(range(10)), 'b'), 2, whole_images=True))
    assert any(as_set(exemplars) != as_set(draw_exemplars(dataset, 2, seed, True)) for seed in (1, 2, 3))


def test_bank_of_an_aggregating_encoder_averages_images(write, build_tiny):
    cfg = dict(type='AggregatingPromptEncoder', num_layers=1)
    model, dataset = build_tiny(**{'model.prompts.encoder': cfg}).eval(), write()
    exemplars = draw_exemplars(dataset, 3, whole_images=True)
    bank = build_bank(model, dataset, exemplars)
    assert bank.num_exemplars == tuple(np.bincount([e.label for e in exemplars]).tolist())
    cats = [e for e in exemplars if e.label == 0]
    assert len(cats) > 3  # an image has several
    per_image = [
        build_bank(model, dataset, [e for e in cats if e.index == index]).embeddings[0]
        for index in sorted({e.index for e in cats})
    ]
    torch.testing.assert_close(bank.embeddings[0], torch.stack(per_image).mean(0))


def test_visual_generic_reports_the_similarity_of_its_exemplars(write, build_tiny):
    model, dataset = build_tiny().eval(), write()
    prompts = VisualGeneric(dataset, 3).prepare(model, dataset)
    expected = iisr(*embed_exemplars(model, dataset, draw_exemplars(dataset, 3)))
    assert prompts.similarity == expected
    assert prompts.similarity['intra'] > 0
    # Values that are undefined for single exemplars are left out.
    alone = VisualGeneric(dataset, 1).prepare(model, dataset)
    assert {'intra', 'iisr'}.isdisjoint(alone.similarity)
    assert alone.similarity['inter_proto'] == pytest.approx(alone.similarity['inter_pair'])
    # The record of a draw of whole images says so.
    protocol = VisualGeneric(dataset, 2, seed=4, whole_images=True)
    whole = protocol.with_seed(5).prepare(model, dataset)
    assert whole.description == dict(protocol='visual-generic', num_exemplars=2, seed=5, whole_images=True)
    assert whole.file_stem == 'prompts_visual-generic_images2_seed5'
