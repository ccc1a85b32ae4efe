"""Points of records as messages, each made once: a record has hundreds, of which one is new."""

from __future__ import annotations

from canary.record.v1 import record_pb2 as pb
from canary_engine.record import Point, ReleaseRecord

from canary_controller.rpc.messages import point_message


class PointMessages:
    """Remembers the messages of the points of each service key's latest release."""

    def __init__(self) -> None:
        self._known: dict[str, dict[int, tuple[Point, pb.Point]]] = {}

    def of(self, record: ReleaseRecord) -> list[pb.Point]:
        """The messages of the record's points, in order."""
        key = record.service_key
        before = self._known.get(key, {})
        # A point never changes, so it is known by its identity while it is kept here.
        now = {
            id(point): before.get(id(point)) or (point, point_message(point))
            for point in record.points
        }
        if record.is_closed:
            self._known.pop(key, None)
        else:
            self._known[key] = now
        return [now[id(point)][1] for point in record.points]
