"""OpenAI-compatible endpoints: whether one that a scorer is to ask can be asked."""

import os
import socket
from urllib.parse import urlsplit

# What stands for a key that is none, where the judge is OpenAI's own server.
_NO_KEY = ("", "none", "null", "empty", "your_api_key")
_PATIENCE = 5.0  # seconds


def is_key(key: str, url: str) -> bool:
    """Return whether a key may serve: any one for an endpoint of one's own at ``url``."""
    return bool(key) and (bool(url) or key.lower() not in _NO_KEY)


def unreachable(name: str, url: str) -> str | None:
    """Return that an endpoint does not answer; None where it does, or a proxy stands between."""
    if any(os.environ.get(proxy) for proxy in ("HTTPS_PROXY", "HTTP_PROXY", "https_proxy")):
        return None
    try:
        parts = urlsplit(url)
        port = parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError:
        parts, port = urlsplit(""), 0
    if parts.scheme not in ("http", "https") or not parts.hostname:
        return f"{name}={url[:80]} is no address (allowed: such as http://localhost:8000/v1)"
    try:
        socket.create_connection((parts.hostname, port), timeout=_PATIENCE).close()
    except OSError as error:
        return f"{name}={url[:80]} does not answer ({error})"
    return None
