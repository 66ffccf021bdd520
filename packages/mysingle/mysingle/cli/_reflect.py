"""What a server says about itself through reflection."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click
import grpc
from google.protobuf import descriptor_pool
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from grpc_reflection.v1alpha import reflection_pb2

if TYPE_CHECKING:
    from mysingle.cli._connection import Connection

__all__ = ["Reflection"]

# Without type information upstream; both versions of the protocol are the same on the wire.
_Request: Any = reflection_pb2.ServerReflectionRequest
_Response: Any = reflection_pb2.ServerReflectionResponse
_PATHS = tuple(
    f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo"
    for version in ("v1", "v1alpha")
)


class Reflection:
    """Asks a server for its services and types, by either version of the protocol.

    Attributes:
        pool: The types learnt so far.
    """

    def __init__(self, channel: grpc.Channel, connection: Connection) -> None:
        self.pool = descriptor_pool.DescriptorPool()
        self._channel = channel
        self._connection = connection
        self._path = ""
        self._files: dict[str, FileDescriptorProto] = {}
        self._added: set[str] = set()

    def services(self) -> list[str]:
        """The names of the services, sorted.

        Raises:
            ClickException: The server has no reflection.
            RpcError: It cannot be reached, or refuses.
        """
        answer = self._ask(_Request(list_services=""))
        return sorted(service.name for service in answer.list_services_response.service)

    def learn(self, symbol: str) -> None:
        """Puts the file that declares `symbol`, and all it imports, into the pool.

        Raises:
            ClickException: The server has no reflection, or does not know the symbol.
            RpcError: It cannot be reached, or refuses.
        """
        answer = self._ask(_Request(file_containing_symbol=symbol))
        parent = symbol.rpartition(".")[0]
        if answer.HasField("error_response") and parent:
            # Several servers, grpcio's among them, know services but not their methods.
            answer = self._ask(_Request(file_containing_symbol=parent))
        if answer.HasField("error_response"):
            raise click.ClickException(f"{self._connection.target} has no {symbol}")
        for name in self._keep(answer):
            self._add(name)

    def method(self, name: str) -> MethodDescriptor:
        """The method that `package.Service/Method` or `package.Service.Method` names.

        Raises:
            ClickException: It is no such name, or the server does not know it.
            RpcError: It cannot be reached, or refuses.
        """
        path = name.strip("/")
        separator = "/" if "/" in path else "."
        service_name, _, method_name = path.rpartition(separator)
        if not service_name or not method_name:
            raise click.ClickException(
                f"{name!r} is no method; write package.Service/Method, and see: "
                f"mysingle list {self._connection.target}"
            )
        self.learn(service_name)
        try:
            service = self.pool.FindServiceByName(service_name)
        except KeyError:
            raise click.ClickException(f"{service_name} is no service") from None
        found = service.methods_by_name.get(method_name)
        if found is None:
            known = ", ".join(service.methods_by_name)
            raise click.ClickException(
                f"{service_name} has no method {method_name!r}; it has: {known}"
            )
        return found

    def file_of(self, name: str) -> FileDescriptorProto:
        """A file that was learnt."""
        return self._files[name]

    def _ask(self, request: Any) -> Any:
        for path in [self._path] if self._path else _PATHS:
            ask = self._channel.stream_stream(
                path,
                request_serializer=_Request.SerializeToString,
                response_deserializer=_Response.FromString,
            )
            call = ask(
                iter((request,)),
                metadata=self._connection.metadata,
                timeout=self._connection.timeout,
            )
            try:
                for answer in call:
                    self._path = path
                    return answer
            except grpc.RpcError as error:
                if error.code() is not grpc.StatusCode.UNIMPLEMENTED:
                    raise
        raise click.ClickException(
            f"{self._connection.target} has no reflection; "
            "a mysingle server has it with GRPC_SERVER_ENABLE_REFLECTION=true"
        )

    def _keep(self, answer: Any) -> list[str]:
        names = []
        for raw in answer.file_descriptor_response.file_descriptor_proto:
            file = FileDescriptorProto.FromString(raw)
            self._files[file.name] = file
            names.append(file.name)
        return names

    def _add(self, name: str) -> None:
        """Adds a file to the pool after those it imports, fetched where they did not come along."""
        if name in self._added:
            return
        if name not in self._files:
            answer = self._ask(_Request(file_by_filename=name))
            if answer.HasField("error_response") or name not in self._keep(answer):
                raise click.ClickException(
                    f"{self._connection.target} does not show {name}, which its files import"
                )
        self._added.add(name)
        for dependency in self._files[name].dependency:
            self._add(dependency)
        self.pool.AddSerializedFile(self._files[name].SerializeToString())
