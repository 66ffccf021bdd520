"""`health`, `list`, `describe` and `call` against a real server with reflection."""

from __future__ import annotations

import asyncio
import base64
import importlib
import json
import sys

import grpc
import pytest
from cli_help import mysingle, running

from mysingle.cli._proto import generate
from mysingle.grpc.errors import GrpcError
from mysingle.testing import run_server, server_of

PROTO = """
syntax = "proto3";
package cli_sums.v1;
import "google/protobuf/timestamp.proto";
enum Mood { MOOD_UNSPECIFIED = 0; MOOD_GOOD = 1; }
message Number {
  int32 value = 1;
  optional string note_text = 2;
  repeated Mood moods = 3;
  map<string, int64> counts = 4;
  oneof choice { string left = 5; bytes right = 6; }
  google.protobuf.Timestamp at = 7;
  message Inner { bool yes = 1; }
  Inner inner = 8;
  reserved 20, 30 to 32;
  reserved "old";
}
service Sums {
  rpc Double(Number) returns (Number);
  rpc Count(Number) returns (stream Number);
  rpc Sum(stream Number) returns (Number);
  rpc Running(stream Number) returns (stream Number);
  rpc Headers(Number) returns (Number);
}
"""
SERVICE = "cli_sums.v1.Sums"


@pytest.fixture(scope="module")
def stubs(tmp_path_factory):
    """The generated modules of PROTO, imported from where `generate` put them."""
    root = tmp_path_factory.mktemp("protos")
    (root / "cli_sums").mkdir()
    (root / "cli_sums" / "sums.proto").write_text(PROTO)
    generate(root, root)
    sys.path.insert(0, str(root))
    try:
        yield (
            importlib.import_module("cli_sums.sums_pb2"),
            importlib.import_module("cli_sums.sums_pb2_grpc"),
        )
    finally:
        sys.path.remove(str(root))


@pytest.fixture
def register(stubs):
    pb2, pb2_grpc = stubs

    class Sums(pb2_grpc.SumsServicer):
        async def Double(self, request, context):
            if request.value < 0:
                raise GrpcError(
                    grpc.StatusCode.OUT_OF_RANGE,
                    "negative",
                    violations={"value": "below 0"},
                    reason="NEGATIVE",
                    retry_after=2,
                )
            if request.value == 13:
                await asyncio.Event().wait()
            answer = pb2.Number()
            answer.CopyFrom(request)
            answer.value *= 2
            return answer

        async def Count(self, request, context):
            for n in range(request.value):
                yield pb2.Number(value=n + 1)

        async def Sum(self, requests, context):
            return pb2.Number(value=sum([one.value async for one in requests]))

        async def Running(self, requests, context):
            total = 0
            async for one in requests:
                total += one.value
                yield pb2.Number(value=total)

        async def Headers(self, request, context):
            metadata = context.invocation_metadata()
            sent = {key: value for key, value in metadata if key.startswith(("x-", "user-id"))}
            sent = {k: v.hex() if isinstance(v, bytes) else v for k, v in sent.items()}
            return pb2.Number(note_text=json.dumps(sent, sort_keys=True))

    return lambda server: pb2_grpc.add_SumsServicer_to_server(Sums(), server)


@pytest.fixture
async def server(register):
    async with run_server(
        server_of(register), enable_reflection=True, enable_auth=False
    ) as running_server:
        yield running_server


@pytest.mark.parametrize("method", [f"{SERVICE}/Double", f"{SERVICE}.Double", f"/{SERVICE}/Double"])
async def test_call_json_in_and_out(server, method):
    data = {
        "value": 4,
        "noteText": "schön",
        "moods": ["MOOD_GOOD"],
        "counts": {"a": "1"},
        "right": "AAE=",
        "at": "2025-01-02T03:04:05Z",
    }
    done = await mysingle("call", server.address, method, json.dumps(data))
    assert done.code == 0, done
    assert json.loads(done.out) == {**data, "value": 8}
    assert "schön" in done.out


async def test_call_streams_json_one_line_for_each_message(server):
    counted = await mysingle("call", server.address, f"{SERVICE}/Count", '{"value": 3}')
    summed = await mysingle("call", server.address, f"{SERVICE}/Sum", '{"value": 3} {"value": 4}')
    both = await mysingle(
        "call", server.address, f"{SERVICE}/Running", "-", stdin='{"value": 3}\n{"value": 4}\n'
    )
    assert counted.out.splitlines() == ['{"value": 1}', '{"value": 2}', '{"value": 3}']
    assert json.loads(summed.out) == {"value": 7}
    assert both.out.splitlines() == ['{"value": 3}', '{"value": 7}']


async def test_call_reads_a_file_and_may_show_defaults(server, tmp_path):
    (tmp_path / "zero.json").write_text('{"value": 0}')
    words = ("call", server.address, f"{SERVICE}/Double", f"@{tmp_path / 'zero.json'}")
    assert json.loads((await mysingle(*words)).out) == {}
    assert json.loads((await mysingle(*words, "--emit-defaults")).out)["value"] == 0


async def test_call_shows_code_message_and_details_and_exits_with_the_code(server):
    done = await mysingle("call", server.address, f"{SERVICE}/Double", '{"value": -1}')
    assert done.code == 64 + grpc.StatusCode.OUT_OF_RANGE.value[0]
    assert done.out == ""
    assert "Code: OUT_OF_RANGE" in done.err
    assert "Message: negative" in done.err
    for part in ("google.rpc.BadRequest", "below 0", "NEGATIVE", '"retryDelay": "2s"'):
        assert part in done.err


async def test_call_sends_metadata(server):
    done = await mysingle(
        *("call", server.address, f"{SERVICE}/Headers"),
        *("-H", "X-Team: blue: or red", "-H", f"x-raw-bin: {base64.b64encode(b'ab').decode()}"),
        *("--user-id", "alice"),
    )
    sent = json.loads(json.loads(done.out)["noteText"])
    assert sent == {"x-team": "blue: or red", "x-raw-bin": "6162", "user-id": "alice"}


async def test_call_has_a_deadline(server):
    done = await mysingle(
        "call", server.address, f"{SERVICE}/Double", '{"value": 13}', "--timeout", "1"
    )
    assert done.code == 64 + grpc.StatusCode.DEADLINE_EXCEEDED.value[0]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((f"{SERVICE}/Double", "{"), "DATA is not JSON"),
        ((f"{SERVICE}/Double", '{"nope": 1}'), 'no field named "nope"'),
        ((f"{SERVICE}/Double", '{"value": 3000000000}'), "DATA is no cli_sums.v1.Number"),
        ((f"{SERVICE}/Double", "{} {}"), "takes one message, and DATA has 2"),
        ((f"{SERVICE}/Double", "@/no/such/file"), "cannot read /no/such/file"),
        ((f"{SERVICE}/Nope",), "has no method 'Nope'; it has: Double, Count"),
        (("no.Such/Thing",), "has no no.Such"),
        (("nonsense",), "is no method"),
        ((f"{SERVICE}/Double", "-H", "nonsense"), "not of the form"),
        ((f"{SERVICE}/Double", "-H", "x-bin: %"), "not base64"),
        ((f"{SERVICE}/Double", "-H", "x y: 1"), "keys are made of"),
        ((f"{SERVICE}/Double", "-H", "x: schön"), "not ASCII"),
        ((f"{SERVICE}/Double", "--cert", __file__), "--cert and --key go together"),
    ],
)
async def test_what_the_caller_did_wrong_is_said_in_the_last_line(server, words, said):
    done = await mysingle("call", server.address, *words)
    assert done.code not in (0, None)
    assert said in done.err.splitlines()[-1]
    assert "Traceback" not in done.err


async def test_an_unreachable_server_is_unavailable():
    done = await mysingle("call", "localhost:1", f"{SERVICE}/Double")
    assert done.code == 64 + grpc.StatusCode.UNAVAILABLE.value[0]


async def test_a_server_without_reflection_says_which_setting_to_use(register):
    async with run_server(server_of(register), enable_auth=False) as server:
        done = await mysingle("list", server.address)
    assert done.code == 1
    assert "GRPC_SERVER_ENABLE_REFLECTION=true" in done.err


async def test_reflection_of_the_older_version_will_do(register):
    import grpc.aio
    from grpc_reflection.v1alpha import reflection

    old = grpc.aio.server()
    register(old)
    reflection.enable_server_reflection([SERVICE, reflection.SERVICE_NAME], old)
    port = old.add_insecure_port("localhost:0")
    await old.start()
    try:
        done = await mysingle("call", f"localhost:{port}", f"{SERVICE}/Double", '{"value": 1}')
    finally:
        await old.stop(None)
    assert json.loads(done.out) == {"value": 2}


async def test_list_shows_services_and_methods(server):
    services = await mysingle("list", server.address)
    methods = await mysingle("list", server.address, SERVICE)
    assert {SERVICE, "grpc.reflection.v1.ServerReflection"} <= set(services.out.split())
    assert methods.out.split() == [
        f"{SERVICE}/{name}" for name in ("Double", "Count", "Sum", "Running", "Headers")
    ]


async def test_describe_gives_source_that_protoc_takes_again(server, tmp_path):
    texts = []
    for name in (SERVICE, "cli_sums.v1.Number", "cli_sums.v1.Mood"):
        done = await mysingle("describe", server.address, name)
        assert done.code == 0, done
        head, _, text = done.out.partition("\n")
        assert head.startswith(f"{name} is ")
        texts.append(text)
    source = "\n".join(PROTO.splitlines()[:4] + texts)
    for root, text in ((tmp_path / "old", PROTO), (tmp_path / "new", source)):
        (root / "one").mkdir(parents=True)
        (root / "one" / "one.proto").write_text(text)
        generate(root, root)
    # The modules hold the serialized descriptor: the same contract but for the order of types.
    made = [(tmp_path / which / "one" / "one_pb2.pyi").read_text() for which in ("old", "new")]
    assert sorted(made[0].split()) == sorted(made[1].split())
    method = await mysingle("describe", server.address, f"{SERVICE}/Count")
    assert "rpc Count(cli_sums.v1.Number) returns (stream cli_sums.v1.Number);" in method.out


async def test_health_says_serving_and_exits_accordingly(server):
    overall = await mysingle("health", server.address)
    one = await mysingle("health", server.address, "--service", SERVICE)
    stranger = await mysingle("health", server.address, "--service", "nope")
    await server.set_health(SERVICE, serving=False)
    ill = await mysingle("health", server.address, "--service", SERVICE)
    assert (overall.code, overall.out) == (0, "SERVING\n")
    assert (one.code, one.out) == (0, "SERVING\n")
    assert stranger.code == 64 + grpc.StatusCode.NOT_FOUND.value[0]
    assert (ill.code, ill.out) == (1, "NOT_SERVING\n")


async def test_health_can_be_watched(server):
    async with running("health", server.address, "--service", SERVICE, "--watch") as watch:
        await watch.until("SERVING\n")
        await server.set_health(SERVICE, serving=False)
        await watch.until("NOT_SERVING\n")


async def test_auth_is_satisfied_by_user_id(register):
    async with run_server(server_of(register), enable_reflection=True) as server:
        words = ("call", server.address, f"{SERVICE}/Double", '{"value": 1}')
        refused = await mysingle(*words)
        let_in = await mysingle(*words, "--user-id", "alice")
    assert refused.code == 64 + grpc.StatusCode.UNAUTHENTICATED.value[0]
    assert json.loads(let_in.out) == {"value": 2}
