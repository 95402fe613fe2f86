//! One request in hand: begun, asked of whoever can do it, ended once. The same for REST, gRPC and programs that embed a node.

use std::{
    net::SocketAddr,
    sync::{Arc, LazyLock},
    time::Duration,
};

use super::{Assurance, NodeService, ServiceError};
use nomad_actors::{
    Context,
    ledger::LedgerMsg,
    local_store::LocalStoreMsg,
    membership::MembershipMsg,
    recorder::{Outcome, TraceRecord},
    repair_sweeper::RepairSweeperMsg,
};
use nomad_core::{
    group::{
        RetrievalMode, SettingChange, Settings, StorageMode,
        control::{ControlError, ControlRequest},
        replication,
    },
    ledger::{LIMIT_ENTRIES, LedgerPage},
    listing::{ListingPage, ListingQuery},
    model::{
        change::{Change, WriteRefusal, Written},
        object::{Object, ObjectId, Tier},
        time::MonotonicUs,
        trace::{SpanId, TraceContext, TraceId},
    },
};

/// Where a request comes in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entrance {
    /// The REST listener.
    Rest,
    /// A gRPC listener.
    Grpc,
    /// A program that embeds the node.
    Embedded,
}

/// The names of those who send without being actors: shared, because every request's records carry them.
static NAMES: LazyLock<[Arc<str>; 4]> =
    LazyLock::new(|| ["client".into(), "rest".into(), "grpc".into(), "embedded".into()]);

impl Entrance {
    /// Returns its name, as traces and figures show it.
    pub fn as_str(self) -> &'static str {
        self.name()
    }

    fn name(self) -> &'static Arc<str> {
        let [_, rest, grpc, embedded] = &*NAMES;
        match self {
            Self::Rest => rest,
            Self::Grpc => grpc,
            Self::Embedded => embedded,
        }
    }
}

/// A request in hand. Recorded once: when it is [ended](Self::end), or when it is dropped because its client has gone.
pub struct ServiceCall {
    service: Arc<NodeService>,
    from: &'static Arc<str>,
    kind: &'static str,
    cx: Context,
    parent: SpanId,
    start: MonotonicUs,
    object: Option<ObjectId>,
    is_ended: bool,
    /// What is exported of the request at its entrance; ends with it.
    _span: tracing::Span,
}

impl ServiceCall {
    /// Begins a request of a kind. It belongs to the trace that it brings, or to a new one; its deadline is `timeout` from now,
    /// at most `limits.requestTimeout`.
    pub fn begin(
        service: &Arc<NodeService>,
        entrance: Entrance,
        kind: &'static str,
        brought: Option<TraceContext>,
        timeout: Option<Duration>,
    ) -> Self {
        let kit = &service.kit;
        let trace = brought.unwrap_or_else(|| kit.recorder.new_trace());
        let start = kit.clock.monotonic();
        let longest = service.limits.request_timeout;
        let timeout = timeout.map_or(longest, |timeout| timeout.min(longest));
        let own = kit.recorder.new_span();
        let span = tracing::info_span!(
            target: "nomad::message",
            "request",
            actor = entrance.as_str(),
            kind,
            request = %trace.trace,
        );
        Self {
            service: Arc::clone(service),
            from: entrance.name(),
            kind,
            cx: Context {
                trace: trace.child(own),
                deadline: Some(start.plus_us(timeout.as_micros() as u64)),
            },
            parent: trace.span,
            start,
            object: None,
            is_ended: false,
            _span: nomad_telemetry::adopt_step(span, trace, own),
        }
    }

    /// Says that all of the request is in: the time for the work starts here.
    pub fn is_in(&mut self) {
        let now = self.service.kit.clock.monotonic();
        self.cx.deadline =
            Some(now.plus_us(self.service.limits.request_timeout.as_micros() as u64));
    }

    /// Returns the name of the request.
    pub fn request_id(&self) -> TraceId {
        self.cx.trace.trace
    }

    /// Returns the kind of the request.
    pub fn kind(&self) -> &'static str {
        self.kind
    }

    /// Says which object the request is about, for its record.
    pub fn about(&mut self, id: &ObjectId) {
        self.object = Some(id.clone());
    }

    /// Reads an object, in the node's mode unless the request names one.
    ///
    /// # Errors
    /// When no reader answers in time or the store cannot read.
    pub async fn get(
        &mut self,
        tier: Tier,
        id: &ObjectId,
        mode: Option<RetrievalMode>,
    ) -> Result<Option<Object>, ServiceError> {
        self.about(id);
        let service = &self.service;
        let mode = {
            let view = service.view.load();
            replication::serves(&view, tier)?;
            mode.unwrap_or(view.settings.retrieval_mode)
        };
        let start = service.kit.clock.monotonic();
        let read = service.reads.get(self.from, self.cx, tier, id, mode).await;
        if tier == Tier::Group {
            let took_us = service.kit.clock.monotonic().since(start);
            service.operations.on_read(mode, took_us);
        }
        read
    }

    /// Writes, in the node's mode unless the request names one. The outer error is a failure, the inner one a refusal that
    /// left everything as it was; with how durable the answer is, either way.
    ///
    /// # Errors
    /// When the change may not be made at all, or the store cannot make it.
    pub async fn write(
        &mut self,
        tier: Tier,
        id: &ObjectId,
        change: Change,
        mode: Option<StorageMode>,
    ) -> Result<(Result<Written, WriteRefusal>, Assurance), ServiceError> {
        self.about(id);
        let service = &self.service;
        let mode = {
            let view = service.view.load();
            replication::serves(&view, tier)?;
            mode.unwrap_or(view.settings.storage_mode)
        };
        let kit = &service.kit;
        if let Change::Write { content, .. } = &change {
            content.check(kit.clock.wall().secs(), service.limits.object_bytes_max)?;
        }
        let written = match tier {
            Tier::Group => {
                let start = kit.clock.monotonic();
                let written = service.writes.write(self.from, self.cx, id, change, mode).await;
                service.operations.on_write(mode, kit.clock.monotonic().since(start));
                written?
            }
            Tier::Overlay => {
                let make = |reply| LocalStoreMsg::Write { tier, id: id.clone(), change, reply };
                service.store.ask(self.from, self.cx, make).await??
            }
        };
        Ok((written, service.assurance(tier, Some(mode))))
    }

    /// Lists objects, at most `limit`, which the node caps at `limits.pageSize`.
    ///
    /// # Errors
    /// When no reader answers in time, too few members of the group do, or the store cannot read.
    pub async fn list(
        &mut self,
        tier: Tier,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<ListingPage, ServiceError> {
        let limit = limit.min(self.service.limits.page_size);
        replication::serves(&self.service.view.load(), tier)?;
        let (prefix, after) = (prefix.to_owned(), after.map(str::to_owned));
        let wanted = ListingQuery { prefix, after, limit };
        self.service.reads.list(self.from, self.cx, tier, wanted).await
    }

    /// Changes a setting and returns the settings with that change, which may take a moment to come back from the group.
    ///
    /// # Errors
    /// When the value is out of range, or the group does not take it.
    pub async fn set(&mut self, change: SettingChange) -> Result<Settings, ServiceError> {
        let make = |reply| MembershipMsg::Set { change, reply };
        self.service.membership.ask(self.from, self.cx, make).await??;
        let mut settings = self.service.view.load().settings();
        settings.set(change)?;
        Ok(settings)
    }

    /// Asks whoever decides about members. The inner error is a refusal that left everything as it was.
    ///
    /// # Errors
    /// When there is no answer in time.
    pub async fn control(
        &mut self,
        request: ControlRequest,
    ) -> Result<Result<bool, ControlError>, ServiceError> {
        let make = |reply| MembershipMsg::Control { request, reply };
        Ok(self.service.membership.ask(self.from, self.cx, make).await?)
    }

    /// Returns who holds the objects behind an id, as the group's ledger has it: at most `limit` holders, unless a single
    /// object has more.
    ///
    /// # Errors
    /// When nobody who keeps it answers in time.
    pub async fn ledger(
        &mut self,
        after: Option<&str>,
        limit: usize,
    ) -> Result<LedgerPage, ServiceError> {
        let (mut whole, mut left) = (LedgerPage::default(), limit);
        whole.next = after.map(str::to_owned);
        loop {
            let (after, limit) = (whole.next.take(), left.min(LIMIT_ENTRIES));
            let make = |reply| LedgerMsg::Page { after, limit, reply };
            let page = self.service.ledger.ask(self.from, self.cx, make).await??;
            let holders: usize = page.items.iter().map(|listed| listed.holders.len()).sum();
            left = left.saturating_sub(holders);
            whole.items.extend(page.items);
            whole.next = page.next;
            // A part that is short, and not empty, was cut because the next object has too many holders for it.
            let is_cut = limit < LIMIT_ENTRIES && holders > 0;
            if whole.next.is_none() || left == 0 || is_cut {
                return Ok(whole);
            }
        }
    }

    /// Enters into the ledger that a member holds an object. `false` = that was known.
    ///
    /// # Errors
    /// When it is not so, or whoever knows does not answer in time.
    pub async fn refer(&mut self, id: &ObjectId, peer: &str) -> Result<bool, ServiceError> {
        self.about(id);
        let (id, peer) = (id.clone(), peer.to_owned());
        let make = |reply| LedgerMsg::Refer { id, peer, reply };
        Ok(self.service.ledger.ask(self.from, self.cx, make).await??)
    }

    /// Has the ledger forget all that a peer holds. `false` = there was nothing.
    ///
    /// # Errors
    /// When the peer is there, or the super-peer does not answer in time.
    pub async fn forget(&mut self, peer: &str) -> Result<bool, ServiceError> {
        let peer = peer.to_owned();
        let make = |reply| LedgerMsg::Forget { peer, reply };
        Ok(self.service.ledger.ask(self.from, self.cx, make).await??)
    }

    /// Repairs objects now. `false` = there is one that no replica knows.
    ///
    /// # Errors
    /// When one of them cannot be repaired in time.
    pub async fn repair(&mut self, ids: Vec<ObjectId>) -> Result<bool, ServiceError> {
        replication::serves(&self.service.view.load(), Tier::Group)?;
        let make = |reply| RepairSweeperMsg::Repair { ids, reply };
        Ok(self.service.sweeper.ask(self.from, self.cx, make).await??)
    }

    /// Asks whether a node serves at `address`.
    ///
    /// # Errors
    /// When the deadline passes first.
    pub async fn probe(&self, address: SocketAddr) -> Result<bool, ServiceError> {
        let late = ServiceError::Silent(address);
        let now = self.service.kit.clock.monotonic();
        let left_us = self.cx.deadline.map_or(u64::MAX, |deadline| deadline.since(now));
        if left_us == 0 {
            return Err(late);
        }
        let probe = self.service.probe.serves(address);
        tokio::time::timeout(Duration::from_micros(left_us), probe).await.map_err(|_| late)
    }

    /// Ends the request and records how. Returns how long it took, in microseconds; `None` = it had ended before.
    pub fn end(&mut self, outcome: Outcome) -> Option<u64> {
        if std::mem::replace(&mut self.is_ended, true) {
            return None;
        }
        let object = self.object.take();
        let kit = &self.service.kit;
        let [client, ..] = &*NAMES;
        let run_us = kit.clock.monotonic().since(self.start);
        kit.recorder.add(TraceRecord {
            seq: 0,
            trace: self.cx.trace.trace,
            span: self.cx.trace.span,
            parent: self.parent,
            from: Arc::clone(client),
            to: Arc::clone(self.from),
            kind: self.kind,
            object,
            at: self.start,
            wait_us: 0,
            run_us,
            batch_len: 0,
            outcome,
            detail: None,
        });
        Some(run_us)
    }

    /// How a request ends whose client has gone.
    pub const ABANDONED: Outcome = Outcome::Dropped("the client went away");
}

impl Drop for ServiceCall {
    fn drop(&mut self) {
        self.end(Self::ABANDONED);
    }
}
