"""A real browser, headless: Chromium as the system has it, driven by Playwright."""

import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from eventually import eventually

EXECUTABLE = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
_ARGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)

needs_chromium = pytest.mark.skipif(EXECUTABLE is None, reason="there is no chromium on the PATH")


class Tab:
    """A page of a fresh profile, and all that it asked for and complained about."""

    def __init__(self, page: Any) -> None:
        self.page = page
        self.complaints: list[str] = []
        self.requests: list[Any] = []
        page.on("console", lambda message: self.complaints.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("request", lambda request: self.requests.append(request))

    async def until(self, expression: str) -> None:
        """Wait for a JavaScript expression to be true; Playwright's own way evaluates text, which the page forbids."""

        async def met() -> bool:
            return bool(await self.page.evaluate(f"() => Boolean({expression})"))

        await eventually(met, 15)

    def foreign_requests(self, base_url: str) -> list[str]:
        """Addresses elsewhere that it asked."""
        return [request.url for request in self.requests if not request.url.startswith((f"{base_url}/", "data:"))]


@asynccontextmanager
async def browser_tab(**context: Any) -> AsyncIterator[Tab]:
    """``context``: as for Playwright's ``new_context``."""
    from playwright.async_api import async_playwright

    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=EXECUTABLE, args=[*_ARGS])
        try:
            page = await (await browser.new_context(**context)).new_page()
            page.set_default_timeout(15_000)
            yield Tab(page)
        finally:
            await browser.close()
