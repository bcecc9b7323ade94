"""Start the page: find a free port, load the detector, open the browser, and serve the page until Ctrl-C."""

import contextlib
import errno
import importlib.util
import socket
import threading
import webbrowser
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dinor1.annotate.detection import ExemplarDetector
from dinor1.annotate.jobs import JobRunner
from dinor1.annotate.project import Project
from dinor1.annotate.transfer import import_annotations
from dinor1.inference import DINOR1Inferencer
from dinor1.utils.errors import InputError

HOST = '127.0.0.1'
_PACKAGES = ('fastapi', 'uvicorn')


def serve(
    folder: Path,
    load_detector: Callable[[], DINOR1Inferencer],
    work_dir: Path | None = None,
    port: int = 0,
    open_browser: bool = True,
    annotations: Path | None = None,
) -> None:
    """Serve the page of a folder until the process is interrupted.

    Args:
        folder: Folder of images.
        load_detector: Loads the detector. It is called after all other checks.
        work_dir: Folder of the state; default: ``.dinor1`` in the folder.
        port: Port of the page; 0: a free port.
        open_browser: Whether to open the page in the user's browser.
        annotations: Annotation file that is imported first.

    Raises:
        InputError: a package is not installed, the folder cannot be used, the port is in use, the file has an error, or
            the last changes could not be written.
    """
    check_packages()
    import uvicorn

    from dinor1.annotate.security import Session
    from dinor1.annotate.server import create_app

    with contextlib.ExitStack() as stack:
        # Check folder and port first, because loading the detector takes several seconds.
        project = Project(folder, work_dir)
        stack.callback(project.close)
        listener = stack.enter_context(bind(port))
        if annotations is not None:
            print(f'{annotations}: {import_annotations(project, annotations)}')
        detector = ExemplarDetector(load_detector())
        # Create the application.
        runner = JobRunner()
        stack.callback(runner.close)
        session = Session(listener.getsockname()[1])
        app = create_app(project, detector, runner, session)
        options: dict[str, Any] = dict(log_level='warning', access_log=False, server_header=False, ws='none')
        server = uvicorn.Server(uvicorn.Config(app, timeout_graceful_shutdown=5, **options))
        # Print the address of the page, and serve it.
        print(f'{len(project.files)} images in {folder}; the state is in {project.work_dir}')
        print(f'Page: {session.address}\nCtrl-C stops the server; all changes are saved.', flush=True)
        if open_browser:
            threading.Thread(target=webbrowser.open, args=(session.address,), daemon=True).start()
        with contextlib.suppress(KeyboardInterrupt):
            server.run(sockets=[listener])
    if project.problem:
        raise InputError(f'the last changes are not saved ({project.problem}); free disk space before the next start')
    print('Stopped. Run the same command again to continue.')


def check_packages() -> None:
    """Check that the packages of the page are installed.

    Raises:
        InputError: a package is missing.
    """
    missing = [name for name in _PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise InputError(f"dinor1 annotate needs the package '{missing[0]}'; pip install 'dinor1[annotate]'")


def bind(port: int) -> socket.socket:
    """A socket that listens at a port of this machine only.

    Args:
        port: The port; 0: a free port.

    Raises:
        InputError: the port is in use, or may not be used.
    """
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((HOST, port))
        listener.listen(128)
    except (OSError, OverflowError) as error:
        listener.close()
        number = getattr(error, 'errno', None)
        reason = 'already in use' if number == errno.EADDRINUSE else 'cannot be used'
        raise InputError(f'--port {port}: {reason}; give another port, or 0 for a free port') from None
    return listener
