//! Files of a descriptor set, by name and by what they declare.
//!
//! The bytes stay as they are, for what is not decoded here (options, above all) is of use to who asks.

use std::collections::HashMap;

use prost::Message;

/// The files of a set.
#[derive(Debug, Default)]
pub(super) struct Files {
    files: Vec<bytes::Bytes>,
    by_name: HashMap<String, usize>,
    /// Messages, enums, services and methods, by full name.
    by_symbol: HashMap<String, usize>,
}

/// `FileDescriptorProto`, as far as names go.
#[derive(Clone, PartialEq, prost::Message)]
struct File {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    package: String,
    #[prost(string, repeated, tag = "3")]
    dependency: Vec<String>,
    #[prost(message, repeated, tag = "4")]
    messages: Vec<MessageType>,
    #[prost(message, repeated, tag = "5")]
    enums: Vec<Named>,
    #[prost(message, repeated, tag = "6")]
    services: Vec<ServiceType>,
}

/// `DescriptorProto`.
#[derive(Clone, PartialEq, prost::Message)]
struct MessageType {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(message, repeated, tag = "3")]
    nested: Vec<Self>,
    #[prost(message, repeated, tag = "4")]
    enums: Vec<Named>,
}

/// `ServiceDescriptorProto`.
#[derive(Clone, PartialEq, prost::Message)]
struct ServiceType {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(message, repeated, tag = "2")]
    methods: Vec<Named>,
}

/// Anything with a name.
#[derive(Clone, PartialEq, prost::Message)]
struct Named {
    #[prost(string, tag = "1")]
    name: String,
}

/// `FileDescriptorSet`, its files left encoded.
#[derive(Clone, PartialEq, prost::Message)]
struct Set {
    #[prost(bytes = "bytes", repeated, tag = "1")]
    files: Vec<bytes::Bytes>,
}

impl Files {
    /// Reads an encoded `FileDescriptorSet`.
    pub(super) fn read(set: &'static [u8]) -> Self {
        let mut files = Self::default();
        // Decoded from `Bytes`, its files are parts of it and no copies.
        for encoded in Set::decode(bytes::Bytes::from_static(set)).map(|set| set.files).unwrap_or_default() {
            let Ok(file) = File::decode(encoded.clone()) else { continue };
            let place = files.files.len();
            files.files.push(encoded);
            files.by_name.insert(file.name.clone(), place);
            let mut declare = |name: String| {
                files.by_symbol.insert(name, place);
            };
            file.messages.iter().for_each(|message| declare_message(message, &file.package, &mut declare));
            file.enums.iter().for_each(|of| declare(format!("{}.{}", file.package, of.name)));
            for service in &file.services {
                let name = format!("{}.{}", file.package, service.name);
                service.methods.iter().for_each(|method| declare(format!("{name}.{}", method.name)));
                declare(name);
            }
        }
        files
    }

    pub(super) fn by_name(&self, name: &str) -> Option<bytes::Bytes> {
        self.files.get(*self.by_name.get(name)?).cloned()
    }

    pub(super) fn by_symbol(&self, symbol: &str) -> Option<bytes::Bytes> {
        self.files.get(*self.by_symbol.get(symbol)?).cloned()
    }
}

fn declare_message(message: &MessageType, parent: &str, declare: &mut impl FnMut(String)) {
    let name = format!("{parent}.{}", message.name);
    message.nested.iter().for_each(|nested| declare_message(nested, &name, declare));
    message.enums.iter().for_each(|of| declare(format!("{name}.{}", of.name)));
    declare(name);
}

/// The files a file imports.
#[cfg(test)]
pub(super) fn imports(encoded: &[u8]) -> Vec<String> {
    File::decode(encoded).map(|file| file.dependency).unwrap_or_default()
}
