"""A detector under all protocols: a stand-in that knows the answers, on images with known results."""

import pytest
import torch
from mmengine.config import Config
from mmengine.structures import InstanceData

from dinor1.studies.protocol_detectors import measure_detector
from tests.studies.test_protocol_baselines import coloured  # noqa: F401, a fixture

PACK = dict(type='PackDetInputs', meta_keys=('img_id', 'ori_shape', 'img_shape', 'scale_factor'))
PIPELINE = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(96, 96), keep_ratio=True),
    dict(type='LoadAnnotations', with_bbox=True),
    PACK,
]
# Blue, green and red channel of the classes red, blue and green.
CHANNELS = (2, 0, 1)
CENTRES = ((24, 24), (72, 24), (24, 72), (72, 72))


class ColourDetector(torch.nn.Module):
    """Finds squares whose colour is that of the prompt; embeddings are the mean colour in a box."""

    def data_preprocessor(self, batch, training):
        return dict(inputs=torch.stack(list(batch['inputs'])).float(), data_samples=batch['data_samples'])

    def encode_image(self, inputs, samples):
        return inputs

    def encode_boxes(self, features, boxes, shapes):
        return torch.stack([self.colour(image, box) for image, own in zip(features, boxes, strict=True) for box in own])

    def encode_exemplars(self, features, boxes, labels, shapes):
        return self.encode_boxes(features, boxes, shapes), labels

    @staticmethod
    def colour(image, box):
        x1, y1, x2, y2 = box.round().int().tolist()
        return image[:, y1:y2, x1:x2].mean((1, 2))

    def predict(self, inputs, samples, prompts):
        shared = None if isinstance(prompts, list) else prompts
        for i, (image, sample) in enumerate(zip(inputs, samples, strict=True)):
            own = shared if shared is not None else prompts[i]
            if hasattr(own, 'embeddings'):
                wanted = [(int(label), own.embeddings[label]) for label in own.labels[own.mask].tolist()]
            else:
                wanted = [
                    (int(label), self.colour(image, box)) for label, box in zip(own.labels, own.boxes, strict=True)
                ]
            rows = []
            for label, colour in wanted:
                for x, y in CENTRES:
                    box = torch.tensor([x - 8, y - 8, x + 8, y + 8.0])
                    score = 0.9 if torch.allclose(self.colour(image, box), colour, atol=1) else 0.1
                    rows.append((label, score, box))
            sample.pred_instances = InstanceData(
                bboxes=torch.stack([box for _, _, box in rows]) if rows else torch.zeros(0, 4),
                scores=torch.tensor([score for _, score, _ in rows]),
                labels=torch.tensor([label for label, _, _ in rows], dtype=torch.long),
            )
        return samples


def test_measure_detector_that_is_always_right(coloured):  # noqa: F811
    cfg = Config(dict(test_dataloader=dict(dataset=dict(pipeline=PIPELINE)), prompt_dataset=dict(pipeline=PIPELINE)))
    lines = []
    scores = measure_detector(coloured, ColourDetector().eval(), cfg, seeds=(0, 1), progress=lines.append)
    for key in ('plain_AP50', 'without_exemplar_AP50', 'visual_g_1_AP', 'visual_g_16_AP50', 'absence_AUROC'):
        assert scores[key] == pytest.approx(1), key
    assert scores['echo_AP50'] == pytest.approx(51 / 101)  # one of two squares
    assert scores['absence_false_positives_per_image'] == 0
    assert scores['without_exemplar_F1'] == 1
    assert scores['images'] == 9
    assert len(lines) == 5
