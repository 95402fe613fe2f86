//! The two services of the peer listener about peers and their groups, method by method; `control` knows the answers.

use tonic::Request;

use super::{
    Services, control,
    held::{GrpcCall, GrpcResult, answers},
};
use nomad_proto::{
    peerservice::{
        self as peer, AddPeerRequest, AddPeerResponse, RemovePeerRequest, RemovePeerResponse,
        SuperPeerLeaveResponse, peer_service_server::PeerService,
    },
    superpeerservice::{
        self as group, AddObjectRequest, AddObjectResponse, JoinRequest, JoinResponseWithLedger,
        LeaveRequest, LeaveResponse, MigrationRequest, MigrationResponse, NotifyPeersRequest,
        NotifyPeersResponse, PingRequest, PingResponse, PositionUpdateRequest,
        PositionUpdateResponse, RemovePeerGroupLedgerRequest, RemovePeerGroupLedgerResponse,
        super_peer_service_server::SuperPeerService,
    },
};

answers! {
    PeerService, held {
        add_peer(request: AddPeerRequest) -> AddPeerResponse { response } =
            control::add_peer(&mut held.call, &request.host);
        remove_peer(request: RemovePeerRequest) -> RemovePeerResponse { response } =
            control::remove_peer(&mut held.call, &request.host);
        handle_super_peer_leave(_request: ()) -> SuperPeerLeaveResponse { response } =
            control::handle_super_peer_leave(&mut held.call);
        repair_objects(request: peer::RepairObjectRequest) -> peer::RepairObjectResponse { response } =
            control::repair_objects(&mut held.call, &request.object_ids);
    } {}
}

answers! {
    SuperPeerService, held {
        handle_join(request: JoinRequest) -> JoinResponseWithLedger =
            control::handle_join(&mut held.call, &request);
        handle_leave(request: LeaveRequest) -> LeaveResponse { success } =
            control::handle_leave(&mut held.call, &request);
        repair(request: group::RepairObjectRequest) -> group::RepairObjectResponse { succeed } =
            control::repair(&mut held.call, &request.object_id);
        migrate(request: MigrationRequest) -> MigrationResponse { succeed } =
            control::migrate(&mut held.call, &request);
        add_object_reference(request: AddObjectRequest) -> AddObjectResponse { succeed } =
            control::add_reference(&mut held.call, &request.object_id, &request.peer_id, request.ttl);
        remove_peer_group_ledger(request: RemovePeerGroupLedgerRequest) -> RemovePeerGroupLedgerResponse { result } =
            control::remove_references(&mut held.call, &request.peer_id);
        notify_peers(request: NotifyPeersRequest) -> NotifyPeersResponse { result } =
            control::notify_peers(&mut held.call, &request.host);
        ping_peer(request: PingRequest) -> PingResponse { result } =
            control::ping_peer(&held.call, &request.hostname);
        update_position_reference(request: PositionUpdateRequest) -> PositionUpdateResponse =
            control::update_position(&mut held.call, &request);
    } {}
}
