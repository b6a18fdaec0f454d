"""HTTP: one router per family of endpoints."""

from fastapi import APIRouter

from headrace_api.routes import (
    anthropic,
    autoscale,
    batches,
    console,
    files,
    generation,
    health,
    metrics,
    models,
    other_tasks,
    render,
    requests,
    responses,
    stored_chats,
    tokenize,
)


def all_routers() -> list[APIRouter]:
    """Every router that the application serves."""
    asked = (generation, stored_chats, responses, anthropic, files, batches, render, tokenize, other_tasks)
    modules = (*asked, requests, models, autoscale, console, health, metrics)
    return [module.router for module in modules]
