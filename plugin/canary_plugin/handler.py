"""One request: read from Kong first, ask second, route third; any trouble is stable."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from time import monotonic
from typing import Any, Protocol, TypeVar

from canary_engine.baseline import BASELINE_ID
from canary_engine.model import Decision, Variant
from canary_engine.outcomes import Labels

from canary_plugin.config import Baseline, Config
from canary_plugin.deciders.protocol import Decider, Projection, Question, Undecided
from canary_plugin.deprecation import deprecation_headers
from canary_plugin.facts import gather
from canary_plugin.gateway import Gateway, Headers, Pdk, Service
from canary_plugin.ids import Ids
from canary_plugin.outcomes.ledger import Expect, expect_nothing
from canary_plugin.outcomes.lines import DECISION_HEADER
from canary_plugin.troubles import Troubles

T = TypeVar("T")

VARIANT_HEADER = "x-canary-variant"
VERSION_HEADER = "x-canary-version"
RELEASE_HEADER = "x-canary-release"
SERVICE_HEADER = "x-canary-service"
OUR_HEADERS = (VARIANT_HEADER, VERSION_HEADER, RELEASE_HEADER, SERVICE_HEADER, DECISION_HEADER)

_new_key = Ids(16)

# The policy may change between two questions; whoever loses twice goes by what is known here.
MAX_QUESTIONS = 3


class Wait(Protocol):
    """Waits for a result without holding up other requests."""

    def __call__(self, awaitable: Awaitable[T]) -> T: ...


class Handler:
    """Handles the requests of one plugin instance."""

    def __init__(
        self,
        config: Config,
        decider: Decider,
        wait: Wait,
        troubles: Troubles,
        declare: Callable[[Baseline], None],
        resolves: Callable[[str, float], Awaitable[bool]],
        expect: Expect = expect_nothing,
    ) -> None:
        self._config, self._decider = config, decider
        self._wait, self._troubles, self._declare = wait, troubles, declare
        self._resolves, self._expect = resolves, expect
        self._service: Service | None = None
        self._baselines: dict[str, Baseline | None] = {}

    def access(self, kong: Pdk) -> None:
        """Decide where the request goes, and send it there."""
        gateway = Gateway(kong)
        headers = gateway.headers()
        routed = False
        try:
            routed = self._decide_and_route(gateway, headers)
        except Undecided as trouble:
            self._troubles.count(trouble.cause, str(trouble))
        finally:
            # Nobody but this plugin says who got the canary.
            if not routed:
                for name in headers.possibly(OUR_HEADERS):
                    gateway.clear_request_header(name)
            gateway.finish()

    def _decide_and_route(self, gateway: Gateway, headers: Headers) -> bool:
        """Whether the request was labelled."""
        if self._config.complaints:
            return False
        service = self._service or gateway.service()
        if service is None:
            return False
        if self._config.is_scoped:
            self._service = service
        service_key = self._config.service_key or service.name
        baseline = self._baseline(service_key)
        drawn = _new_key()
        decision = self._decide(gateway, headers, service_key, baseline, drawn)
        if decision.deprecation is not None:
            gateway.set_response_headers(deprecation_headers(decision.deprecation))
        return self._route(gateway, service, service_key, decision, drawn)

    def _baseline(self, service_key: str) -> Baseline | None:
        if service_key not in self._baselines:
            baseline = self._config.baseline(service_key)
            self._baselines[service_key] = baseline
            if baseline is not None:
                self._declare(baseline)
        return self._baselines[service_key]

    def _decide(
        self,
        gateway: Gateway,
        headers: Headers,
        service_key: str,
        baseline: Baseline | None,
        drawn: str,
    ) -> Decision:
        ends = monotonic() + self._config.deadline_s

        def question_by(projection: Projection) -> Question:
            facts = gather(gateway, headers, projection, self._config, drawn)
            return Question(
                service_key=service_key,
                request=facts,
                baseline=baseline,
                digest=projection.digest,
                ends=ends,
            )

        projection = self._decider.projection(service_key, baseline)
        # The upstream need not know who tests, nor see what would make it a tester.
        if projection.override_header in headers:
            gateway.clear_request_header(projection.override_header)
        cookies = headers.without_cookie(projection.override_cookie)
        if cookies is not None:
            gateway.keep_cookies(cookies)
        try:
            return self._asked(question_by, projection)
        except Undecided as trouble:
            # It may have been asked by facts that only the service knows a policy for, or nobody.
            projection = self._decider.projection(service_key, baseline)
            return self._decider.decide_alone(question_by(projection), trouble)

    def _asked(
        self, question_by: Callable[[Projection], Question], projection: Projection
    ) -> Decision:
        for _ in range(MAX_QUESTIONS):
            found = self._decider.decide(question_by(projection))
            answer = found if isinstance(found, Decision | Projection) else self._wait(found)
            if isinstance(answer, Decision):
                return answer
            projection = answer
        raise Undecided("changing", "the policy changed between questions")

    def _route(
        self,
        gateway: Gateway,
        service: Service,
        service_key: str,
        decision: Decision,
        drawn: str,
    ) -> bool:
        is_canary = decision.variant is Variant.CANARY
        is_sent = self._send(gateway, service, decision)
        if is_canary and not is_sent:
            raise Undecided("no-backend", f"version {decision.version!r} cannot be reached")
        if decision.issue_cookie:
            cookie = f"{self._config.cookie}={drawn}{self._config.cookie_attributes}"
            gateway.add_cookie(cookie)
        is_told = is_canary or self._config.label_stable
        is_labelled = is_told or decision.control
        # The Host header belongs to the backend: where the request was not sent, it is not set.
        host = decision.backend.host_header if is_sent and decision.backend else ""
        headers = {"host": host} if host else {}
        if is_labelled:
            headers |= self._labels(service_key, decision)
        if headers:
            gateway.set_request_headers(headers)
        if is_told:
            gateway.log(_logged(decision))
        if self._config.response_headers:
            gateway.set_response_header(VARIANT_HEADER, decision.variant)
            gateway.set_response_header(VERSION_HEADER, decision.version)
        return is_labelled

    def _labels(self, service_key: str, decision: Decision) -> dict[str, str]:
        """What the upstream is told, and the log line of the request's outcome."""
        labels = Labels(
            service_key, decision.version, decision.variant, decision.release_id, decision.cohort
        )
        return {
            VARIANT_HEADER: str(decision.variant),
            VERSION_HEADER: decision.version,
            RELEASE_HEADER: decision.release_id,
            SERVICE_HEADER: service_key,
            DECISION_HEADER: self._expect(labels),
        }

    def _send(self, gateway: Gateway, service: Service, decision: Decision) -> bool:
        """Send the request to the decision's backend; False if it stays where it was going."""
        backend = decision.backend
        if backend is None:
            return False
        if backend.host:
            return gateway.set_target(backend.host, backend.port)
        if not backend.upstream:
            return bool(backend.host_header)
        if not service.has_ip_host and gateway.set_upstream(backend.upstream):
            return True
        if decision.release_id != BASELINE_ID:
            return False
        # A baseline's upstream may be a plain host, on the service's port.
        if not self._wait(self._resolves(backend.upstream, self._config.deadline_s)):
            return False
        return gateway.set_target(backend.upstream, service.port)


def _logged(decision: Decision) -> dict[str, Any]:
    logged: dict[str, Any] = {
        "variant": str(decision.variant),
        "version": decision.version,
        "reason": str(decision.reason),
        "matched": decision.matched,
        "release_id": decision.release_id,
        "policy_revision": decision.policy_revision,
    }
    return logged if decision.bucket is None else {**logged, "bucket": decision.bucket}
