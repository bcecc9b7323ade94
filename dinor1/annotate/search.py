"""The jobs of a project: search its images for its exemplars, and adapt the prompts to checked images."""

from collections.abc import Sequence

from dinor1.annotate.detection import ADAPTATION, ExemplarDetector, as_proposals, project_prompts, prompt_name
from dinor1.annotate.jobs import Job, JobRunner
from dinor1.annotate.project import Project
from dinor1.annotate.records import ACCEPTED
from dinor1.utils.errors import InputError

RUN = 'run'
_COUNT = 'adaptations'


def submit_find(
    project: Project, detector: ExemplarDetector, runner: JobRunner, images: Sequence[str] | None = None
) -> Job:
    """Queue a search.

    Args:
        project: The project.
        detector: The detector.
        runner: Runs the job.
        images: Ids of the images. None: all images that are not checked and were not searched with these prompts yet,
            so that an interrupted search continues.

    Raises:
        InputError: there is nothing to search for, or no image to search.
        UnknownIdError: an id does not belong to an image.
    """
    # Choose the images.
    prompts = project_prompts(project, detector.weights)
    if images is None:
        records = {image: project.record(image) for image in project.files}
        chosen = [i for i, record in records.items() if not record.checked and record.searched != prompts.key]
        if not chosen:
            raise InputError('all images are checked, or were already searched with these exemplars; add an exemplar')
        project.attach(RUN, dict(total=len(chosen)))
    else:
        chosen = list(images)
        for image in chosen:
            project.record(image)
    # Queue the search with the settings of this moment.
    settings = project.settings

    def work(job: Job) -> str:
        for image in chosen:
            if job.is_cancelled:
                break
            # Search an image. An image that cannot be read does not end the search.
            try:
                project.image_size(image)
                path = project.files.path(image)
                found = detector.find(path, prompts, settings.nms_thr, settings.class_agnostic)
                job.found += project.set_proposals(image, as_proposals(project, prompts, found, image), prompts.key)
            except InputError as error:
                if len(chosen) == 1:
                    raise
                job.add_problem(str(error))
            job.done += 1
        # A search that is complete, or that the user has cancelled, is not continued after a restart.
        if images is None and not (job.is_cancelled and runner.is_closing):
            project.attach(RUN, None)
        unread = f', {len(job.problems)} could not be read' if job.problems else ''
        return f'{job.found} proposals on {job.done} of {job.total} images{unread}'

    return runner.submit('find', len(chosen), work)


def submit_adapt(project: Project, detector: ExemplarDetector, runner: JobRunner) -> Job:
    """Queue an adaptation of the prompts to the checked images that have boxes.

    Raises:
        InputError: no image is checked and has boxes, or classes are searched for by name.
    """
    # Collect the checked images that have boxes.
    classes = {c.id: c for c in project.classes}
    checked = [(image, project.record(image)) for image in project.files if project.record(image).checked]
    labelled = [(image, record.with_status(ACCEPTED)) for image, record in checked if record.with_status(ACCEPTED)]
    if not labelled:
        raise InputError('no image with boxes is checked; draw a box around every object of an image, and press C')
    if any(c.by_name for c in project.classes):
        raise InputError('an adaptation only tunes exemplars; switch off the search by name first')

    def work(job: Job) -> str:
        # Tune the prompts.
        prompts = project_prompts(project, detector.weights, [image for image, _ in labelled])
        exemplars = [e.id for e in project.exemplars if prompts.has_positive or not e.negative]
        for image, _ in labelled:
            project.image_size(image)
        count = project.attachments.get(_COUNT, 0) + 1
        file = f'adapted-{count}.safetensors'
        adapted = detector.adapt(
            prompts,
            [project.files.path(image) for image, _ in labelled],
            [[box.bbox for box in boxes] for _, boxes in labelled],
            [[classes[box.class_id].name for box in boxes] for _, boxes in labelled],
            project.work_dir / file,
        )
        # Use the tuned prompts in later searches.
        if adapted.kept:
            ids = {prompt_name(c.name, hidden): [c.id, hidden] for c in classes.values() for hidden in (False, True)}
            entries = [[name, *ids[name]] for name in adapted.names]
            project.attach(_COUNT, count)
            project.attach(ADAPTATION, dict(file=file, classes=entries, exemplars=exemplars, figures=adapted.figures))
        job.done = 1
        return adapted.figures

    return runner.submit('adapt', 1, work, can_cancel=False)
