"""The page in the chromium browser of the system."""

import json
import os
import re
import shutil
import signal
from pathlib import Path

import cv2
import pytest

pytest.importorskip('playwright', reason='needs the package playwright')
pytest.importorskip('fastapi')

from playwright.sync_api import sync_playwright

from dinor1.annotate import store
from tests.annotate.conftest import write_images
from tests.annotate.live import LiveServer, PageUser, start_command, wait_until
from tests.model_files import random_image

CHROMIUM = next(filter(None, map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome'))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason='needs chromium (Debian: apt-get install chromium)')


@pytest.fixture(scope='module')
def browser():
    with sync_playwright() as driver:
        # The user root cannot use the sandbox.
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=['--no-sandbox'])
        yield browser
        browser.close()


@pytest.fixture
def visit(browser):
    """``visit(address)`` opens a page in a new session; at the end, no script may have failed."""
    contexts, users = [], []

    def open_page(address, context=None, **options):
        context = context or browser.new_context(viewport=dict(width=1280, height=800), **options)
        contexts.append(context)
        users.append(PageUser(context.new_page(), address))
        return users[-1]

    yield open_page
    for context in contexts:
        context.close()
    assert [error for user in users for error in user.errors] == []


@pytest.fixture
def serve(detector):
    """``serve(project)`` starts a server."""
    servers = []

    def start(project):
        servers.append(LiveServer(project, detector))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


@pytest.fixture
def start(model_files):
    """``start(folder, *options)`` starts the command; at the end, no process is left."""
    started = []

    def run(folder, *options):
        started.append(start_command(folder, model_files, *options))
        return started[-1]

    yield run
    for running in started:
        running.process.kill()
        running.process.wait()


@pytest.fixture
def live(serve, project):
    """A server of three images with a class ``coin``."""
    return serve(project)


def accepted(live, name='0.png'):
    return live.record(name).with_status('accepted')


def test_page_draws_finds_corrects_exports_and_reloads(live, visit):
    """All steps of labelling an image, by pointer."""
    user = visit(live.address)
    assert user.page.url == f'http://127.0.0.1:{live.session.port}/'
    # Draw a box.
    user.drag((10, 10), (40, 35))
    user.wait_saved()
    wait_until(lambda: len(accepted(live)) == 1)
    assert accepted(live)[0].bbox == pytest.approx((10, 10, 40, 35), abs=0.3)
    # Move its corner, then the box.
    user.drag((40, 35), (50, 45))
    user.drag((20, 20), (25, 20))
    wait_until(lambda: accepted(live)[0].bbox == pytest.approx((15, 10, 55, 45), abs=0.5))
    # Find similar objects, and filter the proposals by the threshold.
    user.page.get_by_role('button', name='Find like this').click()
    wait_until(lambda: live.record('0.png').with_status('proposed'))
    user.wait_job()
    assert len(live.project.exemplars) == 1
    user.page.locator('#threshold').fill('0.95')
    user.wait_text('#proposal-count', '0 of ')
    user.page.locator('#threshold').fill('0.05')
    # Export, and read the file.
    user.page.get_by_role('button', name='Checked, next').click()
    user.wait_text('#image-name', '1.png')
    user.page.get_by_role('button', name='Export').click()
    user.page.locator('dialog').get_by_role('button', name='Export').click()
    path = user.page.locator('dialog input.path').input_value()
    (written,) = json.loads(Path(path).read_text())['annotations']
    assert written['bbox'] == pytest.approx([15, 10, 40, 35], abs=0.5)
    user.page.locator('dialog').get_by_role('button', name='Close').click()
    # Reload: the page shows the same state.
    user.page.reload()
    user.wait_text('#progress', '1 of 3 checked')
    user.open('0.png')
    assert user.page.locator('.box-row.accepted').count() == 1
    assert user.page.locator('.exemplar').count() == 1
    assert user.hosts == {f'127.0.0.1:{live.session.port}'}


def test_page_works_without_a_mouse(live, visit):
    user = visit(live.address)
    user.add_class('key')
    # Draw, move and resize a box of the second class, then change its class to the first.
    user.press('b', *['ArrowLeft'] * 3, 'Shift+ArrowUp', *['Alt+ArrowRight'] * 2, 'Alt+Shift+ArrowDown')
    user.wait_saved()
    (drawn,) = accepted(live)
    assert drawn.class_id == 2
    user.press('1')
    wait_until(lambda: accepted(live)[0].class_id == 1)
    user.press('Control+z')
    wait_until(lambda: accepted(live)[0].class_id == 2)
    user.press('Control+Shift+Z')
    wait_until(lambda: accepted(live)[0].class_id == 1)
    # Make an exemplar, search, reject all proposals, undo this, and accept them.
    user.press('e')
    wait_until(lambda: len(live.project.exemplars) == 1)
    user.press('f')
    wait_until(lambda: live.record('0.png').with_status('proposed'))
    user.wait_job()
    user.press(*['['] * 20)
    user.wait_text('#threshold-value', '0.0')
    count = len(live.record('0.png').with_status('proposed'))
    # On a slow machine the page learns of the proposals later.
    user.wait_for(f"document.querySelectorAll('.box-row.proposed').length === {count}")
    user.press('Escape', '.', 'Shift+X')
    wait_until(lambda: len(live.record('0.png').with_status('rejected')) == count)
    user.press('Control+z', 'Shift+A')
    wait_until(lambda: len(accepted(live)) == count + 1)
    # Finish the image, return to it, and delete a box.
    user.press('c')
    user.wait_text('#image-name', '1.png')
    assert live.record('0.png').checked
    user.press('k')
    user.wait_text('#image-name', '0.png')
    user.press('.', 'Delete')
    wait_until(lambda: len(accepted(live)) == count)
    # Open and close the help.
    user.press('?')
    user.wait_text('dialog', 'Keyboard and mouse')
    user.press('Escape')
    user.page.wait_for_selector('dialog', state='detached')


def test_page_accepts_and_rejects_single_proposals(live, visit):
    first = next(iter(live.project.files))
    boxes = [
        dict(id='a', bbox=[5, 5, 20, 20], class_id=1, status='proposed', score=0.9),
        dict(id='b', bbox=[40, 5, 60, 20], class_id=1, status='proposed', score=0.8),
        dict(id='c', bbox=[40, 30, 60, 50], class_id=1, status='proposed', score=0.1),
    ]
    live.project.update_image(first, 0, boxes, False)
    user = visit(live.address)
    user.wait_text('#proposal-count', '2 of 3 proposals')
    user.click(10, 10)
    user.press('Enter', 'x')
    wait_until(
        lambda: {b.id: b.status for b in live.record('0.png').boxes} == dict(a='accepted', b='rejected', c='proposed')
    )
    # A rejected proposal can be restored from the list.
    user.page.get_by_role('button', name='Restore').click()
    wait_until(lambda: live.record('0.png').boxes[1].status == 'proposed')


def test_two_tabs_never_overwrite_each_other(live, visit):
    """Both tabs draw on the same revision: the later tab shows a message, and both boxes exist."""
    first = visit(live.address)
    second = visit(live.address)
    # The second tab does not receive the box of the first tab before it draws its own box.
    held = []
    second.page.route('**/api/state*', lambda route: held.append(route))
    first.drag((5, 5), (20, 20))
    first.wait_saved()
    second.drag((40, 20), (60, 50))
    second.wait_text('#toasts', '0.png was changed in another tab, and your changes were merged')
    for route in held:
        route.abort()
    second.page.unroute_all(behavior='ignoreErrors')
    wait_until(lambda: len(accepted(live)) == 2)
    for user in (first, second):
        user.wait_for("document.querySelectorAll('.box-row.accepted').length === 2")


@pytest.mark.slow
def test_search_continues_after_the_server_is_killed(tmp_path, start, visit):
    """The server is killed during a search, then a box is drawn, then a new server continues."""
    folder = write_images(tmp_path / 'images', 1)
    for i in range(1, 150):
        os.link(folder / '0.png', folder / f'{i}.png')
    running = start(folder)
    user = visit(running.address)
    port = running.address.split(':')[2].split('/')[0]
    user.add_class('coin')
    user.drag((10, 10), (40, 35))
    user.wait_saved()
    user.press('e')
    user.page.wait_for_selector('.exemplar')
    user.press('Shift+F')
    # The page requests the progress about once per second, and may miss some numbers.
    wait_until(lambda: re.search(r'(\d+) of 150', user.text('#job')) is not None)
    running.process.send_signal(signal.SIGKILL)
    running.process.wait()
    # The page reports this, and keeps the new box.
    user.wait_text('.banner', 'The server does not respond')
    user.drag((50, 10), (70, 30))
    user.wait_text('#save-state', 'Not saved')
    # The same command continues the search. The old tab saves its box after the new address was opened.
    again = start(folder, '--port', port)
    visit(again.address, user.page.context)
    user.wait_saved()
    user.wait_text('.banner', 'was interrupted')
    user.page.get_by_role('button', name='Continue').click()
    user.wait_for("document.getElementById('job').hidden && !document.querySelector('.banner')")
    again.process.send_signal(signal.SIGINT)
    assert again.process.wait(60) == 0
    records = [json.loads(path.read_text()) for path in (folder / '.dinor1' / 'images').glob('*.json')]
    assert len(records) == 150
    assert all(record['searched'] for record in records)
    (first,) = [record for record in records if record['name'] == '0.png']
    assert sum(box['status'] == 'accepted' for box in first['boxes']) == 2


def test_list_shows_thousands_of_images(tmp_path, open_project, serve, visit):
    folder = write_images(tmp_path / 'many', 1)
    for i in range(1, 2000):
        os.link(folder / '0.png', folder / f'{i:04}.png')
    user = visit(serve(open_project(folder)).address)
    user.wait_text('#progress', '0 of 2000 checked')
    assert user.page.locator('.list-row').count() < 40
    user.page.locator('#list').focus()
    user.press('End')
    user.wait_text('#image-name', '1999.png')
    user.wait_for(
        "[...document.querySelectorAll('.list-row')].some((row) => row.textContent.includes('1999.png') "
        "&& row.querySelector('img').naturalWidth > 0)"
    )
    assert user.page.locator('.list-row').count() < 40
    user.press('/')
    user.page.keyboard.type('123')
    user.wait_for("document.querySelectorAll('.list-row').length === 12")  # 0123, 1123, 1230 to 1239


def test_page_reports_a_broken_image_and_shows_the_others(folder, project, live, visit):
    (folder / '1.png').write_bytes((folder / '1.png').read_bytes()[:200])
    (folder / '2.png').write_text('not an image')
    user = visit(live.address)
    for name in ('1.png', '2.png'):
        user.press('j')
        user.wait_text('#canvas-message', name)
    user.open('0.png')
    assert not user.page.locator('#canvas-message').is_visible()
    user.drag((10, 10), (40, 35))
    wait_until(lambda: len(accepted(live)) == 1)
    user.press('e', 'Shift+F')
    user.wait_text('#toasts', '2 could not be read')


def test_page_reports_a_full_disk_until_changes_are_saved(live, visit, monkeypatch):
    user = visit(live.address)

    def full(*args, **kwargs):
        raise OSError(28, 'No space left on device')

    with monkeypatch.context() as patch:
        patch.setattr(store, 'write_json', full)
        user.drag((10, 10), (40, 35))
        user.wait_text('.banner.error', 'No space left on device')
        user.wait_text('#save-state', 'Not saved')
    user.page.get_by_role('button', name='Save again').click()
    user.wait_saved()
    assert user.page.locator('.banner').count() == 0
    assert len(accepted(live)) == 1


def test_page_shows_names_as_text_and_not_as_markup(tmp_path, open_project, serve, visit):
    name = '<img src=x onerror=alert(1)>.png'
    folder = tmp_path / 'images'
    folder.mkdir()
    content = cv2.imencode('.png', random_image(60, 80))[1].tobytes()
    (folder / name).write_bytes(content)
    project = open_project(folder)
    project.add_class('<b onclick=alert(1)>bold</b>')
    user = visit(serve(project).address)
    alerts = []
    user.page.on('dialog', lambda dialog: (alerts.append(dialog.message), dialog.dismiss()))
    user.wait_text('#image-name', name)
    user.drag((10, 10), (40, 35))
    user.wait_saved()
    user.press('e')
    user.page.wait_for_selector('.exemplar')
    assert user.text('.class-row .name') == '<b onclick=alert(1)>bold</b>'
    assert user.page.locator('b').count() == 0
    assert alerts == []


def test_import_by_dialog_shows_the_boxes(live, visit, tmp_path):
    content = dict(
        images=[dict(id=1, file_name='0.png', width=80, height=60)],
        annotations=[dict(id=1, image_id=1, category_id=1, bbox=[5, 5, 20, 20], area=400)],
        categories=[dict(id=1, name='key')],
    )
    (tmp_path / 'a.json').write_text(json.dumps(content))
    user = visit(live.address)
    user.press('i')
    user.page.locator('dialog input[type=file]').set_input_files(tmp_path / 'a.json')
    user.page.locator('dialog').get_by_role('button', name='Import').click()
    user.wait_text('#toasts', '1 boxes on 1 images imported')
    user.wait_text('.box-row', 'key')
    user.wait_text('.class-row:nth-child(2)', 'key')


@pytest.mark.parametrize('scheme', ['light', 'dark'])
@pytest.mark.parametrize('size', [(1280, 800), (1060, 700), (800, 600)])
def test_page_fits_into_the_window(live, visit, scheme, size):
    """No control is cut off, and the contrast between text and background is sufficient (WCAG AA)."""
    user = visit(live.address, color_scheme=scheme)
    user.page.set_viewport_size(dict(width=size[0], height=size[1]))
    image = next(iter(live.project.files))
    boxes = [dict(id=f'b{i}', bbox=[i, i, 30 + i, 30 + i], class_id=1, status='proposed', score=0.5) for i in range(25)]
    live.project.update_image(image, 0, boxes, False)
    user.wait_text('#proposal-count', '25')
    outside = user.page.evaluate("""() => {
        const isShown = (e) => e.getClientRects().length > 0 && getComputedStyle(e).visibility === 'visible';
        const controls = [...document.querySelectorAll('header *, .toolbar *, .actions *, .filters *')].filter(isShown);
        return controls.filter((e) => {
            const box = e.getBoundingClientRect();
            const parent = e.closest('header, .toolbar, .actions, .filters').getBoundingClientRect();
            return box.right > parent.right + 1 || box.left < parent.left - 1 || box.bottom > innerHeight;
        }).map((e) => e.outerHTML.slice(0, 80));
    }""")
    assert outside == []
    assert user.page.evaluate('document.documentElement.scrollWidth <= innerWidth')
    contrast = user.page.evaluate("""() => {
        const part = (v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
        const light = (color) => {
            const [r, g, b] = color.match(/[\\d.]+/g).map((v) => part(v / 255));
            return 0.2126 * r + 0.7152 * g + 0.0722 * b;
        };
        const background = (e) => {
            for (; e; e = e.parentElement) {
                const color = getComputedStyle(e).backgroundColor;
                if (!/, 0\\)$/.test(color)) return color;
            }
        };
        const texts = [...document.querySelectorAll('h1, h2, .muted, .progress-text, kbd, button, .list-counts')];
        const enabled = texts.filter((e) => e.textContent && !e.disabled && e.ariaDisabled !== 'true');
        return Math.min(...enabled.map((e) => {
            const pair = [light(getComputedStyle(e).color), light(background(e))].sort((a, b) => b - a);
            return (pair[0] + 0.05) / (pair[1] + 0.05);
        }));
    }""")
    assert contrast >= 4.5


def test_patches_merge_changes_without_conflict(live, visit):
    """The module for undo and merging, compared with cases written by hand."""
    user = visit(live.address)
    result = user.page.evaluate("""async () => {
        const { apply, diff, invert } = await import('/static/js/patch.js');
        const box = (id, x) => ({ id, bbox: [x, 0, x + 5, 5], class_id: 1, status: 'accepted', score: null });
        const base = { boxes: [box('a', 0), box('b', 10), box('c', 20)], checked: false };
        const mine = { boxes: [box('a', 1), box('c', 20), box('d', 30)], checked: true };
        const theirs = { boxes: [box('a', 0), box('b', 11), box('e', 40)], checked: false };
        const merged = apply(theirs, diff(base, mine));
        const back = apply(mine, invert(diff(base, mine)));
        const show = (state) => state.boxes.map((b) => b.id + b.bbox[0]).sort().join(' ');
        const same = diff(base, base).boxes.length;
        return [show(merged), merged.checked, merged.conflicts, show(back), back.checked, same];
    }""")
    # Mine: a moved, b removed, d added. Theirs: b moved (which overrides my removal), c removed, e added.
    assert result == ['a1 b11 d30 e40', True, 1, 'a0 b10 c20', False, 0]
