"""A detector on the icon world: a stand-in that knows the answers, and a tiny real one."""

import types

import pytest
import torch
from mmengine.config import Config
from mmengine.structures import InstanceData

from dinor1.evaluation import VisualGeneric
from dinor1.studies.icon_protocols import SUPPORT, EncodedImages, SupportSet, measure_icons, read_split
from dinor1.utils.errors import InputError
from tests.conftest import ROOT
from tests.icon_files import small_world, tiny_drawings, tiny_library  # noqa: F401, fixtures


class Oracle(torch.nn.Module):
    """Finds the objects of a class if its prompt is the class index; leaves out ``missed`` objects of each image."""

    language_model = None
    prompt_encoder = types.SimpleNamespace(aggregates=False)

    def __init__(self, missed=0):
        super().__init__()
        self.missed = missed

    def data_preprocessor(self, batch, training):
        return dict(inputs=torch.stack(list(batch['inputs'])), data_samples=batch['data_samples'])

    def encode_image(self, inputs, samples):
        return inputs

    def encode_exemplars(self, features, boxes, labels, shapes):
        return torch.cat(labels)[:, None].float(), labels

    def detect(self, features, samples, prompts):
        for i, sample in enumerate(samples):
            truth = sample.gt_instances
            if isinstance(prompts, list):
                kept = torch.isin(truth.labels, prompts[i].labels)
            else:
                right = prompts.embeddings[:, 0] == prompts.labels
                kept = torch.isin(truth.labels, prompts.labels[right & prompts.mask])
            kept &= torch.arange(len(truth)) >= self.missed
            labels = truth.labels[kept]
            boxes = torch.as_tensor(getattr(truth.bboxes, 'tensor', truth.bboxes))[kept].float()
            sample.pred_instances = InstanceData(bboxes=boxes, labels=labels, scores=torch.ones(len(labels)))
        return samples, []


@pytest.fixture
def cfg(small_world, monkeypatch):  # noqa: F811
    monkeypatch.setenv('DINOR1_DATA', str(small_world.parent))
    return Config.fromfile(ROOT / 'configs/_base_/datasets/icons.py')


@pytest.mark.parametrize('split', SUPPORT)
def test_measure_icons_gives_a_perfect_detector_the_highest_scores(small_world, cfg, split):  # noqa: F811
    scores = measure_icons(small_world, Oracle(), cfg, split, draws={1: 2, 4: 1}, interactive_draws=1)
    for kind in SUPPORT[split]:
        for count in (1, 4):
            assert scores[f'{kind}{count}/AP'] == pytest.approx(1)
    assert scores['recall'] == pytest.approx(1)
    assert not any(key.startswith('text') for key in scores)
    assert scores['interactive/plain_images'] <= 4


def test_measure_icons_counts_missed_objects(small_world, cfg):  # noqa: F811
    whole, reduced = (
        measure_icons(small_world, Oracle(missed), cfg, 'val_novel', draws={1: 1}, interactive_draws=0)
        for missed in (0, 2)
    )
    dataset = read_split(small_world, 'val_novel', cfg.test_dataloader.dataset.pipeline)
    counts = [len(dataset[i]['data_samples'].gt_instances) for i in range(len(dataset))]
    assert whole['recall'] == pytest.approx(1)
    assert reduced['recall'] == pytest.approx(1 - sum(min(2, n) for n in counts) / sum(counts))
    assert reduced['cross1/AP'] < 1


def test_support_set_prompts_equal_visual_generic(small_world, cfg, build_tiny):  # noqa: F811
    model = build_tiny().eval()
    dataset = read_split(small_world, 'support_val_novel', cfg.prompt_dataset.pipeline)
    names = dataset.metainfo['classes']
    found = SupportSet(model, dataset).prompts(names, 2, seed=1)
    expected = VisualGeneric(dataset, 2, seed=1).prepare(model, dataset).shared
    torch.testing.assert_close(found.embeddings, expected.embeddings)
    assert torch.equal(found.labels, expected.labels)


def test_encoded_images_detect_what_predict_finds(small_world, cfg, build_tiny):  # noqa: F811
    model = build_tiny().eval()
    dataset = read_split(small_world, 'val_novel', cfg.test_dataloader.dataset.pipeline)
    support = read_split(small_world, 'support_val_novel', cfg.prompt_dataset.pipeline)
    prompts = VisualGeneric(support, 2).prepare(model, dataset)
    images = EncodedImages(model, dataset)
    for _ in range(2):  # the encoded images are not changed by the first detection
        found = images.detect(prompts.of)
        for i in range(len(dataset)):
            data = model.data_preprocessor(
                dict(inputs=[dataset[i]['inputs']], data_samples=[dataset[i]['data_samples']])
            )
            with torch.no_grad():
                sample = model.predict(data['inputs'], data['data_samples'], prompts.shared)[0]
            own = found.select(found.image == sample.img_id)
            # Images of one size, so that the batch has no padding.
            torch.testing.assert_close(
                torch.from_numpy(own.score),
                sample.pred_instances.scores.sort(descending=True).values,
                rtol=0,
                atol=1e-5,
            )


@pytest.mark.parametrize(
    ('split', 'draws', 'message'),
    [
        ('train', {1: 1}, 'train: not a split of the icon world; give one of val_base'),
        ('val_novel', {0: 1}, r'numbers of exemplars and of draws must be at least 1, got {0: 1}'),
        ('val_novel', {}, 'must be at least 1'),
    ],
)
def test_measure_icons_rejects_bad_arguments(tmp_path, cfg, split, draws, message):
    with pytest.raises(InputError, match=message):
        measure_icons(tmp_path, Oracle(), cfg, split, draws)


def test_measure_icons_without_the_data_names_the_command(tmp_path, cfg):
    with pytest.raises(
        InputError, match=r'no annotations/val_novel.json; make the icon world with dinor1 make-data icons'
    ):
        measure_icons(tmp_path, Oracle(), cfg, 'val_novel')
