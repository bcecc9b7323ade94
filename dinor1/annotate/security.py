"""Access control of the page: only the browser of this user, and only requests from this page, are accepted."""

import hashlib
import hmac
import secrets
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qs

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response

TOKEN_HEADER = 'x-dinor1-token'
# Largest body of a request in bytes, and of a request that uploads a file.
MAX_BODY, MAX_UPLOAD = 4 * 2**20, 256 * 2**20
UPLOADS = ('/api/import', '/api/bank')
_READING = ('GET', 'HEAD')
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    'content-security-policy': _POLICY,
    'x-content-type-options': 'nosniff',
    'x-frame-options': 'DENY',
    'referrer-policy': 'no-referrer',
    'cross-origin-resource-policy': 'same-origin',
    'cross-origin-opener-policy': 'same-origin',
}


class Session:
    """The secrets of a server.

    The token in the printed address opens the page. In exchange for the token, the browser gets a cookie, and the page
    gets a second value, which each write request must have in a header. A form of another site can make the browser
    send the cookie, but cannot send the header. Both values are derived from the token and do not reveal it.

    Args:
        port: Port of the server. It is part of the name of the cookie, because browsers share cookies between ports.
        token: The token; default: a random token.
    """

    def __init__(self, port: int, token: str | None = None) -> None:
        self.token = token or secrets.token_urlsafe(32)
        self.port = port
        self.cookie_name = f'dinor1_{port}'
        self.cookie, self.header = self._derive('cookie'), self._derive('header')

    @property
    def address(self) -> str:
        """The address that is printed, with the token."""
        return f'http://127.0.0.1:{self.port}/?token={self.token}'

    def _derive(self, purpose: str) -> str:
        return hmac.new(self.token.encode(), purpose.encode(), hashlib.sha256).hexdigest()


class Guard:
    """ASGI application that rejects requests from outside of the page before any other code processes them.

    - ``Host`` must be this server. Foreign names that resolve to 127.0.0.1 are rejected (DNS rebinding).
    - ``Origin`` and ``Sec-Fetch-Site`` must be those of this page.
    - All requests except the one with the token need the cookie. Write requests also need the header.
    - A write request must state its length, which must not exceed the limit.

    Args:
        app: The application.
        session: The secrets.
    """

    def __init__(self, app: Any, session: Session) -> None:
        self._app, self._session = app, session
        self._hosts = {f'{name}:{session.port}' for name in ('127.0.0.1', 'localhost')}

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Reject a request, or pass it to the application."""
        # The start and the end of the server pass; web sockets are rejected.
        if scope['type'] == 'lifespan':
            await self._app(scope, receive, send)
            return
        if scope['type'] != 'http':  # no web sockets
            return
        # Decide whether the request is rejected, or brings the token.
        headers = Headers(scope=scope)
        refusal = self._refusal(scope, headers)
        answer = refusal or self._entrance(scope)

        # Add the security headers to every response.
        async def send_with_headers(message: Any) -> None:
            if message['type'] == 'http.response.start':
                given = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    given[name] = value
                given.setdefault('cache-control', 'no-store')
            await send(message)

        await (answer or self._app)(scope, receive, send_with_headers)

    def _refusal(self, scope: Any, headers: Headers) -> Response | None:
        """Response to a request that is rejected; None: the request is accepted."""
        # Check where the request comes from.
        if headers.getlist('host') not in [[host] for host in self._hosts]:
            return _error(421, 'unknown host; open the address that dinor1 printed')
        origins = headers.getlist('origin')
        if any(origin not in {f'http://{host}' for host in self._hosts} for origin in origins):
            return _error(403, 'a request from another page')
        is_entrance = scope['path'] == '/' and scope['method'] in _READING
        if headers.get('sec-fetch-site', 'same-origin') not in ('same-origin', 'none') and not is_entrance:
            return _error(403, 'a request from another page')
        # Check the token, the cookie and the header.
        if is_entrance and self._token(scope) is not None:
            return None
        if not _equal(_cookie(headers, self._session.cookie_name), self._session.cookie):
            if is_entrance:
                return PlainTextResponse('Open the address that dinor1 annotate printed in its terminal.\n', 403)
            return _error(403, 'no session; open the address that dinor1 printed')
        if scope['method'] in _READING:
            return None
        if not _equal(headers.get(TOKEN_HEADER, ''), self._session.header):
            return _error(403, 'no token; load the page again')
        # Check the length. A request without a length has no body, unless it is sent in chunks.
        limit, length = MAX_UPLOAD if scope['path'] in UPLOADS else MAX_BODY, headers.get('content-length', '0')
        if headers.get('transfer-encoding') is not None or not length.isascii() or not length.isdigit():
            return _error(411, 'a write must state its length')
        if int(length) > limit:
            return _error(413, f'larger than {limit >> 20} MiB')
        return None

    def _token(self, scope: Any) -> str | None:
        """Token in the address; None: the address has no token."""
        values = parse_qs(scope['query_string'].decode('latin-1')).get('token')
        return values[0] if values else None

    def _entrance(self, scope: Any) -> Response | None:
        """Response that sets the cookie and removes the token from the address; None: the address has no token."""
        # Read the token, which only the address of the page can have.
        token = self._token(scope) if scope['path'] == '/' and scope['method'] in _READING else None
        if token is None:
            return None
        if not _equal(token, self._session.token):
            return PlainTextResponse('Open the address that dinor1 annotate printed last in its terminal.\n', 403)
        # Set the cookie, and load the page again without the token in the address.
        answer = RedirectResponse('/', 303)
        answer.set_cookie(self._session.cookie_name, self._session.cookie, httponly=True, samesite='strict', path='/')
        return answer


def _error(status: int, message: str) -> JSONResponse:
    return JSONResponse(dict(error=message), status)


def _cookie(headers: Headers, name: str) -> str:
    try:
        jar = SimpleCookie(headers.get('cookie', ''))
    except CookieError:
        return ''
    return jar[name].value if name in jar else ''


def _equal(given: str, expected: str) -> bool:
    """Whether two texts are equal; the duration does not depend on the position of a difference."""
    return secrets.compare_digest(given.encode(), expected.encode())
