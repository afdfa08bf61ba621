"""The studio as one application: the page, the files of its gallery, and a login where there is a token."""

from __future__ import annotations

import hmac
from contextlib import asynccontextmanager
from urllib.parse import parse_qs

import gradio as gr
from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import FileResponse, HTMLResponse, RedirectResponse
from starlette.concurrency import run_in_threadpool

from mindsora.manifest import beside
from mindsora.serving.access import COOKIE, Guard
from mindsora.serving.asked import LARGEST_UPLOAD
from mindsora.serving.lanes import Lanes
from mindsora.serving.store import Job, Store
from mindsora.serving.worker import PREVIEW
from mindsora.studio.page import MOUNT, Page
from mindsora.studio.requests import Models

LARGEST_BODY = LARGEST_UPLOAD + 2**20  # bytes: a file and the form around it
COOKIE_SECONDS = 30 * 24 * 3600


def create_app(store: Store, lanes: Lanes, models: Models, host: str, token: str | None) -> FastAPI:
    """The application; it starts the lanes, and drains them when it ends.

    Args:
        host, token: as for `Guard`.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI):
        lanes.start()
        yield
        await run_in_threadpool(lanes.drain)

    app = FastAPI(lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)

    @app.get("/files/{id}/{name}")
    def file(id: str, name: str):
        """A file of the gallery: only names that a job lists are served."""
        job = store.get(id)
        if job is None or name not in names_of(job):
            raise HTTPException(404, "no such file")
        path = store.folder_of(job.id) / name
        if not path.is_file():  # the preview of a job that has just ended
            raise HTTPException(404, "no such file")
        return FileResponse(path, headers={"X-Content-Type-Options": "nosniff", "Cache-Control": "private"})

    @app.get("/login", response_class=HTMLResponse)
    def login():
        return _LOGIN.format(said="")

    @app.post("/login")
    async def enter(request: Request):
        given = parse_qs((await request.body()).decode("utf-8", "replace")).get("token", [""])[0]
        if token is None or not hmac.compare_digest(given.encode(), token.encode()):
            return HTMLResponse(_LOGIN.format(said="This is not the token."), 401)
        answer = RedirectResponse("/", 303)
        answer.set_cookie(COOKIE, token, max_age=COOKIE_SECONDS, httponly=True, samesite="strict")
        return answer

    gr.mount_gradio_app(app, Page(store, lanes, models).blocks(), path="", **MOUNT)
    app.add_middleware(Guard, host=host, token=token, largest=LARGEST_BODY, open_paths=("/login",), login="/login")
    return app


def names_of(job: Job) -> set[str]:
    """Files of a job that the page shows."""
    clips = job.result.get("clips", [])
    return {PREVIEW, *clips, *(beside(clip).name for clip in clips), job.result.get("sheet") or PREVIEW}


_LOGIN = (
    '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
    "<title>MindSora studio</title><style>body{{font:16px/1.5 sans-serif;max-width:30em;margin:3em auto;padding:0 1em}}"
    "</style><main><h1>MindSora studio</h1><form method=post><label>Token <input name=token type=password required "
    'autocomplete=current-password></label> <button>Enter</button></form><p role="status">{said}</p></main></html>'
)
