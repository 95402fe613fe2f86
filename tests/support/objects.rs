//! A client for a group's objects, over every edge and in every mode.
//!
//! A request ends in one of three ways, as in the API contract: it is answered, it failed and changed nothing, or its outcome is unknown.
//! Any other answer breaks the contract and fails the test at once.

use std::{error::Error as _, time::Duration};

use bytes::Bytes;
use nomad_proto::{
    groupstorage::{
        DeleteObjectRequest, GetObjectRequest, PutObjectRequest, UpdateObjectRequest,
        group_storage_service_client::GroupStorageServiceClient,
    },
    models::GameObjectGrpc,
};
use serde_json::json;
use tonic::{
    Code, Request, Response, Status,
    transport::{Channel, Endpoint},
};

use super::{
    http::{Answer as HttpAnswer, Call, Http, segment},
    json::{base64, value_of},
    node::Node,
    place::{Connector, Place},
};

/// The longest that a client waits: longer than any node works on a request.
const LIMIT: Duration = Duration::from_secs(15);

const MESSAGE_BYTES_MAX: usize = 64 * 1024 * 1024;

/// The API that a request uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Edge {
    /// `/nomad/v1/objects`.
    Resource,
    /// `/nomad/storage` and `/nomad/group-storage`.
    Older,
    /// `GroupStorageService`.
    Grpc,
}

impl Edge {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Resource, Self::Older, Self::Grpc];
}

/// In which mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// One node.
    Fast,
    /// A quorum.
    Safe,
    /// Whoever is first; of reads only.
    Parallel,
}

impl Mode {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Fast, Self::Safe, Self::Parallel];
    /// Those of writes.
    pub const OF_WRITES: [Self; 2] = [Self::Fast, Self::Safe];

    /// Its name on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Self::Fast => "fast",
            Self::Safe => "safe",
            Self::Parallel => "parallel",
        }
    }

    /// What a write in this mode says of its durability.
    pub fn durability(self) -> &'static str {
        if self == Self::Fast { "local" } else { "quorum" }
    }
}

/// The condition of a write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum When {
    /// No condition. The resource API only.
    Always,
    /// The object does not exist.
    Absent,
    /// The object exists.
    Present,
    /// The object has this version.
    Version(String),
}

/// The addresses of a member of a group.
#[derive(Debug, Clone)]
pub struct Member {
    /// Its id.
    pub id: String,
    /// host:port of its REST listener.
    pub rest: String,
    /// host:port of its storage listener.
    pub storage: String,
    /// Where it runs, and its clients too.
    pub place: Place,
}

impl Member {
    /// A node that runs.
    pub fn of(id: &str, node: &Node) -> Self {
        let (rest, storage) = (node.rest.clone(), node.storage.clone());
        Self { id: id.to_owned(), rest, storage, place: node.place.clone() }
    }
}

/// The answer to a write or a delete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// Written, and there was nothing before.
    Created,
    /// Written in the place of something.
    Replaced,
    /// Removed.
    Removed,
    /// Refused: there is something.
    Exists,
    /// Refused: there is nothing.
    Missing,
    /// Refused: there is something else.
    Other,
    /// Refused: there is something else, or nothing.
    Unmet,
}

/// A write that was answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Done {
    /// What it did, or why it did nothing.
    pub answer: Answer,
    /// The version that it made, where the edge says so.
    pub version: Option<String>,
    /// How durable it says that it is; empty for a refusal.
    pub durability: String,
}

/// An object as it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// Its bytes.
    pub value: Bytes,
    /// Its version.
    pub version: String,
}

/// A request that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failed {
    /// Nothing was changed, and nothing will be.
    NotDone(String),
    /// Nobody knows whether something was changed, or will be.
    Unknown(String),
}

impl Failed {
    /// All details.
    pub fn text(&self) -> &str {
        let (Self::NotDone(text) | Self::Unknown(text)) = self;
        text
    }
}

/// A client of one member.
#[derive(Clone)]
pub struct Client {
    /// Whose.
    pub member: Member,
    http: Http,
    grpc: GroupStorageServiceClient<Channel>,
}

impl Client {
    /// A client that connects when it is used.
    pub fn of(member: &Member) -> Self {
        let endpoint: Endpoint = format!("http://{}", member.storage).parse().unwrap();
        let endpoint = endpoint.connect_timeout(LIMIT).timeout(LIMIT);
        let channel = endpoint.connect_with_connector_lazy(Connector(member.place.clone()));
        let grpc = GroupStorageServiceClient::new(channel)
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX);
        Self { member: member.clone(), http: Http::at(&member.place, &member.rest), grpc }
    }

    /// Its HTTP client.
    pub fn http(&self) -> &Http {
        &self.http
    }

    /// Writes a value.
    pub async fn write(
        &mut self,
        edge: Edge,
        mode: Mode,
        id: &str,
        value: Bytes,
        when: &When,
    ) -> Result<Done, Failed> {
        let can = edge == Edge::Resource || *when != When::Always;
        assert!(can, "{edge:?} writes only what is there, or only what is not");
        match edge {
            Edge::Resource => {
                let path = resource(id);
                let call = self.http.call("PUT", &path).header("nomad-mode", mode.name());
                put_ended(when, sent(on(call, when).body(value)).await?)
            }
            Edge::Older => self.write_older(mode, id, value, when).await,
            Edge::Grpc => self.write_grpc(mode, id, value, when).await,
        }
    }

    async fn write_older(
        &self,
        mode: Mode,
        id: &str,
        value: Bytes,
        when: &When,
    ) -> Result<Done, Failed> {
        let mut body = json!({ "id": id, "value": base64(&value) });
        if let When::Version(version) = when {
            body["version"] = json!(version);
        }
        let creates = *when == When::Absent;
        let (path, does) = match (creates, mode) {
            (true, Mode::Fast) => ("/nomad/group-storage/fast-put", Answer::Created),
            (true, _) => ("/nomad/group-storage/safe-put", Answer::Created),
            (false, _) => ("/nomad/storage/update", Answer::Replaced),
        };
        let mut call = self.http.call(if creates { "POST" } else { "PUT" }, path);
        if !creates {
            call = call.header("nomad-mode", mode.name());
        }
        let answer = sent(call.json(&body)).await?;
        match answer.status {
            200 => Ok(done(does, &answer)),
            404 => Ok(refused(Answer::Missing)),
            409 => Ok(refused(Answer::Exists)),
            412 => Ok(refused(Answer::Other)),
            _ => Err(failed(&answer)),
        }
    }

    async fn write_grpc(
        &mut self,
        mode: Mode,
        id: &str,
        value: Bytes,
        when: &When,
    ) -> Result<Done, Failed> {
        let mut object = GameObjectGrpc { id: id.to_owned(), value, ..GameObjectGrpc::default() };
        if *when == When::Absent {
            let request = in_mode(mode, PutObjectRequest { object: Some(object) });
            let answer = told(self.grpc.put(request).await)?;
            return Ok(match answer {
                None => refused(Answer::Other),
                Some(it) if it.get_ref().result => done_grpc(Answer::Created, &it),
                Some(_) => refused(Answer::Exists),
            });
        }
        if let When::Version(version) = when {
            object.version.clone_from(version);
        }
        let request = in_mode(mode, UpdateObjectRequest { object: Some(object) });
        let answer = told(self.grpc.update(request).await)?;
        Ok(match answer {
            None => refused(Answer::Other),
            Some(it) if it.get_ref().result => done_grpc(Answer::Replaced, &it),
            Some(_) => refused(Answer::Missing),
        })
    }

    /// Removes an object, or its version. Over the older paths there is no condition.
    pub async fn delete(
        &mut self,
        edge: Edge,
        mode: Mode,
        id: &str,
        when: &When,
    ) -> Result<Done, Failed> {
        match edge {
            Edge::Resource => {
                let path = resource(id);
                let call = self.http.call("DELETE", &path).header("nomad-mode", mode.name());
                let answer = sent(on(call, when)).await?;
                match answer.status {
                    204 => Ok(done(Answer::Removed, &answer)),
                    404 => Ok(refused(Answer::Missing)),
                    412 => Ok(refused(Answer::Unmet)),
                    _ => Err(failed(&answer)),
                }
            }
            Edge::Older => {
                let path = format!("/nomad/storage/delete/{}", segment(id));
                let call = self.http.call("DELETE", &path).header("nomad-mode", mode.name());
                let answer = sent(call).await?;
                match answer.status {
                    200 if answer.json()["result"] == true => Ok(done(Answer::Removed, &answer)),
                    200 => Ok(refused(Answer::Missing)),
                    _ => Err(failed(&answer)),
                }
            }
            Edge::Grpc => {
                let version = match when {
                    When::Version(version) => version.clone(),
                    _ => String::new(),
                };
                let message = DeleteObjectRequest { id: id.to_owned(), version };
                let answer = told(self.grpc.delete(in_mode(mode, message)).await)?;
                Ok(match answer {
                    None => refused(Answer::Other),
                    Some(it) if it.get_ref().result => done_grpc(Answer::Removed, &it),
                    Some(_) => refused(Answer::Missing),
                })
            }
        }
    }

    /// Reads an object.
    pub async fn read(&mut self, edge: Edge, mode: Mode, id: &str) -> Result<Option<Held>, Failed> {
        match edge {
            Edge::Resource => {
                let path = resource(id);
                let call = self.http.call("GET", &path).header("nomad-mode", mode.name());
                let answer = sent(call).await?;
                match answer.status {
                    200 => {
                        let version = unquoted(answer.header("etag"));
                        Ok(Some(Held { version, value: answer.body }))
                    }
                    404 => Ok(None),
                    _ => Err(failed(&answer)),
                }
            }
            Edge::Older => {
                let path = format!("/nomad/group-storage/{}-get/{}", mode.name(), segment(id));
                let answer = sent(self.http.call("GET", &path)).await?;
                match answer.status {
                    200 => {
                        let object = answer.json();
                        let version = object["version"].as_str().unwrap_or_default().to_owned();
                        Ok(Some(Held { value: value_of(&object).into(), version }))
                    }
                    404 => Ok(None),
                    _ => Err(failed(&answer)),
                }
            }
            Edge::Grpc => {
                let request = in_mode(mode, GetObjectRequest { id: id.to_owned() });
                let answer = told(self.grpc.get(request).await)?.expect("a read has no condition");
                let answer = answer.into_inner();
                let object = answer.object.filter(|_| answer.result);
                Ok(object.map(|it| Held { value: it.value, version: it.version }))
            }
        }
    }
}

/// The path of an object in the resource API.
pub fn resource(id: &str) -> String {
    format!("/nomad/v1/objects/{}", segment(id))
}

fn on<'a>(call: Call<'a>, when: &When) -> Call<'a> {
    match when {
        When::Always => call,
        When::Absent => call.header("if-none-match", "*"),
        When::Present => call.header("if-match", "*"),
        When::Version(version) => call.header("if-match", format!("\"{version}\"")),
    }
}

fn put_ended(when: &When, answer: HttpAnswer) -> Result<Done, Failed> {
    match answer.status {
        201 => Ok(done(Answer::Created, &answer)),
        204 => Ok(done(Answer::Replaced, &answer)),
        412 if *when == When::Absent => Ok(refused(Answer::Exists)),
        412 if *when == When::Present => Ok(refused(Answer::Missing)),
        412 => Ok(refused(Answer::Unmet)),
        _ => Err(failed(&answer)),
    }
}

fn done(what: Answer, answer: &HttpAnswer) -> Done {
    answer.request_id();
    let version = answer.find_header("etag").map(unquoted);
    Done { answer: what, version, durability: answer.header("nomad-durability").to_owned() }
}

fn done_grpc<T>(what: Answer, answer: &Response<T>) -> Done {
    let durability = answer.metadata().get("nomad-durability");
    let durability = durability.map(|it| it.to_str().unwrap().to_owned()).unwrap_or_default();
    Done { answer: what, version: None, durability }
}

fn refused(why: Answer) -> Done {
    Done { answer: why, version: None, durability: String::new() }
}

fn unquoted(tag: &str) -> String {
    tag.trim_matches('"').to_owned()
}

fn in_mode<T>(mode: Mode, message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("nomad-mode", mode.name().parse().unwrap());
    request
}

/// When a connection is refused, the request was not sent. When it breaks, the request may have been done.
fn broken(text: String) -> Failed {
    let carried = !text.contains("Connection refused") && !text.contains("No route to host");
    if carried { Failed::Unknown(text) } else { Failed::NotDone(text) }
}

async fn sent(call: Call<'_>) -> Result<HttpAnswer, Failed> {
    match tokio::time::timeout(LIMIT, call.try_send()).await {
        Ok(answer) => answer.map_err(broken),
        Err(_) => Err(Failed::Unknown(format!("no answer within {LIMIT:?}"))),
    }
}

/// What an answer means that is not about the object.
fn failed(answer: &HttpAnswer) -> Failed {
    let text = format!("{} {}", answer.status, answer.text());
    match answer.status {
        429 => Failed::NotDone(answer.problem(429, "RESOURCE_EXHAUSTED")),
        503 => {
            assert!(answer.find_header("retry-after").is_some(), "503 without Retry-After: {text}");
            Failed::NotDone(answer.problem(503, "UNAVAILABLE"))
        }
        504 => Failed::Unknown(answer.problem(504, "DEADLINE_EXCEEDED")),
        _ => panic!("no answer of the contract: {text}"),
    }
}

/// `None` is a condition that does not hold.
fn told<T>(result: Result<Response<T>, Status>) -> Result<Option<Response<T>>, Failed> {
    let status = match result {
        Ok(response) => return Ok(Some(response)),
        Err(status) => status,
    };
    let mut text = format!("{:?} {}", status.code(), status.message());
    let mut cause = status.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    if !status.metadata().contains_key("nomad-request-id") {
        return Err(broken(text));
    }
    match status.code() {
        Code::FailedPrecondition => Ok(None),
        Code::Unavailable | Code::ResourceExhausted => Err(Failed::NotDone(text)),
        Code::DeadlineExceeded => Err(Failed::Unknown(text)),
        _ => panic!("no answer of the contract: {text}"),
    }
}
