"""SingleClass: the draw of the class that is offered for an image."""

from types import SimpleNamespace

import pytest

from dinor1.evaluation.single_class import draw_classes
from dinor1.utils.errors import InputError


class Images(SimpleNamespace):
    """``Images(shown=[{0, 1}, ...], crowds=[{2}, ...], ids=[...])``."""

    def __len__(self):
        return len(self.shown)

    def get_data_info(self, index):
        instances = [dict(bbox_label=label, ignore_flag=0) for label in self.shown[index]]
        instances += [dict(bbox_label=label, ignore_flag=1) for label in self.crowds[index]]
        return dict(img_id=self.ids[index], instances=instances)


def images(*shown, crowds=None, ids=None) -> Images:
    return Images(shown=shown, crowds=crowds or [set()] * len(shown), ids=ids or list(range(len(shown))))


def test_draw_classes_chooses_shown_and_absent_equally():
    dataset = images(*[{0, 3}] * 2000)
    asked = draw_classes(dataset, [0, 1, 2])
    counts = [list(asked.values()).count(label) for label in range(4)]
    # Class 3 is shown, but has no prompt. The standard deviations are 22 and 19.
    assert counts[3] == 0
    assert abs(counts[0] - 1000) < 110
    assert all(abs(count - 500) < 95 for count in counts[1:3])


def test_draw_classes_depends_on_image_and_seed_only():
    asked = draw_classes(images(*[{0, 1}] * 50), range(6))
    backward = draw_classes(images(*[{0, 1}] * 50, ids=list(range(49, -1, -1))), range(6))
    assert asked == {image: backward[image] for image in range(50)}
    assert asked != draw_classes(images(*[{0, 1}] * 50), range(6), seed=1)


def test_draw_classes_never_draws_crowds():
    """A crowd is neither shown nor absent; with one class there is no choice."""
    asked = draw_classes(images(*[{0}] * 100, crowds=[{1}] * 100), [0, 1, 2])
    assert set(asked.values()) == {0, 2}
    assert set(draw_classes(images({0}, set()), [0]).values()) == {0}
    assert draw_classes(images(set(), crowds=[{0}]), [0]) == {0: 0}
    with pytest.raises(InputError, match='no class of the evaluated set has a prompt'):
        draw_classes(images({0}), [])
