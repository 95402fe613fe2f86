"""A Python client of a running node: generated code first, then a generic client that knows nothing but reflection.

Every step asserts what it read back; the first that fails ends the script with a non-zero code.
"""

import sys
import time

import grpc
from google.protobuf import descriptor_pool, message_factory
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)
from grpc_status import rpc_status

import GameObject_pb2
import GroupStorageService_pb2 as group
import GroupStorageService_pb2_grpc as group_grpc
import PeerService_pb2 as peer
import PeerService_pb2_grpc as peer_grpc
import PeerStorageService_pb2 as overlay
import PeerStorageService_pb2_grpc as overlay_grpc
import SuperPeerService_pb2 as super_peer
import SuperPeerService_pb2_grpc as super_peer_grpc

TIMEOUT = 10


def step(name):
    print(f"ok: {name}")


def expect_error(code, call, *arguments):
    """The call must fail with this code; gives its google.rpc.Status."""
    try:
        call(*arguments, timeout=TIMEOUT)
    except grpc.RpcError as error:
        assert error.code() == code, f"{error.code()} {error.details()}, expected {code}"
        return rpc_status.from_call(error)
    raise AssertionError(f"no error, expected {code}")


def storage(stub, messages, name):
    """put, get, update, delete and their answers for what is not there."""
    object_id = f"python/{name}/{time.time_ns()}"
    ttl = int(time.time()) + 600
    sent = GameObject_pb2.GameObjectGrpc(
        id=object_id, creationTime=1700000000, ttl=ttl, value=bytes(range(256))
    )
    get = messages.GetObjectRequest(id=object_id)
    put = messages.PutObjectRequest(object=sent)
    assert not stub.get(get, timeout=TIMEOUT).result
    assert stub.put(put, timeout=TIMEOUT).result
    assert not stub.put(put, timeout=TIMEOUT).result, "put of an id that exists"
    answer = stub.get(get, timeout=TIMEOUT)
    found = answer.object
    assert answer.result and found.id == object_id and found.value == bytes(range(256))
    assert found.creationTime == 1700000000 and found.ttl == ttl
    assert abs(found.lastModified - time.time()) < 60
    newer = GameObject_pb2.GameObjectGrpc(id=object_id, value=b"newer")
    assert stub.update(messages.UpdateObjectRequest(object=newer), timeout=TIMEOUT).result
    found = stub.get(get, timeout=TIMEOUT).object
    assert found.value == b"newer" and found.creationTime == 1700000000
    delete = messages.DeleteObjectRequest(id=object_id)
    assert stub.delete(delete, timeout=TIMEOUT).result
    assert not stub.delete(delete, timeout=TIMEOUT).result
    assert not stub.update(messages.UpdateObjectRequest(object=newer), timeout=TIMEOUT).result
    assert not stub.get(get, timeout=TIMEOUT).result
    step(f"{name}: put, get, update, delete")

    status = expect_error(grpc.StatusCode.INVALID_ARGUMENT, stub.get, messages.GetObjectRequest())
    kinds = [detail.TypeName() for detail in status.details]
    assert "google.rpc.BadRequest" in kinds, kinds
    bad = error_details_pb2.BadRequest()
    assert any(detail.Unpack(bad) for detail in status.details)
    assert bad.field_violations, bad
    past = GameObject_pb2.GameObjectGrpc(id=object_id, ttl=3600)
    status = expect_error(
        grpc.StatusCode.INVALID_ARGUMENT, stub.put, messages.PutObjectRequest(object=past)
    )
    assert "3600" in status.message, status.message
    step(f"{name}: refusals with details")


def metadata(stub):
    """The answer's metadata, and a mode for one call."""
    put = group.PutObjectRequest(
        object=GameObject_pb2.GameObjectGrpc(id=f"python/mode/{time.time_ns()}", value=b"x")
    )
    _, call = stub.put.with_call(put, timeout=TIMEOUT, metadata=[("nomad-mode", "safe")])
    answered = dict(call.initial_metadata()) | dict(call.trailing_metadata())
    assert answered["nomad-durability"] == "quorum", answered
    assert len(answered["nomad-request-id"]) == 32, answered
    step("mode, durability and request id in the metadata")


def health(channels, stub):
    for channel in channels:
        checker = health_pb2_grpc.HealthStub(channel)
        answer = checker.Check(health_pb2.HealthCheckRequest(), timeout=TIMEOUT)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
        watch = checker.Watch(health_pb2.HealthCheckRequest(), timeout=TIMEOUT)
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
        watch.cancel()
    serving = group.HealthCheckResponse.SERVING
    empty = group_grpc.google_dot_protobuf_dot_empty__pb2.Empty()
    assert stub.healthCheck(empty, timeout=TIMEOUT).status == serving
    watch = stub.healthCheckWatch(empty, timeout=TIMEOUT)
    assert next(watch).status == serving
    watch.cancel()
    step("health: check and watch")


def control(channel, address):
    peers = peer_grpc.PeerServiceStub(channel)
    supers = super_peer_grpc.SuperPeerServiceStub(channel)
    assert supers.pingPeer(super_peer.PingRequest(hostname=address), timeout=TIMEOUT).result
    assert not supers.pingPeer(super_peer.PingRequest(hostname="127.0.0.1:1"), timeout=TIMEOUT).result
    assert not peers.removePeer(peer.RemovePeerRequest(host="127.0.0.1:1"), timeout=TIMEOUT).response
    step("control services")


def deadline(stub):
    """A deadline that has passed is DEADLINE_EXCEEDED, and the watch ends at its own."""
    empty = group_grpc.google_dot_protobuf_dot_empty__pb2.Empty()
    try:
        for _ in stub.healthCheckWatch(empty, timeout=0.5):
            pass
        raise AssertionError("the watch ended without an error")
    except grpc.RpcError as error:
        assert error.code() == grpc.StatusCode.DEADLINE_EXCEEDED, error
    step("deadline")


def reflection(channel):
    """A client with no proto files: finds the service, builds its messages, calls it."""
    database = ProtoReflectionDescriptorDatabase(channel)
    services = set(database.get_services())
    name = "grpc.groupstorage.GroupStorageService"
    for expected in (name, "grpc.peerstorage.PeerStorageService", "grpc.health.v1.Health"):
        assert expected in services, services
    pool = descriptor_pool.DescriptorPool(database)
    service = pool.FindServiceByName(name)
    messages = {method.name: method for method in service.methods}

    def call(method, **fields):
        found = messages[method]
        request = message_factory.GetMessageClass(found.input_type)(**fields)
        answer = message_factory.GetMessageClass(found.output_type)
        rpc = channel.unary_unary(
            f"/{name}/{method}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=answer.FromString,
        )
        return rpc(request, timeout=TIMEOUT)

    object_id = f"python/reflection/{time.time_ns()}"
    assert call("put", object={"id": object_id, "value": b"seen"}).result
    assert call("get", id=object_id).object.value == b"seen"
    assert call("delete", id=object_id).result
    step("reflection: put, get, delete with no proto files")


def main():
    storage_address, peer_address = sys.argv[1:]
    with (
        grpc.insecure_channel(storage_address) as storage_channel,
        grpc.insecure_channel(peer_address) as peer_channel,
    ):
        group_stub = group_grpc.GroupStorageServiceStub(storage_channel)
        storage(group_stub, group, "group")
        storage(overlay_grpc.PeerStorageServiceStub(storage_channel), overlay, "overlay")
        metadata(group_stub)
        health([storage_channel, peer_channel], group_stub)
        control(peer_channel, peer_address)
        deadline(group_stub)
        reflection(storage_channel)
    print("all passed")


if __name__ == "__main__":
    main()
