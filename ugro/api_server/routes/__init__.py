"""The routes under `/api/v1/`, one module a subject. Thin: parse, call the service, return a document."""

from fastapi import APIRouter

from ugro.api_server.routes import files, jobs, launch, live, logs, metrics, nodes, recovery, secrets, session, sweeps

API = "/api/v1"

ROUTERS: tuple[APIRouter, ...] = tuple(
    module.router for module in (jobs, launch, sweeps, recovery, logs, files, metrics, nodes, secrets, session, live)
)
"""All routes, without `API` before them."""
