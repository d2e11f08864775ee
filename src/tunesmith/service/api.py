"""An API process: requests come in by a socket that its keeper opened, so that several of them share one port."""

from __future__ import annotations

import socket

import uvicorn

from tunesmith.service.app import make_app
from tunesmith.service.process import begin_log, end_with, open_current
from tunesmith.service.settings import Settings

# How long answers that are under way may take once the process is asked to end.
GRACE_SECONDS = 20
# Longer than load balancers keep a connection that nobody uses: they, and not we, are to close it.
_KEEP_ALIVE_SECONDS = 75


def run_api(settings: Settings, *, name: str, listener: socket.socket, parent_pid: int | None) -> None:
    """Answer requests until SIGTERM, SIGINT, or the end of the parent.

    Args:
        settings: The service.
        name: What the log is called.
        listener: A socket that listens; other processes may take from it too.
        parent_pid: The process whose end ends this one.
    """
    begin_log(settings, name)
    end_with(parent_pid)
    context = open_current(settings)
    config = uvicorn.Config(
        make_app(context),
        log_config=None,
        # The edge writes one without queries, with the names of requests.
        access_log=False,
        server_header=False,
        proxy_headers=bool(settings.trusted_proxies),
        forwarded_allow_ips=settings.trusted_proxies,
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=GRACE_SECONDS,
    )
    try:
        uvicorn.Server(config).run(sockets=[listener])
    finally:
        context.database.close()


def open_listener(host: str, port: int) -> socket.socket:
    """A socket that listens; port 0 takes a free one.

    Raises:
        OSError: Somebody else listens there, or there is no such address.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family, backlog=2048)
