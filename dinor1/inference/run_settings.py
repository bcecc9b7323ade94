"""Settings of a run of many images, by which a later run decides which results it may keep."""

import hashlib
from pathlib import Path
from typing import Any, NamedTuple

from dinor1.inference.inferencer import DINOR1Inferencer
from dinor1.structures import PromptSet
from dinor1.utils.errors import InputError
from dinor1.utils.fingerprint import fingerprint
from dinor1.utils.io import dump_json, read_json, write_json

SETTINGS = 'settings.json'


class RunSettings(NamedTuple):
    """Settings that all results of a run share.

    Attributes:
        score_thr: Minimum score of a detection, in [0, 1].
        options: Further arguments of :meth:`~dinor1.inference.DINOR1Inferencer.predict`.
        request: Prompts, threshold and options, for the JSON file of a result.
        digest: Digest of everything that a result depends on, apart from the image.
        resume: Whether results with this digest are kept.
    """

    score_thr: float
    options: dict[str, Any]
    request: dict[str, Any]
    digest: str
    resume: bool

    def is_done(self, path: Path, **expected: Any) -> bool:
        """Whether there is a result with these settings to keep.

        Args:
            path: JSON file of the result.
            **expected: Keys and values that the result must have.
        """
        if not self.resume or not path.is_file():
            return False
        try:
            record = read_json(path)
        except InputError:  # damaged: it is written again
            return False
        required = dict(settings=self.digest) | expected
        return isinstance(record, dict) and all(record.get(key) == value for key, value in required.items())


def open_run(
    inferencer: DINOR1Inferencer, out_dir: Path, score_thr: float, options: dict[str, Any], resume: bool
) -> RunSettings:
    """Write ``settings.json`` of a folder, after a comparison with that of an earlier run.

    Args:
        inferencer: Inferencer with prompts.
        out_dir: Folder of the results.
        score_thr: Minimum score of a detection, in [0, 1].
        options: Further arguments of :meth:`~dinor1.inference.DINOR1Inferencer.predict`.
        resume: Whether to keep the results of earlier runs.

    Raises:
        InputError: with ``resume``, the results in the folder have other settings.
    """
    # Digest the embeddings of the prompts and the weights.
    prompts: Any = inferencer.prompts
    digest = hashlib.sha256()
    for tensor in (prompts.embeddings.float(), prompts.labels, prompts.mask, prompts.groups):
        digest.update(tensor.cpu().contiguous().numpy().tobytes())
    requested = request(prompts, score_thr, **options)
    settings = requested | dict(embeddings=digest.hexdigest(), weights=fingerprint(inferencer.model, whole=True))
    # Compare the settings, and write them.
    if resume:
        _check_settings(out_dir / SETTINGS, settings)
    write_json(settings, out_dir / SETTINGS, indent=2)
    return RunSettings(score_thr, options, requested, hashlib.sha256(dump_json(settings).encode()).hexdigest(), resume)


def request(prompts: PromptSet, score_thr: float, **options: Any) -> dict[str, Any]:
    """The prompts, the threshold and the options that were used, for the JSON file."""
    hidden = prompts.negative.tolist()
    return dict(
        prompts=[name for name, is_hidden in zip(prompts.names, hidden, strict=True) if not is_hidden],
        negative_prompts=[name for name, is_hidden in zip(prompts.names, hidden, strict=True) if is_hidden],
        score_thr=score_thr,
        **options,
    )


def _check_settings(path: Path, settings: dict[str, Any]) -> None:
    """Check that the results in a folder, if there are any, have these settings.

    Raises:
        InputError: a setting differs, or the file is damaged.
    """
    if not path.exists():
        return
    earlier = read_json(path)
    if not isinstance(earlier, dict):
        raise InputError(f'{path}: not the settings of earlier results; choose another --out-dir')
    differing = [key for key in sorted(settings.keys() | earlier.keys()) if settings.get(key) != earlier.get(key)]
    if differing:
        raise InputError(
            f'{path}: the results in this folder have other settings ({", ".join(differing)}); choose another '
            '--out-dir, or leave out --resume to replace them'
        )
