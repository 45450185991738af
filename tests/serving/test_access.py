"""Who may send requests: hosts, keys, origins and quotas, the same in both doors."""

import ast
import json
import logging
import re
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from starlette.middleware.cors import CORSMiddleware

import app
import contract
import raw_asgi
from config import Config, ConfigError
from serving.access import OPEN_PATHS, warn_if_open
from serving.cors import Cors
from serving.driver import Driver
from serving.exchanges import Exchange as ServerExchange
from serving.quotas import Quotas
from serving.request_log import RequestLog
from serving.transcript.asgi import Transcript
from tests.support.asgi_client import JSON, Client, Exchange, Response, http_scope, until, with_settled_id
from tests.support.serving import Door, Service, by_hand

pytestmark = pytest.mark.anyio
KEYS = Config(api_keys=("first-key", "second-key"))
BODY = json.dumps({"prompt": "hello"}).encode()


DISGUISED = [
    "[::1].evil.example",
    "localhost@evil.example",
    "[evil.example]",
    "localhost:80:evil",
    "localhost/evil",
    "127.0.0.1%evil",
]


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8000", "127.0.0.1.evil.example", "localhost.evil.com", *DISGUISED]
)
async def test_a_foreign_host_is_refused(door: Door, host: str) -> None:
    async with by_hand(door) as service:
        for path in ("/", "/health", "/generate", "/v1/models"):
            answer = await service.client.request("GET", path, headers={"host": host})
            assert answer.status == 421
            assert "ENGINE_HOSTS" in answer.body.decode()


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:80", "127.0.0.1:8000", "[::1]:8000", "192.168.1.7", "a.localhost", "localhost."]
)
async def test_an_address_or_a_local_name_is_no_foreign_host(door: Door, host: str) -> None:
    async with by_hand(door) as service:
        assert (await service.client.request("GET", "/health", headers={"host": host})).status == 200


async def test_every_host_that_a_request_names_must_be_served(door: Door) -> None:
    """Servers differ in which of several they take for the one that is meant."""
    async with by_hand(door) as service:
        for hosts in ([b"localhost", b"evil.example"], [b"evil.example", b"localhost"]):
            scope = http_scope("GET", "/health", {}) | {"headers": [(b"host", host) for host in hosts]}
            assert (await status_of(service, scope)) == 421


@pytest.mark.parametrize("scheme", ["http", "https", "HTTP"])
async def test_a_target_that_is_a_whole_url_names_the_host(door: Door, scheme: str) -> None:
    async with by_hand(door) as service:
        for target, status in {"localhost": 200, "127.0.0.1:80": 200, "evil.example": 421}.items():
            scope = http_scope("GET", f"{scheme}://{target}/health", {"host": "localhost"})
            assert (await status_of(service, scope)) == status


async def status_of(service: Service, scope: dict[str, Any]) -> int:
    async with Exchange(service.app, scope) as exchange:
        exchange.send_body(b"")
        await exchange.end()
    return exchange.collected().status


@pytest.mark.parametrize("hosts", [("models.example",), ("Models.Example.",), ("*",)])
async def test_a_host_that_is_named_is_served(door: Door, hosts: tuple[str, ...]) -> None:
    async with by_hand(door, config=Config(hosts=hosts)) as service:
        assert (await service.client.request("GET", "/health", headers={"host": "models.example:443"})).status == 200


async def test_only_a_whole_name_is_a_host_that_is_named(door: Door) -> None:
    config = Config.from_environment({"ENGINE_HOSTS": "Chat.Models.example"})
    async with by_hand(door, config=config) as service:
        for host, status in (("chat.models.EXAMPLE", 200), ("models.example", 421), ("e", 421)):
            assert (await service.client.request("GET", "/health", headers={"host": host})).status == status


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": "Bearer wrong"},
        {"authorization": "Basic first-key"},
        {"authorization": "Bearer wrong", "x-api-key": "wrong"},
        {"x-api-key": ""},
        {"x-api-key": "é"},
    ],
    ids=str,
)
async def test_without_a_right_key_there_is_a_401_in_the_shape_of_the_api(door: Door, headers: dict[str, str]) -> None:
    async with by_hand(door, config=KEYS) as service:
        for path in ("/generate", "/v1/chat/completions", "/v1/messages", "/metrics", "/openapi.json", "/nothing"):
            answer = await service.client.request("POST", path, BODY, JSON | headers)
            assert answer.status == 401, path
            assert answer.headers["www-authenticate"] == "Bearer"
            assert "X-Api-Key" in answer.body.decode()
            assert "first-key" not in answer.body.decode()
        assert ("error" in (await service.client.request("POST", "/v1/messages", BODY, JSON)).json()) is True
        assert service.engine.prompts == []


@pytest.mark.parametrize(
    "headers",
    [
        {"authorization": "bearer first-key"},
        {"x-api-key": "second-key"},
        {"api-key": "second-key"},
        {"authorization": "Bearer for-another", "x-api-key": "second-key"},
        {"authorization": "Bearer first-key", "x-api-key": "for-another"},
    ],
    ids=str,
)
async def test_a_right_key_opens_the_door(door: Door, headers: dict[str, str]) -> None:
    async with by_hand(door, config=KEYS) as service:
        assert (await service.client.post(prompt="hello", headers=headers)).status == 200


async def test_probes_and_pages_need_no_key(door: Door) -> None:
    async with by_hand(door, config=KEYS) as service:
        for path in sorted(OPEN_PATHS):
            assert (await service.client.request("GET", path)).status == 200, path
        assert {"/health", "/live", *contract.PAGES} == OPEN_PATHS


def test_keys_come_from_a_file_or_a_list_and_are_never_shown(tmp_path: Any) -> None:
    file = tmp_path / "keys"
    file.write_text("sk-7f31\nsk-b06e\n")
    assert Config.from_environment({"ENGINE_API_KEYS": f"@{file}"}).api_keys == ("sk-7f31", "sk-b06e")
    config = Config.from_environment({"ENGINE_API_KEYS": "sk-7f31, sk-b06e"})
    assert config.api_keys == ("sk-7f31", "sk-b06e")
    assert "sk-7f31" not in repr(config)
    with pytest.raises(ConfigError, match="a file with a key on each line"):
        Config.from_environment({"ENGINE_API_KEYS": "@/no/such/file"})


async def answers_to(config: Config, method: str, path: str, headers: dict[str, str]) -> list[Response]:
    """What each door says, without what differs from one request to the next."""
    found = []
    for door in (app.create_app, raw_asgi.create_app):
        async with by_hand(door, config=config) as service:
            answer = await service.client.request(method, path, headers=headers)
            found.append(Response(answer.status, with_settled_id(answer.headers), answer.body))
    return found


PREFLIGHT = {"origin": "https://page.example", "access-control-request-method": "POST"}


@pytest.mark.parametrize("allowed", [("https://page.example",), ("*",), ("https://other.example",)], ids=str)
@pytest.mark.parametrize(
    ("method", "path", "headers"),
    [
        ("OPTIONS", "/generate", PREFLIGHT),
        ("OPTIONS", "/generate", PREFLIGHT | {"access-control-request-headers": "authorization, content-type"}),
        ("OPTIONS", "/generate", PREFLIGHT | {"access-control-request-headers": "x-strange"}),
        ("OPTIONS", "/generate", PREFLIGHT | {"access-control-request-method": "PUT"}),
        ("OPTIONS", "/generate", PREFLIGHT | {"access-control-request-private-network": "true"}),
        ("OPTIONS", "/generate", {}),
        ("GET", "/health", {"origin": "https://page.example"}),
        ("GET", "/v1/models", {"origin": "https://page.example"}),
        ("GET", "/health", {}),
        ("POST", "/nothing", {"origin": "https://page.example"}),
    ],
)
async def test_both_doors_answer_other_origins_alike(
    allowed: tuple[str, ...], method: str, path: str, headers: dict[str, str]
) -> None:
    """`app.py` does it with Starlette's middleware, `raw_asgi.py` by hand. A preflight needs no key."""
    by_starlette, by_ourselves = await answers_to(Config(allow_origins=allowed, api_keys=("k",)), method, path, headers)
    assert by_starlette == by_ourselves
    if "access-control-request-method" in headers:
        assert by_starlette.status in (200, 400)
        assert by_starlette.headers.get("access-control-allow-headers") == headers.get("access-control-request-headers")
    is_allowed = "https://other.example" not in allowed and "origin" in headers
    assert ("access-control-allow-origin" in by_starlette.headers) == is_allowed


CLIENTS_HEADERS = {
    "openai-node": "authorization,content-type,x-stainless-arch,x-stainless-os,x-stainless-retry-count",
    "@anthropic-ai/sdk": "anthropic-dangerous-direct-browser-access,anthropic-version,x-api-key,x-stainless-timeout",
    "Vercel AI SDK": "authorization,content-type,user-agent",
}


@pytest.mark.parametrize("client", CLIENTS_HEADERS)
async def test_a_client_in_a_browser_may_send_its_own_headers(door: Door, client: str) -> None:
    headers = PREFLIGHT | {"access-control-request-headers": CLIENTS_HEADERS[client]}
    async with by_hand(door, config=Config(allow_origins=("https://page.example",))) as service:
        answer = await service.client.request("OPTIONS", "/v1/messages", headers=headers)
    assert (answer.status, answer.headers["access-control-allow-headers"]) == (200, CLIENTS_HEADERS[client])


@pytest.mark.parametrize("names", ["x-known", "X-Known, accept", "x-strange", "x-known,", "", " x-known "])
async def test_a_list_of_headers_means_what_it_does_for_starlettes_middleware(names: str) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise AssertionError("a preflight reaches no application")

    arguments: dict[str, Any] = {
        "allow_origins": ("*",),
        "allow_methods": ("POST",),
        "allow_headers": ("x-known",),
        "expose_headers": (),
        "max_age": 5,
    }
    client = [Client(middleware(app, **arguments)) for middleware in (CORSMiddleware, Cors)]
    headers = PREFLIGHT | {"access-control-request-headers": names}
    by_starlette, by_ourselves = [await one.request("OPTIONS", "/", headers=headers) for one in client]
    assert by_starlette == by_ourselves


async def test_without_origins_nothing_is_said_to_other_pages(door: Door) -> None:
    async with by_hand(door) as service:
        answer = await service.client.request("GET", "/health", headers={"origin": "https://page.example"})
        assert not [name for name in answer.headers if name.startswith("access-control")]
        assert (await service.client.request("OPTIONS", "/generate", headers=PREFLIGHT)).status == 405


async def test_every_answer_is_what_it_says_and_no_page_is_framed_by_another_site(door: Door) -> None:
    async with by_hand(door) as service:
        for path in ("/", "/health", "/generate", "/nothing", "/metrics"):
            answer = await service.client.request("GET", path)
            assert answer.headers["x-content-type-options"] == "nosniff"
            is_page = answer.headers["content-type"].startswith("text/html")
            assert ("frame-ancestors 'self'" in answer.headers.get("content-security-policy", "")) == is_page
        stream = await service.client.post(prompt="hello", stream=True)
        assert stream.headers["x-content-type-options"] == "nosniff"


async def test_a_transcript_shows_no_secret_and_cannot_be_replaced(door: Door) -> None:
    async with by_hand(door) as service:
        client = Client(Transcript(service.app))
        secrets = {
            "authorization": "Bearer s3cret",
            "x-api-key": "s3cret",
            "api-key": "s3cret",
            "cookie": "a=s3cret",
            "x-request-id": "mine",
        }
        await client.post(prompt="hello", headers=secrets)
        await client.request("GET", "/docs", headers={"x-request-id": "mine"})
        record = await client.request("GET", "/transcript/mine.json")
    assert b"s3cret" not in record.body
    assert b"authorization: ***" in record.body
    assert b"/generate" in record.body


async def test_one_client_may_have_so_many_requests_at_once(door: Door) -> None:
    async with by_hand(door, config=Config(client_requests=1)) as service:
        service.engine.hold()
        async with service.client.open_generate("hello") as running:
            await until(lambda: service.engine.counters().running == 1)
            refused = await service.client.post(prompt="hello")
            assert refused.status == 429
            assert int(refused.headers["retry-after"]) >= 1
            assert (await service.client.request("GET", "/health")).status == 200
            service.engine.release()
            await running.end()
        assert (await service.client.post(prompt="hello")).status == 200


@pytest.mark.parametrize(
    ("first", "second", "are_one"),
    [
        ("10.0.0.1", "10.0.0.1", True),
        ("10.0.0.1", "10.0.0.2", False),
        ("2001:db8::1", "2001:db8::ffff:ffff:ffff:ffff", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("fe80::1%eth0", "fe80::2%eth0", True),
        ("::ffff:10.0.0.1", "10.0.0.1", True),
        ("::ffff:10.0.0.1", "::ffff:10.0.0.2", False),
        ("a-test", "another-test", False),
        (None, None, True),
    ],
)
async def test_a_client_is_an_address_or_in_ipv6_a_network_of_which_it_may_use_any(
    door: Door, first: str | None, second: str | None, are_one: bool
) -> None:
    async with by_hand(door, config=Config(client_requests=1)) as service:
        service.engine.hold()
        running = open_from(service, first)
        await until(lambda: service.engine.counters().running == 1)
        other = open_from(service, second)
        if are_one:
            assert (await other.response()).status == 429
        else:
            await until(lambda: service.engine.counters().running == 2)
        service.engine.release()
        assert (await running.response()).status == 200


def open_from(service: Service, address: str | None) -> Exchange:
    exchange = service.client.open("POST", "/generate", headers=JSON)
    exchange.scope["client"] = address and (address, 40000)  # None over a Unix socket
    exchange.send_body(BODY)
    return exchange


def test_a_request_that_ends_makes_room_for_one_more_of_its_client_and_not_for_two() -> None:
    quotas = Quotas(requests=2, tokens=None)
    with ExitStack() as open_requests:
        open_requests.enter_context(quotas.charged("a client", None))
        with quotas.charged("a client", None):
            pass
        open_requests.enter_context(quotas.charged("a client", None))
        with pytest.raises(contract.Refusal, match="at most 2 requests at once"):
            open_requests.enter_context(quotas.charged("a client", None))
        open_requests.enter_context(quotas.charged("another", None))


async def test_a_request_that_generates_nothing_is_answered_and_costs_no_tokens(door: Door) -> None:
    async with by_hand(door, config=Config(client_tokens=1)) as service:
        for _ in range(3):
            assert (await service.client.request("GET", "/v1/models")).status == 200


async def test_a_client_is_forgotten_that_has_no_open_requests_and_no_debt(monkeypatch: pytest.MonkeyPatch) -> None:
    """Others come from ever new addresses, and would fill the memory."""
    quotas = Quotas(requests=2, tokens=60)

    def ask(client: str) -> None:
        exchange = ServerExchange(None)
        exchange.log = RequestLog("an id")
        exchange.log.prompt_lengths = [30]
        with quotas.charged(client, exchange):
            assert list(quotas._open) == [client]

    ask("a client")
    assert (list(quotas._open), list(quotas._paid_until)) == ([], ["a client"])
    soon = time.monotonic() + 31
    monkeypatch.setattr("serving.quotas.time.monotonic", lambda: soon)
    ask("another")
    assert list(quotas._paid_until) == ["another"]


async def test_one_client_may_have_so_many_tokens_in_a_minute_and_keys_are_counted_apart(door: Door) -> None:
    config = Config(client_tokens=100, api_keys=("first-key", "second-key"))
    async with by_hand(door, config=config) as service:
        first, second = {"x-api-key": "first-key"}, {"x-api-key": "second-key"}
        assert (await service.client.post(prompt="count 300", max_tokens=150, headers=first)).status == 200
        refused = await service.client.post(prompt="hello", headers=first)
        assert refused.status == 429
        assert 1 <= int(refused.headers["retry-after"]) <= 60
        assert (await service.client.post(prompt="hello", headers=second)).status == 200


@pytest.mark.parametrize(
    ("host", "warns"), [("127.0.0.1", False), ("::1", False), ("localhost", False), ("0.0.0.0", True), ("", True)]
)
def test_listening_to_others_without_a_key_is_warned_of(
    host: str, warns: bool, caplog: pytest.LogCaptureFixture
) -> None:
    warn_if_open(host, Config())
    warn_if_open(host, KEYS)
    assert len(caplog.records) == warns


async def test_being_asked_by_another_machine_without_a_key_is_warned_of_once(
    door: Door, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "engine")
    application = door(Driver(Config()))
    for _ in range(2):
        exchange = Client(application).open("GET", "/v1/models")
        exchange.scope["client"] = ("10.1.2.3", 5000)
        exchange.send_body(b"")
        await exchange.end()
    assert len([record for record in caplog.records if "ENGINE_API_KEYS" in record.getMessage()]) == 1


def test_no_code_of_a_model_is_ever_run() -> None:
    """`trust_remote_code` is said to be off wherever a model's own files could bring code."""
    calls = 0
    for file in sorted((Path(__file__).parents[2] / "inference").rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and re.fullmatch(r"Auto\w+\.from_pretrained", ast.unparse(node.func)):
                calls += 1
                assert "trust_remote_code=False" in ast.unparse(node), file
    assert calls
