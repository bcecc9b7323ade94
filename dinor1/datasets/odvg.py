"""Training data in ODVG format: one line per image."""

import itertools
from pathlib import Path
from typing import Any

from dinor1.annotations import read
from dinor1.annotations.content import ODVG
from dinor1.annotations.odvg import odvg_findings
from dinor1.datasets.coco import CocoPromptDataset
from dinor1.registry import DATASETS
from dinor1.utils.errors import InputError


@DATASETS.register_module()
class ODVGPromptDataset(CocoPromptDataset):
    """:class:`CocoPromptDataset` for the boxes and classes of an ODVG file.

    MMDetection's ``ODVGDataset`` provides no class names, which the sampling of visual prompts needs, and checks
    nothing. Labels are indices into the label map in ascending order, even if it does not begin at 0. Phrases of
    captions are not classes: a file of them is rejected.

    Args:
        label_map_file: JSON file of names by label, below ``data_root``; default: ``<stem>_label_map.json`` beside the
            file, or the only ``*label_map*.json`` there.
        kwargs: Arguments of :class:`CocoPromptDataset`.

    Raises:
        InputError: as :class:`CocoPromptDataset`; also if there is no label map, or if a label contradicts the
            category name beside it.
    """

    def __init__(self, *args: Any, label_map_file: str | None = None, data_root: str = '', **kwargs: Any) -> None:
        self.label_map_file = None if label_map_file is None else Path(data_root) / label_map_file
        super().__init__(*args, data_root=data_root, **kwargs)

    def read_annotations(self, path: str) -> dict:
        """The file in COCO format.

        Raises:
            InputError: a line is broken, or a label contradicts the category name beside it.
        """
        # Read the file.
        content = read(Path(path), self.label_map_file)
        if content.format != ODVG and not content.findings:
            raise InputError(f'{self.ann_file}: is a file in {content.format} format, not ODVG; use its data set class')
        # Report its first defect.
        for finding in itertools.chain(content.findings, odvg_findings(content)):
            location = content.location(finding)
            location = f'{location}: ' if location else ''
            raise InputError(f'{self.ann_file}: {location}{finding.detail}; {finding.advice}')
        if not content.named:
            raise InputError(f"{self.ann_file}: has captions instead of classes; use MMDetection's ODVGDataset")
        return content.data
