"""The endpoints of OpenAI that cost nothing by the call: for the docs, and for the test that misses none."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from rlm_obs._instrument.endpoints import ENDPOINTS, OTHERS

#: Beginnings of paths of which nothing costs anything, whatever comes to be added below them.
WHOLE = {
    "/organization": "administration",
    "/projects": "administration",
    "/vaults": "keeps credentials",
    "/webhook_endpoints": "administration; `webhooks.unwrap` checks a signature and calls nobody",
    "/webhook_event_types": "administration",
}
#: path: verbs, and why it is free where that is not plain.
FREE = """
/agents: get post
/agents/automations: get post
/agents/automations/{automation_id}: get post delete
/agents/automations/{automation_id}/invocations: get
/agents/automations/{automation_id}/invocations/{invocation_id}: get
/agents/automations/{automation_id}/pause: post
/agents/automations/{automation_id}/resume: post
/agents/environments: get post
/agents/environments/templates: get post
/agents/environments/templates/{environment_template_id}: get post delete
/agents/environments/{environment_id}: get
/agents/environments/{environment_id}/files: get post
/agents/sessions: get
/agents/sessions/{session_id}: get post delete
/agents/sessions/{session_id}/artifacts: get
/agents/sessions/{session_id}/artifacts/{artifact_id}: get delete
/agents/sessions/{session_id}/artifacts/{artifact_id}/content: get
/agents/sessions/{session_id}/events: get
/agents/sessions/{session_id}/items: get
/agents/sessions/{session_id}/subagents: get
/agents/sessions/{session_id}/subagents/{subagent_id}: get
/agents/sessions/{session_id}/subagents/{subagent_id}/items: get
/agents/sessions/{session_id}/subagents/{subagent_id}/turns: get
/agents/sessions/{session_id}/subagents/{subagent_id}/turns/{turn_id}: get
/agents/sessions/{session_id}/subagents/{subagent_id}/turns/{turn_id}/items: get
/agents/sessions/{session_id}/traces: get
/agents/sessions/{session_id}/turns: get
/agents/sessions/{session_id}/turns/{turn_id}: get
/agents/sessions/{session_id}/turns/{turn_id}/items: get
/agents/{agent_id}: get post delete
/assistants: get post
/assistants/{assistant_id}: get post delete
/audio/voice_consents: get post
/audio/voice_consents/{consent_id}: get post delete
/audio/voices: post
/audio/voices/{voice_id}: delete
/batches: get post  its output is billed when it is read
/batches/{batch_id}: get
/batches/{batch_id}/cancel: post
/chat/completions: get
/chat/completions/{completion_id}: get post delete  billed when it was made
/chat/completions/{completion_id}/messages: get
/chatkit/sessions: post  what is said in it is billed where its workflow runs
/chatkit/sessions/{session_id}/cancel: post
/chatkit/threads: get
/chatkit/threads/{thread_id}: get delete
/chatkit/threads/{thread_id}/items: get
/containers: get
/containers/{container_id}: get delete
/containers/{container_id}/files: get post
/containers/{container_id}/files/{file_id}: get delete
/containers/{container_id}/files/{file_id}/content: get
/conversations: post
/conversations/{conversation_id}: get post delete
/conversations/{conversation_id}/items: get post
/conversations/{conversation_id}/items/{item_id}: get delete
/evals: get post
/evals/{eval_id}: get post delete
/evals/{eval_id}/runs: get post  billed when its run has ended and is retrieved
/evals/{eval_id}/runs/{run_id}: delete post
/evals/{eval_id}/runs/{run_id}/cancel: post
/evals/{eval_id}/runs/{run_id}/output_items: get
/evals/{eval_id}/runs/{run_id}/output_items/{output_item_id}: get
/files: get post
/files/{file_id}: get delete
/fine_tuning/alpha/graders/validate: post
/fine_tuning/checkpoints/{fine_tuned_model_checkpoint}/permissions: get post
/fine_tuning/checkpoints/{fine_tuned_model_checkpoint}/permissions/{permission_id}: delete
/fine_tuning/jobs: get post  billed when it has ended and is retrieved
/fine_tuning/jobs/{fine_tuning_job_id}/cancel: post
/fine_tuning/jobs/{fine_tuning_job_id}/checkpoints: get
/fine_tuning/jobs/{fine_tuning_job_id}/events: get
/fine_tuning/jobs/{fine_tuning_job_id}/pause: post
/fine_tuning/jobs/{fine_tuning_job_id}/resume: post
/live/sessions/{session_id}/content: get
/live/sessions/{session_id}/hangup: post
/live/sessions/{session_id}/refer: post
/live/sessions/{session_id}/reject: post
/models: get
/models/{model}: get delete
/moderations: post
/realtime/calls/{call_id}/hangup: post
/realtime/calls/{call_id}/refer: post
/realtime/calls/{call_id}/reject: post
/realtime/client_secrets: post
/realtime/sessions: post
/realtime/transcription_sessions: post
/realtime/translations/client_secrets: post
/responses/input_tokens: post
/responses/{response_id}: delete
/responses/{response_id}/input_items: get
/safety/alerts/{id}: get
/safety/cases/{id}: get
/skills: get post
/skills/{skill_id}: get post delete
/skills/{skill_id}/content: get
/skills/{skill_id}/versions: get post
/skills/{skill_id}/versions/{version}: get delete
/skills/{skill_id}/versions/{version}/content: get
/threads: post
/threads/{thread_id}: get post delete
/threads/{thread_id}/messages: get post
/threads/{thread_id}/messages/{message_id}: get post delete
/threads/{thread_id}/runs: get
/threads/{thread_id}/runs/{run_id}: post
/threads/{thread_id}/runs/{run_id}/steps: get
/threads/{thread_id}/runs/{run_id}/steps/{step_id}: get
/uploads: post
/uploads/{upload_id}/cancel: post
/uploads/{upload_id}/complete: post
/uploads/{upload_id}/parts: post
/vector_stores: get post  kept data is billed by its size and time, not by the call
/vector_stores/{vector_store_id}: get post delete
/vector_stores/{vector_store_id}/file_batches: post
/vector_stores/{vector_store_id}/file_batches/{batch_id}: get
/vector_stores/{vector_store_id}/file_batches/{batch_id}/cancel: post
/vector_stores/{vector_store_id}/file_batches/{batch_id}/files: get
/vector_stores/{vector_store_id}/files: get post
/vector_stores/{vector_store_id}/files/{file_id}: get post delete
/vector_stores/{vector_store_id}/files/{file_id}/content: get
/vector_stores/{vector_store_id}/search: post
/videos: get post  billed when it is retrieved complete
/videos/characters: post
/videos/characters/{character_id}: get
/videos/edits: post  billed when it is retrieved complete
/videos/extensions: post  billed when it is retrieved complete
/videos/{video_id}: delete
/videos/{video_id}/content: get
/videos/{video_id}/remix: post  billed when it is retrieved complete
"""


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table: which verb and path, whether it is billed, and what there is to say of it."""

    verb: str
    path: str
    bill: str
    note: str = ""


def table() -> Iterator[Row]:
    """Give every endpoint that is known, those that cost something first."""
    for path, endpoint in ENDPOINTS.items():
        yield Row("post", path, endpoint.bill, endpoint.note)
    for (verb, path), endpoint in OTHERS.items():
        yield Row(verb, path, endpoint.bill, endpoint.note)
    for line in FREE.strip().splitlines():
        path, _, rest = line.partition(": ")
        verbs, _, note = rest.partition("  ")
        for verb in verbs.split():
            yield Row(verb, path, "free", note)
