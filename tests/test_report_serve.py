import http.client
import signal
import socket
import subprocess
import sys
import threading

import pytest

from backbench import UserError, rows
from backbench.report import head_panels, page
from backbench.report.serve import Server
from backbench.report.study import load
from tests.test_report_table import row


@pytest.fixture
def server(tmp_path):
    built = []

    def build():
        built.append(len(rows.read(tmp_path)))
        return f"<p>{built[-1]} rows"

    with Server(tmp_path, build, port=0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server, built
        server.shutdown()


def get(server, path="/", host=None):
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=10)
    connection.request("GET", path, headers={"Host": host} if host else {})
    answer = connection.getresponse()
    return answer.status, answer.read().decode()


def test_the_page_is_built_when_rows_come_and_only_then(server, tmp_path):
    server, built = server
    assert get(server) == (200, "<p>0 rows")
    before = get(server, "/state")[1]
    assert get(server) == (200, "<p>0 rows")
    rows.append(tmp_path, row("m", "d", 0.5))
    assert get(server, "/state")[1] != before
    assert get(server) == (200, "<p>1 rows")
    assert built == [0, 1]


def test_it_answers_to_its_own_name_only_and_has_nothing_else(server):
    server, _ = server
    assert server.server_address[0] == "127.0.0.1"
    assert get(server, host=f"localhost:{server.server_port}")[0] == 200
    assert get(server, host="evil.example")[0] == 403
    assert get(server, "/etc/passwd")[0] == 404
    assert get(server, "/../rows.jsonl")[0] == 404


def test_a_taken_port_is_said(server, tmp_path):
    with pytest.raises(UserError, match="Name another with --port"):
        Server(tmp_path, str, port=server[0].server_port)


def test_a_broken_row_is_shown_and_the_server_goes_on(tmp_path):
    def build():
        return str(rows.read(tmp_path))

    (tmp_path / rows.FILE).write_text("{}\n")
    with Server(tmp_path, build, port=0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        status, said = get(server)
        assert status == 500
        assert "not a result row" in said
        (tmp_path / rows.FILE).write_text("")
        assert get(server)[0] == 200
        server.shutdown()


def test_the_command_serves_until_it_is_stopped(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "backbench.report", "serve", "--port", str(port), "--results-dir", str(tmp_path)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=tmp_path) as process:
        try:
            assert f"127.0.0.1:{port}" in process.stderr.readline()
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
            connection.request("GET", "/")
            html = connection.getresponse().read().decode()
            assert "data-served" in html
            assert "No accuracy yet" in html
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 143
        finally:
            process.kill()


def test_an_open_page_renews_itself_when_a_row_comes(browser, tmp_path):
    def build():
        read = load(tmp_path)
        close = head_panels.gather(read, cache_dir=tmp_path, data_root=tmp_path, per_set=0)
        return page.build(read, close, served=True)

    with Server(tmp_path, build, port=0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        opened = browser.new_page()
        asked = []
        opened.on("request", lambda request: asked.append(request.url))
        opened.goto(server.url)
        assert "No accuracy yet" in opened.inner_text("#table")
        with opened.expect_response("**/state"):
            pass
        rows.append(tmp_path, row("newcomer", "d", 0.5))
        opened.wait_for_selector("#study th:has-text('newcomer')")
        assert all(url.startswith((server.url, "data:")) for url in asked)
        opened.close()
        server.shutdown()
