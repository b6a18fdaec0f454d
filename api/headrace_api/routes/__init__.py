"""HTTP: one router per family of endpoints."""

from fastapi import APIRouter

from headrace_api.routes import chat, completions, health, metrics, models, tokenize


def all_routers() -> list[APIRouter]:
    """Every router that the application serves."""
    return [chat.router, completions.router, models.router, tokenize.router, health.router, metrics.router]
