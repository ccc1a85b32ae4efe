"""What only an admin may do to a policy, whatever call does it: loosen its guards."""

from __future__ import annotations

from canary_engine.model import Guards, Policy

from decision_svc.access import caller
from decision_svc.access.caller import Role
from decision_svc.errors import Forbidden


def check(before: Policy, after: Policy) -> None:
    """Raise Forbidden if the change loosens guards and the caller is no admin."""
    if not loosens(before.guards, after.guards):
        return
    key = before.service_key
    if not caller.current().may(Role.ADMIN, key):
        raise Forbidden(
            f"loosening the guards of {key!r} takes the role admin for it: a freeze that ends or "
            "changes, or an approval that is no longer needed"
        )


def loosens(before: Guards, after: Guards) -> bool:
    """Whether anything was refused before and might not be after."""
    old, new = before.approvals, after.approvals
    return (
        (old.start and not new.start)
        or (old.promote and not new.promote)
        or (old.widen and not new.widen)
        or _limit(new.above) > _limit(old.above)
        or not set(before.freezes) <= set(after.freezes)
    )


def _limit(above: int | None) -> float:
    return float("inf") if above is None else above
