"""The JSON shapes of a 0.16.8 server, field by field; constants stand for what no caller reads."""

from console.sandbox.clock import aware, naive, whole_second
from console.sandbox.nouns import Agent, Block, Conversation, JsonObject, Message, Run, Step, Tool, Usage
from console.sandbox.turns import Ending
from console.sandbox.world import World

_USER = "user-00000000-0000-4000-8000-000000000000"
_ORGANIZATION = "org-00000000-0000-4000-8000-000000000000"
_OWNED: JsonObject = {"created_by_id": _USER, "last_updated_by_id": _USER}
_NO_TEMPLATE: JsonObject = {
    "project_id": None,
    "template_id": None,
    "base_template_id": None,
    "deployment_id": None,
    "entity_id": None,
}
_REQUEST_CONFIG: JsonObject = {
    "use_assistant_message": True,
    "assistant_message_tool_name": "send_message",
    "assistant_message_tool_kwarg": "message",
    "include_return_message_types": None,
}
_MODEL_SETTINGS: JsonObject = {
    "max_output_tokens": 16384,
    "parallel_tool_calls": True,
    "provider_type": "openai",
    "temperature": 1.0,
    "reasoning": {"reasoning_effort": "minimal"},
    "response_format": None,
    "strict": False,
}
RELATIONS = frozenset(
    {
        "agent.blocks",
        "agent.identities",
        "agent.managed_group",
        "agent.pending_approval",
        "agent.secrets",
        "agent.sources",
        "agent.tags",
        "agent.tools",
    }
)


def message_json(message: Message) -> JsonObject:
    """A message as lists, answers and streams carry it."""
    shown: JsonObject = {
        "id": message.id,
        "date": whole_second(message.at),
        "name": message.name,
        "message_type": message.kind,
        "otid": message.otid,
        "sender_id": message.sender_id,
        "step_id": message.step_id,
        "is_err": None,
        "seq_id": None,
        "run_id": message.run_id,
    }
    if message.content is not None:
        shown["content"] = message.content
    if message.details:
        shown.update(message.details)
    return shown


def stop_json(stop_reason: str) -> JsonObject:
    """The stop reason, in answers and in streams."""
    return {"message_type": "stop_reason", "stop_reason": stop_reason}


def usage_json(usage: Usage) -> JsonObject:
    """Token figures of a turn; a turn without a step has none."""
    none = None if usage.steps == 0 else 0
    return {
        "message_type": "usage_statistics",
        "completion_tokens": usage.completion,
        "prompt_tokens": usage.prompt,
        "total_tokens": usage.prompt + usage.completion,
        "step_count": usage.steps,
        "run_ids": None,
        "cached_input_tokens": none,
        "cache_write_tokens": none,
        "reasoning_tokens": none,
        "context_tokens": usage.context if usage.steps else None,
    }


def response_json(ending: Ending, kinds: frozenset[str] | None) -> JsonObject:
    """The answer of a blocking turn; `kinds` filters the messages shown."""
    return {
        "messages": [message_json(each) for each in ending.messages if kinds is None or each.kind in kinds],
        "stop_reason": stop_json(ending.stop_reason),
        "usage": usage_json(ending.usage),
        "logprobs": None,
        "turns": None,
    }


def run_json(run: Run) -> JsonObject:
    """A run."""
    metadata: JsonObject = {"run_type": run.run_type}
    if run.asynchronous:
        metadata["lettuce"] = None
    if run.error is not None:
        metadata["error"] = run.error
    return {
        "id": run.id,
        "status": run.status,
        "created_at": aware(run.at),
        "completed_at": None if run.completed_at is None else naive(run.completed_at),
        "agent_id": run.agent_id,
        "conversation_id": run.conversation_id,
        "base_template_id": None,
        "background": run.background,
        "metadata": metadata,
        "request_config": _REQUEST_CONFIG,
        "stop_reason": run.stop_reason,
        "callback_url": run.callback_url,
        "callback_sent_at": None,
        "callback_status_code": None,
        "callback_error": None,
        "ttft_ns": None,
        "total_duration_ns": None if run.completed_at is None else int((run.completed_at - run.at) * 1e9),
    }


def step_json(run: Run, step: Step, model: str) -> JsonObject:
    """A step of a run."""
    return {
        "id": step.id,
        "origin": None,
        "organization_id": _ORGANIZATION,
        "run_id": run.id,
        "agent_id": run.agent_id,
        "provider_name": "openai",
        "provider_category": "base",
        "model": model.rsplit("/", 1)[-1],
        "model_handle": model,
        "context_window_limit": 30000,
        "completion_tokens": step.completion,
        "prompt_tokens": step.prompt,
        "total_tokens": step.prompt + step.completion,
        "stop_reason": step.stop_reason,
        "tags": [],
        "messages": [],
        "feedback": None,
        "error_type": "LLMServerError" if step.failed else None,
        "status": "failed" if step.failed else "success",
    }


def run_usage_json(run: Run) -> JsonObject:
    """Token figures of a run."""
    completion, prompt = sum(step.completion for step in run.steps), sum(step.prompt for step in run.steps)
    return {
        "completion_tokens": completion,
        "prompt_tokens": prompt,
        "total_tokens": completion + prompt,
        "prompt_tokens_details": None,
        "completion_tokens_details": None,
    }


def conversation_json(conversation: Conversation) -> JsonObject:
    """A conversation."""
    last = conversation.last_message_at
    return {
        **_OWNED,
        "created_at": aware(conversation.created_at),
        "updated_at": aware(conversation.updated_at),
        "id": conversation.id,
        "agent_id": conversation.agent_id,
        "summary": conversation.summary,
        "in_context_message_ids": conversation.thread.message_ids,
        "isolated_block_ids": [],
        "model": None,
        "model_settings": None,
        "last_message_at": None if last is None else aware(last),
    }


def block_json(block: Block) -> JsonObject:
    """A memory block."""
    return {
        "value": block.value,
        "limit": block.limit,
        "project_id": None,
        "template_name": None,
        "is_template": False,
        "preserve_on_migration": False,
        "label": block.label,
        "read_only": block.read_only,
        "description": block.description,
        "metadata": block.metadata,
        "hidden": None,
        "id": block.id,
        "created_by_id": None,
        "last_updated_by_id": None,
        "tags": block.tags,
    }


def tool_json(tool: Tool) -> JsonObject:
    """A tool."""
    return {
        "id": tool.id,
        "tool_type": tool.tool_type,
        "description": tool.description,
        "source_type": "json" if tool.source_code else "python",
        "name": tool.name,
        "tags": tool.tags,
        "source_code": tool.source_code,
        "json_schema": tool.json_schema,
        "args_json_schema": {},
        "return_char_limit": 50000,
        "pip_requirements": None,
        "npm_requirements": None,
        "default_requires_approval": tool.requires_approval,
        "enable_parallel_execution": False,
        **_OWNED,
        "metadata_": {},
        "project_id": None,
    }


def agent_json(world: World, agent: Agent, include: frozenset[str]) -> JsonObject:
    """An agent. Relations that were not asked for are empty, not missing: that is the trap of it."""
    blocks = _blocks(world, agent) if "agent.blocks" in include else []
    pending = agent.thread.pending
    return {
        **_OWNED,
        "created_at": aware(agent.created_at),
        "updated_at": aware(agent.updated_at),
        "id": agent.id,
        "name": agent.name,
        "tool_rules": agent.tool_rules,
        "message_ids": agent.thread.message_ids,
        "system": agent.system,
        "agent_type": agent.agent_type,
        "llm_config": _llm_config(agent.model),
        "embedding_config": None,
        "model": agent.model,
        "embedding": None,
        "model_settings": _MODEL_SETTINGS,
        "compaction_settings": None,
        "response_format": None,
        "description": agent.description,
        "metadata": agent.metadata,
        "memory": {
            "agent_type": agent.agent_type,
            "git_enabled": False,
            "blocks": blocks,
            "file_blocks": [],
            "prompt_template": "",
        },
        "blocks": blocks,
        "tools": _tools(world, agent) if "agent.tools" in include else [],
        "sources": [],
        "tags": agent.tags if "agent.tags" in include else [],
        "tool_exec_environment_variables": [],
        "secrets": [],
        **_NO_TEMPLATE,
        "identity_ids": [],
        "identities": [],
        "pending_approval": message_json(pending.request) if pending and "agent.pending_approval" in include else None,
        "message_buffer_autoclear": False,
        "enable_sleeptime": None,
        "multi_agent_group": None,
        "managed_group": None,
        "last_run_completion": None,
        "last_run_duration_ms": None,
        "last_stop_reason": agent.last_stop_reason,
        "timezone": "UTC",
        "max_files_open": 5,
        "per_file_view_window_char_limit": 15000,
        "hidden": agent.hidden,
    }


def _blocks(world: World, agent: Agent) -> list[JsonObject]:
    return [block_json(world.blocks[each]) for each in agent.block_ids if each in world.blocks]


def _tools(world: World, agent: Agent) -> list[JsonObject]:
    return [tool_json(world.tools[each]) for each in agent.tool_ids if each in world.tools]


def _llm_config(model: str) -> JsonObject:
    return {
        "model": model.rsplit("/", 1)[-1],
        "model_endpoint_type": "openai",
        "model_endpoint": "sandbox://no-model",
        "provider_name": "openai",
        "provider_category": "base",
        "context_window": 30000,
        "put_inner_thoughts_in_kwargs": False,
        "handle": model,
        "temperature": 1.0,
        "max_tokens": 16384,
        "enable_reasoner": False,
        "parallel_tool_calls": False,
        "strict": False,
    }
