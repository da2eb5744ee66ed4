"""Real servers of the distribution, each with a private port and directory, stopped by number."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

__all__ = ("SERVERS", "Server", "running")

PATIENCE_S = 30
ANSWER = b"hello, iophase"

Words = list[str | Path]
Command = Callable[[Path, int], Words]


@dataclass(frozen=True)
class Server:
    """How a server is started, and which models its receiving threads use."""

    name: str
    binary: str
    command: Command
    models: frozenset[str]


def _find(name: str) -> str:
    places = ["/usr/sbin", *map(str, Path("/usr/lib/postgresql").glob("*/bin"))]
    found = shutil.which(name, path=os.pathsep.join([os.environ["PATH"], *places]))
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


def _redis(folder: Path, port: int) -> Words:
    options: Words = ["--bind", "127.0.0.1", "--dir", folder, "--save", "", "--appendonly", "no"]
    return [_find("redis-server"), "--port", str(port), *options]


def _nginx(folder: Path, port: int) -> Words:
    (folder / "nginx.conf").write_text(
        f"daemon off; user root; worker_processes 1; pid {folder}/pid;\n"
        "error_log stderr crit; events {}\n"
        f"http {{ access_log off; server {{ listen 127.0.0.1:{port};\n"
        f'location / {{ return 200 "{ANSWER.decode()}"; }} }} }}\n'
    )
    return [_find("nginx"), "-p", folder, "-c", folder / "nginx.conf"]


def _memcached(folder: Path, port: int) -> Words:
    return [_find("memcached"), "-p", str(port), "-l", "127.0.0.1", "-u", "root", "-t", "2"]


def _postgres(folder: Path, port: int) -> Words:
    """Postgres refuses to run as root."""
    become: Words = [_find("setpriv"), "--reuid=postgres", "--regid=postgres", "--clear-groups"]
    data = folder / "data"
    shutil.chown(folder, "postgres")
    made = [*become, _find("initdb"), "-D", data, "-A", "trust", "-U", "postgres", "-N"]
    subprocess.run(made, check=True, stdout=subprocess.DEVNULL, cwd=folder)
    where: Words = ["-D", data, "-p", str(port), "-k", folder, "-c", "listen_addresses=127.0.0.1"]
    return [*become, _find("postgres"), *where, "-c", "fsync=off"]


def _node(folder: Path, port: int) -> Words:
    code = f"require('http').createServer((q, r) => r.end('{ANSWER.decode()}'))"
    return [_find("node"), "-e", f"{code}.listen({port}, '127.0.0.1')"]


def _java(folder: Path, port: int) -> Words:
    (folder / "Echo.java").write_text(
        "import java.net.*;\n"
        "public class Echo { public static void main(String[] a) throws Exception {\n"
        f'var s = new ServerSocket({port}, 50, InetAddress.getByName("127.0.0.1"));\n'
        "while (true) { var c = s.accept(); new Thread(() -> { try (c) {\n"
        "c.getInputStream().transferTo(c.getOutputStream()); } catch (Exception e) {}\n"
        "}).start(); } } }\n"
    )
    if shutil.which("javac") is None:
        pytest.skip("javac is not installed")
    return [_find("java"), "-Xint", "-XX:+UseSerialGC", folder / "Echo.java"]


def _http_server(folder: Path, port: int) -> Words:
    (folder / "index.html").write_bytes(ANSWER)
    where: Words = ["--bind", "127.0.0.1", "--directory", folder]
    return [sys.executable, "-m", "http.server", str(port), *where]


def _socat(folder: Path, port: int) -> Words:
    return [_find("socat"), f"TCP-LISTEN:{port},bind=127.0.0.1,fork,reuseaddr", "EXEC:cat"]


def _gunicorn(folder: Path, port: int) -> Words:
    pytest.importorskip("gunicorn")
    (folder / "web.py").write_text(
        f"def app(environ, start):\n    start('200 OK', [])\n    return [{ANSWER!r}]\n"
    )
    where: Words = ["--chdir", folder, "-b", f"127.0.0.1:{port}"]
    return [sys.executable, "-m", "gunicorn", *where, "-w", "2", "web:app"]


_LEVEL = frozenset({"epoll level-triggered"})

SERVERS = {
    server.name: server
    for server in (
        Server("redis", "redis-server", _redis, _LEVEL),
        Server("nginx", "nginx", _nginx, frozenset({"epoll edge-triggered"})),
        Server("memcached", "memcached", _memcached, _LEVEL),
        Server("postgres", "postgres", _postgres, _LEVEL),
        Server("node", "node", _node, _LEVEL),
        Server("java", "java", _java, frozenset({"blocking"})),
        Server("http.server", sys.executable, _http_server, frozenset({"blocking"})),
        Server("socat", "socat", _socat, frozenset({"select"})),
        Server("gunicorn", "gunicorn", _gunicorn, frozenset({"select", "poll", "blocking"})),
    )
}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def running(name: str, folder: Path) -> Iterator[tuple[int, int]]:
    """Yield the process and the port of a server that takes connections."""
    port = free_port()
    command = SERVERS[name].command(folder, port)
    log = (folder / "log").open("wb")
    with log, subprocess.Popen(command, stdout=log, stderr=log, cwd=folder) as process:
        try:
            _wait_until_it_listens(process, port, folder / "log")
            yield process.pid, port
        finally:
            process.send_signal(signal.SIGINT if name == "postgres" else signal.SIGTERM)
            try:
                process.wait(PATIENCE_S)
            except subprocess.TimeoutExpired:
                process.kill()


def _wait_until_it_listens(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    limit = time.monotonic() + PATIENCE_S
    while time.monotonic() < limit and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise AssertionError(f"it does not listen: {log.read_text(errors='replace')[-2000:]}")
