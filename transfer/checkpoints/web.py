"""Opens addresses of the web for downloads: redirects stay on the web, slow servers have a limit.

The timeout of a connection only limits the wait for the next byte. A server that sends a byte now
and then (of a header, a chunk's length, a redirect, the file) would be waited for without an end.
"""

from __future__ import annotations

import http.client
import io
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http.client import HTTPMessage
from typing import IO, Any
from urllib.request import Request

from pretrain.common.errors import InputError
from pretrain.common.printable import shown

TIMEOUT_SECONDS = 30
# A server that sends less than this of the file in this time is not waited for any longer.
SLOW_BYTES, SLOW_SECONDS = 64 << 10, 120


@contextmanager
def opened_url(url: str, remedy: str) -> Iterator[tuple[http.client.HTTPResponse, Pace]]:
    """Yields the answer of a server, and the pace, to which the reader adds the bytes that it has
    read.

    Args:
        remedy: the end of the message about a redirect that is not followed.

    Raises:
        TooSlow: a server that is not waited for any longer, also while the answer is read.
        OSError, ValueError, http.client.HTTPException: other failures of the connection.
        InputError: a redirect that does not lead to http or https.
    """
    pace = Pace()
    opener = urllib.request.build_opener(OnlyToTheWeb(remedy), _Plain(pace), _Secure(pace))
    with opener.open(url, timeout=TIMEOUT_SECONDS) as answer:
        yield answer, pace


class TooSlow(TimeoutError):
    """Says that the server sends too little in too much time."""


class Pace:
    """Measures how fast the file arrives. Redirects and headers do not count, but take time."""

    def __init__(self) -> None:
        self._done = self._before = 0
        self._since = time.monotonic()

    def add(self, number: int) -> None:
        """Counts bytes of the file."""
        self._done += number

    def check(self) -> None:
        """Raises TooSlow if the file has been arriving too slowly."""
        if time.monotonic() - self._since > SLOW_SECONDS:
            came = self._done - self._before
            if came < SLOW_BYTES:
                raise TooSlow(f"the server sends only {came} bytes in {SLOW_SECONDS} seconds")
            self._since, self._before = time.monotonic(), self._done


class OnlyToTheWeb(urllib.request.HTTPRedirectHandler):
    """Follows redirects to http and https alone; urllib would follow those to ftp as well."""

    def __init__(self, remedy: str) -> None:
        self._remedy = remedy

    def redirect_request(
        self, req: Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> Request | None:
        if not newurl.lower().startswith(("http://", "https://")):
            raise InputError(
                f"{req.full_url} leads to {shown(newurl)}, which is not followed; {self._remedy}"
            )
        return super().redirect_request(req, fp, code, msg, headers, newurl)


class _Plain(urllib.request.HTTPHandler):
    def __init__(self, pace: Pace) -> None:
        super().__init__()
        self._pace = pace

    def http_open(self, req: Request) -> Any:
        return self.do_open(partial(_connection, http.client.HTTPConnection, self._pace), req)


class _Secure(urllib.request.HTTPSHandler):
    def __init__(self, pace: Pace) -> None:
        super().__init__()
        self._pace = pace

    def https_open(self, req: Request) -> Any:
        return self.do_open(partial(_connection, http.client.HTTPSConnection, self._pace), req)


def _connection(
    kind: Callable[..., http.client.HTTPConnection], pace: Pace, host: str, **options: Any
) -> http.client.HTTPConnection:
    made = kind(host, **options)
    setattr(made, "response_class", partial(_Answer, pace))
    return made


class _Answer(http.client.HTTPResponse):
    """An answer that checks the pace each time that something has arrived, whatever it is."""

    def __init__(self, pace: Pace, sock: Any, *rest: Any, **options: Any) -> None:
        super().__init__(sock, *rest, **options)
        self.fp = io.BufferedReader(_Checked(self.fp.detach(), pace))


class _Checked(io.RawIOBase):
    def __init__(self, stream: io.RawIOBase, pace: Pace) -> None:
        self._stream, self._pace = stream, pace

    def readable(self) -> bool:
        return True

    def readinto(self, place: Any, /) -> int | None:
        self._pace.check()
        return self._stream.readinto(place)

    def close(self) -> None:
        self._stream.close()
        super().close()
