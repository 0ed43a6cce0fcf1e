"""The document of this API, and a page to read and try it, which loads nothing from elsewhere."""

from importlib import resources
from typing import Final

from fastapi import APIRouter, Request
from starlette.responses import FileResponse, HTMLResponse, JSONResponse, Response

from libs.common.errors import NotFound
from services.gateway.api.platform.caller import PUBLIC

router = APIRouter(dependencies=[PUBLIC], include_in_schema=False)

PAGE: Final = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>OllamaMax</title>
<link rel="stylesheet" href="docs/swagger-ui.css">
</head>
<body>
<div id="page"></div>
<script src="docs/swagger-ui-bundle.js"></script>
<script src="docs/start.js"></script>
</body>
</html>
"""
START: Final = 'SwaggerUIBundle({url: "openapi.json", dom_id: "#page", deepLinking: true, validatorUrl: null});\n'
POLICY: Final = {
    # The page's own scripts only; its styles and icons are partly in its markup.
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
}
KEEP_A_DAY: Final = {"Cache-Control": "public, max-age=86400"}
FILES: Final = {"swagger-ui.css": "text/css", "swagger-ui-bundle.js": "text/javascript"}


@router.get("/openapi.json")
async def openapi(request: Request) -> Response:
    return JSONResponse(request.app.openapi())


@router.get("/docs")
async def page() -> Response:
    return HTMLResponse(PAGE, headers=POLICY)


@router.get("/docs/start.js")
async def start() -> Response:
    return Response(START, media_type="text/javascript", headers=KEEP_A_DAY)


@router.get("/docs/{name}")
async def file(name: str) -> Response:
    if name not in FILES:
        raise NotFound
    path = str(resources.files("fastapi_swagger.resources") / name)
    return FileResponse(path, media_type=FILES[name], headers=KEEP_A_DAY)
