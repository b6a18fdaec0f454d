"""HTTP: one router per family of endpoints."""

from fastapi import APIRouter

from headrace_api.routes import (
    anthropic,
    autoscale,
    generation,
    health,
    metrics,
    models,
    render,
    requests,
    responses,
    tokenize,
)


def all_routers() -> list[APIRouter]:
    """Every router that the application serves."""
    modules = (generation, responses, anthropic, render, requests, models, tokenize, autoscale, health, metrics)
    return [module.router for module in modules]
