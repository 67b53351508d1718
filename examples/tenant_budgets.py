"""A FastAPI service in which each tenant has a budget for each day, shared by all workers and machines through Redis.

pip install "rlm-obs[openai]" rlm-obs-redis fastapi uvicorn
BUDGET_STORE=redis://localhost:6379/0 uvicorn examples.tenant_budgets:app --workers 4

curl -X POST localhost:8000/ask -H "X-Tenant: acme" -d '{"question": "Why is the sky blue?"}'
curl localhost:8000/budget -H "X-Tenant: acme"
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

import openai
from fastapi import FastAPI, Header, HTTPException, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel

import rlm_obs

STORE = os.environ.get("BUDGET_STORE", "redis://localhost:6379/0")


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Switch on tracing for the life of the service, and make the budget and the client."""
    with rlm_obs.instrument(exporters=["console"], service_name="questions"):
        app.state.tenants = rlm_obs.CostTracker(
            name="tenants",
            budget_usd="1.00",
            per="tenant.id",
            limits={"acme": "20.00"},
            window="day",
            time_zone="Europe/Berlin",
            alert_threshold=[0.5, 0.8],
            store=STORE,
        )
        async with openai.AsyncOpenAI() as app.state.openai:
            yield


app = FastAPI(lifespan=lifespan)
Tenant = Annotated[str, Header(alias="X-Tenant")]


class Question(BaseModel):
    question: str


@app.exception_handler(rlm_obs.BudgetExceeded)
async def used_up(_: Request, refusal: rlm_obs.BudgetExceeded) -> JSONResponse:
    """Answer 429 with the time at which there is money again."""
    reset_at = None if refusal.reset_at is None else refusal.reset_at.isoformat()
    return JSONResponse({"error": f"the budget of {refusal.key!r} is used up", "reset_at": reset_at}, 429)


@app.exception_handler(rlm_obs.BudgetUnavailable)
async def unknown(_: Request, refusal: rlm_obs.BudgetUnavailable) -> JSONResponse:
    """Answer 503 while the store is down: nobody knows what is left."""
    return JSONResponse({"error": "budgets cannot be checked right now"}, 503)


@app.post("/ask")
async def ask(asked: Question, tenant: Tenant) -> dict[str, str | None]:
    """Answer a question on the tenant's budget."""
    if not asked.question:
        raise HTTPException(422, "ask something")
    with rlm_obs.context(attributes={"tenant.id": tenant}), app.state.tenants:
        said = await app.state.openai.chat.completions.create(
            model="gpt-4o-mini",
            messages=[{"role": "user", "content": asked.question}],
            max_completion_tokens=500,
        )
    return {"answer": said.choices[0].message.content}


@app.get("/budget")
async def budget(tenant: Tenant) -> dict[str, Any]:
    """Tell what the tenant has left today."""
    balance = app.state.tenants.balance(tenant)
    return {
        "limit": str(balance.limit),
        "spent": str(balance.spent),
        "remaining": str(balance.remaining),
        "reset_at": None if balance.reset_at is None else balance.reset_at.isoformat(),
    }
