"""The nouns of Postroom, shared by both sides of every wire.

ids        what names look like, and how they are made
context    who acts, for which tenant
address    to whom a message goes: an agent, a team, or all that a selector finds
envelope   the one thing that travels: who, to whom, what, until when
tenant     a tenant and its limits
agent      what is known of an agent
team       named agents of a tenant with roles
delivery   one message for one agent, and the states it can be in
receipt    what a sender is told
gathered   the replies of a team as one
verdict    may this go now? Allow | Wait | Drop
outcome    how one turn of an agent ended
reply      how a message ended, for a reader that is no agent
event      one change of state, as it stands on the events stream
letter     a dead letter: what could not be delivered, and why

Imports pydantic and the standard library only. No I/O, no clock, no environment.
"""
