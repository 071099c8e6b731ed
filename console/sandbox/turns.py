"""One turn of an agent, step by step, exactly as far as a caller can observe it.

A step is one call of the model. What the user said becomes visible only when the first step is done; a
failure in the first step leaves nothing behind, a failure in a later one leaves what landed. The context is
written back from a copy made at the start, so parallel turns of one agent overwrite each other.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from console.sandbox.clock import ServerDied
from console.sandbox.directives import Script, read_script
from console.sandbox.errors import pending_approval, turn_invalid
from console.sandbox.ids import new_id, otid_of
from console.sandbox.model import approval_response, refuse_history, simulated_return, think
from console.sandbox.nouns import (
    KEPT_MESSAGES,
    Agent,
    Decision,
    JsonObject,
    Message,
    Pending,
    Run,
    Step,
    Thread,
    Tool,
    Usage,
)
from console.sandbox.voices import answer
from console.sandbox.world import World

KEEP_ALIVE_TEXT = (
    "<system-alert>Automated keep-alive ping. Ignore this message and continue from where you stopped.</system-alert>"
)
Emit = Callable[[Message], None]


@dataclass(slots=True)
class Inbound:
    """One message of a request, read."""

    role: str
    content: object
    text: str
    otid: str
    sender_id: str | None = None
    name: str | None = None


@dataclass(slots=True)
class Turn:
    """A request for a turn."""

    agent: Agent
    run: Run
    thread: Thread
    inbound: list[Inbound]
    decisions: list[Decision] = field(default_factory=list)
    max_steps: int = 50
    client_tools: frozenset[str] = frozenset()

    @property
    def otid(self) -> str | None:
        """The first message's otid, for the turn log."""
        return self.inbound[0].otid if self.inbound else None


@dataclass(slots=True)
class Ending:
    """How a turn ended, when it ended by itself."""

    stop_reason: str = "end_turn"
    messages: list[Message] = field(default_factory=list)
    usage: Usage = field(default_factory=Usage)


async def run_turn(world: World, turn: Turn, emit: Emit | None = None) -> Ending:
    """Do the whole turn. Raises TurnFault when it cannot be done, ServerDied when the server dies."""
    _refuse_unfit(turn)
    if turn.max_steps <= 0:
        return Ending()
    agent, gates = turn.agent, (world.gate, turn.agent.gate)
    entered = []
    status = "orphaned"
    try:
        for gate in gates:
            await gate.enter(world.waits)
            entered.append(gate)
        content = "\n\n".join(each.text for each in turn.inbound)
        world.turn_log.begun(agent.id, agent.name, turn.run.id, turn.otid, turn.run.conversation_id, content)
        status = "failed"
        ending = await _Execution(world, turn, emit).steps()
        status = "cancelled" if ending.stop_reason == "cancelled" else "completed"
    except ServerDied:
        status = "orphaned"
        raise
    else:
        return ending
    finally:
        for gate in entered:
            gate.leave()
        if len(entered) == len(gates):
            world.turn_log.ended(agent.id, turn.run.id, turn.otid, status)


def _refuse_unfit(turn: Turn) -> None:
    pending = turn.thread.pending
    if turn.decisions:
        expected = [str(pending.call["tool_call_id"])] if pending else []
        received = [each.call_id for each in turn.decisions]
        if pending and expected != received:
            raise turn_invalid(f"Invalid tool call IDs. Expected '{expected}', but received '{received}'.")
        return
    if pending is not None:
        raise pending_approval(pending.request.id)
    if any(not each.content for each in turn.inbound):
        raise turn_invalid("Message content is empty or invalid")


class _Execution:
    """The state of one turn while it runs."""

    def __init__(self, world: World, turn: Turn, emit: Emit | None) -> None:
        self.world = world
        self.turn = turn
        self.emit = emit
        self.ending = Ending()
        self.snapshot = list(turn.thread.message_ids)
        self.step = 0
        self.step_id = new_id("step")
        self.unlanded: list[Message] = []
        self.own_input = 0
        self.script = Script("")

    async def steps(self) -> Ending:
        """The loop of the agent: think, act, land, until it has nothing more to do."""
        self._begin()
        if not self.turn.thread.whole:
            refuse_history(self.turn.run)
        while True:
            await think(self.world, self.turn.agent, self.turn.run, self.script, self.ending.usage.steps + 1)
            stop = self._act()
            if stop is None and self.turn.run.status == "cancelled":
                stop = "cancelled"
            if stop is None and self.ending.usage.steps >= self.turn.max_steps:
                stop = "max_steps"
            if stop is not None:
                self.ending.stop_reason = stop
                self.turn.agent.last_stop_reason = stop
                return self.ending
            self.step += 1
            self.step_id = new_id("step")

    def _begin(self) -> None:
        turn, thread = self.turn, self.turn.thread
        if turn.decisions:
            self._resume()
            return
        self.own_input = len(turn.inbound)
        for each in turn.inbound:
            self.unlanded.append(self.message(f"{each.role}_message", each.content, inbound=each))
        texts = [each.text for each in turn.inbound if each.role == "user"]
        thread.last_user_text = texts[-1] if texts else thread.last_user_text
        self.script = read_script(thread.last_user_text)

    def _resume(self) -> None:
        """Go on from a tool call that waited; without one the server spends a turn on an alert of its own."""
        thread = self.turn.thread
        pending, thread.pending = thread.pending, None
        if pending is None:
            self.own_input = 1
            self.unlanded.append(self.message("user_message", KEEP_ALIVE_TEXT))
            self.script = read_script(KEEP_ALIVE_TEXT)
            return
        decision = self.turn.decisions[0]
        self.script, self.step, self.step_id = read_script(pending.text), pending.step, pending.step_id
        response = self.message("approval_response_message", None)
        response.otid = response.step_id = None
        response.details = approval_response(decision)
        self._land([response], visible=False)
        self._land([self.returned(pending.call, decision)])
        self.step += 1
        self.step_id = new_id("step")

    def _act(self) -> str | None:
        """Do what the model decided in this step; the stop reason when that ends the turn."""
        turn, usage = self.turn, self.ending.usage
        text: str | None = None
        if self.step < len(self.script.tools):
            name, arguments = self.script.tools[self.step]
            call: JsonObject = {
                "name": name,
                "arguments": arguments,
                "tool_call_id": f"call_{new_id('')[1:25].replace('-', '')}",
            }
            stop = self._call(call)
            spoken = name + arguments
        else:
            text = spoken = answer(turn.agent, self.script)
            self.unlanded.append(self.message("assistant_message", text))
            self._land_step()
            stop = "end_turn"
        prompt, completion = turn.thread.chars // 4, max(1, len(spoken) // 4)
        usage.prompt += prompt
        usage.completion += completion
        usage.context = prompt + completion
        usage.steps += 1
        turn.run.steps.append(Step(self.step_id, prompt, completion, stop or "end_turn"))
        return stop

    def _call(self, call: JsonObject) -> str | None:
        agent, name = self.turn.agent, str(call["name"])
        if name in self.turn.client_tools or self._needs_approval(name):
            request = self.message("approval_request_message", None)
            request.otid = request.id
            request.details = {"tool_call": call, "tool_calls": [call]}
            self.unlanded.append(request)
            self._land_step()
            self.turn.thread.pending = Pending(request, call, self.script.text, self.step, self.step_id)
            return "requires_approval"
        asked = self.message("tool_call_message", None)
        asked.details = {"tool_call": call, "tool_calls": [call]}
        self.unlanded += [asked, self.returned(call, None)]
        self._land_step()
        if any(rule.get("type") == "exit_loop" and rule.get("tool_name") == name for rule in agent.tool_rules):
            return "tool_rule"
        return None

    def _needs_approval(self, name: str) -> bool:
        rules = self.turn.agent.tool_rules
        if any(rule.get("type") == "requires_approval" and rule.get("tool_name") == name for rule in rules):
            return True
        return any(tool.name == name and tool.requires_approval for tool in self._tools())

    def _tools(self) -> list[Tool]:
        known = self.world.tools
        return [known[tool_id] for tool_id in self.turn.agent.tool_ids if tool_id in known]

    def returned(self, call: JsonObject, decision: Decision | None) -> Message:
        name = str(call["name"])
        names = [tool.name for tool in self._tools()]
        message = self.message("tool_return_message", None)
        message.name = name
        if decision is not None and not decision.approve:
            message.name = None
            outcome, status = f"Error: request to call tool denied. User reason: {decision.reason}", "error"
        elif decision is not None and decision.tool_return is not None:
            outcome, status = decision.tool_return, "success"
        elif name not in names:
            outcome, status = (
                f"[ToolConstraintError] Cannot call {name}, valid tools include: {names}.",
                "error",
            )
        else:
            outcome, status = simulated_return(call), "success"
        streams: list[str] | None = [] if status == "success" else None
        fields = {
            "tool_return": outcome,
            "status": status,
            "tool_call_id": call["tool_call_id"],
            "stdout": streams,
            "stderr": streams,
        }
        message.details = {**fields, "tool_returns": [{"type": "tool", **fields}]}
        return message

    def message(self, kind: str, content: object, inbound: Inbound | None = None) -> Message:
        run = self.turn.run
        message = Message(new_id("message"), kind, self.world.clock.now(), step_id=self.step_id, content=content)
        message.run_id = run.id if self.world.has_runs else None
        message.conversation_id = run.conversation_id
        if inbound is None:
            message.otid = otid_of(message.id)
        else:
            message.otid, message.name, message.sender_id = inbound.otid, inbound.name, inbound.sender_id
        return message

    def _land_step(self) -> None:
        landed, self.unlanded = self.unlanded, []
        self._land(landed)

    def _land(self, messages: list[Message], *, visible: bool = True) -> None:
        """Store messages, write the context back from the turn's own copy, and tell the listener."""
        turn = self.turn
        for message in messages:
            message.step_id = message.step_id and self.step_id
            turn.agent.keep(message)
            turn.run.messages.append(message)
            self.snapshot.append(message.id)
            turn.thread.chars += len(message.content) if isinstance(message.content, str) else 40
        turn.thread.message_ids = self.snapshot[-KEPT_MESSAGES:]
        turn.agent.updated_at = self.world.clock.now()
        if not visible:
            return
        shown, self.own_input = messages[self.own_input :], 0
        for message in shown:
            self.ending.messages.append(message)
            if self.emit is not None:
                self.emit(message)


def denial(world: World, run: Run, pending: Pending, decision: Decision) -> list[Message]:
    """What a cancel leaves of a pending tool call: the answer "no", and the tool's refused return."""
    turn = Turn(world.agents[run.agent_id], run, Thread(), [], [decision])
    execution = _Execution(world, turn, None)
    execution.step_id = pending.step_id
    response = execution.message("approval_response_message", None)
    response.otid = response.step_id = None
    response.details = approval_response(decision)
    return [response, execution.returned(pending.call, decision)]
