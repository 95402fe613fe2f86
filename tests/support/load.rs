//! Writers that record every acknowledgement, so that a test knows afterwards what the store must hold.
//!
//! Each key belongs to one writer. Its possible states are always known: one state after an acknowledged operation, two after
//! an operation of unknown outcome. Each value can be checked: its bytes follow from its id and its sequence number.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use bytes::Bytes;
use nomad_proto::{
    groupstorage::{
        DeleteObjectRequest, GetObjectRequest, PutObjectRequest, UpdateObjectRequest,
        group_storage_service_client::GroupStorageServiceClient,
    },
    models::GameObjectGrpc,
};
use rand::{Rng as _, RngCore as _, SeedableRng as _, rngs::SmallRng};
use serde_json::{Value, json};
use tokio::{sync::watch, time::sleep};
use tonic::{Code, Status, transport::Channel};

use super::{
    eventually,
    grpc::group_at,
    http::{Http, segment},
    json::{base64, value_of},
    node::Node,
};

/// What a key holds: nothing, or the value with this sequence number.
pub type State = Option<u64>;

/// A client over one of the two edges.
pub enum LoadClient {
    /// Over REST.
    Rest(Http),
    /// Over gRPC.
    Grpc(GroupStorageServiceClient<Channel>),
}

/// Why an operation has no answer.
#[derive(Debug)]
pub struct Failed {
    /// Whether the client may try again: the node said so, or did not answer.
    pub retryable: bool,
    /// All details.
    pub text: String,
}

impl From<Status> for Failed {
    fn from(status: Status) -> Self {
        let transport = std::error::Error::source(&status).is_some();
        let retryable = transport
            || matches!(
                status.code(),
                Code::Unavailable | Code::ResourceExhausted | Code::DeadlineExceeded
            );
        Self { retryable, text: format!("{status:?}") }
    }
}

impl LoadClient {
    /// A client over gRPC for odd numbers, over REST for even ones.
    pub async fn number(index: usize, node: &Node) -> Self {
        match index % 2 {
            0 => Self::Rest(node.http()),
            _ => Self::Grpc(group_at(&node.storage).await),
        }
    }

    async fn rest(
        http: &Http,
        method: &str,
        path: &str,
        body: Option<Value>,
        no: u16,
    ) -> Result<Option<Value>, Failed> {
        let mut call = http.call(method, path);
        if let Some(body) = body {
            call = call.json(&body);
        }
        let answer = call.try_send().await.map_err(|text| Failed { retryable: true, text })?;
        match answer.status {
            200 => Ok(Some(answer.json())),
            status if status == no => Ok(None),
            status => Err(Failed {
                retryable: matches!(status, 429 | 503 | 504),
                text: format!("{method} {path}: {status} {}", answer.text()),
            }),
        }
    }

    /// Creates; false if it is there.
    pub async fn put(&mut self, id: &str, value: Bytes) -> Result<bool, Failed> {
        match self {
            Self::Rest(http) => {
                let body = json!({ "id": id, "value": base64(&value) });
                let path = "/nomad/storage/put";
                Ok(Self::rest(http, "POST", path, Some(body), 409).await?.is_some())
            }
            Self::Grpc(client) => {
                let object = Some(GameObjectGrpc { id: id.into(), value, ..Default::default() });
                Ok(client.put(PutObjectRequest { object }).await?.into_inner().result)
            }
        }
    }

    /// Replaces; false if it is not there.
    pub async fn update(&mut self, id: &str, value: Bytes) -> Result<bool, Failed> {
        match self {
            Self::Rest(http) => {
                let body = json!({ "id": id, "value": base64(&value) });
                let path = "/nomad/storage/update";
                Ok(Self::rest(http, "PUT", path, Some(body), 404).await?.is_some())
            }
            Self::Grpc(client) => {
                let object = Some(GameObjectGrpc { id: id.into(), value, ..Default::default() });
                Ok(client.update(UpdateObjectRequest { object }).await?.into_inner().result)
            }
        }
    }

    /// Deletes; false if it is not there.
    pub async fn delete(&mut self, id: &str) -> Result<bool, Failed> {
        match self {
            Self::Rest(http) => {
                let path = format!("/nomad/storage/delete/{}", segment(id));
                let said = Self::rest(http, "DELETE", &path, None, 404).await?;
                Ok(said.is_some_and(|said| said["result"] == true))
            }
            Self::Grpc(client) => {
                let request = DeleteObjectRequest { id: id.into(), ..Default::default() };
                Ok(client.delete(request).await?.into_inner().result)
            }
        }
    }

    /// The value, if it is there.
    pub async fn get(&mut self, id: &str) -> Result<Option<Vec<u8>>, Failed> {
        match self {
            Self::Rest(http) => {
                let path = format!("/nomad/storage/get/{}", segment(id));
                let said = Self::rest(http, "GET", &path, None, 404).await?;
                Ok(said.map(|object| value_of(&object)))
            }
            Self::Grpc(client) => {
                let said = client.get(GetObjectRequest { id: id.into() }).await?.into_inner();
                Ok(said.result.then(|| said.object.unwrap_or_default().value.to_vec()))
            }
        }
    }
}

/// The bytes of the value with this sequence number: a head that names it, then noise that follows from it.
pub fn content(id: &str, sequence: u64) -> Bytes {
    let seed = id.bytes().fold(sequence.wrapping_mul(0x9E37_79B9_7F4A_7C15), |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3)
    });
    let mut rng = SmallRng::seed_from_u64(seed);
    let length = if rng.random_ratio(1, 16) { 60_000 } else { rng.random_range(0..300) };
    let mut noise = vec![0; length];
    rng.fill_bytes(&mut noise);
    let mut bytes = format!("{id}#{sequence}#").into_bytes();
    bytes.extend(noise);
    bytes.into()
}

/// Which value these bytes are. Fails the test if they are no whole value of this id.
pub fn sequence_of(id: &str, bytes: &[u8]) -> u64 {
    let head = bytes.strip_prefix(format!("{id}#").as_bytes());
    let digits = head.and_then(|rest| rest.split(|byte| *byte == b'#').next());
    let sequence = digits.and_then(|digits| std::str::from_utf8(digits).ok()?.parse().ok());
    let sequence = sequence.unwrap_or_else(|| panic!("{id} holds bytes of something else"));
    assert!(content(id, sequence) == bytes, "{id} holds half of its value {sequence}");
    sequence
}

/// Counts acknowledgements, and tells the writers when the test is about to kill or stop something.
#[derive(Clone)]
pub struct Tally {
    acks: watch::Sender<u64>,
    stop: watch::Sender<bool>,
}

impl Tally {
    /// Nothing acknowledged, nothing stopped.
    pub fn new() -> Self {
        Self { acks: watch::Sender::new(0), stop: watch::Sender::new(false) }
    }

    /// Waits until `count` more operations are acknowledged.
    pub async fn more(&self, count: u64) {
        let mut acks = self.acks.subscribe();
        let target = *acks.borrow() + count;
        super::within("acknowledged writes", Duration::from_secs(60), async {
            acks.wait_for(|acks| *acks >= target).await.unwrap();
        })
        .await;
    }

    /// From now on failures are expected (`until_killed`), or nothing new is begun (`until_stopped`).
    pub fn stop(&self) {
        self.stop.send_replace(true);
    }

    /// Whether `stop` was called.
    pub fn is_stopped(&self) -> bool {
        *self.stop.borrow()
    }

    /// Counts an acknowledgement.
    pub fn ack(&self) {
        self.acks.send_modify(|acks| *acks += 1);
    }
}

/// One writer and the keys that only it writes.
pub struct Writer {
    client: LoadClient,
    keys: BTreeMap<String, BTreeSet<State>>,
    next: u64,
    rng: SmallRng,
    seed: u64,
}

impl Writer {
    /// Writer `index` of a test with this seed: `count` keys under `w{index}/`, none of them stored.
    pub fn new(client: LoadClient, index: usize, count: usize, seed: u64) -> Self {
        let keys = (0..count).map(|key| (format!("w{index}/{key}"), BTreeSet::from([None])));
        let rng = SmallRng::seed_from_u64(seed.rotate_left(32) ^ index as u64);
        Self { client, keys: keys.collect(), next: 0, rng, seed }
    }

    /// Talks to another node (or the same one after its restart) from now on.
    pub fn set_client(&mut self, client: LoadClient) {
        self.client = client;
    }

    /// Writes until the node is killed. Before that every failure fails the test.
    pub async fn until_killed(mut self, tally: Tally) -> Self {
        loop {
            let killed = tally.is_stopped();
            match self.operate().await {
                Ok(()) => tally.ack(),
                Err(failed) => {
                    let seed = self.seed;
                    assert!(killed || tally.is_stopped(), "NOMAD_SEED={seed}: {failed:?}");
                    return self;
                }
            }
        }
    }

    /// Writes until told to stop. Failures must be retryable; a read then finds out whether the write was done.
    pub async fn until_stopped(mut self, tally: Tally) -> Self {
        while !tally.is_stopped() {
            match self.operate().await {
                Ok(()) => tally.ack(),
                Err(failed) => {
                    assert!(failed.retryable, "NOMAD_SEED={}: {failed:?}", self.seed);
                    sleep(Duration::from_millis(5)).await;
                }
            }
        }
        self
    }

    /// One random operation on one random key. `Ok` = acknowledged.
    async fn operate(&mut self) -> Result<(), Failed> {
        let index = self.rng.random_range(0..self.keys.len());
        let id = self.keys.keys().nth(index).unwrap().clone();
        let before = self.settled(&id).await?;
        self.next += 1;
        let delete = before.is_some() && self.rng.random_ratio(1, 4);
        let after = if delete { None } else { Some(self.next) };
        self.keys.get_mut(&id).unwrap().insert(after);
        let done = match (before, after) {
            (Some(_), Some(sequence)) => self.client.update(&id, content(&id, sequence)).await?,
            (None, Some(sequence)) => self.client.put(&id, content(&id, sequence)).await?,
            (_, None) => self.client.delete(&id).await?,
        };
        let seed = self.seed;
        assert!(done, "NOMAD_SEED={seed}: {id} was {before:?}, but {after:?} found it otherwise");
        self.keys.insert(id, BTreeSet::from([after]));
        Ok(())
    }

    /// What the key holds now. It is read if the last operation's outcome is unknown.
    async fn settled(&mut self, id: &str) -> Result<State, Failed> {
        let possible = &self.keys[id];
        if let (1, Some(state)) = (possible.len(), possible.first()) {
            return Ok(*state);
        }
        let state = self.client.get(id).await?.map(|bytes| sequence_of(id, &bytes));
        self.assert_possible(id, state);
        self.keys.insert(id.to_owned(), BTreeSet::from([state]));
        Ok(state)
    }

    fn assert_possible(&self, id: &str, state: State) {
        let (possible, seed) = (&self.keys[id], self.seed);
        assert!(
            possible.contains(&state),
            "NOMAD_SEED={seed}: {id} holds {state:?}, acknowledged or in flight was {possible:?}"
        );
    }

    /// Reads every key through both edges and asserts that nothing acknowledged is lost, undone or torn.
    /// Gives the ids that are there.
    pub async fn verify(&mut self, node: &Node) -> BTreeSet<String> {
        let mut clients = [LoadClient::number(0, node).await, LoadClient::number(1, node).await];
        let mut present = BTreeSet::new();
        for id in self.keys.keys().cloned().collect::<Vec<_>>() {
            let mut states = Vec::new();
            for client in &mut clients {
                let bytes = eventually("a read", Duration::from_secs(20), async || {
                    client.get(&id).await.inspect_err(|failed| assert!(failed.retryable)).ok()
                });
                states.push(bytes.await.map(|bytes| sequence_of(&id, &bytes)));
            }
            assert_eq!(states[0], states[1], "REST and gRPC differ on {id}");
            self.assert_possible(&id, states[0]);
            self.keys.insert(id.clone(), BTreeSet::from([states[0]]));
            if states[0].is_some() {
                present.insert(id);
            }
        }
        present
    }
}

/// The ids that the node lists under `prefix`, page by page. None comes twice.
pub async fn listed(http: &Http, prefix: &str, limit: usize) -> BTreeSet<String> {
    let mut ids = BTreeSet::new();
    let mut cursor = String::new();
    loop {
        let path = format!("/nomad/v1/objects?prefix={}&limit={limit}{cursor}", segment(prefix));
        let page = http.get(&path).await.ok();
        let items = page["items"].as_array().unwrap_or_else(|| panic!("no items in {page}"));
        assert!(items.len() <= limit, "{} items on a page of {limit}", items.len());
        for item in items {
            let id = item["id"].as_str().unwrap().to_owned();
            assert!(ids.insert(id), "{item} was listed twice");
        }
        match page["next"].as_str() {
            Some(next) if !next.is_empty() => cursor = format!("&cursor={}", segment(next)),
            _ => return ids,
        }
    }
}

/// A ledger of the node, page by page: what is held by whom (`peer-ledger`), or who holds what (`object-ledger`).
pub async fn ledger(http: &Http, name: &str, limit: usize) -> BTreeMap<String, BTreeSet<String>> {
    let mut ledger: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut cursor = String::new();
    loop {
        let answer = http.get(&format!("/nomad/storage/get/{name}?limit={limit}{cursor}")).await;
        let next = answer.find_header("nomad-next-cursor").map(segment);
        let page = answer.ok();
        for (key, entries) in page.as_object().unwrap_or_else(|| panic!("no ledger: {page}")) {
            for entry in entries.as_array().unwrap_or_else(|| panic!("no entries: {page}")) {
                let id = entry["id"].as_str().unwrap_or_else(|| panic!("no id in {entry}"));
                ledger.entry(key.clone()).or_default().insert(id.to_owned());
            }
        }
        match next {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return ledger,
        }
    }
}

/// Who holds each of these objects, as the node's ledger has it.
pub async fn holders(
    http: &Http,
    ids: impl IntoIterator<Item = &String>,
) -> BTreeMap<String, BTreeSet<String>> {
    let mut ledger = ledger(http, "object-ledger", 10_000).await;
    ids.into_iter().map(|id| (id.clone(), ledger.remove(id).unwrap_or_default())).collect()
}
