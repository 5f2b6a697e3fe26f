"""A port, a server and an end."""

import contextlib
import os
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from typing import Any

from ..errors import ConfigError
from ._shown import DEFAULT_THRESHOLD, check_threshold, together

HOST = "127.0.0.1"
FIRST_PORT, NUM_PORTS = 7860, 100
_LARGEST_UPLOAD = "64mb"


def _told_to_end() -> None:
    """Returns at SIGTERM. Raises: KeyboardInterrupt at Ctrl-C."""
    ended = threading.Event()
    before = signal.signal(signal.SIGTERM, lambda number, frame: ended.set())
    try:
        ended.wait()
    finally:
        signal.signal(signal.SIGTERM, before)


def serve(
    runs: Sequence[str],
    *,
    port: int | None = None,
    threshold: float = DEFAULT_THRESHOLD,
    open_browser: bool = False,
    until: Callable[[], None] = _told_to_end,
) -> None:
    """Show one run, or two side by side, until SIGTERM or Ctrl-C; says the address on standard output.

    Args:
        runs: their folders.
        port: None takes the first free one from 7860 on.
        threshold: where the slider begins, 0 to 1.
        open_browser: whether to open the page in this machine's browser.
        until: returns when it is enough.
    Raises: ConfigError where Gradio is not installed, the port is in use, a value is out of range, or two runs have
        other classes; CheckpointError where a run cannot be shown; DataError.
    """
    check_threshold(threshold)
    if not 1 <= len(runs) <= 2:
        raise ConfigError(f"{len(runs)} runs; the page shows one or two")
    if find_spec("gradio") is None:
        raise ConfigError("the page needs the package gradio, which is not installed: pip install 'metadistiller[app]'")
    free_port(port)
    shown = together(runs)
    with _kept_apart():
        from ._page import build, look

        page = build(shown, threshold)
        # Loading took a while, in which somebody may have taken it.
        number = free_port(port)
        page.launch(
            server_name=HOST,
            server_port=number,
            share=False,
            inbrowser=open_browser,
            prevent_thread_lock=True,
            quiet=True,
            footer_links=[],
            run_history=False,
            allowed_paths=[],
            max_file_size=_LARGEST_UPLOAD,
            enable_monitoring=False,
            ssr_mode=False,
            pwa=False,
            mcp_server=False,
            app_kwargs={"middleware": [_only_by_name()]},
            **look(),
        )
        try:
            print(f"http://{HOST}:{number} shows {' and '.join(runs)}; Ctrl-C ends it", flush=True)
            with contextlib.suppress(KeyboardInterrupt):
                until()
            print("ended", file=sys.stderr)
        finally:
            page.close(verbose=False)


def _only_by_name() -> Any:
    """What refuses requests to another host's name: a page of the open web may have pointed its own name here."""
    from starlette.middleware import Middleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    return Middleware(TrustedHostMiddleware, allowed_hosts=[HOST, "localhost"])


def free_port(wanted: int | None) -> int:
    """`wanted` where it is free; the first free one from 7860 on where it is None. Raises: ConfigError."""
    if wanted is not None and not 1 <= wanted <= 65535:
        raise ConfigError(f"port is {wanted}; take 1 to 65535")
    tried = range(FIRST_PORT, FIRST_PORT + NUM_PORTS) if wanted is None else [wanted]
    for port in tried:
        with socket.socket() as probe:
            # As the server will: a port that the last page has just left is free.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
            except OSError as error:
                reason = error.strerror
                continue
            return port
    where = f"port {wanted}" if wanted is not None else f"every port from {tried[0]} to {tried[-1]}"
    raise ConfigError(f"{where} cannot be used ({reason}); choose another with --port")


@contextlib.contextmanager
def _kept_apart() -> Iterator[None]:
    """Within the block, whatever this shell says, Gradio counts no visitors and gives out no files of ours; before it
    is imported. What somebody drops on the page lies in a folder that goes with the block.
    """
    with tempfile.TemporaryDirectory(prefix="metadistiller-app-") as uploads:
        told = {
            "GRADIO_ANALYTICS_ENABLED": "False",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "GRADIO_ALLOWED_PATHS": "",
            "GRADIO_ROOT_PATH": "",
            "GRADIO_TEMP_DIR": uploads,
        }
        before = {name: os.environ.get(name) for name in told}
        os.environ.update(told)
        try:
            yield
        finally:
            for name, value in before.items():
                if value is None:
                    del os.environ[name]
                else:
                    os.environ[name] = value
