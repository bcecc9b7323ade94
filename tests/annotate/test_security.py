"""The security rules of the server, each with a valid and an invalid request."""

import pytest

pytest.importorskip('fastapi')
pytest.importorskip('httpx')

from dinor1.annotate import security
from dinor1.annotate.security import TOKEN_HEADER, Session
from tests.annotate.conftest import ADDRESS, PORT, box

READS = ('/api/state', '/api/session', '/static/js/main.js', '/')


def test_token_in_the_address_becomes_a_cookie(page):
    answer = page.stranger.get('/?token=the-token')
    assert (answer.status_code, answer.headers['location']) == (303, '/')
    cookie = answer.headers['set-cookie']
    assert 'HttpOnly' in cookie
    assert 'SameSite=strict' in cookie
    assert 'the-token' not in cookie
    assert page.stranger.get('/').status_code == 200


@pytest.mark.parametrize('path', READS)
def test_read_requests_need_the_cookie(page, path):
    assert page.stranger.get(path).status_code == 403
    assert page.client.get(path).status_code == 200


@pytest.mark.parametrize('path', ['/?token=wrong', '/?token=', '/', '/?token=the-token2'])
def test_page_rejects_wrong_tokens(page, path):
    answer = page.stranger.get(path)
    assert answer.status_code == 403
    assert 'set-cookie' not in answer.headers


def test_cookie_and_header_do_not_reveal_each_other(page):
    session = page.session
    assert len({session.token, session.cookie, session.header}) == 3
    assert Session(PORT, 'the-token').header == session.header
    assert Session(PORT).token != Session(PORT).token


@pytest.mark.parametrize(
    ('method', 'path', 'body'),
    [
        ('PUT', '/api/images/{image}', dict(revision=0, boxes=[], checked=True)),
        ('POST', '/api/classes', dict(name='key')),
        ('PATCH', '/api/settings', dict(threshold=0.9)),
        ('DELETE', '/api/classes/1', None),
        ('POST', '/api/export', dict(format='coco', images='all')),
        ('POST', '/api/import', dict()),
    ],
)
def test_write_requests_need_cookie_and_header(page, method, path, body):
    path = path.format(image=page.images[0])
    before = page.client.get('/api/state').json()
    cookie = {page.session.cookie_name: page.session.cookie}
    for headers, cookies in (
        ({}, cookie),
        ({TOKEN_HEADER: 'wrong'}, cookie),
        ({TOKEN_HEADER: page.session.header}, {}),
    ):
        page.stranger.cookies = cookies
        assert page.stranger.request(method, path, json=body, headers=headers).status_code == 403
    assert page.client.get('/api/state').json() == before


@pytest.mark.parametrize('host', ['evil.example', f'evil.example:{PORT}', '127.0.0.1', '127.0.0.1:1', f'[::1]:{PORT}'])
def test_foreign_hosts_are_rejected(page, host):
    for path in ('/', '/api/state', '/?token=the-token'):
        assert page.client.get(path, headers={'host': host}).status_code == 421


def test_localhost_is_a_name_of_this_server(page):
    assert page.client.get('/api/state', headers={'host': f'localhost:{PORT}'}).status_code == 200


@pytest.mark.parametrize('origin', ['http://evil.example', 'null', 'http://127.0.0.1:1', f'https://127.0.0.1:{PORT}'])
def test_foreign_origins_are_rejected(page, origin):
    assert page.client.post('/api/classes', json=dict(name='key'), headers={'origin': origin}).status_code == 403
    assert page.client.get('/api/state', headers={'origin': origin}).status_code == 403
    assert page.client.post('/api/classes', json=dict(name='key'), headers={'origin': ADDRESS}).status_code == 200


@pytest.mark.parametrize('site', ['cross-site', 'same-site'])
def test_requests_that_other_pages_make_are_rejected(page, site):
    """For example, another page contains an image with an address of this server."""
    path = f'/api/images/{page.images[0]}/file'
    assert page.client.get(path, headers={'sec-fetch-site': site}).status_code == 403
    assert page.client.get(path, headers={'sec-fetch-site': 'same-origin'}).status_code == 200


def test_size_of_bodies_is_limited(page, monkeypatch):
    monkeypatch.setattr(security, 'MAX_BODY', 1000)
    monkeypatch.setattr(security, 'MAX_UPLOAD', 2000)
    assert page.client.post('/api/classes', content=b' ' * 1001).status_code == 413
    assert page.client.post('/api/import', content=b' ' * 1500).status_code == 400
    assert page.client.post('/api/import', content=b' ' * 2001).status_code == 413
    # Send a body in chunks, without its length.
    assert page.client.post('/api/classes', content=iter([b'{}'])).status_code == 411


@pytest.mark.parametrize(
    'path',
    [
        '/static/../server.py',
        '/static/%2e%2e/server.py',
        '/static/js/..%2f..%2fserver.py',
        '/api/images/..%2f..%2fsecret.png/file',
        '/api/images/%2fetc%2fpasswd/file',
        '/etc/passwd',
        '/.dinor1/project.json',
    ],
)
def test_server_rejects_paths_outside_of_the_folder(page, path):
    assert page.client.get(path).status_code == 404


def test_server_rejects_links_to_files_outside_of_the_folder(page, folder, tmp_path, open_project):
    image = page.images[0]
    (tmp_path / 'secret.png').write_bytes((folder / '0.png').read_bytes())
    (folder / '0.png').unlink()
    (folder / '0.png').symlink_to(tmp_path / 'secret.png')
    for part in ('', '/file', '/thumbnail'):
        answer = page.client.get(f'/api/images/{image}{part}')
        assert answer.status_code == 400
        assert 'outside of the folder' in answer.json()['error']


def test_answers_forbid_foreign_content(page):
    headers = page.client.get('/').headers
    policy = headers['content-security-policy']
    assert "default-src 'none'" in policy
    assert 'unsafe' not in policy
    assert "frame-ancestors 'none'" in policy
    assert headers['x-content-type-options'] == 'nosniff'
    assert page.client.get('/api/state').headers['cache-control'] == 'no-store'
    # Error responses have these headers too.
    assert page.stranger.get('/api/state').headers['x-frame-options'] == 'DENY'


@pytest.mark.parametrize('body', [b'', b'{', b'[]', b'\xff', b'[' * 100_000])
def test_bodies_that_are_not_json_objects_are_rejected(page, body):
    assert page.client.post('/api/classes', content=body).status_code == 400


def test_pickled_files_are_rejected(page, tmp_path):
    """A prompt bank must be a safetensors file."""
    import pickle

    class Bad:
        def __reduce__(self):
            return (open, (str(tmp_path / 'written'), 'w'))

    answer = page.client.post('/api/bank?name=bank.safetensors', content=pickle.dumps(Bad()))
    assert answer.status_code == 400
    assert answer.json()['error'].startswith('bank.safetensors: not a readable safetensors file')
    assert not (tmp_path / 'written').exists()
    assert page.project.attachments == {}


def test_documentation_pages_of_the_framework_do_not_exist(page):
    for path in ('/docs', '/redoc', '/openapi.json'):
        assert page.client.get(path).status_code == 404


def test_update_image_reports_a_failed_write(page, monkeypatch):
    from dinor1.annotate import store

    def full(*args, **kwargs):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(store, 'write_json', full)
    body = dict(revision=0, boxes=[box(1, 1, 20, 20)], checked=False)
    answer = page.client.put(f'/api/images/{page.images[0]}', json=body).json()
    assert answer['problem'].endswith('No space left on device')
    assert page.client.get('/api/state').json()['problem'] == answer['problem']
    monkeypatch.undo()
    assert page.client.post('/api/save').json() == dict(problem='')
