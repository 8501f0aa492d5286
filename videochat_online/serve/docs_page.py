"""/docs: the API's description for a person, by Swagger UI, which comes with the package: it works without internet.

serve/swagger/ holds two files of swagger-ui-dist 5.35.0 as they were published (gzip), and their licences (Apache-2.0).
FastAPI is optional and imported inside the functions.
"""

from pathlib import Path
from typing import Any

SWAGGER = Path(__file__).parent / "swagger"
KINDS = {"swagger-ui-bundle.js": "text/javascript", "swagger-ui.css": "text/css"}


def add_docs_page(app: Any) -> None:
    from fastapi import HTTPException
    from fastapi.openapi.docs import get_swagger_ui_html
    from fastapi.responses import FileResponse

    @app.get("/docs", include_in_schema=False)
    def page() -> Any:
        return get_swagger_ui_html(  # addresses that hold behind a proxy's path, too
            title=app.title,
            openapi_url="openapi.json",
            swagger_js_url="docs/swagger-ui-bundle.js",
            swagger_css_url="docs/swagger-ui.css",
            swagger_favicon_url="data:,",
            swagger_ui_parameters={"validatorUrl": None},  # else the description is sent to validator.swagger.io
        )

    @app.get("/docs/{name}", include_in_schema=False)
    def file(name: str) -> Any:
        if name not in KINDS:
            raise HTTPException(404, f"there is no {name!r:.40} here")
        headers = {"Content-Encoding": "gzip", "Cache-Control": "public, max-age=86400"}
        return FileResponse(SWAGGER / f"{name}.gz", media_type=KINDS[name], headers=headers)
