"""The HTTP interface of `mindsora serve`: OpenAI's video jobs, health, metrics and a page that describes it all."""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import asynccontextmanager
from html import escape
from pathlib import Path

from fastapi import FastAPI, HTTPException, Query, Request, Response
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from pydantic import ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException as StarletteHTTPException

from mindsora import __version__
from mindsora.errors import InputError, shown
from mindsora.manifest import beside
from mindsora.media import read_frames
from mindsora.serving.access import Guard
from mindsora.serving.asked import LARGEST_UPLOAD, Asked
from mindsora.serving.bodies import PICTURE, VideoBody, refused, sentence, video
from mindsora.serving.lanes import Lanes, Watch
from mindsora.serving.store import Job, QueueFull, Store
from mindsora.zoo import ModelIndex

LARGEST_BODY = LARGEST_UPLOAD + 2**20  # bytes: a picture and the fields around it
LARGEST_JSON = 2**16  # bytes: two prompts and numbers
BODY_SECONDS = 60  # for a client to send a body
LONGEST_KEY = 200
CANCEL_TRIES = 50  # of 0.1 s: between the queue and its lane a job is neither's for a moment
SCHEMA = {"$ref": "#/components/schemas/VideoBody"}


class Metrics:
    """What Prometheus reads. Counters begin anew with each server; gauges are asked for when they are read."""

    def __init__(self):
        self.registry = CollectorRegistry()
        self.ended = Counter("mindsora_jobs", "Jobs that have ended.", ["status"], registry=self.registry)
        self.refused = Counter("mindsora_refused", "Requests refused.", ["why"], registry=self.registry)
        self.replaced = Counter("mindsora_replaced", "Model processes replaced.", ["why"], registry=self.registry)
        buckets = (1, 2, 5, 10, 30, 60, 120, 300, 600, 1800, 3600)
        self.seconds = Histogram(
            "mindsora_job_seconds", "Seconds that a completed job took.", buckets=buckets, registry=self.registry
        )
        self.waited = Histogram(
            "mindsora_wait_seconds", "Seconds that a job waited.", buckets=buckets, registry=self.registry
        )
        self.jobs = Gauge("mindsora_jobs_now", "Jobs in the store.", ["status"], registry=self.registry)
        self.resident = Gauge("mindsora_worker_bytes", "Memory of a process.", ["lane"], registry=self.registry)

    def watch(self) -> Watch:
        """What lanes report to."""
        return Watch(self._ended, lambda why: self.replaced.labels(why).inc())

    def _ended(self, job: Job) -> None:
        self.ended.labels(job.status).inc()
        self.waited.observe(job.started - job.created)
        if job.status == "completed":
            self.seconds.observe(job.finished - job.started)

    def text(self, store: Store, lanes: Lanes) -> bytes:
        counts = store.counts()
        for status in ("queued", "in_progress", "completed", "failed", "cancelled"):
            self.jobs.labels(status).set(counts.get(status, 0))
        for number, lane in enumerate(lanes.lanes):
            self.resident.labels(number).set(lane.resident)
        return generate_latest(self.registry)


def create_app(
    store: Store, lanes: Lanes, metrics: Metrics, model: str, index: ModelIndex, host: str, token: str | None
) -> FastAPI:
    """The application; it starts the lanes, and drains them when it ends.

    Args:
        model: a name, or a folder, of which clients hear the last part alone.
        index: the model's.
        host, token: as for `Guard`.
    """

    name = Path(model).name

    @asynccontextmanager
    async def lifespan(app: FastAPI):
        lanes.start()
        yield
        await run_in_threadpool(lanes.drain)

    app = FastAPI(
        title="MindSora", version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None
    )
    app.add_middleware(Guard, host=host, token=token, largest=LARGEST_BODY)
    _answer_errors(app)

    def job_of(id: str) -> Job:
        if (job := store.get(id)) is None:
            raise HTTPException(404, f"no video {shown(id, 80)}")
        return job

    def shape(job: Job) -> dict:
        return video(job, store, index)

    def accept(body: VideoBody, picture: bytes | None, key: str | None) -> Job:
        if body.model not in (None, name):
            raise HTTPException(404, f"model {shown(body.model)} is not served here; served: {name}")
        asked = body.asked(model, index, picture is not None)
        return store.add(asked, {PICTURE: picture} if picture is not None else {}, _check, key)

    @app.post(
        "/v1/videos",
        summary="Ask for a video",
        openapi_extra={
            "requestBody": {
                "required": True,
                "content": {"application/json": {"schema": SCHEMA}, "multipart/form-data": {"schema": SCHEMA}},
            }
        },
    )
    async def create(request: Request):
        """Put a job into the queue. A form may hold a picture `input_reference`, the first frame. A second request
        with the same `Idempotency-Key` gets the first one's job. 429 with Retry-After: the queue is full."""
        key = request.headers.get("idempotency-key")
        if key is not None and len(key) > LONGEST_KEY:
            raise InputError(f"Idempotency-Key of {len(key)} characters: at most {LONGEST_KEY}")
        try:
            fields, picture = await asyncio.wait_for(_fields(request), BODY_SECONDS)
        except TimeoutError:
            raise HTTPException(408, f"the body did not arrive in {BODY_SECONDS} s") from None
        try:
            job = await run_in_threadpool(accept, VideoBody.model_validate(fields), picture, key)
        except QueueFull as full:
            metrics.refused.labels("queue_full").inc()
            answer = refused(str(full), "queue_full")
            return JSONResponse(answer, 429, {"Retry-After": str(full.seconds)})
        return shape(job)

    @app.get("/v1/videos", summary="List the videos")
    def listed(
        limit: int = Query(20, ge=1, le=100),
        after: str | None = None,
        order: str = Query("desc", pattern="^(asc|desc)$"),
    ):
        """The newest first; `after` is the id of the last one that was seen."""
        start = None if after is None else job_of(after).number
        jobs = store.list(limit + 1, start, order == "asc")
        data = [shape(job) for job in jobs[:limit]]
        ends = {"first_id": data[0]["id"] if data else None, "last_id": data[-1]["id"] if data else None}
        return {"object": "list", "data": data, "has_more": len(jobs) > limit} | ends

    @app.get("/v1/videos/{id}", summary="How far a video is")
    def retrieve(id: str):
        """Status `queued`, `in_progress`, `completed`, `failed` or `cancelled`; progress in percent."""
        return shape(job_of(id))

    @app.get("/v1/videos/{id}/content", summary="The file of a video", response_class=FileResponse)
    def content(id: str, variant: str = Query("video", pattern="^(video|thumbnail|spritesheet|manifest)$")):
        """The mp4 (a png, if it has one frame), its first frame, a sheet of its frames, or its manifest."""
        job = job_of(id)
        if job.status != "completed":
            raise HTTPException(409, f"video {id} is {job.status}; it has no content")
        path = store.folder_of(id) / job.result["clips"][0]
        if variant == "thumbnail":
            return Response(_thumbnail(path), media_type="image/png")
        file = {"video": path, "spritesheet": path.with_name(job.result["sheet"]), "manifest": beside(path)}[variant]
        return FileResponse(file, filename=f"{id}{file.suffix}")

    @app.post("/v1/videos/{id}/cancel", summary="Cancel a video")
    def cancel(id: str):
        """A job that is being made stops after its present step; `status` says when it has."""
        for _ in range(CANCEL_TRIES):
            if job_of(id).ended:
                raise HTTPException(409, f"video {id} is {job_of(id).status} already")
            if lanes.cancel(id):
                break
            time.sleep(0.1)
        return shape(job_of(id))

    @app.delete("/v1/videos/{id}", summary="Delete a video")
    def delete(id: str):
        """Remove a job and its files. One that waits is cancelled first."""
        job_of(id)
        store.cancel_queued(id)
        if not store.delete(id):
            raise HTTPException(409, f"video {id} is being made; cancel it first")
        return {"id": id, "object": "video.deleted", "deleted": True}

    @app.get("/v1/models", summary="The model that is served")
    def models():
        return {"object": "list", "data": [{"id": name, "object": "model", "created": 0, "owned_by": "mindsora"}]}

    @app.get("/health", summary="Whether jobs are being made")
    def health():
        """503 where no model process can start."""
        troubles = [lane.trouble for lane in lanes.lanes if lane.trouble]
        busy = sum(lane.job is not None for lane in lanes.lanes)
        state = {
            "status": "failing" if troubles else "ok",
            "trouble": troubles,
            "lanes": len(lanes.lanes),
            "busy": busy,
        }
        return JSONResponse(state | {"queued": store.counts().get("queued", 0)}, 503 if troubles else 200)

    @app.get("/metrics", summary="Numbers for Prometheus", response_class=Response)
    def numbers():
        return Response(metrics.text(store, lanes), media_type="text/plain; version=0.0.4; charset=utf-8")

    def openapi() -> dict:
        schema = FastAPI.openapi(app)
        body = VideoBody.model_json_schema()
        schema.setdefault("components", {}).setdefault("schemas", {})["VideoBody"] = body
        return schema

    app.openapi = openapi

    @app.get("/openapi.json", include_in_schema=False)
    def description():
        return app.openapi()

    @app.get("/docs", include_in_schema=False, response_class=HTMLResponse)
    def page():
        return _page(app.openapi())

    return app


def _check(asked: Asked, folder: Path) -> None:
    """InputError for a job that cannot be made; it names files as the client does."""
    try:
        asked.plan(folder)
    except InputError as error:
        raise InputError(str(error).replace(f"{folder}/", "")) from error


async def _fields(request: Request) -> tuple[dict, bytes | None]:
    """The fields of a body, JSON or a form, and the picture of a form."""
    if request.headers.get("content-type", "").startswith("multipart/form-data"):
        async with request.form(
            max_files=1, max_fields=len(VideoBody.model_fields), max_part_size=LARGEST_JSON
        ) as form:
            fields = dict(form)
            picture = fields.pop("input_reference", None)
            if any(isinstance(value, UploadFile) for value in fields.values()) or isinstance(picture, str):
                raise InputError("input_reference must be a file, and the only one")
            return fields, None if picture is None else await picture.read()
    body = await request.body()
    if len(body) > LARGEST_JSON:
        raise HTTPException(413, f"a JSON body of {len(body)} bytes: at most {LARGEST_JSON}")
    try:
        fields = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise InputError(f"the body is not JSON: {shown(error, quote=False)}") from error
    if not isinstance(fields, dict):
        raise InputError("the body must be a JSON object")
    return fields, None


def _thumbnail(path: Path) -> bytes:
    """The first frame as PNG."""
    from io import BytesIO

    from PIL import Image

    out = BytesIO()
    Image.fromarray(read_frames(path, [0])[0]).save(out, format="PNG")
    return out.getvalue()


def _answer_errors(app: FastAPI) -> None:
    """Errors as OpenAI's clients read them."""

    @app.exception_handler(InputError)
    async def bad_input(request: Request, error: InputError):
        return JSONResponse(refused(str(error), "invalid_value"), 400)

    @app.exception_handler(ValidationError)
    async def bad_field(request: Request, error: ValidationError):
        message, param = sentence(error.errors())
        return JSONResponse(refused(message, "invalid_value", param), 400)

    @app.exception_handler(StarletteHTTPException)
    async def http_error(request: Request, error: StarletteHTTPException):
        return JSONResponse(refused(str(error.detail)), error.status_code, error.headers)


def _page(schema: dict) -> str:
    """The description as a page that needs no script and no other host."""
    rows = []
    for path, methods in schema["paths"].items():
        for method, operation in methods.items():
            asked = [escape(f"{one['name']} ({one['in']})") for one in operation.get("parameters", [])]
            rows.append(
                f"<h2><code>{method.upper()} {escape(path)}</code></h2><p>{escape(operation.get('summary', ''))}. "
                f"{escape(operation.get('description', ''))}</p>"
                + (f"<p>Takes: {', '.join(asked)}</p>" if asked else "")
            )
    fields = "".join(
        f"<tr><td><code>{escape(name)}</code></td><td>{escape(field.get('description', ''))}</td></tr>"
        for name, field in schema["components"]["schemas"]["VideoBody"]["properties"].items()
    )
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        "<title>MindSora</title><style>body{font:16px/1.5 sans-serif;max-width:50em;margin:2em auto;padding:0 1em}"
        "td{padding:.2em 1em .2em 0;vertical-align:top}</style><h1>MindSora</h1>"
        '<p>Machine-readable: <a href="openapi.json">openapi.json</a></p>'
        f"{''.join(rows)}<h2>Fields of POST /v1/videos</h2><table>{fields}</table></html>"
    )
