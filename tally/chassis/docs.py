"""The API's description for machines (`/openapi.json`) and people (`/docs`, Swagger UI), all offline.

Everything the page needs is vendored in `docs_assets/`, and its Content-Security-Policy lets it load nothing
else and talk only to the service that it came from.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import msgspec
from starlette.requests import Request
from starlette.responses import FileResponse, RedirectResponse, Response

from tally.chassis.http import Route, encoded_response
from tally.chassis.problems import Problem

_FOLDER: Final = Path(__file__).parent / "docs_assets"
_ASSETS: Final = {
    "swagger-ui-bundle.js": "text/javascript",
    "swagger-ui.css": "text/css",
    "start.js": "text/javascript",
    "favicon.svg": "image/svg+xml",
    "LICENSE": "text/plain",
}
_HEADERS: Final = {
    # Swagger UI writes style attributes, and its pictures are data.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


def routes(document: Mapping[str, Any], home: str = "/docs") -> list[Route]:
    """What serves `document` (of `openapi.document`) and the page; these routes are not in the document.

    A browser that asks for `/` is sent `home`; for a program nothing is there.
    """
    encoded = msgspec.json.encode(document)

    async def root(request: Request) -> Response:
        if "text/html" not in request.headers.get("accept", ""):
            raise Problem("no-such-path", "No resource has this path; the paths there are stand in /openapi.json.")
        return RedirectResponse(home, headers={"Vary": "Accept"})

    async def openapi(request: Request) -> Response:
        return encoded_response(encoded)

    return [
        Route("GET", "/", root, "Where a browser is sent"),
        Route("GET", "/openapi.json", openapi, "This API as OpenAPI 3.1"),
        Route("GET", "/docs", _page, "This API as a page"),
        Route("GET", "/docs/{asset}", _asset, "A file of that page"),
        Route("GET", "/favicon.ico", _icon, "What a browser asks for unbidden"),
    ]


async def _page(request: Request) -> Response:
    return FileResponse(_FOLDER / "index.html", media_type="text/html", headers=_HEADERS)


async def _asset(request: Request) -> Response:
    return _file(request.path_params["asset"])


async def _icon(request: Request) -> Response:
    return _file("favicon.svg")


def _file(name: str) -> Response:
    # Looked up in a table: a name from outside never becomes a path.
    if name not in _ASSETS:
        raise Problem("no-such-path", "The documentation has no such file.")
    return FileResponse(_FOLDER / name, media_type=_ASSETS[name], headers=_HEADERS)
