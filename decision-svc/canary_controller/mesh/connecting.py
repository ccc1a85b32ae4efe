"""A connection to a cluster's API server, by the files of a service account or by others."""

from __future__ import annotations

import ipaddress
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

from aiohttp import ClientSession, DummyCookieJar, TCPConnector
from canary_istio.api_server import ApiServer

from canary_controller.errors import BadSettings
from canary_controller.settings import Settings


@asynccontextmanager
async def connected(settings: Settings) -> AsyncIterator[ApiServer]:
    """The API server that the settings name. Raises BadSettings.

    The token is read for every call, for a cluster replaces it; the authority is read once.
    """
    url, token_file = _url(settings.kubernetes_url), settings.kubernetes_token_file
    if token_file:
        _check_token(url, token_file)
    context = _context(settings.kubernetes_ca_file) if url.scheme == "https" else True
    connector = TCPConnector(ssl=context)
    async with ClientSession(connector=connector, cookie_jar=DummyCookieJar()) as session:
        yield ApiServer(session, url.geturl(), token_file=token_file)


def _url(text: str) -> SplitResult:
    if not text:
        raise BadSettings("--kubernetes-url: say where the API server is; this is no pod of one")
    try:
        url = urlsplit(text)
        is_right = url.port != 0 and not url.username and not url.query and not url.fragment
    except ValueError as error:
        raise BadSettings(f"--kubernetes-url: {error}") from error
    if url.scheme not in ("http", "https") or not url.hostname or not is_right:
        raise BadSettings("--kubernetes-url: give a URL like https://10.0.0.1:6443")
    return url


def _check_token(url: SplitResult, token_file: str) -> None:
    try:
        Path(token_file).read_text("ascii")
    except (OSError, UnicodeDecodeError) as error:
        raise BadSettings(f"--kubernetes-token-file: {error}") from error
    if url.scheme == "http" and not _is_loopback(url.hostname or ""):
        raise BadSettings("--kubernetes-url: a token is shown over https only, or on loopback")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _context(ca_file: str) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=ca_file or None)
    except (OSError, ssl.SSLError) as error:
        raise BadSettings(f"--kubernetes-ca-file: {error}") from error
