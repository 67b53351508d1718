"""A Celery application whose tasks go on with the trace of whoever sent them; a test runs its worker as a process."""

from __future__ import annotations

import os
from typing import Any

import celery
import openai
from celery.signals import worker_process_init, worker_process_shutdown

import rlm_obs

FOLDER = os.environ["CELERY_FOLDER"]
app = celery.Celery("shop", broker="filesystem://", backend=f"file://{FOLDER}/results")
app.conf.update(
    broker_transport_options={"data_folder_in": f"{FOLDER}/queue", "data_folder_out": f"{FOLDER}/queue"},
    broker_connection_retry_on_startup=True,
    control_folder=f"{FOLDER}/control",
)


@worker_process_init.connect
def switch_on(**_: Any) -> None:
    """Switch tracing on in each process that does the work."""
    rlm_obs.instrument(exporters=["file"])


@worker_process_shutdown.connect
def deliver(**_: Any) -> None:
    """Deliver what is queued: Celery's processes end without Python's own exit."""
    rlm_obs.flush()


@app.task(bind=True)
def summarise(self: Any, text: str) -> str:
    """Ask a model, in the trace and for the user that the message names."""
    with rlm_obs.extract(self.request.headers), openai.OpenAI() as client:
        messages: list[Any] = [{"role": "user", "content": text}]
        answer = client.chat.completions.create(model="gpt-4o-mini", messages=messages)
    return answer.choices[0].message.content or ""
