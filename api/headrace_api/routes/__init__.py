"""HTTP: one router per family of endpoints."""

from fastapi import APIRouter

from headrace_api.routes import autoscale, generation, health, metrics, models, other_tasks, requests, tokenize


def all_routers() -> list[APIRouter]:
    """Every router that the application serves."""
    modules = (generation, requests, models, tokenize, autoscale, other_tasks, health, metrics)
    return [module.router for module in modules]
