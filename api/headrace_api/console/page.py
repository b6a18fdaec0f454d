"""The console's page and the files that it is made of, read once."""

from importlib.resources import files
from typing import NamedTuple

_TYPES = {"html": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-cache",
}
"""With every file: nothing from elsewhere, nothing inline, in nobody's frame."""


class PageFile(NamedTuple):
    """One of them."""

    content: bytes
    media_type: str


FILES = {
    entry.name: PageFile(entry.read_bytes(), _TYPES[entry.name.rpartition(".")[2]])
    for entry in (files("headrace_api.console") / "files").iterdir()
}


def page(*, guarded: bool) -> PageFile:
    """The page itself. ``guarded``: it asks for a key before it asks for data."""
    known = FILES["console.html"]
    return known._replace(content=known.content.replace(b"<html ", b"<html data-guarded ")) if guarded else known
