"""Open Images' servers in small: official files of their shape, pictures, and every way in which servers misbehave."""

import csv
import hashlib
import io
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
from PIL import Image

from backbench.data import maps, openimages

MIDS = maps.openimages()
BAT, MUG, FLAG = MIDS["Bat"], MIDS["Mug"], MIDS["Flag"]
BOX = ["xclick", 1]


def picture(number, size=(64, 48)):
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(number).integers(0, 256, (*size[::-1], 3), np.uint8)).save(file, "JPEG")
    return file.getvalue()


def name(number):
    return f"{number:016x}"


def as_csv(head, lines):
    text = io.StringIO()
    csv.writer(text).writerows([head.split(","), *lines])
    return text.getvalue().encode()


def official(split, *, labels, boxes, about):
    """The three files of a split, with columns as the official ones have them, in their order."""
    files = openimages.FILES[split]
    return {
        f"/{files['labels']}": as_csv("ImageID,Source,LabelName,Confidence", labels),
        f"/{files['boxes']}": as_csv(
            "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsOccluded,IsTruncated,IsGroupOf,IsDepiction,IsInside",
            boxes,
        ),
        f"/{files['images']}": as_csv(
            "ImageID,Subset,OriginalURL,OriginalLandingURL,License,AuthorProfileURL,Author,Title,OriginalSize,OriginalMD5,"
            "Thumbnail300KURL,Rotation",
            about,
        ),
    }


def line(number, rotation="0.0"):
    at = f"https://example.org/{number}"
    return [name(number), "validation", f"{at}.jpg", at, "https://creativecommons.org/licenses/by/2.0/", f"{at}/who",
            f"Ünal, {number}", 'a "title"', 1000, "x==", f"{at}_t.jpg", rotation]  # fmt: skip


def verified(number, mid=BAT, confidence=1):
    return [name(number), "verification", mid, confidence]


def boxed(number, mid=BAT, box=(0.25, 0.75, 0.0, 0.5), depiction=0, inside=0):
    return [name(number), *BOX[:1], mid, 1, *box, 0, 0, 0, depiction, inside]


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.faults, self.asked, self.delay, self.etags = {}, {}, [], 0.0, True

    def handle_error(self, *_):
        """Those who have hung up are not missed."""

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        server = self.server
        server.asked.append(self.path)
        time.sleep(server.delay)
        fault = server.faults.get(self.path)
        fault = fault.pop(0) if isinstance(fault, list) and fault else fault
        content = server.files.get(self.path)
        if fault == "slow":
            time.sleep(2)
        if content is None or isinstance(fault, int):
            return self.send_error(fault or 404)
        sent = b"<html>moved</html>" if fault in ("html", "html with etag") else content
        asked = self.headers.get("Range")
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked else 0
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(sent) - 1}/{len(sent)}")
        if server.etags and fault != "html":
            of = sent if fault == "html with etag" else content
            self.send_header("ETag", f'"{hashlib.md5(of).hexdigest()}"' if fault != "parts" else '"abc-2"')
        self.send_header("Content-Length", str(len(sent) - start))
        self.end_headers()
        sent = sent[::-1] if fault == "wrong" else sent
        self.wfile.write(sent[start : start + 100 if fault == "cut" else None])

    def log_message(self, *_):
        pass
