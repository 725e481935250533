//! `grpc.reflection.v1.ServerReflection` (and `v1alpha`, the same under its old name): the API for tools like grpcurl.
//!
//! Must not know: what the API is for.

mod files;

use std::sync::OnceLock;

use super::grpc::services;
use files::Files;

/// `ServerReflectionRequest`.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct ReflectionRequest {
    #[prost(string, tag = "1")]
    host: String,
    #[prost(oneof = "Question", tags = "3, 4, 7")]
    question: Option<Question>,
}

/// What is asked for. Extensions (5, 6), which are of proto2, are not answered.
#[derive(Clone, PartialEq, prost::Oneof)]
enum Question {
    /// The file of this name.
    #[prost(string, tag = "3")]
    FileByFilename(String),
    /// The file that declares this.
    #[prost(string, tag = "4")]
    FileContainingSymbol(String),
    /// The services there are.
    #[prost(string, tag = "7")]
    ListServices(String),
}

/// `ServerReflectionResponse`.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct ReflectionResponse {
    #[prost(string, tag = "1")]
    valid_host: String,
    #[prost(message, optional, tag = "2")]
    original_request: Option<ReflectionRequest>,
    #[prost(oneof = "Answer", tags = "4, 6, 7")]
    answer: Option<Answer>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum Answer {
    #[prost(message, tag = "4")]
    Files(FileDescriptors),
    #[prost(message, tag = "6")]
    Services(Services),
    #[prost(message, tag = "7")]
    Error(Problem),
}

/// `FileDescriptorResponse`.
#[derive(Clone, PartialEq, prost::Message)]
struct FileDescriptors {
    /// Encoded `FileDescriptorProto`.
    #[prost(bytes = "bytes", repeated, tag = "1")]
    files: Vec<bytes::Bytes>,
}

/// `ListServiceResponse`.
#[derive(Clone, PartialEq, prost::Message)]
struct Services {
    #[prost(message, repeated, tag = "1")]
    services: Vec<Service>,
}

/// `ServiceResponse`.
#[derive(Clone, PartialEq, prost::Message)]
struct Service {
    #[prost(string, tag = "1")]
    name: String,
}

/// `ErrorResponse`.
#[derive(Clone, PartialEq, prost::Message)]
struct Problem {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(string, tag = "2")]
    message: String,
}

fn all_files() -> &'static Files {
    static FILES: OnceLock<Files> = OnceLock::new();
    FILES.get_or_init(|| Files::read(weft_proto::descriptors::file_descriptor_set()))
}

/// The answer to a question.
pub(super) fn answer(request: ReflectionRequest) -> ReflectionResponse {
    let found = match &request.question {
        Some(Question::ListServices(_)) => {
            let services = services().map(|name| Service { name: name.to_owned() }).collect();
            Ok(Answer::Services(Services { services }))
        }
        Some(Question::FileByFilename(name)) => file(all_files().by_name(name), name),
        Some(Question::FileContainingSymbol(symbol)) => file(all_files().by_symbol(symbol), symbol),
        None => Err((
            tonic::Code::Unimplemented,
            "ask for list_services, file_by_filename or file_containing_symbol".into(),
        )),
    };
    let problem = |(code, message): (tonic::Code, String)| Answer::Error(Problem { code: code.into(), message });
    let answer = Some(found.unwrap_or_else(problem));
    ReflectionResponse { valid_host: request.host.clone(), original_request: Some(request), answer }
}

fn file(found: Option<bytes::Bytes>, wanted: &str) -> Result<Answer, (tonic::Code, String)> {
    let missing = || (tonic::Code::NotFound, format!("{wanted} is not in Envoy's API"));
    Ok(Answer::Files(FileDescriptors { files: vec![found.ok_or_else(missing)?] }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(question: Question) -> Answer {
        answer(ReflectionRequest { host: String::new(), question: Some(question) }).answer.unwrap()
    }

    #[test]
    fn every_service_that_is_listed_and_of_envoy_is_described_with_all_it_imports() {
        let Answer::Services(list) = ask(Question::ListServices(String::new())) else { panic!() };
        let ours: Vec<_> = list.services.iter().filter(|of| of.name.starts_with("envoy.")).collect();
        assert_eq!(ours.len(), 9);
        let mut wanted = Vec::new();
        for service in ours {
            let Answer::Files(found) = ask(Question::FileContainingSymbol(service.name.clone())) else {
                panic!("{} is not described", service.name)
            };
            wanted.extend(files::imports(&found.files[0]));
        }
        let mut seen = std::collections::BTreeSet::new();
        while let Some(name) = wanted.pop() {
            if seen.insert(name.clone()) {
                let Answer::Files(found) = ask(Question::FileByFilename(name.clone())) else {
                    panic!("no file {name}")
                };
                wanted.extend(files::imports(&found.files[0]));
            }
        }
        assert!(seen.len() > 10, "{seen:?}");
    }

    #[test]
    fn symbols_are_messages_nested_ones_and_methods() {
        for symbol in [
            "envoy.config.cluster.v3.Cluster",
            "envoy.config.cluster.v3.Cluster.EdsClusterConfig",
            "envoy.config.cluster.v3.Cluster.LbPolicy",
            "envoy.service.discovery.v3.AggregatedDiscoveryService.StreamAggregatedResources",
        ] {
            assert!(matches!(ask(Question::FileContainingSymbol(symbol.into())), Answer::Files(_)), "{symbol}");
        }
        let Answer::Error(problem) = ask(Question::FileContainingSymbol("no.Such".into())) else { panic!() };
        assert_eq!(problem.code, i32::from(tonic::Code::NotFound));
    }
}
