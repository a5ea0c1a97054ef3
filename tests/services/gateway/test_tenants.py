"""Tenants at the public door: who is let in, what each may use, and that none reaches another's videos."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import jwt
import pytest
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.json_format import MessageToJson
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from soundstage.video.v1 import video_pb2 as pb
from soundstage.video.v1 import video_pb2_grpc as rpc

from libs.artifacts import FolderStore
from libs.errors import NotFound, ResourceExhausted, SoundstageError, Unauthenticated, Unavailable
from libs.serving import ServiceSettings, TlsFiles, error_from_rpc, open_channel, running
from services.gateway import admin
from services.gateway.settings import GatewaySettings
from services.gateway.tokens import PAUSE_SECONDS, SigningKeys, TokenRules, Tokens, fetch_json
from services.gateway.wiring import Gateway
from tests.services.gateway.conftest import PROMPT, Scene, refused, serving_gateway
from tests.support.certificates import Authority
from tests.support.oidc import AUDIENCE, Issuer, serving_issuer
from tests.support.stages import StageServers, serving_stages

RPCS: list[MethodDescriptor] = list(pb.DESCRIPTOR.services_by_name["VideoService"].methods)


@pytest.fixture(scope="module")
def issuer() -> Iterator[Issuer]:
    with serving_issuer() as issuer:
        yield issuer


@pytest.fixture
async def channel(
    stages: StageServers,
    settings_of: Callable[..., GatewaySettings],
    issuer: Issuer,
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[grpc.aio.Channel]:
    """To a whole gateway that asks who is calling."""
    settings = settings_of(stages, api_keys=True, oidc_issuer=issuer.url, oidc_audience=AUDIENCE)
    monkeypatch.setenv("SOUNDSTAGE_GATEWAY_DATABASE_URL", settings.database_url)
    gateway = Gateway(settings)
    async with (
        running(settings, gateway.endpoints, start=gateway.start, stop=gateway.stop) as server,
        open_channel(server.address) as channel,
    ):
        yield channel


async def key_of(tenant: str) -> str:
    """Made as an operator makes it."""
    (key,) = await admin.run(["keys", "make", tenant])
    return key


async def ask(channel: grpc.aio.Channel, method: str, request: Any, credential: str | None) -> Any:
    """The answer, or the error of the tree; of a stream, its messages."""
    metadata = () if credential is None else (("authorization", f"Bearer {credential}"),)
    call = getattr(rpc.VideoServiceStub(channel), method)(request, metadata=metadata, timeout=60)
    try:
        return [message async for message in call] if hasattr(call, "__aiter__") else await call
    except grpc.aio.AioRpcError as error:
        return error_from_rpc(error)


def request_for(method: MethodDescriptor, video: pb.Video, request_id: str) -> Any:
    """A request that would do something to `video` if it could: its name, or whatever else the RPC takes."""
    request = getattr(pb, method.input_type.name)()
    fields = method.input_type.fields_by_name
    if "name" in fields:
        request.name = video.name
    if "prompt" in fields:
        request.prompt = PROMPT
    if "spec" in fields:
        request.spec.prompt = PROMPT
        request.request_id = request_id
    return request


async def test_no_rpc_lets_a_tenant_reach_another_ones_videos(channel: grpc.aio.Channel) -> None:
    acme, globex = await key_of("acme"), await key_of("globex")
    request_id = str(uuid.uuid4())
    create = pb.CreateVideoRequest(spec=pb.VideoSpec(prompt=PROMPT), request_id=request_id)
    made = (await ask(channel, "CreateVideo", create, acme)).video
    await ask(channel, "WatchVideo", pb.WatchVideoRequest(name=made.name), acme)
    before = (await ask(channel, "GetVideo", pb.GetVideoRequest(name=made.name), acme)).video
    assert (before.tenant, before.state) == ("acme", pb.STATE_SUCCEEDED)

    for method in RPCS:
        answer = await ask(channel, method.name, request_for(method, made, request_id), globex)
        if "name" in method.input_type.fields_by_name:
            assert isinstance(answer, NotFound), method.name
            assert answer.reason == "VIDEO_NOT_FOUND"
        else:
            assert not isinstance(answer, SoundstageError), (method.name, answer)
            text = MessageToJson(answer)
            assert made.name not in text, method.name
            assert "acme" not in text, method.name
    token = (await ask(channel, "CreateVideo", pb.CreateVideoRequest(spec=create.spec), acme)) and (
        await ask(channel, "ListVideos", pb.ListVideosRequest(page_size=1), acme)
    ).next_page_token
    assert token
    stolen = await ask(channel, "ListVideos", pb.ListVideosRequest(page_size=1, page_token=token), globex)
    assert stolen.reason == "PAGE_TOKEN_UNKNOWN"
    assert (await ask(channel, "GetVideo", pb.GetVideoRequest(name=made.name), acme)).video == before


async def test_without_good_credentials_nothing_is_answered_but_health_and_reflection(
    channel: grpc.aio.Channel,
) -> None:
    revoked, expired, wrong = await key_of("acme"), await _expired_key(), await key_of("acme")
    await admin.run(["keys", "revoke", revoked.split("_")[1]])
    refusals = {
        None: "CREDENTIALS_MISSING",
        " ": "CREDENTIALS_MISSING",
        revoked: "API_KEY_INVALID",
        expired: "API_KEY_INVALID",
        wrong[:-1]: "API_KEY_INVALID",
        "ssk_": "API_KEY_INVALID",
        "nonsense": "TOKEN_INVALID",
    }
    for method in RPCS:
        for credential, reason in refusals.items():
            answer = await ask(channel, method.name, getattr(pb, method.input_type.name)(), credential)
            assert isinstance(answer, Unauthenticated), (method.name, reason)
            assert answer.reason == reason
    health = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=30)
    assert (await health).status == health_pb2.HealthCheckResponse.SERVING
    asked = iter([reflection_pb2.ServerReflectionRequest(list_services="")])
    stub = reflection_pb2_grpc.ServerReflectionStub(channel)
    listed = [answer async for answer in stub.ServerReflectionInfo(asked, timeout=30)]
    assert "soundstage.video.v1.VideoService" in str(listed)


async def _expired_key() -> str:
    (key,) = await admin.run(["keys", "make", "acme", "--days", "0.0000001"])
    return key


async def test_calls_at_once_are_not_mixed_up(channel: grpc.aio.Channel, issuer: Issuer) -> None:
    quota = pb.GetQuotaRequest()
    credentials = {"acme": await key_of("acme"), "globex": issuer.token("globex"), "initech": issuer.token("initech")}
    calls = [(tenant, ask(channel, "GetQuota", quota, held)) for tenant, held in credentials.items() for _ in range(5)]
    answers = await asyncio.gather(*(call for _, call in calls))
    assert [answer.tenant for answer in answers] == [tenant for tenant, _ in calls]


async def test_credits_are_known_reserved_and_given_back(channel: grpc.aio.Channel, stages: StageServers) -> None:
    key = await key_of("acme")

    async def credits_left() -> float:
        return (await ask(channel, "GetQuota", pb.GetQuotaRequest(), key)).credits

    create = pb.CreateVideoRequest(spec=pb.VideoSpec(prompt=PROMPT, num_inference_steps=50), validate_only=True)
    priced = (await ask(channel, "CreateVideo", create, key)).video
    assert (priced.name, priced.cost_credits) == ("", 17.0)
    assert not (await ask(channel, "ListVideos", pb.ListVideosRequest(), key)).videos
    assert await credits_left() == 200

    create.validate_only = False
    create.request_id = str(uuid.uuid4())
    made = [(await ask(channel, "CreateVideo", create, key)).video for _ in range(2)]
    assert made[0].cost_credits == 17.0
    assert await credits_left() == 183
    await ask(channel, "WatchVideo", pb.WatchVideoRequest(name=made[0].name), key)
    assert await credits_left() == 183

    stages.denoise.began.clear()
    stages.denoise.steps, stages.denoise.step_seconds = 1000, 0.5
    create.request_id = ""
    stopped = (await ask(channel, "CreateVideo", create, key)).video
    assert await asyncio.to_thread(stages.denoise.began.wait, 60)
    await ask(channel, "CancelVideo", pb.CancelVideoRequest(name=stopped.name), key)
    end = (await ask(channel, "WatchVideo", pb.WatchVideoRequest(name=stopped.name), key))[-1].video
    assert end.state == pb.STATE_CANCELLED
    assert 0 < end.cost_credits < 17
    assert end.cost_credits == pytest.approx(17 * end.progress.fraction, abs=0.001)
    assert await credits_left() == pytest.approx(183 - end.cost_credits)

    lines = await admin.run(["credits", "show", "acme"])
    assert [line.split()[2] for line in reversed(lines)] == ["FIRST", "RESERVED", "RESERVED", "REFUNDED"]
    create.spec.duration.seconds = 8
    for amount in ("inf", "nan", "0", "much"):
        with pytest.raises(SystemExit):
            await admin.run(["credits", "grant", "acme", amount])
    await admin.run(["credits", "grant", "acme", "-160"])
    refused = await ask(channel, "CreateVideo", create, key)
    assert isinstance(refused, ResourceExhausted)
    assert (refused.reason, refused.subject) == ("CREDITS_EXHAUSTED", "tenant:acme")
    assert refused.metadata["cost_credits"] == "27.2"


async def test_a_tenant_may_have_limits_of_its_own(channel: grpc.aio.Channel) -> None:
    slow, other = await key_of("slow"), await key_of("other")
    await admin.run(["tenants", "set", "slow", "--requests-per-second", "0.001", "--max-queued-videos", "3"])
    assert (await ask(channel, "GetQuota", pb.GetQuotaRequest(), slow)).max_queued_videos == 3
    refused = await ask(channel, "GetQuota", pb.GetQuotaRequest(), slow)
    assert isinstance(refused, ResourceExhausted)
    assert (refused.reason, refused.subject) == ("TOO_MANY_REQUESTS", "tenant:slow")
    assert refused.retry_seconds is not None
    assert 900 < refused.retry_seconds <= 1000
    usual = await ask(channel, "GetQuota", pb.GetQuotaRequest(), other)
    assert (usual.max_queued_videos, usual.requests_per_second) == (20, 50)


async def test_a_tenants_watchers_do_not_keep_others_out(
    stages: StageServers,
    settings_of: Callable[..., GatewaySettings],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each holds one of the server's calls, of which there are few here. One that ends makes room."""
    settings = settings_of(stages, role="api", api_keys=True, max_watches=2, max_concurrent_calls=4)
    monkeypatch.setenv("SOUNDSTAGE_GATEWAY_DATABASE_URL", settings.database_url)
    async with serving_gateway(settings, stages, tmp_path / "artifacts") as scene:
        greedy, other = await _watcher_of(scene, "greedy"), await _watcher_of(scene, "other")
        streams = [greedy(), greedy()]
        for stream in streams:
            assert (await stream.read()).video.state == pb.STATE_QUEUED
        error = await refused(greedy().read())
        assert isinstance(error, ResourceExhausted)
        assert (error.reason, error.subject) == ("TOO_MANY_WATCHES", "tenant:greedy")
        assert error.retry_seconds is not None
        assert (await other().read()).video.state == pb.STATE_QUEUED
        streams[0].cancel()
        async with asyncio.timeout(60):
            while not await _is_answered(greedy()):  # noqa: ASYNC110 - the server's call ends after ours
                await asyncio.sleep(0.1)


async def _watcher_of(scene: Scene, tenant: str) -> Callable[[], Any]:
    """Makes a video of the tenant; each call of what is returned opens another watch of it."""
    metadata = (("authorization", f"Bearer {await key_of(tenant)}"),)
    create = pb.CreateVideoRequest(spec=pb.VideoSpec(prompt=PROMPT))
    video = (await scene.stub.CreateVideo(create, metadata=metadata, timeout=60)).video
    return lambda: scene.stub.WatchVideo(pb.WatchVideoRequest(name=video.name), metadata=metadata, timeout=120)


async def _is_answered(stream: Any) -> bool:
    try:
        return bool(await stream.read())
    except grpc.aio.AioRpcError:
        return False


async def test_a_tenant_at_its_running_limit_waits_while_others_begin(
    channel: grpc.aio.Channel, stages: StageServers
) -> None:
    """There are two places. The second video of the one would have begun before the other's."""
    busy, other = await key_of("busy"), await key_of("other")
    await admin.run(["tenants", "set", "busy", "--max-running-videos", "1"])
    stages.encode.steps, stages.encode.step_seconds = 1000, 0.2
    create = pb.CreateVideoRequest(spec=pb.VideoSpec(prompt=PROMPT))
    first, second = [(await ask(channel, "CreateVideo", create, busy)).video for _ in range(2)]
    third = (await ask(channel, "CreateVideo", create, other)).video
    for video, key in ((first, busy), (third, other)):
        stream = rpc.VideoServiceStub(channel).WatchVideo(
            pb.WatchVideoRequest(name=video.name), metadata=(("authorization", f"Bearer {key}"),), timeout=60
        )
        assert [event async for event in _until_running(stream)]
        stream.cancel()
    quota = await ask(channel, "GetQuota", pb.GetQuotaRequest(), busy)
    assert (quota.max_running_videos, quota.queued_videos, quota.active_videos) == (1, 1, 2)
    assert (await ask(channel, "GetVideo", pb.GetVideoRequest(name=second.name), busy)).video.state == pb.STATE_QUEUED


async def _until_running(stream: Any) -> AsyncIterator[Any]:
    async for event in stream:
        if event.video.state == pb.STATE_RUNNING:
            yield event
            return


RULES = TokenRules("https://issuer.example", AUDIENCE, ("ES256",), "tenant", "https://issuer.example/keys")


def _bad_tokens(issuer: Issuer) -> dict[str, tuple[str, str]]:
    public = issuer.jwks()["keys"][0]["x"]
    return {
        "no audience": (issuer.token("acme", aud=None), "TOKEN_INVALID"),
        "another audience": (issuer.token("acme", aud="others"), "TOKEN_INVALID"),
        "another issuer": (issuer.token("acme", iss="https://evil.example"), "TOKEN_INVALID"),
        "no end": (issuer.token("acme", exp=None), "TOKEN_INVALID"),
        "expired": (issuer.token("acme", exp=1), "TOKEN_EXPIRED"),
        "not yet": (issuer.token("acme", nbf=99_999_999_999), "TOKEN_INVALID"),
        "no signature": (jwt.encode({"tenant": "acme"}, None, algorithm="none"), "TOKEN_INVALID"),
        "signed with what is public": (
            jwt.encode({"tenant": "acme"}, public * 2, algorithm="HS256", headers={"kid": "first"}),
            "TOKEN_INVALID",
        ),
        "no tenant": (issuer.token(None), "TENANT_CLAIM_INVALID"),
        "a path as tenant": (issuer.token("../acme"), "TENANT_CLAIM_INVALID"),
        "a line as tenant": (issuer.token("acme\n"), "TENANT_CLAIM_INVALID"),
        "tenants": (issuer.token(["acme"]), "TENANT_CLAIM_INVALID"),
    }


async def test_only_tokens_of_the_issuer_for_us_are_accepted(issuer: Issuer) -> None:
    tokens = Tokens(TokenRules(issuer.url, AUDIENCE, ("ES256",), "tenant"))
    assert await tokens.tenant_of(issuer.token("acme")) == "acme"
    with serving_issuer() as stranger:
        stranger.url = issuer.url
        bad = {**_bad_tokens(issuer), "another key of the same name": (stranger.token("acme"), "TOKEN_INVALID")}
    for what, (token, reason) in bad.items():
        with pytest.raises(Unauthenticated) as caught:
            await tokens.tenant_of(token)
        assert caught.value.reason == reason, what


async def test_the_issuers_keys_are_asked_for_seldom() -> None:
    """New keys are found, made-up ones do not flood the issuer, and an issuer that is away is borne for a day."""
    now, away = 0.0, False
    issuer = Issuer(RULES.issuer)
    issuer.add_key("first")

    async def fetch(_url: str) -> dict[str, Any]:
        if away:
            raise ValueError("away")
        return issuer.jwks()

    tokens = Tokens(RULES, SigningKeys(RULES, fetch, clock=lambda: now))
    await asyncio.gather(*(tokens.tenant_of(issuer.token("acme")) for _ in range(10)))
    assert issuer.asked == 1
    issuer.add_key("second")
    for _ in range(10):
        with pytest.raises(Unauthenticated):
            await tokens.tenant_of(issuer.token("acme", key_id="second"))
    assert issuer.asked == 1
    now += PAUSE_SECONDS + 1
    assert await tokens.tenant_of(issuer.token("acme", key_id="second")) == "acme"
    assert issuer.asked == 2
    away, now = True, now + 3600
    assert await tokens.tenant_of(issuer.token("acme")) == "acme"
    now += 24 * 3600
    with pytest.raises(Unavailable, match="issuer does not answer"):
        await tokens.tenant_of(issuer.token("acme"))


async def test_discovery_must_speak_of_the_same_issuer(issuer: Issuer) -> None:
    rules = TokenRules(f"{issuer.url}/", AUDIENCE, ("ES256",), "tenant")
    with pytest.raises(Unavailable):
        await Tokens(rules, SigningKeys(rules, fetch_json)).tenant_of(issuer.token("acme"))


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "gateway.example"])
def test_an_open_door_stays_on_loopback(host: str) -> None:
    with pytest.raises(ValueError, match="SOUNDSTAGE_GATEWAY_API_KEYS"):
        GatewaySettings(role="api", host=host)
    assert GatewaySettings(role="api", host=host, api_keys=True).host == host


def test_an_issuer_needs_an_audience_and_https() -> None:
    with pytest.raises(ValueError, match="OIDC_AUDIENCE"):
        GatewaySettings(role="api", oidc_issuer="https://issuer.example")
    with pytest.raises(ValueError, match="use https"):
        GatewaySettings(role="api", oidc_issuer="http://issuer.example", oidc_audience="x")
    with pytest.raises(ValueError, match="HS256"):
        GatewaySettings(role="api", oidc_algorithms=("HS256",))


async def test_no_secret_is_in_the_database(channel: grpc.aio.Channel, tmp_path: Path) -> None:
    key = await key_of("acme")
    assert not isinstance(await ask(channel, "GetQuota", pb.GetQuotaRequest(), key), SoundstageError)
    secret = key.split("_", 2)[2].encode()
    files = _contents(tmp_path)
    assert files
    assert not any(secret in content for content in files)


def _contents(folder: Path) -> list[bytes]:
    return [path.read_bytes() for path in folder.glob("gateway.db*")]


async def test_a_video_is_made_over_mutual_tls(settings_of: Callable[..., GatewaySettings], tmp_path: Path) -> None:
    """The public port shows a certificate, and the stages ask the gateway for one."""
    inside, outside = Authority(), Authority()
    stage, gateway, door = (who.files(tmp_path / name) for who, name in ((inside, "s"), (inside, "g"), (outside, "d")))
    stage_settings = ServiceSettings(grace_seconds=0.5, tls_cert=stage.cert, tls_key=stage.key, tls_client_ca=stage.ca)
    async with serving_stages(FolderStore(tmp_path / "artifacts"), stage_settings) as stages:
        settings = settings_of(
            stages,
            tls_cert=door.cert,
            tls_key=door.key,
            stages_ca=gateway.ca,
            stages_cert=gateway.cert,
            stages_key=gateway.key,
        )
        async with serving_gateway(settings, stages, tmp_path / "artifacts", tls=TlsFiles(ca=door.ca)) as scene:
            video = (await scene.watch((await scene.create()).name))[-1].video
    assert video.state == pb.STATE_SUCCEEDED, video
