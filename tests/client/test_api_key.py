"""The client's API key: where it comes from, who gets to see it, and that nobody else does."""

from collections.abc import Iterable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest
from click.testing import CliRunner, Result

from client.fake_coordinator import Event, FakeCoordinator, Step, chunk, example_swarm, finished, serving, started
from client.long_generation import LONG, LOST, rest
from coordinator.keys_world import Keys
from gateway.fake_generations import FakeGenerations
from osai.client import AsyncClient, Client
from osai.client.api_key import ENVIRONMENT, MAX_KEY_CHARS
from osai.client.cli import main
from osai.client.timeouts import Timeouts
from osai.coordinator.client_service import ClientService
from osai.core import errors
from osai.core.rpc import bind, make_server
from osai.proto import client_pb2, client_pb2_grpc, common_pb2

KEY = "osai_sk_0123456789abcdef_" + "5ec7e7" * 10 + "5ec7"


class Listening(FakeCoordinator):
    """Keeps what each call shows, by the call's name."""

    def __init__(self, *arguments: Any, **named: Any) -> None:  # noqa: ANN401 - a FakeCoordinator's
        super().__init__(*arguments, **named)
        self.shown: dict[str, str | None] = {}

    def _hear(self, call: str, context: grpc.ServicerContext) -> None:
        metadata = {str(key): value for key, value in context.invocation_metadata()}
        shown = metadata.get("authorization")
        self.shown[call] = None if shown is None else str(shown)

    def Greet(self, request: common_pb2.Hello, context: grpc.ServicerContext) -> common_pb2.Hello:  # noqa: N802
        self._hear("Greet", context)
        return super().Greet(request, context)

    def Generate(self, request: client_pb2.GenerateRequest, context: grpc.ServicerContext) -> Any:  # noqa: ANN401, N802
        self._hear("Generate", context)
        return super().Generate(request, context)

    def Embed(self, request: client_pb2.EmbedRequest, context: grpc.ServicerContext) -> Any:  # noqa: ANN401, N802
        self._hear("Embed", context)
        return super().Embed(request, context)

    def ListModels(self, request: client_pb2.ListModelsRequest, context: grpc.ServicerContext) -> Any:  # noqa: ANN401, N802
        self._hear("ListModels", context)
        return super().ListModels(request, context)

    def GetSwarm(self, request: client_pb2.GetSwarmRequest, context: grpc.ServicerContext) -> Any:  # noqa: ANN401, N802
        self._hear("GetSwarm", context)
        return super().GetSwarm(request, context)


async def ask_all(client: AsyncClient) -> None:
    async with client:
        await client.complete("x")
        await client.embed("x")
        await client.models()
        await client.swarm()


@pytest.fixture(autouse=True)
def _no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(ENVIRONMENT, raising=False)


async def test_every_call_but_the_greeting_shows_it() -> None:
    fake = Listening(swarm=example_swarm())
    with serving(fake) as address:
        await ask_all(AsyncClient(address, api_key=KEY))
    shown = f"Bearer {KEY}"
    assert fake.shown == {"Greet": None, "Generate": shown, "Embed": shown, "ListModels": shown, "GetSwarm": shown}


@pytest.mark.parametrize(
    ("given", "environment", "shown"),
    [(None, None, None), (None, KEY, KEY), ("mine", KEY, "mine"), ("", KEY, None), (None, f" {KEY}\n", KEY)],
)
async def test_it_is_the_environment_s_unless_one_is_given(
    given: str | None, environment: str | None, shown: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if environment is not None:
        monkeypatch.setenv(ENVIRONMENT, environment)
    fake = Listening()
    with serving(fake) as address:
        await ask_all(AsyncClient(address, api_key=given))
    assert fake.shown["Generate"] == (shown and f"Bearer {shown}")


def test_the_blocking_client_shows_it_too() -> None:
    fake = Listening()
    with serving(fake) as address, Client(address, api_key=KEY) as client:
        client.models()
    assert fake.shown["ListModels"] == f"Bearer {KEY}"


@pytest.mark.parametrize("key", ["a b", "a\nb", "\u00e9", "x" * (MAX_KEY_CHARS + 1)])
def test_what_can_be_no_key_is_refused_and_not_repeated(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for environment in (False, True):
        if environment:
            monkeypatch.setenv(ENVIRONMENT, key)
        with pytest.raises(errors.InvalidRequestError) as caught:
            AsyncClient("h:1", api_key=None if environment else key)
        assert key not in caught.value.message


async def test_a_coordinator_that_another_told_of_does_not_get_to_see_it() -> None:
    """Its address may be anybody's: a swarm's coordinators find one another in the DHT."""
    stranger = Listening(rest)
    with serving(stranger) as there:

        def script(request: client_pb2.GenerateRequest) -> Iterable[Step]:
            _, first, *_ = rest(request)
            return [started(coordinators=["me:1", there]), first, LOST]

        named = Listening(script)
        with serving(named) as here:
            async with AsyncClient(here, api_key=KEY) as client:
                completion = await client.complete("x")
    assert completion.text == "".join(LONG)
    assert named.shown["Generate"] == f"Bearer {KEY}"
    assert stranger.shown["Generate"] is None


async def test_all_that_were_named_get_to_see_it() -> None:
    second = Listening(rest)

    def script(request: client_pb2.GenerateRequest) -> Iterable[Step]:
        opening, first, *_ = rest(request)
        return [opening, first, LOST]

    with serving(Listening(script)) as here, serving(second) as there:
        async with AsyncClient([here, there], api_key=KEY) as client:
            assert (await client.complete("x")).text == "".join(LONG)
    assert second.shown["Generate"] == f"Bearer {KEY}"


async def asking(stack: AsyncExitStack, keys: Keys) -> str:
    """A coordinator's own service, which asks for keys; HOST:PORT."""
    server = make_server()
    service = ClientService("c" * 32, FakeGenerations(), lambda: 11, keys.keyring)
    client_pb2_grpc.add_CoordinatorServicer_to_server(service, server)
    port = bind(server, "127.0.0.1:0")
    await server.start()
    stack.push_async_callback(server.stop, None)
    return f"127.0.0.1:{port}"


async def test_refusals_come_out_typed_and_at_once() -> None:
    keys = Keys()
    good, reader, limited = keys.make(), keys.make(models=("other",)), keys.make(requests_per_minute=1)
    async with AsyncExitStack() as stack:
        address = await asking(stack, keys)

        def client(key: str) -> AsyncClient:
            return AsyncClient(address, api_key=key, timeouts=Timeouts(resume_s=30))

        async with client(good.text) as let_in, client("") as nobody, client(reader.text) as other:
            assert (await let_in.complete("x")).text == "Hello world"
            with pytest.raises(errors.UnauthenticatedError, match="asks for an API key"):
                await nobody.complete("x")
            with pytest.raises(errors.UnauthenticatedError):
                await nobody.models()
            with pytest.raises(errors.ForbiddenError, match="may not use model"):
                await other.complete("x")
        async with client(limited.text) as busy:
            await busy.complete("x")
            with pytest.raises(errors.ResourceExhaustedError) as caught:
                await busy.complete("x")
    assert caught.value.retry_after_s == pytest.approx(60.5, abs=0.01)


async def test_a_key_that_is_revoked_meanwhile_ends_the_generation_with_what_there_is() -> None:
    def script(_: client_pb2.GenerateRequest) -> Iterable[Event | errors.OsaiError]:
        yield started()
        yield chunk(0, [1], "a")
        yield errors.UnauthenticatedError("API key 0123456789abcdef is revoked")

    fake = Listening(script)
    with serving(fake) as address:
        async with AsyncClient(address, api_key=KEY) as client:
            with pytest.raises(errors.UnauthenticatedError, match="is revoked") as caught:
                await client.complete("x")
    assert caught.value.partial.text == "a"  # type: ignore[attr-defined]
    assert len(fake.requests) == 1


def osai(*arguments: str, env: dict[str, str] | None = None) -> Result:
    cleared: dict[str, str | None] = {"OSAI_COORDINATOR": None, "OSAI_API_KEY_FILE": None, ENVIRONMENT: None}
    return CliRunner().invoke(main, arguments, input="hi\n", env=cleared | (env or {}))


COMMANDS = [
    (("generate", "x"), "Generate"),
    (("chat",), "Generate"),
    (("models",), "ListModels"),
    (("status",), "GetSwarm"),
]


@pytest.mark.parametrize(("command", "call"), COMMANDS)
def test_commands_take_it_from_a_file_or_the_environment(command: tuple[str, ...], call: str, tmp_path: Path) -> None:
    path = tmp_path / "api.key"
    path.write_text(KEY + "\n")
    for option, environment, shown in (
        ((), {}, None),
        ((), {ENVIRONMENT: KEY}, f"Bearer {KEY}"),
        ((), {"OSAI_API_KEY_FILE": str(path)}, f"Bearer {KEY}"),
        (("--api-key-file", str(path)), {ENVIRONMENT: "another"}, f"Bearer {KEY}"),
    ):
        fake = Listening(lambda _: [started(), chunk(0, [1], "a"), finished(1)])
        with serving(fake) as address:
            result = osai(*command, "--coordinator", address, *option, env=environment)
        assert result.exit_code == 0, result.output
        assert fake.shown[call] == shown
        assert KEY not in result.output


@pytest.mark.parametrize("content", [None, b"", b" \n", b"\xff\xfe", b"two words"])
@pytest.mark.parametrize("command", [command for command, _ in COMMANDS])
def test_a_file_without_a_key_is_an_error_of_one_line(
    command: tuple[str, ...], content: bytes | None, tmp_path: Path
) -> None:
    path = tmp_path / "api.key"
    if content is not None:
        path.write_bytes(content)
    result = osai(*command, "--api-key-file", str(path), "--coordinator", "127.0.0.1:1")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    assert "two words" not in result.stderr


@pytest.mark.parametrize("command", [command for command, _ in COMMANDS])
def test_no_option_takes_the_key_itself(command: tuple[str, ...]) -> None:
    """It would show in `ps`."""
    result = osai(*command, "--api-key", KEY)
    assert result.exit_code == 2
    assert KEY not in result.output
