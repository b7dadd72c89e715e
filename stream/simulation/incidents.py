"""Everything that goes wrong in the simulated data centre."""

from stream.simulation import several, single
from stream.simulation.incident import BUILDERS, Incident
from stream.simulation.stage import Stage
from stream.simulation.world import World

assert single and several  # importing them registers their builders


def plant(world: World) -> tuple[list[Stage], list[Incident]]:
    """One stage and one incident per builder, spread over the first half of the world's time."""
    span = world.end - world.start
    stages, incidents = [], []
    for rule_id, needs, state, builder in BUILDERS:
        start = world.start + int((0.04 + 0.3 * world.random.random()) * span) // 1000 * 1000
        stage = Stage(world, start, start + int(0.42 * span) // 1000 * 1000)
        subject, sentence = builder(stage)
        stages.append(stage)
        incidents.append(Incident(rule_id, subject, sentence, needs, state))
    return stages, incidents
