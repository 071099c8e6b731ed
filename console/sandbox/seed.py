"""A small team to start with, for a demo without any set-up."""

from console.sandbox.nouns import Agent
from console.sandbox.world import World

DEMO_MODEL = "openai-proxy/stub-chat"
DEMO_TENANTS = ("acme", "globex")
DEMO_ROLES = ("researcher", "writer", "editor", "support")


def seed_demo(world: World) -> list[Agent]:
    """Create each role once per demo tenant, tagged as an operator would tag them."""
    agents = []
    for tenant in DEMO_TENANTS:
        for role in DEMO_ROLES:
            agent = world.add_agent(f"{tenant}-{role}", DEMO_MODEL)
            agent.tags = [f"tenant:{tenant}", f"role:{role}", "demo"]
            agent.metadata = {"role": role, "sandbox": True}
            agents.append(agent)
    return agents
