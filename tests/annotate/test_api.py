"""The application: search, cancellation, adaptation, import, export, and several clients at the same time."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

pytest.importorskip('fastapi')
pytest.importorskip('httpx')

from dinor1.annotate.detection import project_prompts
from dinor1.annotations import check_path
from dinor1.inference import DINOR1Inferencer
from tests.annotate.conftest import box, write_images

WHOLE = [5, 5, 40, 40]


def wait(page, job):
    """Wait for a job; returns its last state."""
    assert page.runner.get(job['id']).wait(60)
    return page.runner.get(job['id']).to_json()


def find(page, images=None):
    answer = page.client.post('/api/find', json=dict(images=images))
    assert answer.status_code == 200, answer.text
    return wait(page, answer.json())


def add_exemplar(page, image=0, bbox=WHOLE, class_id=1, **fields):
    body = dict(image=page.images[image], bbox=bbox, class_id=class_id) | fields
    answer = page.client.post('/api/exemplars', json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def put(page, image, revision, boxes, checked=False):
    body = dict(revision=revision, boxes=boxes, checked=checked)
    return page.client.put(f'/api/images/{page.images[image]}', json=body)


def test_find_equals_the_detections_of_the_inferencer(page, model_files, folder):
    add_exemplar(page)
    done = find(page, [page.images[1]])
    assert (done['state'], done['done'], done['total']) == ('done', 1, 1)
    record = page.client.get(f'/api/images/{page.images[1]}').json()
    inferencer = DINOR1Inferencer(model_files.config, model_files.checkpoint, 'cpu')
    (expected,) = inferencer(
        str(folder / '1.png'),
        [(str(folder / '0.png'), [WHOLE], 'coin')],
        score_thr=0,
        nms_thr=0.5,
        class_agnostic_nms=True,
        as_dict=True,
    )
    kept = [b for b in record['boxes'] if b['status'] == 'proposed']
    assert 0 < len(kept) == done['found']
    assert [b['score'] for b in kept] == pytest.approx(expected['scores'][: len(kept)], abs=1e-6)
    assert kept[0]['bbox'] == pytest.approx(expected['bboxes'][0], abs=0.01)
    assert record['state'] == 'proposed'


def test_find_without_exemplars_reports_what_to_do(page):
    answer = page.client.post('/api/find', json=dict(images=None))
    assert answer.status_code == 400
    assert 'press E to make it an exemplar' in answer.json()['error']
    add_exemplar(page, negative=True)
    assert page.client.post('/api/find', json=dict(images=None)).status_code == 400


def test_find_on_all_skips_checked_and_searched_images(page):
    add_exemplar(page)
    put(page, 2, 0, [], checked=True)
    done = find(page)
    assert (done['done'], done['state']) == (2, 'done')
    again = page.client.post('/api/find', json=dict(images=None))
    assert 'already searched with these exemplars' in again.json()['error']
    # With another exemplar, both images are searched again.
    add_exemplar(page, bbox=[20, 20, 60, 50])
    assert find(page)['total'] == 2


def test_negative_exemplars_are_not_reported(page):
    page.project.add_class('key')
    add_exemplar(page)
    add_exemplar(page, bbox=[30, 30, 70, 55], class_id=2, negative=True)
    find(page, [page.images[1]])
    assert {b['class_id'] for b in page.client.get(f'/api/images/{page.images[1]}').json()['boxes']} == {1}


def test_find_continues_after_a_broken_image(page, folder):
    (folder / '1.png').write_bytes(b'not an image')
    add_exemplar(page)
    done = find(page)
    assert (done['state'], done['done']) == ('done', 3)
    assert len(done['problems']) == 1
    assert done['problems'][0].startswith('1.png: ')
    assert 'could not be read' in done['message']
    answer = page.client.get(f'/api/images/{page.images[1]}')
    assert (answer.status_code, answer.json()['error'][:7]) == (400, '1.png: ')
    assert find_failed(page, 1)['state'] == 'failed'


def find_failed(page, image):
    return wait(page, page.client.post('/api/find', json=dict(images=[page.images[image]])).json())


def test_cancelled_search_keeps_its_results_and_can_continue(page, detector, monkeypatch):
    add_exemplar(page)
    reached, go_on, original = threading.Event(), threading.Event(), detector.find

    def slow(*args):
        found = original(*args)
        reached.set()
        assert go_on.wait(30)
        return found

    monkeypatch.setattr(detector, 'find', slow)
    job = page.client.post('/api/find', json=dict(images=None)).json()
    assert reached.wait(30)
    assert page.client.get('/api/state').json()['jobs'][-1]['state'] == 'running'
    assert page.client.get('/api/state').json()['common']['run'] == dict(total=3)
    page.client.post(f'/api/jobs/{job["id"]}/cancel')
    go_on.set()
    done = wait(page, job)
    assert (done['state'], done['done']) == ('cancelled', 1)
    assert page.client.get('/api/state').json()['common']['run'] is None
    assert find(page)['total'] == 2


def test_update_with_an_old_revision_returns_the_current_record(page):
    first = put(page, 0, 0, [box(1, 1, 20, 20)])
    assert (first.status_code, first.json()['revision']) == (200, 1)
    stale = put(page, 0, 0, [])
    assert stale.status_code == 409
    assert [b['id'] for b in stale.json()['boxes']] == ['a']
    assert put(page, 0, 1, []).status_code == 200


def test_state_has_only_changes(page):
    everything = page.client.get('/api/state').json()
    assert [entry['name'] for entry in everything['images']] == ['0.png', '1.png', '2.png']
    put(page, 1, 0, [box(1, 1, 20, 20), box(1, 1, 9, 9, id='b', status='proposed', score=0.75)])
    changed = page.client.get('/api/state', params=dict(since=everything['sequence'])).json()
    assert [(entry['name'], entry['accepted'], entry['scores']) for entry in changed['images']] == [
        ('1.png', 1, [0.75])
    ]
    assert 'common' not in changed


def test_requests_change_classes_and_exemplars(page):
    key = page.client.post('/api/classes', json=dict(name='key')).json()
    assert page.client.patch(f'/api/classes/{key["id"]}', json=dict(name='old key')).json()['name'] == 'old key'
    assert page.client.patch(f'/api/classes/{key["id"]}', json=dict(size=3)).status_code == 400
    exemplar = add_exemplar(page, class_id=key['id'])
    assert 'has exemplars' in page.client.delete(f'/api/classes/{key["id"]}').json()['error']
    assert page.client.get(f'/api/exemplars/{exemplar["id"]}/crop').headers['content-type'] == 'image/jpeg'
    assert page.client.patch(f'/api/exemplars/{exemplar["id"]}', json=dict(negative=True)).json()['negative']
    assert page.client.delete(f'/api/exemplars/{exemplar["id"]}').status_code == 200
    assert page.client.get(f'/api/exemplars/{exemplar["id"]}/crop').status_code == 404
    assert page.client.delete(f'/api/classes/{key["id"]}').status_code == 200
    assert page.client.delete('/api/classes/77').status_code == 400


def test_bank_adds_its_classes_and_is_a_prompt(page, model_files, other_files, folder, tmp_path):
    # Save banks of this and of another model.
    for name, files in (('own', model_files), ('other', other_files)):
        inferencer = DINOR1Inferencer(files.config, files.checkpoint, 'cpu')
        inferencer.set_prompts([(str(folder / '0.png'), [WHOLE], 'Key')])
        inferencer.save_bank(tmp_path / f'{name}.safetensors')
    # The bank of the other model is rejected. The own bank can be used, also after its class was renamed.
    other = page.client.post('/api/bank?name=other.safetensors', content=(tmp_path / 'other.safetensors').read_bytes())
    assert 'other.safetensors: this prompt bank was made by another model' in other.json()['error']
    assert [c.name for c in page.project.classes] == ['coin']
    own = page.client.post('/api/bank?name=own.safetensors', content=(tmp_path / 'own.safetensors').read_bytes())
    assert own.status_code == 200
    key = page.project.class_named('key')
    page.project.change_class(key.id, dict(name='lock'))
    find(page, [page.images[1]])
    boxes = page.client.get(f'/api/images/{page.images[1]}').json()['boxes']
    assert {b['class_id'] for b in boxes} == {key.id}
    assert 'part of the prompt bank' in page.client.delete(f'/api/classes/{key.id}').json()['error']
    # Without the bank, there is nothing to search for.
    assert page.client.delete('/api/bank').status_code == 200
    assert page.client.post('/api/find', json=dict(images=None)).status_code == 400


def test_adapt_uses_checked_images_until_an_exemplar_changes(page, detector):
    exemplar = add_exemplar(page, image=0)
    assert 'no image with boxes is checked' in page.client.post('/api/adapt').json()['error']
    put(page, 1, 0, [box(*WHOLE)], checked=True)
    done = wait(page, page.client.post('/api/adapt').json())
    # With one image there is no check on other images, and the result is always kept.
    assert (done['state'], done['message'][:5]) == ('done', 'kept:')
    adaptation = page.client.get('/api/state').json()['common']['adaptation']
    assert adaptation['exemplars'] == [exemplar['id']]
    prompts = project_prompts(page.project, detector.weights)
    assert prompts.visual == ()
    assert find(page, [page.images[2]])['state'] == 'done'
    # A new exemplar does not affect the adaptation. A change of one of its exemplars removes it.
    add_exemplar(page, image=2)
    assert len(project_prompts(page.project, detector.weights).visual) == 1
    page.client.delete(f'/api/exemplars/{exemplar["id"]}')
    assert page.client.get('/api/state').json()['common']['adaptation'] is None


def coco(names=('0.png',), **fields):
    """A COCO file with a box on each image."""
    images = [dict(id=i, file_name=f'sub/{name}', width=80, height=60) for i, name in enumerate(names)]
    boxes = [dict(id=i, image_id=i, category_id=7, bbox=[10, 10, 20, 30], area=600) | fields for i in range(len(names))]
    return dict(images=images, annotations=boxes, categories=[dict(id=7, name='Coin')])


def test_import_adds_boxes_once(page):
    content = json.dumps(coco(['0.png', '1.png', 'elsewhere.png']))
    first = page.client.post('/api/import?name=a.json', content=content).json()
    assert first['message'] == ('2 boxes on 2 images imported; 1 on images that are not in this folder')
    assert '2 existed already' in page.client.post('/api/import', content=content).json()['message']
    (imported,) = page.client.get(f'/api/images/{page.images[1]}').json()['boxes']
    assert (imported['bbox'], imported['class_id'], imported['status']) == ([10, 10, 30, 40], 1, 'accepted')


def test_import_with_scores_gives_proposals(page):
    page.client.post('/api/import', content=json.dumps(coco(score=0.4)))
    (imported,) = page.client.get(f'/api/images/{page.images[0]}').json()['boxes']
    assert (imported['status'], imported['score']) == ('proposed', 0.4)


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        (b'{', 'a.json: not valid JSON'),
        (b'{}', "a.json: not a COCO file, it has no list 'images'"),
        (json.dumps(coco(['elsewhere.png'])).encode(), 'none of its 1 images is in this folder'),
        (json.dumps(coco(bbox=[10, 10, 0, 5])).encode(), 'a.json: '),
        (json.dumps(coco(category_id=8)).encode(), 'a.json: '),
        (json.dumps(coco(['x/0.png', 'y/0.png'])).encode(), 'several of its images are named 0.png'),
    ],
)
def test_import_of_a_damaged_file_changes_nothing(page, content, message):
    before = page.project.sequence
    answer = page.client.post('/api/import?name=a.json', content=content)
    assert answer.status_code == 400
    assert message in answer.json()['error']
    assert '/tmp' not in answer.json()['error']
    assert page.project.sequence == before


def test_export_writes_checked_images_that_can_be_imported_again(page, open_project, tmp_path):
    put(page, 0, 0, [box(10, 10, 30, 40), box(1, 1, 9, 9, id='b', status='proposed', score=0.5)], checked=True)
    put(page, 1, 0, [box(5, 5, 25, 25)])
    done = page.client.post('/api/export', json=dict(format='coco', images='checked')).json()
    assert (done['num_images'], done['num_boxes'], done['num_proposals']) == (1, 1, 1)
    path = page.project.work_dir / 'export' / 'coco' / 'annotations.json'
    assert done['paths'] == [str(path)]
    assert json.loads(path.read_text())['annotations'][0]['bbox'] == [10, 10, 20, 30]
    ((checked,), _) = check_path(path)
    assert checked.errors == []
    # Another project with copies of the images imports the file.
    other = open_project(write_images(tmp_path / 'copies', 3))
    from dinor1.annotate import import_annotations

    assert import_annotations(other, path).num_boxes == 1
    assert other.record(next(iter(other.files))).boxes[0].bbox == (10, 10, 30, 40)


@pytest.mark.parametrize('format', ['coco', 'yolo', 'odvg'])
def test_export_of_all_images_with_boxes(page, format):
    put(page, 1, 0, [box(8, 6, 40, 36)])
    assert page.client.post('/api/export', json=dict(format=format)).status_code == 400
    done = page.client.post('/api/export', json=dict(format=format, images='all')).json()
    assert (done['num_images'], done['num_boxes']) == (1, 1)
    if format == 'yolo':
        text = (page.project.work_dir / 'export/yolo/labels/1.txt').read_text()
        assert text == '0 0.300000 0.350000 0.400000 0.500000\n'
        return
    ((checked,), _) = check_path(page.project.work_dir / 'export' / format)
    assert checked.errors == []


def test_export_reports_a_full_disk(page, monkeypatch):
    put(page, 1, 0, [], checked=True)

    def full(*args, **kwargs):
        raise OSError(28, 'No space left on device', '/somewhere/annotations.json')

    monkeypatch.setattr('dinor1.inference.export.write_json', full)
    answer = page.client.post('/api/export', json=dict(format='coco'))
    assert answer.status_code == 507
    assert answer.json()['error'].startswith('/somewhere/annotations.json: No space left on device')


def test_export_of_an_unknown_format_is_rejected(page):
    put(page, 1, 0, [], checked=True)
    assert 'unknown format' in page.client.post('/api/export', json=dict(format='../x')).json()['error']


def test_requests_with_unknown_ids_have_status_404(page):
    assert page.client.get('/api/images/unknown').status_code == 404
    assert page.client.post('/api/find', json=dict(images=['unknown'])).status_code in (400, 404)
    assert page.client.post('/api/jobs/99/cancel').status_code == 404


def test_update_image_by_eight_clients_keeps_all_boxes(page):
    """Each client adds boxes to the same image, and repeats an update with an old revision."""

    def add(client):
        for i in range(5):
            while True:
                record = page.client.get(f'/api/images/{page.images[0]}').json()
                boxes = [*record['boxes'], box(1, 1, 20, 20, id=f'c{client}-{i}')]
                answer = put(page, 0, record['revision'], boxes)
                if answer.status_code == 200:
                    break
                assert answer.status_code == 409

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(add, range(8)))
    record = page.client.get(f'/api/images/{page.images[0]}').json()
    assert record['revision'] == 40
    assert {b['id'] for b in record['boxes']} == {f'c{client}-{i}' for client in range(8) for i in range(5)}


def test_text_prompts_are_rejected_by_a_model_without_language_model(page):
    assert not page.client.get('/api/session').json()['has_text']
    page.client.patch('/api/classes/1', json=dict(by_name=True))
    done = wait(page, page.client.post('/api/find', json=dict(images=[page.images[0]])).json())
    assert done['state'] == 'failed'
    assert 'no language model' in done['message']
