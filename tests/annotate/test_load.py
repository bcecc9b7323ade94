"""The server under load: many searches in a row, several clients at once, requests that are broken off."""

import gc
import os
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

pytest.importorskip('fastapi')
pytest.importorskip('httpx')

import httpx

from dinor1.annotate.security import TOKEN_HEADER
from tests.annotate.live import LiveServer, wait_until


@pytest.fixture
def live(project, detector):
    live = LiveServer(project, detector)
    image = next(iter(project.files))
    project.add_exemplar(image, [5, 5, 40, 40], 1)
    yield live
    live.close()


@contextmanager
def client_of(live):
    """A client with a session."""
    address = f'http://127.0.0.1:{live.session.port}'
    with httpx.Client(base_url=address, headers={TOKEN_HEADER: live.session.header}, timeout=60) as client:
        assert client.get(live.address).status_code == 303
        yield client


def search(live, client, image):
    """Search an image, and return the state of the job."""
    answer = client.post('/api/find', json=dict(images=[image]))
    assert answer.status_code == 200, answer.text
    job = live.runner.get(answer.json()['id'])
    assert job.wait(120)
    return job.state


def resident_mib():
    pages = int(Path('/proc/self/statm').read_text().split()[1])
    return pages * os.sysconf('SC_PAGE_SIZE') / 2**20


@pytest.mark.slow
@pytest.mark.skipif(not Path('/proc/self/statm').exists(), reason='needs the memory figures of Linux')
def test_memory_is_flat_over_ten_thousand_searches(live):
    count, images = 10_000, list(live.project.files)
    with client_of(live) as client:
        for i in range(count // 10):
            search(live, client, images[i % 3])
        gc.collect()
        before = resident_mib()
        for i in range(count):
            assert search(live, client, images[i % 3]) == 'done'
            client.get('/api/state', params=dict(since=live.project.sequence))
        gc.collect()
        growth = resident_mib() - before
    print(f'{count} searches: {before:.0f} MiB, {growth:+.1f} MiB')
    assert growth < 24


def test_eight_clients_search_at_once(live):
    images = list(live.project.files)

    def use(number):
        with client_of(live) as client:
            return [search(live, client, images[(number + i) % 3]) for i in range(4)]

    with ThreadPoolExecutor(8) as pool:
        states = list(pool.map(use, range(8)))
    assert states == [['done'] * 4] * 8
    assert len(live.runner.recent()) == 1


def test_requests_that_are_broken_off_leave_nothing_behind(live):
    """Connections that end within the header, within the body, and before the answer."""
    image = next(iter(live.project.files))
    start = f'PUT /api/images/{image} HTTP/1.1\r\nHost: 127.0.0.1:{live.session.port}\r\n'
    session = f'Cookie: {live.session.cookie_name}={live.session.cookie}\r\n{TOKEN_HEADER}: {live.session.header}\r\n'
    body = '{"revision": 0, "boxes": [], "checked": true}'
    full = f'{start}{session}Content-Length: {len(body)}\r\n\r\n{body}'
    with client_of(live) as client:
        client.get('/api/state')
        before = len(os.listdir('/proc/self/fd')) if Path('/proc/self/fd').exists() else 0
        for text in (start, f'{start}{session}Content-Length: 1000\r\n\r\n{body}', f'{start}{session}Content-Le') * 20:
            with socket.create_connection(('127.0.0.1', live.session.port)) as connection:
                connection.sendall(text.encode())
        assert live.project.record(image).revision == 0
        # A whole request counts, although its client does not read the answer.
        with socket.create_connection(('127.0.0.1', live.session.port)) as connection:
            connection.sendall(full.encode())
            connection.recv(1)
        assert live.project.record(image).checked
        assert client.get('/api/state').status_code == 200
        if before:
            wait_until(lambda: len(os.listdir('/proc/self/fd')) <= before + 5)


def test_jobs_that_wait_are_limited(live, monkeypatch):
    """A client that submits without end is refused, and can go on later."""
    image, go_on = next(iter(live.project.files)), threading.Event()
    monkeypatch.setattr(live.detector, 'find', lambda *args: go_on.wait(60) and [])
    with client_of(live) as client:
        answers = [client.post('/api/find', json=dict(images=[image])) for _ in range(103)]
        assert [answer.status_code for answer in answers[-1:]] == [400]
        assert '100 jobs wait already' in answers[-1].json()['error']
        go_on.set()
        accepted = [answer for answer in answers if answer.status_code == 200]
        assert live.runner.get(accepted[-1].json()['id']).wait(60)
        assert search(live, client, image) == 'done'
