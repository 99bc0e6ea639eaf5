"""A fast anonymous S3 endpoint on this machine: nginx for the objects, a small lister for the rest.

Path style, read only. ``with serve(folder) as url:`` serves ``folder/<bucket>/<key>``;
``python -m benchmarks.server FOLDER`` does the same until it is interrupted. nginx sends ranges of
files straight from the page cache, so the tools are measured and not the server.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import grp
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.lister import Index, Lister, make_error

#: Seconds until the server has to answer: a million keys take a while to index.
START_TIMEOUT = 120.0
REPOSITORY = Path(__file__).resolve().parents[1]

CONFIG = """
daemon off;
{user}
worker_processes 1;
pid {run}/nginx.pid;
error_log {run}/error.log warn;
events {{ worker_connections 4096; }}
http {{
  access_log off;
  sendfile on;
  # The rate is kept by pausing after each chunk; small ones keep it for small objects too.
  sendfile_max_chunk {chunk};
  tcp_nopush on;
  tcp_nodelay on;
  keepalive_requests 1000000;
  keepalive_timeout 120s;
  etag on;
  server_tokens off;
  default_type binary/octet-stream;
  open_file_cache max=20000 inactive=600s;
  client_body_temp_path {run}/body;
  proxy_temp_path {run}/proxy;
  fastcgi_temp_path {run}/fastcgi;
  uwsgi_temp_path {run}/uwsgi;
  scgi_temp_path {run}/scgi;
  upstream lister {{ server unix:{run}/lister.sock; keepalive 256; }}
  proxy_http_version 1.1;
  proxy_set_header Connection "";
  map $request_method $is_write {{ default 1; GET 0; HEAD 0; }}
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    root {root};
    add_header x-amz-request-id $request_id always;
    add_header x-amz-bucket-region us-west-2 always;
    error_page 403 405 @denied;
    error_page 404 @missing;
    if ($is_write) {{ return 403; }}
    limit_rate {rate};
    {delay}
    location = /_delay {{
      internal;
      auth_request off;
      limit_rate 0;
      proxy_pass http://lister;
      proxy_pass_request_body off;
    }}
    location ~ ^/[^/]+/?$ {{ proxy_pass http://lister; }}
    {deny}
    location / {{ try_files $uri =404; }}
    location @missing {{
      auth_request off;
      default_type application/xml;
      return 404 '{missing}';
    }}
    location @denied {{
      auth_request off;
      default_type application/xml;
      return 403 '{denied}';
    }}
  }}
}}
"""


class ServerError(Exception):
    """The server cannot run; the message says why, in one line."""


def find_nginx() -> str:
    """Return the path of nginx, or raise `ServerError` that says how to get it."""
    places = os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin"
    found = shutil.which("nginx", path=places)
    if found is None:
        raise ServerError("nginx is not installed; get it with: apt-get install nginx-light")
    return found


@contextlib.contextmanager
def serve(
    folder: Path,
    *,
    delay: float = 0.0,
    rate: int = 0,
    deny: str = "",
    synthetic: Sequence[int] = (),
    port: int = 0,
) -> Iterator[str]:
    """Serve the buckets in `folder`, and yield the endpoint's URL once it answers.

    Parameters
    ----------
    folder
        Where ``<bucket>/<key>`` are files.
    delay
        Seconds that are added to every request, listings and objects alike.
    rate
        Bytes per second of one connection; 0 for no limit.
    deny
        A regular expression; a GET or HEAD of a key that it matches answers 403. Such keys are
        listed all the same.
    synthetic
        Numbers of keys: each adds a bucket ``synthetic-<number>`` that can be listed, but has no
        objects.
    port
        0 for any that is free.

    Raises
    ------
    ServerError
        If nginx is missing or does not start.
    """
    find_nginx()
    options = [f"--delay={delay}", f"--rate={rate}", f"--deny={deny}", f"--port={port}"]
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.server", str(folder.resolve()), "--until-eof"]
        + options
        + [f"--synthetic={number}" for number in synthetic],
        cwd=REPOSITORY,
        # The server ends when this pipe closes, so even a killed benchmark leaves none behind.
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdin
    assert process.stdout
    try:
        said = process.stdout.readline().strip()
        if not said.startswith("http"):
            raise ServerError(said.removeprefix("error: ") or "the server has ended at once")
        yield said
    finally:
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        process.stdout.close()


async def run(arguments: argparse.Namespace) -> None:
    """Run lister and nginx until a signal comes, or the end of standard input if asked to."""
    folder = arguments.folder.resolve()
    indexes = {path.name: Index.of_folder(path) for path in folder.iterdir() if path.is_dir()}
    for number in arguments.synthetic:
        indexes[f"synthetic-{number}"] = Index.of_nothing(number)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    if arguments.until_eof:
        loop.add_reader(sys.stdin.fileno(), stop.set)
    with tempfile.TemporaryDirectory(prefix="s3-") as run_dir:
        # The workers of an nginx that root starts are another user: let them in.
        Path(run_dir).chmod(0o711)
        lister = Lister(indexes, arguments.delay)
        server = await asyncio.start_unix_server(lister.serve, f"{run_dir}/lister.sock")
        Path(run_dir, "lister.sock").chmod(0o666)
        port = find_free_port(arguments.port)
        nginx = start_nginx(Path(run_dir), folder, port, arguments)
        try:
            url = f"http://127.0.0.1:{port}"
            await loop.run_in_executor(None, wait_for, url, nginx, Path(run_dir, "error.log"))
            print(url, flush=True)
            await stop.wait()
        finally:
            nginx.terminate()
            nginx.wait()
            server.close()


def start_nginx(
    run_dir: Path, folder: Path, port: int, arguments: argparse.Namespace
) -> subprocess.Popen[bytes]:
    """Write the configuration to `run_dir` and start nginx with it."""
    deny = f'location ~ "{arguments.deny}" {{ try_files /.none =403; }}' if arguments.deny else ""
    text = CONFIG.format(
        run=run_dir,
        root=folder,
        port=port,
        # Root's bucket need not be readable by anybody else, so its nginx stays root.
        user="" if os.geteuid() else f"user {pwd.getpwuid(0).pw_name} {grp.getgrgid(0).gr_name};",
        rate=arguments.rate,
        chunk="256k" if arguments.rate else "2m",
        delay="auth_request /_delay;" if arguments.delay else "",
        deny=deny,
        denied=make_error("AccessDenied", "Access Denied"),
        missing=make_error("NoSuchKey", "The specified key does not exist."),
    )
    file = run_dir / "nginx.conf"
    file.write_text(text)
    return subprocess.Popen(
        [find_nginx(), "-p", str(run_dir), "-c", str(file), "-e", str(run_dir / "error.log")],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def wait_for(url: str, nginx: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until `url` answers anything; raise `ServerError` if nginx ends instead."""
    deadline = time.monotonic() + START_TIMEOUT
    while nginx.poll() is None and time.monotonic() < deadline:
        try:
            urllib.request.urlopen(f"{url}/nowhere", timeout=5).close()
        except urllib.error.HTTPError:
            return
        except OSError:
            time.sleep(0.05)
    said = log.read_text().strip().splitlines() if log.exists() else []
    raise ServerError(f"nginx does not answer: {said[-1] if said else 'it said nothing'}")


def find_free_port(wanted: int = 0) -> int:
    """Return the port `wanted` of the loopback interface, or any, if nobody listens on it."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("127.0.0.1", wanted))
        port: int = probe.getsockname()[1]
        return port


def main() -> None:
    """Serve the buckets in a folder as an anonymous S3 endpoint until interrupted."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("folder", type=Path, help="holds <bucket>/<key>")
    parser.add_argument("--port", type=int, default=0, help="default: any that is free")
    parser.add_argument("--delay", type=float, default=0.0, help="seconds added to each request")
    parser.add_argument("--rate", type=int, default=0, help="bytes per second of a connection")
    parser.add_argument("--deny", default="", help="regular expression of keys that answer 403")
    parser.add_argument(
        "--synthetic", type=int, action="append", default=[], help="keys of a bucket without files"
    )
    parser.add_argument("--until-eof", action="store_true", help="stop when standard input closes")
    try:
        asyncio.run(run(parser.parse_args()))
    except (ServerError, OSError) as error:
        print(f"error: {error}", flush=True)
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
