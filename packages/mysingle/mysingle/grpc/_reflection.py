"""Server reflection, under both names that clients ask for.

grpcio ships `grpc.reflection.v1alpha`. The messages of `grpc.reflection.v1` are the same on the
wire, so one servicer answers both; the descriptor of v1 is derived from that of v1alpha, so that
reflection can describe itself.
"""

from __future__ import annotations

from collections.abc import Sequence

from google.protobuf import descriptor_pb2, descriptor_pool
from grpc_reflection.v1alpha import reflection, reflection_pb2, reflection_pb2_grpc

from mysingle.grpc._registrar import Registrar

__all__ = ["V1", "V1ALPHA", "add_reflection"]

V1ALPHA = "grpc.reflection.v1alpha.ServerReflection"
V1 = "grpc.reflection.v1.ServerReflection"


def add_reflection(registrar: Registrar, service_names: Sequence[str]) -> None:
    """Registers reflection of these services and of itself."""
    _add_v1_descriptor()
    servicer = reflection.aio.ReflectionServicer([*dict.fromkeys((*service_names, V1, V1ALPHA))])
    at_v1alpha = Registrar()
    reflection_pb2_grpc.add_ServerReflectionServicer_to_server(servicer, at_v1alpha)
    handlers = {method.name: handler for method, handler in at_v1alpha}
    for name in (V1, V1ALPHA):
        registrar.add_registered_method_handlers(name, handlers)


def _add_v1_descriptor() -> None:
    pool = descriptor_pool.Default()
    file = descriptor_pb2.FileDescriptorProto()
    reflection_pb2.DESCRIPTOR.CopyToProto(file)
    file.name = "grpc/reflection/v1/reflection.proto"
    file.package = "grpc.reflection.v1"
    for message in file.message_type:
        for field in message.field:
            if not field.type_name:  # a scalar; setting it even to "" would say it is none
                continue
            field.type_name = field.type_name.replace(".v1alpha.", ".v1.")
    for service in file.service:
        for method in service.method:
            method.input_type = method.input_type.replace(".v1alpha.", ".v1.")
            method.output_type = method.output_type.replace(".v1alpha.", ".v1.")
    pool.AddSerializedFile(file.SerializeToString())
