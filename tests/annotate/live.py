"""A running server, and a user who operates the page in a browser."""

import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

MARGIN, MAX_SCALE = 16, 8  # margin in pixels and largest scale of an image that is shown completely


class LiveServer:
    """The application in a thread of this process."""

    def __init__(self, project, detector, port: int = 0) -> None:
        import uvicorn

        from dinor1.annotate import JobRunner, create_app
        from dinor1.annotate.launch import bind
        from dinor1.annotate.security import Session

        self.project, self.detector, self.runner = project, detector, JobRunner()
        listener = bind(port)
        self.session = Session(listener.getsockname()[1])
        app = create_app(project, detector, self.runner, self.session)
        self._server = uvicorn.Server(uvicorn.Config(app, log_level='error', access_log=False))
        self._thread = threading.Thread(target=self._server.run, kwargs=dict(sockets=[listener]), daemon=True)
        self._thread.start()

    @property
    def address(self) -> str:
        return self.session.address

    def record(self, name: str):
        """Record of the image with a file name."""
        files = self.project.files
        return self.project.record(next(image for image in files if files.name(image) == name))

    def close(self) -> None:
        self._server.should_exit = True
        self._thread.join(20)
        self.runner.close()


def start_command(folder: Path, model_files, *options: str) -> SimpleNamespace:
    """Start ``dinor1 annotate`` in a separate process, and wait for its address."""
    model = ['--config', model_files.config, '--checkpoint', model_files.checkpoint, '--device', 'cpu']
    command = [sys.executable, '-m', 'dinor1', 'annotate', str(folder), *model, '--no-browser', *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ)
    for line in process.stdout:
        if line.startswith('Page: '):
            return SimpleNamespace(process=process, address=line.split()[1])
    raise AssertionError(f'the server ended with status {process.wait()}')


class PageUser:
    """A user of the page: methods for actions, and for what the page shows.

    Attributes:
        page: The page of Playwright.
        errors: Exceptions and blocked contents that the browser reported.
        hosts: Hosts that the page made requests to.
    """

    def __init__(self, page, address: str) -> None:
        self.page = page
        self.errors: list[str] = []
        self.hosts: set[str] = set()
        page.set_default_timeout(180_000)
        page.on('pageerror', lambda error: self.errors.append(str(error)))
        page.on('console', lambda message: 'Content Security' in message.text and self.errors.append(message.text))
        page.on('request', lambda request: self.hosts.add(request.url.split('/')[2]))
        page.goto(address)
        page.wait_for_selector('.list-row')
        self.wait_saved()
        # Boxes can only be drawn after the first image is shown.
        self.wait_for("document.getElementById('image-name').textContent !== ''")

    def text(self, selector: str) -> str:
        return self.page.locator(selector).inner_text()

    def wait_text(self, selector: str, text: str) -> None:
        self.page.locator(selector).filter(has_text=text).first.wait_for()

    def wait_for(self, expression: str) -> None:
        """Wait until an expression of JavaScript is true; Playwright's own wait needs ``eval``, which is forbidden."""
        wait_until(lambda: self.page.evaluate(expression))

    def wait_saved(self) -> None:
        self.page.locator('#save-state').filter(has_text=re.compile('^Saved$')).wait_for()

    def wait_job(self) -> None:
        """Wait until the search that was just started has ended."""
        self.wait_for("document.getElementById('job').hidden")

    def open(self, name: str) -> None:
        self.page.locator('.list-row', has_text=name).first.click()
        self.wait_text('#image-name', name)

    def point(self, x: float, y: float, size=(80, 60)) -> tuple[float, float]:
        """Position on the page of a point of an image that is shown completely."""
        frame = self.page.locator('#canvas').bounding_box()
        scale = min((frame['width'] - 2 * MARGIN) / size[0], (frame['height'] - 2 * MARGIN) / size[1], MAX_SCALE)
        left = frame['x'] + (frame['width'] - size[0] * scale) / 2
        top = frame['y'] + (frame['height'] - size[1] * scale) / 2
        return left + x * scale, top + y * scale

    def drag(self, start, end, size=(80, 60)) -> None:
        """Drag from one point of the image to another."""
        mouse = self.page.mouse
        mouse.move(*self.point(*start, size))
        mouse.down()
        mouse.move(*self.point((start[0] + end[0]) / 2, (start[1] + end[1]) / 2, size))
        mouse.move(*self.point(*end, size))
        mouse.up()

    def click(self, x: float, y: float) -> None:
        self.page.mouse.click(*self.point(x, y))

    def press(self, *keys: str) -> None:
        for key in keys:
            self.page.keyboard.press(key)

    def add_class(self, name: str) -> None:
        self.press('Shift+C')
        self.page.keyboard.type(name)
        self.press('Enter')
        self.page.locator('.class-name[aria-pressed=true]').filter(has_text=name).wait_for()


def wait_until(condition, seconds: float = 120) -> None:
    """Wait until a condition holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, 'the condition did not hold in time'
        time.sleep(0.05)
