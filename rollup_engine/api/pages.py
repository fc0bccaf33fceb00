"""`/docs`: the OpenAPI document for people, as one page of HTML. No scripts, so none that could read a key."""

from __future__ import annotations

from html import escape
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import HTMLResponse, Response

router = APIRouter(include_in_schema=False)

_STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}"
    "code{background:#8882;padding:.1em .3em;border-radius:3px}table{border-collapse:collapse}"
    "td{padding:.2rem 1rem .2rem 0;vertical-align:top}h2{margin-top:2.5rem;font-size:1.1rem}"
)


@router.get("/docs")
async def docs(request: Request) -> Response:
    """Every address, with its parameters."""
    document = request.app.openapi()
    parts = [
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{escape(document['info']['title'])}</title>",
        f"<style>{_STYLE}</style><h1>{escape(document['info']['title'])} {escape(document['info']['version'])}</h1>",
        f"<p>{_text(document['info']['description'])} In full: <a href=openapi.json>openapi.json</a>.</p>",
        "<p>Send <code>Authorization: Bearer rk_…</code>, made by <code>rollup-engine api-keys create</code>.</p>",
    ]
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            parts.append(_operation(path, method, operation))
    policy = {"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'"}
    return HTMLResponse("\n".join(parts), headers=policy)


def _operation(path: str, method: str, operation: dict[str, Any]) -> str:
    rows = [
        f"<tr><td><code>{escape(one['name'])}</code>{' *' if one.get('required') else ''}"
        f"<td>{_text(one.get('description', ''))}"
        for one in operation.get("parameters", ())
    ]
    return (
        f"<h2><code>{method.upper()} {escape(path)}</code> {escape(operation['summary'])}</h2>"
        f"<p>{_text(operation.get('description', ''))}</p><table>{''.join(rows)}</table>"
    )


def _text(markdown: str) -> str:
    """Prose with `code` in it."""
    parts = escape(markdown).split("`")
    return "".join(f"<code>{part}</code>" if number % 2 else part for number, part in enumerate(parts))
