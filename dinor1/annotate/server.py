"""The web application: the routes of the page, which call the project and its jobs."""

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

from fastapi import Depends, FastAPI, HTTPException, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import FileResponse, JSONResponse, Response
from fastapi.staticfiles import StaticFiles

import dinor1
from dinor1.annotate.detection import ADAPTATION, BANK, ExemplarDetector, load_bank
from dinor1.annotate.jobs import JobRunner
from dinor1.annotate.project import Project, StaleRevisionError
from dinor1.annotate.records import ACCEPTED, PROPOSED, ImageRecord, UnknownIdError, to_json
from dinor1.annotate.search import RUN, submit_adapt, submit_find
from dinor1.annotate.security import Guard, Session
from dinor1.annotate.transfer import export_project, import_annotations
from dinor1.utils.errors import InputError

STATIC = Path(__file__).parent / 'static'
Body = dict[str, Any]


async def _json(request: Request) -> Body:
    """Read the body of a request, which must be a JSON object."""
    try:
        content = json.loads(await request.body())
    except (ValueError, RecursionError):
        raise HTTPException(400, 'the request is not JSON') from None
    if not isinstance(content, dict):
        raise HTTPException(400, 'the request is not a JSON object')
    return content


Json = Annotated[Body, Depends(_json)]


def create_app(project: Project, detector: ExemplarDetector, runner: JobRunner, session: Session) -> Any:
    """Create the application, an ASGI callable.

    The response to a user error has the status 400 and the body ``{"error": line}``. An unknown id gives 404. An update
    that is based on an old revision of an image gives 409 and the current record. A file that cannot be written gives
    507.

    Args:
        project: The folder that is labelled.
        detector: The detector.
        runner: Runs the jobs.
        session: The secrets of the server.
    """
    # Map errors to responses, and serve the static files.
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.add_exception_handler(InputError, _user_error)
    app.add_exception_handler(UnknownIdError, _unknown_id)
    app.add_exception_handler(OSError, _disk_error)
    app.add_exception_handler(HTTPException, _http_error)
    app.mount('/static', StaticFiles(directory=STATIC))

    # Add the page, and the values that do not change while the server runs.
    @app.get('/')
    def index() -> FileResponse:
        return FileResponse(STATIC / 'index.html')

    @app.get('/api/session')
    def get_session() -> Body:
        return dict(
            token=session.header,
            folder=_display(str(project.files.folder)),
            work_dir=_display(str(project.work_dir)),
            has_text=detector.has_text,
            version=dinor1.__version__,
        )

    # Add the other routes, and protect all of them.
    _add_state(app, project, runner)
    _add_images(app, project)
    _add_classes_and_exemplars(app, project)
    _add_jobs(app, project, detector, runner)
    _add_files(app, project, detector)
    return Guard(app, session)


def _add_state(app: FastAPI, project: Project, runner: JobRunner) -> None:
    """Add the routes of the state: the page regularly requests the changes since its last request."""

    @app.get('/api/state')
    def state(since: int = 0) -> Body:
        # Read the sequence first: a change that happens during this function is then reported again, not lost.
        sequence = project.sequence
        answer: Body = dict(
            sequence=sequence,
            images=[_summary(project, image) for image in project.changed_images(since)],
            jobs=[job.to_json() for job in runner.recent()],
            problem=_display(project.problem),
        )
        if project.common_changed(since):
            answer['common'] = _common(project)
        return answer

    @app.post('/api/save')
    def save() -> Body:
        project.retry()
        return dict(problem=_display(project.problem))

    @app.patch('/api/settings')
    def settings(body: Json) -> Body:
        return to_json(project.change_settings(body))


def _add_images(app: FastAPI, project: Project) -> None:
    """Add the routes of an image: its boxes, its file and its thumbnail."""

    @app.get('/api/images/{image}')
    def get_image(image: str) -> Body:
        project.image_size(image)
        return _image(project, image)

    @app.put('/api/images/{image}')
    def put_image(image: str, body: Json) -> JSONResponse:
        try:
            project.update_image(image, body.get('revision', -1), body.get('boxes'), body.get('checked'))
        except StaleRevisionError:
            return JSONResponse(_image(project, image) | dict(error='the image was changed in another tab'), 409)
        return JSONResponse(_image(project, image))

    @app.get('/api/images/{image}/file')
    def get_file(image: str) -> Response:
        content, media_type = project.files.content(image)
        return Response(content, media_type=media_type)

    @app.get('/api/images/{image}/thumbnail')
    def get_thumbnail(image: str) -> Response:
        headers = {'cache-control': 'private, max-age=86400'}  # the address names the version of the file
        return Response(project.files.thumbnail(image), media_type='image/jpeg', headers=headers)


def _add_classes_and_exemplars(app: FastAPI, project: Project) -> None:
    """Add the routes that add, change and remove classes and exemplars."""

    # Classes.
    @app.post('/api/classes')
    def add_class(body: Json) -> Body:
        return to_json(project.add_class(body.get('name'), body.get('color')))

    @app.patch('/api/classes/{class_id}')
    def change_class(class_id: int, body: Json) -> Body:
        return to_json(project.change_class(class_id, body))

    @app.delete('/api/classes/{class_id}')
    def remove_class(class_id: int) -> Body:
        project.remove_class(class_id)
        return {}

    # Exemplars. A change of an exemplar removes the adaptation that was made with it.
    @app.post('/api/exemplars')
    def add_exemplar(body: Json) -> Body:
        image, bbox, class_id = str(body.get('image')), body.get('bbox'), body.get('class_id')
        return to_json(project.add_exemplar(image, bbox, class_id, body.get('negative', False)))

    @app.patch('/api/exemplars/{exemplar}')
    def change_exemplar(exemplar: str, body: Json) -> Body:
        changed = project.change_exemplar(exemplar, body.get('negative'))
        _drop_adaptation(project, exemplar)
        return to_json(changed)

    @app.delete('/api/exemplars/{exemplar}')
    def remove_exemplar(exemplar: str) -> Body:
        project.remove_exemplar(exemplar)
        _drop_adaptation(project, exemplar)
        return {}

    @app.get('/api/exemplars/{exemplar}/crop')
    def get_crop(exemplar: str) -> Response:
        found = next((e for e in project.exemplars if e.id == exemplar), None)
        if found is None:
            raise UnknownIdError(exemplar)
        return Response(project.files.crop(found.image, found.bbox), media_type='image/jpeg')


def _add_jobs(app: FastAPI, project: Project, detector: ExemplarDetector, runner: JobRunner) -> None:
    """Add the routes that start, cancel and discard searches and adaptations."""

    @app.post('/api/find')
    def find(body: Json) -> Body:
        images = body.get('images')
        if images is not None and (not isinstance(images, list) or not images):
            raise InputError('images must be a list of ids, or null for all; load the page again')
        return submit_find(project, detector, runner, images).to_json()

    @app.post('/api/adapt')
    def adapt() -> Body:
        return submit_adapt(project, detector, runner).to_json()

    @app.delete('/api/adaptation')
    def remove_adaptation() -> Body:
        project.attach(ADAPTATION, None)
        return {}

    @app.post('/api/jobs/{number}/cancel')
    def cancel(number: int) -> Body:
        return runner.cancel(number).to_json()

    @app.delete('/api/run')
    def forget_run() -> Body:
        project.attach(RUN, None)
        return {}


def _add_files(app: FastAPI, project: Project, detector: ExemplarDetector) -> None:
    """Add the routes for annotation files and prompt banks."""

    # Import of annotations.
    @app.post('/api/import')
    async def import_file(request: Request, name: str = 'annotations.json') -> Body:
        def work(path: Path) -> str:
            return str(import_annotations(project, path))

        return dict(message=await _with_upload(request, name, work))

    # Prompt banks.
    @app.post('/api/bank')
    async def add_bank(request: Request, name: str = 'bank.safetensors') -> Body:
        content = await request.body()
        await run_in_threadpool(load_bank, project, detector, content, Path(name).name)
        return {}

    @app.delete('/api/bank')
    def remove_bank() -> Body:
        project.attach(BANK, None)
        return {}

    # Export of annotations.
    @app.post('/api/export')
    def export(body: Json) -> Body:
        done = export_project(project, str(body.get('format')), body.get('images') == 'all')
        paths = [_display(str(path)) for path in done.paths]
        return done._asdict() | dict(paths=paths, unreadable=[_display(line) for line in done.unreadable])


# ---------------------------------------------------------------- answers


def _summary(project: Project, image: str) -> Body:
    """Values that the list shows for an image."""
    record = project.record(image)
    counts = [len(record.with_status(status)) for status in (ACCEPTED, PROPOSED)]
    scores = [round(box.score or 0, 3) for box in record.with_status(PROPOSED)]
    return dict(
        id=image,
        name=_display(project.files.name(image)),
        state=record.state,
        revision=record.revision,
        accepted=counts[0],
        scores=scores,
        version=str(project.files.version(image)),
    )


def _image(project: Project, image: str) -> Body:
    """An image with its boxes, and the reason if they are not on the disk."""
    record: ImageRecord = project.record(image)
    names = dict(id=image, name=_display(project.files.name(image)), state=record.state)
    return to_json(record) | names | dict(version=str(project.files.version(image)), problem=_display(project.problem))


def _common(project: Project) -> Body:
    """State that all images share."""
    files, attachments = project.files, project.attachments
    exemplars = [to_json(e) | dict(image_name=_display(files.name(e.image))) for e in project.exemplars]
    return dict(
        classes=[to_json(c) for c in project.classes],
        exemplars=exemplars,
        settings=to_json(project.settings),
        bank=attachments.get(BANK),
        adaptation=attachments.get(ADAPTATION),
        run=attachments.get(RUN),
    )


def _drop_adaptation(project: Project, exemplar: str) -> None:
    """Remove an adaptation that was made with an exemplar that changes."""
    adaptation = project.attachments.get(ADAPTATION)
    if adaptation and exemplar in adaptation['exemplars']:
        project.attach(ADAPTATION, None)


def _display(text: str) -> str:
    """A path as text; bytes that are not UTF-8 are replaced."""
    return text.encode('utf-8', 'surrogateescape').decode('utf-8', 'replace')


async def _with_upload(request: Request, name: str, work: Callable[[Path], str]) -> str:
    """Call a function with an uploaded file, which has its original name in a temporary folder."""
    content = await request.body()

    # Work in a thread, so that the server can respond to other requests.
    def run() -> str:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / (Path(name).name.replace('\0', '').strip('.')[-100:] or 'annotations.json')
            path.write_bytes(content)
            return work(path)

    return await run_in_threadpool(run)


async def _user_error(request: Request, error: Exception) -> JSONResponse:
    return JSONResponse(dict(error=_display(str(error))), 400)


async def _unknown_id(request: Request, error: Exception) -> JSONResponse:
    return JSONResponse(dict(error='this image, box or job does not exist any more; load the page again'), 404)


async def _disk_error(request: Request, error: Any) -> JSONResponse:
    where = '' if error.filename is None else f'{error.filename}: '
    return JSONResponse(dict(error=_display(f'{where}{error.strerror or error}; free space, or check the disk')), 507)


async def _http_error(request: Request, error: Any) -> JSONResponse:
    return JSONResponse(dict(error=error.detail), error.status_code)
