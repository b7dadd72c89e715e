"""The operator's self-test: every few minutes a small job goes through every emitter of the site.

Without it an emitter with little to say (the power manager) would hold the watermark back, or seem silent.
"""

from stream.simulation.clock import MINUTE
from stream.simulation.stage import Stage
from stream.simulation.world import BASTION, GATEWAY, POWER, World

PERIOD = 10 * MINUTE
_LENGTH = 8 * MINUTE


def stage(world: World) -> Stage:
    """One job after the other on a node of its own; the last is released a minute before the world's end."""
    last = world.end - MINUTE - _LENGTH
    starts = range(last, world.start, -PERIOD)[::-1]
    test = Stage(world, starts[0], starts[0] + _LENGTH)
    for number, start in enumerate(starts):
        suffix = f":{number}" if number else ""
        if number:
            name = f"{test.allocation_id}-{number}"
            test.rows |= test.allocation(name, list(test.node.serials), start, start + _LENGTH, suffix)
        power = {"action": "moved", "source": POWER, "from_site_id": test.row("started")["site_id"]}
        unknown = {"party_id": None, "authorization_id": None}  # the power manager knows allocations only
        test.add(
            f"moved{suffix}",
            f"stopped{suffix}",
            start + _LENGTH - MINUTE,
            power | unknown | {"reason": "power"},
        )
    for source in (BASTION, GATEWAY):
        test.beats(source, world.start, world.end)
    return test
