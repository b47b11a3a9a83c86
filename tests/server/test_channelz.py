"""Channelz: the connections of a server, for those who turned it on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import grpc
import pytest
from grpc_channelz.v1 import channelz_pb2, channelz_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)

from carousel.client import Client
from tests.conftest import RunningServer


def test_channelz_counts_the_calls_of_the_server(serve: Callable[..., RunningServer]) -> None:
    server = serve(shipped=False, channelz=True)
    with Client(server.target) as client:
        client.server_info()
    with grpc.insecure_channel(server.target) as channel:
        stub: Any = channelz_pb2_grpc.ChannelzStub(channel)
        servers = stub.GetServers(channelz_pb2.GetServersRequest()).server
        port = f":{server.server.port}"
        [mine] = [
            one
            for one in servers
            if any(socket.name.endswith(port) for socket in one.listen_socket)
        ]
        assert mine.data.calls_succeeded >= 1
        assert (
            "grpc.channelz.v1.Channelz" in ProtoReflectionDescriptorDatabase(channel).get_services()
        )


def test_channelz_is_off_unless_it_is_turned_on(channel: grpc.Channel) -> None:
    stub: Any = channelz_pb2_grpc.ChannelzStub(channel)
    with pytest.raises(grpc.RpcError) as refused:
        stub.GetServers(channelz_pb2.GetServersRequest())
    assert refused.value.code() == grpc.StatusCode.UNIMPLEMENTED
