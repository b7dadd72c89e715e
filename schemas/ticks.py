"""The tick: what the reconciler says every few seconds, so that time passes where nothing else arrives.

A tick lands in `raw` like any other record and has no table of its own (contract section 3.6).
"""

from schemas.record import Field, Record, Type

TICK = Record("tick", (Field("at", Type.TIME, required=True),))
"""`at` carries broker time forward; there is no key."""
