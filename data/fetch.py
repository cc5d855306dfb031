"""Downloading one file from the web: it resumes where it stopped, is checked, and gets its name only when whole."""

import contextlib
import errno
import hashlib
import http.client
import os
import re
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from backbench import UserError, __version__
from backbench.progress import progress

TRIES = 4
"""Number of connections in a row that may bring nothing new before a download is given up."""

WAIT = 1.0
"""Seconds before the second try; they are doubled each time."""

TIMEOUT = 30.0
"""Seconds without a byte after which a connection counts as dead."""

CHUNK = 1 << 20
MB = 1_000_000


class Refused(UserError):
    """The server refuses a file, with its HTTP status ``code``, such as 404."""

    def __init__(self, fault: str, code: int):
        super().__init__(fault)
        self.code = code


def fetch(url: str, path: Path, *, md5: str | None = None, quiet: bool = False) -> Path:
    """Download ``url`` to ``path``, by way of ``path``.part, which a later call continues.

    A broken connection is resumed where it stopped (HTTP Range), or from the start where the server has no ranges.
    Without ``md5`` a file that exists is taken as it is. A download is then checked against the server's ETag where
    that is an MD5, as for files that S3 and Google's storage hold in one piece. ``quiet`` shows no progress.

    Raises Refused, and UserError for no network, a wrong MD5, a full disk or a folder without write permission.
    """
    part = path.with_name(path.name + ".part")
    with writing(part):
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and md5 in (None, md5_of(path)):
            return path
        etag = _download(url, part, quiet=quiet)
        wanted, found = md5 or etag, md5_of(part)
        if wanted and found != wanted:
            part.unlink()
            raise UserError(f"{url} came with md5 {found} where {wanted} is expected. It was removed: try again")
        part.replace(path)
    return path


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn a failure to write ``path`` into a UserError that says what to do."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise UserError(f"the disk is full: {path}. Make room; the same command goes on") from error
        where = error.filename or path
        raise UserError(f"can't write {where}: {error.strerror or error}. Choose another --data-root") from error


def _download(url: str, part: Path, *, quiet: bool) -> str | None:
    """Download to ``part``. Returns the MD5 that the server states, or None."""
    best, fruitless = part.stat().st_size if part.exists() else 0, 0
    while True:
        trouble, etag = _continue(url, part, quiet=quiet)
        if trouble is None:
            return etag
        size = part.stat().st_size if part.exists() else 0
        fruitless = fruitless + 1 if size <= best else 0
        best = max(best, size)
        if fruitless >= TRIES:
            raise UserError(f"can't get {url}: {trouble}. {size:,} bytes are kept; the same command goes on from there")
        time.sleep(WAIT * 2 ** max(0, fruitless - 1))


def _continue(url: str, part: Path, *, quiet: bool) -> tuple[str | None, str | None]:
    """Use one connection. Returns what broke it (None when the file is whole), and the MD5 that the server states."""
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"User-Agent": f"backbench/{__version__}"})
    if have:
        request.add_header("Range", f"bytes={have}-")
    try:
        answer = urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        with error:
            if error.code == 416 and have:  # there is nothing after what we have
                if error.headers.get("Content-Range") != f"bytes */{have}":
                    part.unlink()
                    return "the server's file is shorter than what was here", None
                return None, _etag(error.headers)
            if error.code < 500 and error.code not in (408, 429):
                raise Refused(f"can't get {url}: {error.code} {error.reason}", error.code) from error
            return f"{error.code} {error.reason}", None
    except (OSError, http.client.HTTPException) as error:
        return f"no connection ({getattr(error, 'reason', error)})", None
    with answer:
        if answer.status != 206 or not answer.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
            have = 0
        length = answer.headers.get("Content-Length")
        whole = None if length is None else have + int(length)
        shown = None if quiet else whole
        with part.open("ab" if have else "wb") as file, _megabytes(part.stem, shown, have) as advance:
            while True:
                try:
                    chunk = answer.read(CHUNK)
                except (OSError, http.client.HTTPException) as error:
                    return f"the connection broke ({error})", None
                if not chunk:
                    break
                file.write(chunk)
                advance(len(chunk))
            size = file.tell()
            file.flush()
            os.fsync(file.fileno())
    if whole not in (None, size):
        return f"the connection closed after {size:,} of {whole:,} bytes", None
    return None, _etag(answer.headers)


def _etag(headers) -> str | None:
    """Return the MD5 in an ETag, or None where it is something else, as for files that were uploaded in parts."""
    tag = headers.get("ETag", "").strip('"').lower()
    return tag if re.fullmatch("[0-9a-f]{32}", tag) else None


@contextlib.contextmanager
def _megabytes(label: str, whole: int | None, have: int):
    """Show progress over ``whole`` bytes in MB, starting from ``have``. Nothing is shown where the size is unknown."""
    if whole is None:
        yield lambda n: None
        return
    done, total = have // MB, -(-whole // MB)
    with progress(total, label, unit="MB", done=done) as advance:

        def more_bytes(n: int) -> None:
            nonlocal done, have
            have += n
            now = total if have >= whole else have // MB
            if now > done:
                advance(now - done)
                done = now

        yield more_bytes


def md5_of(path: Path) -> str:
    """Compute the MD5 of a file's content, in hex."""
    digest = hashlib.md5(usedforsecurity=False)
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
