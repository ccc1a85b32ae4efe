"""What the plugin's integration tests share: the plugin server, a spy in front of the service."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import yaml
from canary.admin.v1 import admin_pb2, admin_pb2_grpc
from canary.decision.v1 import decision_pb2 as pb
from canary.decision.v1 import decision_pb2_grpc
from canary.policy.v1 import policy_pb2
from canary_documents import to_message
from canary_plugin.app import Settings, running
from canary_plugin.troubles import Troubles
from decision_svc.app import Running
from support.kong_side import SERVICE, Kong
from support.service import running_service

WITHIN_S = 20.0
KEY = str(SERVICE["name"])
DATA = Path(__file__).parents[1] / "data"
SEED: dict[str, Any] = yaml.safe_load((DATA / "seed-plugin.yml").read_text())["plugins"][0][
    "config"
]
# Wide enough for a slow machine where the deadline is not what is tested.
PATIENT = {"deadline_ms": 10_000}
PATIENT_SERVICE = {"person_deadline_ms": 10_000, "store_deadline_ms": 10_000}
# For a service that is not there, or tells no policies: nothing is worth waiting for.
QUICK = {"warm_up_s": 0.05}
# Nothing listens there, and connecting fails at once.
NOWHERE = "unix:/nonexistent/decision-service"

Forward = Callable[[pb.DecideRequest], Awaitable[pb.DecideResponse]]
Decide = Callable[[pb.DecideRequest, Forward], Awaitable[pb.DecideResponse]]


async def until(is_true: Callable[[], Any], what: str = "") -> None:
    """Wait for a condition."""
    async with asyncio.timeout(WITHIN_S):
        while not is_true():  # noqa: ASYNC110 - the condition may be anybody's
            await asyncio.sleep(0.005)


@asynccontextmanager
async def plugin(
    *addresses: str, spread: int = 1, **settings: Any
) -> AsyncIterator[tuple[Kong, Troubles]]:
    """The real plugin server, and a Kong in front of it."""
    with tempfile.TemporaryDirectory(prefix="kong-") as directory:
        path = f"{directory}/plugin.sock"
        chosen = Settings(socket=path, decision_service=addresses, gateway="test", **settings)
        async with running(chosen) as troubles, Kong(path, spread=spread) as kong:
            yield kong, troubles


async def _at_once() -> None:
    pass


class Refusal(Exception):  # noqa: N818 - an answer that the spy gives
    """What the spy answers instead of a decision."""

    def __init__(self, code: grpc.StatusCode, text: str) -> None:
        self.code, self.text = code, text
        super().__init__(text)


NEWEST = 1 << 40


class Spy(decision_pb2_grpc.DecisionServiceServicer):
    """Stands in front of the service, sees what leaves the gateway, and can misbehave."""

    def __init__(self, real: str) -> None:
        options = [("grpc.max_receive_message_length", 64 << 20)]
        self._channel = grpc.aio.insecure_channel(real, options=options)
        self._server: Any = None
        self.address = "127.0.0.1:0"
        self._stub = decision_pb2_grpc.DecisionServiceStub(self._channel)
        self.asked: list[pb.DecideRequest] = []
        self.batches: list[int] = []
        """How many questions each message of a decide stream held."""
        self.persons: list[pb.GetPersonRequest] = []
        self.reports: list[pb.ReportOutcomesRequest] = []
        self.watched: list[pb.WatchPoliciesRequest] = []
        self.told: list[pb.WatchPoliciesResponse] = []
        self.decide: Decide = lambda request, forward: forward(request)
        self.watch: Callable[[], Awaitable[None]] = _at_once
        """Waited for before a policy stream stands."""
        self.hold: Callable[[], Awaitable[Any]] = _at_once
        """Waited for before each message of a policy stream is passed on."""
        self.tell: Callable[[pb.WatchPoliciesResponse], pb.WatchPoliciesResponse] = lambda m: m
        self.is_mute = False
        self.refuses_baselines = False
        self._calls: set[Any] = set()
        self._cut: set[Any] = set()

    async def start(self) -> None:
        """Serve, at the same address as before."""
        self._server = grpc.aio.server()
        decision_pb2_grpc.add_DecisionServiceServicer_to_server(self, self._server)
        port = self._server.add_insecure_port(self.address)
        self.address = f"127.0.0.1:{port}"
        await self._server.start()

    async def stop(self) -> None:
        """Be gone."""
        await self._server.stop(0)

    async def close(self) -> None:
        await self._channel.close()

    async def Decide(self, request: pb.DecideRequest, context: Any) -> pb.DecideResponse:  # noqa: N802
        self.asked.append(request)
        try:
            return await self.decide(request, self._forward)
        except Refusal as refusal:
            await context.abort(refusal.code, refusal.text)
            raise

    async def DecideStream(self, request_iterator: Any, context: Any) -> None:  # type: ignore[override]  # noqa: N802
        writing = asyncio.Lock()
        await context.send_initial_metadata(())

        async def answer(numbered: pb.NumberedRequest) -> None:
            self.asked.append(numbered.request)
            answered = pb.NumberedResponse(id=numbered.id)
            try:
                response = await self.decide(numbered.request, self._forward)
                answered.response.CopyFrom(response)
                # What a test makes up is an answer to this very question, by the newest policy.
                answered.response.echo = response.echo or numbered.request.fallback_key
                answered.response.stored_revision = response.stored_revision or NEWEST
            except Refusal as refusal:
                answered.error = refusal.text
            async with writing:
                await context.write(pb.DecideStreamResponse(responses=[answered]))

        async with asyncio.TaskGroup() as answers:
            async for batch in request_iterator:
                self.batches.append(len(batch.requests))
                for numbered in batch.requests:
                    answers.create_task(answer(numbered))

    async def GetPerson(  # noqa: N802
        self, request: pb.GetPersonRequest, context: Any
    ) -> pb.GetPersonResponse:
        self.persons.append(request)
        person: pb.GetPersonResponse = await self._stub.GetPerson(request, timeout=WITHIN_S)
        return person

    async def ReportOutcomes(  # noqa: N802
        self, request: pb.ReportOutcomesRequest, context: Any
    ) -> pb.ReportOutcomesResponse:
        self.reports.append(request)
        answer: pb.ReportOutcomesResponse = await self._stub.ReportOutcomes(
            request, timeout=WITHIN_S
        )
        return answer

    async def _forward(self, request: pb.DecideRequest) -> pb.DecideResponse:
        response: pb.DecideResponse = await self._stub.Decide(request, timeout=WITHIN_S)
        return response

    async def WatchPolicies(self, request: pb.WatchPoliciesRequest, context: Any) -> Any:  # noqa: N802
        self.watched.append(request)
        if self.refuses_baselines and request.baselines:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "of another version")
        await self.watch()
        await context.send_initial_metadata(())
        call = self._stub.WatchPolicies(request)
        self._calls.add(call)
        try:
            async for message in call:
                await self.hold()
                if not self.is_mute:
                    self.told.append(message)
                    yield self.tell(message)
        except asyncio.CancelledError:
            if call not in self._cut:
                raise
            await context.abort(grpc.StatusCode.UNAVAILABLE, "cut")
        finally:
            self._cut.discard(call)
            self._calls.discard(call)
            call.cancel()

    def cut_streams(self) -> None:
        """Break the policy streams that are open."""
        self._cut |= self._calls
        for call in self._calls:
            call.cancel()

    async def heard(self, service_key: str = KEY) -> None:
        """Wait until the plugin was told of a service key's policy, and has taken it over."""
        await until(lambda: any(m.service_key == service_key for m in self.told), "a policy")
        await asyncio.sleep(0)

    async def heard_all(self) -> None:
        """Wait until the plugin was told that it has heard of every policy."""
        end = pb.WatchPoliciesResponse()
        await until(lambda: end in self.told, "the end of the policies")
        await asyncio.sleep(0)


@asynccontextmanager
async def spying(real: str) -> AsyncIterator[tuple[Spy, str]]:
    """A spy and its address."""
    spy = Spy(real)
    await spy.start()
    try:
        yield spy, spy.address
    finally:
        await spy.stop()
        await spy.close()


class Admin:
    """An operator: changes the policy of one service key."""

    def __init__(self, address: str, service_key: str = KEY) -> None:
        self._channel = grpc.aio.insecure_channel(address)
        self._stub = admin_pb2_grpc.AdminServiceStub(self._channel)
        self._change = {"service_key": service_key, "actor": "kim", "reason": "a test"}

    async def close(self) -> None:
        await self._channel.close()

    async def do(self, method: str, **fields: Any) -> None:
        """One admin call; the fields as a document."""
        message = to_message(
            {"change": self._change, **fields}, getattr(admin_pb2, f"{method}Request")
        )
        await getattr(self._stub, method)(message, timeout=WITHIN_S)

    async def policy(self) -> policy_pb2.Policy:
        """The stored policy."""
        request = admin_pb2.GetPolicyRequest(service_key=KEY)
        return (await self._stub.GetPolicy(request, timeout=WITHIN_S)).policy

    async def profile(self, user: str, **fields: Any) -> None:
        """Put a user's profile."""
        document = {"profile": {"user": user, **fields}, "actor": "kim", "reason": "a test"}
        message = to_message(document, admin_pb2.PutProfileRequest)
        await self._stub.PutProfile(message, timeout=WITHIN_S)

    async def revision(self) -> int:
        """The revision of the stored policy."""
        request = admin_pb2.GetPolicyRequest(service_key=self._change["service_key"])
        response = await self._stub.GetPolicy(request, timeout=WITHIN_S)
        return int(response.policy.revision)

    async def baselines(self) -> list[policy_pb2.Policy]:
        """The baselines of the gateways in contact."""
        request = admin_pb2.ListBaselinesRequest()
        response = await self._stub.ListBaselines(request, timeout=WITHIN_S)
        return [b.baseline.policy for b in response.baselines]

    async def release(
        self, percentage: float, backend: Any = None, stable_backend: Any = None
    ) -> None:
        """Register v1 as stable and v2 as canary, and release v2."""
        stable = {"version": "v1", "status": "stable", "backend": stable_backend or {}}
        canary = {"version": "v2", "backend": backend or {"upstream": "v2-upstream"}}
        await self.do("RegisterVersion", version=stable)
        await self.do("RegisterVersion", version=canary)
        await self.do("StartRelease", version="v2", percentage=percentage, salt="salt")


@asynccontextmanager
async def administering(service: Running) -> AsyncIterator[Admin]:
    """An operator at a service."""
    admin = Admin(service.admin_address)
    try:
        yield admin
    finally:
        await admin.close()


@asynccontextmanager
async def stage(
    *, spread: int = 1, is_mute: bool = False, override_key: str = "", **settings: Any
) -> AsyncIterator[tuple[Kong, Spy, Admin, Troubles]]:
    """Kong, plugin server, spy, real decision service; ``is_mute``: no policy is ever told."""
    async with AsyncExitStack() as later:
        service = await later.enter_async_context(
            running_service(override_key=override_key, **PATIENT_SERVICE)
        )
        spy, address = await later.enter_async_context(spying(service.decision_address))
        admin = await later.enter_async_context(administering(service))
        if is_mute:
            spy.is_mute = True
            settings = QUICK | settings
        kong, troubles = await later.enter_async_context(plugin(address, spread=spread, **settings))
        if is_mute:
            await answered(kong, spy, troubles)
        yield kong, spy, admin, troubles


async def answered(kong: Kong, spy: Spy, troubles: Troubles) -> None:
    """Wait until questions reach the spy, and forget those that it took."""
    instance = await kong.start(PATIENT)
    async with asyncio.timeout(WITHIN_S):
        while not spy.asked:
            await kong.access(instance)
    await kong.call("plugin.CloseInstance", instance)
    spy.asked.clear()
    troubles.counts.clear()
