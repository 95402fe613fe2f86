//! Server reflection, so that a generic client works with no proto files at hand.
//!
//! The messages of v1 and v1alpha are the same on the wire (a test holds it), so those of v1 stand for both. An unknown
//! name is an answer of its own, after which the client may go on asking; the service that comes with tonic ends the
//! stream there.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::LazyLock,
};

use futures::{Stream, StreamExt as _};
use prost::Message;
use prost_types::{DescriptorProto, FileDescriptorProto, FileDescriptorSet};
use tonic::{Code, Request, Status, Streaming};
use tonic_reflection::pb::{
    v1::{
        self, ErrorResponse, ExtensionNumberResponse, FileDescriptorResponse, ListServiceResponse,
        ServerReflectionRequest, ServerReflectionResponse, ServiceResponse,
        server_reflection_request::MessageRequest as Question,
        server_reflection_response::MessageResponse as Reply,
    },
    v1alpha,
};

use super::{
    Services,
    held::{GrpcCall, GrpcResult, MessageStream},
    status,
};
use crate::{
    backend::{Call, NodePhase},
    error::ApiError,
};
use nomad_proto::FILE_DESCRIPTOR_SET;

/// The most bytes of a question, which is a name.
pub(super) const QUESTION_BYTES_MAX: usize = 64 << 10;

#[tonic::async_trait]
impl v1::server_reflection_server::ServerReflection for Services {
    type ServerReflectionInfoStream = MessageStream<ServerReflectionResponse>;

    async fn server_reflection_info(
        &self,
        request: Request<Streaming<ServerReflectionRequest>>,
    ) -> GrpcResult<Self::ServerReflectionInfoStream> {
        let (held, questions) = GrpcCall::take(request)?;
        let answers = self.answers(&held.call, questions);
        held.stream(Ok(answers))
    }
}

#[tonic::async_trait]
impl v1alpha::server_reflection_server::ServerReflection for Services {
    type ServerReflectionInfoStream = MessageStream<v1alpha::ServerReflectionResponse>;

    async fn server_reflection_info(
        &self,
        request: Request<Streaming<v1alpha::ServerReflectionRequest>>,
    ) -> GrpcResult<Self::ServerReflectionInfoStream> {
        let (held, questions) = GrpcCall::take(request)?;
        let questions = questions.map(|question| Ok(reread(&question?)));
        let answers = self.answers(&held.call, questions);
        held.stream(Ok(answers.map(|answer| Ok(reread(&answer?)))))
    }
}

impl Services {
    /// Answers a stream of questions, until the client ends it or the node drains.
    fn answers(
        &self,
        call: &Call,
        questions: impl Stream<Item = Result<ServerReflectionRequest, Status>> + Send + 'static,
    ) -> impl Stream<Item = Result<ServerReflectionResponse, ApiError>> + Send + 'static {
        let services = self.names.clone();
        let mut phase = call.backend().phase.clone();
        let drained = async move {
            // A node that is gone has drained.
            let _ = phase.wait_for(|phase| *phase == NodePhase::Draining).await;
        };
        questions.take_until(drained).map(move |question| match question {
            Ok(question) => Ok(answer(&FILES, &services, question)),
            Err(status) => Err(status::unreadable(&status)),
        })
    }
}

/// Turns a message of one version into the other's. Their forms are the same, so it always reads.
fn reread<M: Message + Default>(message: &impl Message) -> M {
    M::decode(message.encode_to_vec().as_slice()).unwrap_or_default()
}

/// The proto files of all services, on either listener.
static FILES: LazyLock<Files> = LazyLock::new(|| {
    Files::of(&[
        FILE_DESCRIPTOR_SET,
        tonic_health::pb::FILE_DESCRIPTOR_SET,
        v1::FILE_DESCRIPTOR_SET,
        v1alpha::FILE_DESCRIPTOR_SET,
    ])
});

fn answer(
    files: &Files,
    services: &[&str],
    request: ServerReflectionRequest,
) -> ServerReflectionResponse {
    let reply = match &request.message_request {
        Some(Question::FileByFilename(name)) => files.reply(Some(name), "file", name),
        Some(Question::FileContainingSymbol(name)) => {
            files.reply(files.by_symbol.get(name).map(String::as_str), "symbol", name)
        }
        Some(Question::FileContainingExtension(asked)) => {
            files.reply(None, "extension of", &asked.containing_type)
        }
        Some(Question::AllExtensionNumbersOfType(name)) if files.by_symbol.contains_key(name) => {
            Reply::AllExtensionNumbersResponse(ExtensionNumberResponse {
                base_type_name: name.clone(),
                extension_number: Vec::new(),
            })
        }
        Some(Question::AllExtensionNumbersOfType(name)) => files.reply(None, "type", name),
        Some(Question::ListServices(_)) => {
            let named = |name: &&str| ServiceResponse { name: (*name).to_owned() };
            Reply::ListServicesResponse(ListServiceResponse {
                service: services.iter().map(named).collect(),
            })
        }
        None => error(Code::InvalidArgument, "the request asks nothing; set one of its questions"),
    };
    ServerReflectionResponse {
        valid_host: request.host.clone(),
        original_request: Some(request),
        message_response: Some(reply),
    }
}

fn error(code: Code, text: impl Into<String>) -> Reply {
    Reply::ErrorResponse(ErrorResponse { error_code: code.into(), error_message: text.into() })
}

/// Proto files by their name and by what they declare.
struct Files {
    by_name: BTreeMap<String, File>,
    by_symbol: BTreeMap<String, String>,
}

struct File {
    encoded: Vec<u8>,
    imports: Vec<String>,
}

impl Files {
    #[expect(clippy::expect_used, reason = "the descriptors are constants, which a test reads")]
    fn of(sets: &[&[u8]]) -> Self {
        let mut files = Self { by_name: BTreeMap::new(), by_symbol: BTreeMap::new() };
        for set in sets {
            let set = FileDescriptorSet::decode(*set).expect("a generated descriptor reads back");
            set.file.into_iter().for_each(|file| files.add(&file));
        }
        files
    }

    fn add(&mut self, file: &FileDescriptorProto) {
        let name = file.name().to_owned();
        let mut symbols = BTreeSet::new();
        let inside = |scope: &str, name: &str| match scope {
            "" => name.to_owned(),
            scope => format!("{scope}.{name}"),
        };
        for message in &file.message_type {
            declare(&mut symbols, file.package(), message);
        }
        for kind in &file.enum_type {
            symbols.insert(inside(file.package(), kind.name()));
        }
        for service in &file.service {
            let service_name = inside(file.package(), service.name());
            for method in &service.method {
                symbols.insert(inside(&service_name, method.name()));
            }
            symbols.insert(service_name);
        }
        self.by_symbol.extend(symbols.into_iter().map(|symbol| (symbol, name.clone())));
        let file = File { encoded: file.encode_to_vec(), imports: file.dependency.clone() };
        self.by_name.insert(name, file);
    }

    /// Gives a file and all that it imports, or says that what was asked for is not there.
    fn reply(&self, name: Option<&str>, what: &str, asked: &str) -> Reply {
        let mut found = Vec::new();
        let mut wanted = Vec::from_iter(name);
        let mut seen = BTreeSet::new();
        while let Some(name) = wanted.pop() {
            if let Some(file) = self.by_name.get(name)
                && seen.insert(name)
            {
                found.push(file.encoded.clone());
                wanted.extend(file.imports.iter().map(String::as_str));
            }
        }
        if found.is_empty() {
            return error(Code::NotFound, format!("there is no {what} {asked:?} here"));
        }
        Reply::FileDescriptorResponse(FileDescriptorResponse { file_descriptor_proto: found })
    }
}

/// Takes in a message and what is declared inside it.
fn declare(symbols: &mut BTreeSet<String>, scope: &str, message: &DescriptorProto) {
    let name = format!("{scope}.{}", message.name());
    for kind in &message.enum_type {
        symbols.insert(format!("{name}.{}", kind.name()));
    }
    for nested in &message.nested_type {
        declare(symbols, &name, nested);
    }
    symbols.insert(name);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(question: Question) -> Reply {
        let request = ServerReflectionRequest { host: "h".into(), message_request: Some(question) };
        let answer = answer(&FILES, &["a.B"], request.clone());
        assert_eq!((answer.valid_host.as_str(), answer.original_request), ("h", Some(request)));
        answer.message_response.unwrap()
    }

    fn names(reply: Reply) -> Vec<String> {
        let Reply::FileDescriptorResponse(files) = reply else { panic!("{reply:?}") };
        let decode =
            |file: &Vec<u8>| FileDescriptorProto::decode(&file[..]).unwrap().name().to_owned();
        files.file_descriptor_proto.iter().map(decode).collect()
    }

    #[test]
    fn a_symbol_leads_to_its_file_and_all_that_this_imports() {
        for symbol in [
            "grpc.groupstorage.GroupStorageService",
            "grpc.groupstorage.GroupStorageService.get",
            "grpc.groupstorage.GetObjectRequest",
            "grpc.groupstorage.HealthCheckResponse.ServingStatus",
        ] {
            let mut names = names(ask(Question::FileContainingSymbol(symbol.into())));
            assert_eq!(names.remove(0), "GroupStorageService.proto");
            names.sort();
            assert_eq!(names, ["GameObject.proto", "google/protobuf/empty.proto"], "{symbol}");
        }
        let nested = "grpc.superpeerservice.MultiMapPair.KeyPairEntry";
        assert_eq!(
            names(ask(Question::FileContainingSymbol(nested.into())))[0],
            "SuperPeerService.proto"
        );
    }

    #[test]
    fn every_import_of_every_file_is_there() {
        for (name, file) in &FILES.by_name {
            for import in &file.imports {
                assert!(FILES.by_name.contains_key(import), "{name} imports {import}");
            }
        }
    }

    #[test]
    fn what_is_not_there_is_said_without_ending_the_stream() {
        for question in [
            Question::FileByFilename("x.proto".into()),
            Question::FileContainingSymbol("x.Y".into()),
            Question::AllExtensionNumbersOfType("x.Y".into()),
        ] {
            let Reply::ErrorResponse(error) = ask(question) else { panic!("no error") };
            assert_eq!(error.error_code, Code::NotFound as i32);
            assert!(error.error_message.contains('x'), "{error:?}");
        }
        let known = "grpc.models.GameObjectGrpc";
        let Reply::AllExtensionNumbersResponse(none) =
            ask(Question::AllExtensionNumbersOfType(known.into()))
        else {
            panic!("no answer")
        };
        assert_eq!((none.base_type_name.as_str(), none.extension_number.len()), (known, 0));
    }

    #[test]
    fn both_versions_have_messages_of_the_same_form() {
        let shapes = |set: &[u8]| {
            let file = FileDescriptorSet::decode(set).unwrap().file.remove(0);
            let shape = |message: &DescriptorProto| {
                let field = |f: &prost_types::FieldDescriptorProto| (f.number(), f.r#type() as i32);
                (message.name().to_owned(), Vec::from_iter(message.field.iter().map(field)))
            };
            BTreeMap::from_iter(file.message_type.iter().map(shape))
        };
        assert_eq!(shapes(v1::FILE_DESCRIPTOR_SET), shapes(v1alpha::FILE_DESCRIPTOR_SET));
    }
}
