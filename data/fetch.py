"""One file from the web: resumed where it stopped, checked, and never half there under its own name."""

import contextlib
import errno
import hashlib
import http.client
import os
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from backbench import UserError, __version__
from backbench.progress import progress

TRIES = 4
"""Connections in a row that may bring nothing new before it is given up."""

WAIT = 1.0
"""Seconds before the second try, doubled each time."""

TIMEOUT = 30.0
"""Seconds without a byte after which a connection counts as dead."""

CHUNK = 1 << 20
MB = 1_000_000


def fetch(url: str, path: Path, *, md5: str) -> Path:
    """Download ``url`` to ``path``, through ``path``.part, which a later call goes on from.

    A broken connection is taken up again where it stopped (HTTP Range), or from the start where the server knows no
    ranges. Raises UserError for no network, a refusal, a wrong md5, a full disk or a folder without write permission.
    """
    part = path.with_name(path.name + ".part")
    with writing(part):
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and _md5(path) == md5:
            return path
        _download(url, part)
        found = _md5(part)
        if found != md5:
            part.unlink()
            raise UserError(f"{url} came with md5 {found} where {md5} is expected; removed it: try again")
        part.replace(path)
    return path


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn a failure to write ``path`` into a UserError that says what mends it."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise UserError(f"the disk is full: {path}. Make room; the same command goes on") from error
        where = error.filename or path
        raise UserError(f"can't write {where}: {error.strerror or error}. Choose another --data-root") from error


def _download(url: str, part: Path) -> None:
    best, fruitless = part.stat().st_size if part.exists() else 0, 0
    while True:
        trouble = _continue(url, part)
        if trouble is None:
            return
        size = part.stat().st_size if part.exists() else 0
        fruitless = fruitless + 1 if size <= best else 0
        best = max(best, size)
        if fruitless >= TRIES:
            raise UserError(f"can't get {url}: {trouble}. {size:,} bytes are kept; the same command goes on from there")
        time.sleep(WAIT * 2 ** max(0, fruitless - 1))


def _continue(url: str, part: Path) -> str | None:
    """One connection. Returns what broke it, or None when the file is whole."""
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"User-Agent": f"backbench/{__version__}"})
    if have:
        request.add_header("Range", f"bytes={have}-")
    try:
        answer = urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        with error:
            if error.code == 416 and have:  # nothing after what we have: whole, or not this file
                if error.headers.get("Content-Range") != f"bytes */{have}":
                    part.unlink()
                    return "the server's file is shorter than what was here"
                return None
            if error.code < 500 and error.code not in (408, 429):
                raise UserError(f"can't get {url}: {error.code} {error.reason}") from error
            return f"{error.code} {error.reason}"
    except (OSError, http.client.HTTPException) as error:
        return f"no connection ({getattr(error, 'reason', error)})"
    with answer:
        if answer.status != 206 or not answer.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
            have = 0
        length = answer.headers.get("Content-Length")
        whole = None if length is None else have + int(length)
        with part.open("ab" if have else "wb") as file, _megabytes(part.stem, whole, have) as advance:
            while True:
                try:
                    chunk = answer.read(CHUNK)
                except (OSError, http.client.HTTPException) as error:
                    return f"the connection broke ({error})"
                if not chunk:
                    break
                file.write(chunk)
                advance(len(chunk))
            size = file.tell()
            file.flush()
            os.fsync(file.fileno())
    return None if whole in (None, size) else f"the connection closed after {size:,} of {whole:,} bytes"


@contextlib.contextmanager
def _megabytes(label: str, whole: int | None, have: int):
    """Progress of ``whole`` bytes, of which we ``have`` some, in whole MB; none where the size isn't known."""
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


def _md5(path: Path) -> str:
    digest = hashlib.md5(usedforsecurity=False)
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
