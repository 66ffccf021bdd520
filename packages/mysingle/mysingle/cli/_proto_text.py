"""Descriptors as the `.proto` source they came from, without its comments."""

from __future__ import annotations

from collections.abc import Iterator

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    MethodDescriptorProto,
    ServiceDescriptorProto,
)

__all__ = ["enum_text", "message_text", "method_text", "service_text"]

_INDENT = "  "
_Field = FieldDescriptorProto


def service_text(service: ServiceDescriptorProto) -> str:
    """`service MathService { … }`."""
    body = [method_text(method) for method in service.method]
    return _block(f"service {service.name}", body)


def method_text(method: MethodDescriptorProto) -> str:
    """`rpc Add(math.AddRequest) returns (math.AddReply);`."""
    takes = ("stream " if method.client_streaming else "") + method.input_type.lstrip(".")
    gives = ("stream " if method.server_streaming else "") + method.output_type.lstrip(".")
    head = f"rpc {method.name}({takes}) returns ({gives})"
    return head + (" { option deprecated = true; }" if method.options.deprecated else ";")


def message_text(message: DescriptorProto) -> str:
    """`message AddRequest { … }`, with what is nested in it."""
    return _block(f"message {message.name}", list(_message_body(message)))


def enum_text(enum: EnumDescriptorProto) -> str:
    """`enum Status { … }`."""
    body = [f"option {name} = true;" for name in ("allow_alias",) if enum.options.allow_alias]
    body += [f"{value.name} = {value.number};" for value in enum.value]
    return _block(f"enum {enum.name}", body)


def _field_text(field: FieldDescriptorProto, message: DescriptorProto) -> str:
    """`repeated float vector = 6;`."""
    entry = _map_entry(field, message)
    if entry is not None:
        kind = f"map<{_type(entry.field[0])}, {_type(entry.field[1])}>"
    elif field.label == _Field.LABEL_REPEATED:
        kind = f"repeated {_type(field)}"
    elif field.label == _Field.LABEL_REQUIRED:
        kind = f"required {_type(field)}"
    elif field.proto3_optional:
        kind = f"optional {_type(field)}"
    else:
        kind = _type(field)
    options = " [deprecated = true]" if field.options.deprecated else ""
    return f"{kind} {field.name} = {field.number}{options};"


def _message_body(message: DescriptorProto) -> Iterator[str]:
    for nested in message.nested_type:
        if not nested.options.map_entry:
            yield message_text(nested)
    for enum in message.enum_type:
        yield enum_text(enum)
    shown: set[int] = set()
    for field in message.field:
        if not field.HasField("oneof_index") or field.proto3_optional:
            yield _field_text(field, message)
        elif field.oneof_index not in shown:
            shown.add(field.oneof_index)
            members = [
                _field_text(one, message)
                for one in message.field
                if one.HasField("oneof_index") and one.oneof_index == field.oneof_index
            ]
            yield _block(f"oneof {message.oneof_decl[field.oneof_index].name}", members)
    numbers = [
        str(span.start) if span.end == span.start + 1 else f"{span.start} to {span.end - 1}"
        for span in message.reserved_range
    ]
    if numbers:
        yield f"reserved {', '.join(numbers)};"
    if message.reserved_name:
        quoted = ", ".join(f'"{name}"' for name in message.reserved_name)
        yield f"reserved {quoted};"


def _map_entry(field: FieldDescriptorProto, message: DescriptorProto) -> DescriptorProto | None:
    for nested in message.nested_type:
        if nested.options.map_entry and field.type_name.endswith(f".{message.name}.{nested.name}"):
            return nested
    return None


def _type(field: FieldDescriptorProto) -> str:
    if field.type_name:
        return field.type_name.lstrip(".")
    return _Field.Type.Name(field.type).removeprefix("TYPE_").lower()


def _block(head: str, body: list[str]) -> str:
    if not body:
        return f"{head} {{\n}}"
    lines = [f"{_INDENT}{line}" for part in body for line in part.splitlines()]
    return "\n".join((f"{head} {{", *lines, "}"))
