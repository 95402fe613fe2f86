//! The two services of the peer listener about peers and their groups, method by method; `control` knows the answers.

use tonic::Request;

use super::{
    Services, control,
    held::{GrpcCall, GrpcResult},
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

#[tonic::async_trait]
impl PeerService for Services {
    async fn add_peer(&self, request: Request<AddPeerRequest>) -> GrpcResult<AddPeerResponse> {
        let (mut held, request) = GrpcCall::take(request)?;
        let done = control::add_peer(&mut held.call, &request.host).await;
        held.answer(done.map(|response| AddPeerResponse { response }))
    }

    async fn remove_peer(
        &self,
        request: Request<RemovePeerRequest>,
    ) -> GrpcResult<RemovePeerResponse> {
        let (mut held, request) = GrpcCall::take(request)?;
        let done = control::remove_peer(&mut held.call, &request.host).await;
        held.answer(done.map(|response| RemovePeerResponse { response }))
    }

    async fn handle_super_peer_leave(
        &self,
        request: Request<()>,
    ) -> GrpcResult<SuperPeerLeaveResponse> {
        let (mut held, ()) = GrpcCall::take(request)?;
        let done = control::handle_super_peer_leave(&mut held.call).await;
        held.answer(done.map(|response| SuperPeerLeaveResponse { response }))
    }

    async fn repair_objects(
        &self,
        request: Request<peer::RepairObjectRequest>,
    ) -> GrpcResult<peer::RepairObjectResponse> {
        let (mut held, request) = GrpcCall::take(request)?;
        let done = control::repair_objects(&mut held.call, &request.object_ids).await;
        held.answer(done.map(|response| peer::RepairObjectResponse { response }))
    }
}

#[tonic::async_trait]
impl SuperPeerService for Services {
    async fn handle_join(
        &self,
        request: Request<JoinRequest>,
    ) -> GrpcResult<JoinResponseWithLedger> {
        let (mut held, request) = GrpcCall::take(request)?;
        let joined = control::handle_join(&mut held.call, &request).await;
        held.answer(joined)
    }

    async fn handle_leave(&self, request: Request<LeaveRequest>) -> GrpcResult<LeaveResponse> {
        let (mut held, request) = GrpcCall::take(request)?;
        let done = control::handle_leave(&mut held.call, &request).await;
        held.answer(done.map(|success| LeaveResponse { success }))
    }

    async fn repair(
        &self,
        request: Request<group::RepairObjectRequest>,
    ) -> GrpcResult<group::RepairObjectResponse> {
        let (mut held, request) = GrpcCall::take(request)?;
        let done = control::repair(&mut held.call, &request.object_id).await;
        held.answer(done.map(|succeed| group::RepairObjectResponse { succeed }))
    }

    async fn migrate(&self, request: Request<MigrationRequest>) -> GrpcResult<MigrationResponse> {
        let (mut held, request) = GrpcCall::take(request)?;
        let done = control::migrate(&mut held.call, &request).await;
        held.answer(done.map(|succeed| MigrationResponse { succeed }))
    }

    async fn add_object_reference(
        &self,
        request: Request<AddObjectRequest>,
    ) -> GrpcResult<AddObjectResponse> {
        let (mut held, request) = GrpcCall::take(request)?;
        let AddObjectRequest { object_id, peer_id, ttl } = request;
        let done = control::add_reference(&mut held.call, &object_id, &peer_id, ttl).await;
        held.answer(done.map(|succeed| AddObjectResponse { succeed }))
    }

    async fn remove_peer_group_ledger(
        &self,
        request: Request<RemovePeerGroupLedgerRequest>,
    ) -> GrpcResult<RemovePeerGroupLedgerResponse> {
        let (mut held, request) = GrpcCall::take(request)?;
        let done = control::remove_references(&mut held.call, &request.peer_id).await;
        held.answer(done.map(|result| RemovePeerGroupLedgerResponse { result }))
    }

    async fn notify_peers(
        &self,
        request: Request<NotifyPeersRequest>,
    ) -> GrpcResult<NotifyPeersResponse> {
        let (mut held, request) = GrpcCall::take(request)?;
        let done = control::notify_peers(&mut held.call, &request.host).await;
        held.answer(done.map(|result| NotifyPeersResponse { result }))
    }

    async fn ping_peer(&self, request: Request<PingRequest>) -> GrpcResult<PingResponse> {
        let (held, request) = GrpcCall::take(request)?;
        let done = control::ping_peer(&held.call, &request.hostname).await;
        held.answer(done.map(|result| PingResponse { result }))
    }

    async fn update_position_reference(
        &self,
        request: Request<PositionUpdateRequest>,
    ) -> GrpcResult<PositionUpdateResponse> {
        let (mut held, request) = GrpcCall::take(request)?;
        let moved = control::update_position(&mut held.call, &request).await;
        held.answer(moved)
    }
}
