"""Fixtures: a folder of images, its project, a tiny detector, and a client of the application."""

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import cv2
import pytest

from tests.model_files import random_image

PORT = 8123
ADDRESS = f'http://127.0.0.1:{PORT}'


def write_images(folder: Path, count: int, height: int = 60, width: int = 80) -> Path:
    """Write ``count`` images 0.png, 1.png and so on."""
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        cv2.imwrite(str(folder / f'{i}.png'), random_image(height, width, seed=i))
    return folder


def box(x1: float, y1: float, x2: float, y2: float, class_id: int = 1, id: str = 'a', **fields) -> dict:
    """A box as the page sends it."""
    return dict(id=id, bbox=[x1, y1, x2, y2], class_id=class_id) | fields


@pytest.fixture
def folder(tmp_path) -> Path:
    """A folder of three images of 80 x 60 pixels."""
    return write_images(tmp_path / 'images', 3)


@pytest.fixture
def open_project() -> Iterator[Callable]:
    """``open_project(folder)`` opens a project that is closed at the end of the test."""
    from dinor1.annotate import Project

    opened = []

    def open_one(folder, work_dir=None):
        opened.append(Project(folder, work_dir))
        return opened[-1]

    yield open_one
    for project in opened:
        project.close()


@pytest.fixture
def project(folder, open_project):
    """Project of the folder, with a class ``coin``."""
    project = open_project(folder)
    project.add_class('coin')
    return project


@pytest.fixture(scope='session')
def detector(model_files):
    from dinor1.annotate import ExemplarDetector
    from dinor1.inference import DINOR1Inferencer

    # An untrained model has low scores.
    return ExemplarDetector(DINOR1Inferencer(model_files.config, model_files.checkpoint, 'cpu'), min_score=0.0)


@pytest.fixture
def runner():
    from dinor1.annotate import JobRunner

    runner = JobRunner()
    yield runner
    runner.close()


@pytest.fixture
def page(project, detector, runner):
    """A server and its client: ``client`` has a session, ``stranger`` has none."""
    pytest.importorskip('fastapi')
    pytest.importorskip('httpx')
    from fastapi.testclient import TestClient

    from dinor1.annotate import create_app
    from dinor1.annotate.security import TOKEN_HEADER, Session

    session = Session(PORT, 'the-token')
    app = create_app(project, detector, runner, session)
    stranger = TestClient(app, ADDRESS, follow_redirects=False)
    client = TestClient(app, ADDRESS, headers={TOKEN_HEADER: session.header})
    assert client.get('/?token=the-token').status_code == 200
    images = list(project.files)
    return SimpleNamespace(
        app=app, client=client, stranger=stranger, session=session, project=project, images=images, runner=runner
    )
