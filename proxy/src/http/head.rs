//! The heads of requests and responses as everything above the codecs sees them.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderValue, Method, StatusCode};

use crate::http::HeaderMap;
use crate::stream_info::Protocol;

/// URL scheme.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    /// `http`.
    Http,
    /// `https`.
    Https,
}

impl Scheme {
    /// As written.
    pub fn as_str(self) -> &'static str {
        match self {
            Scheme::Http => "http",
            Scheme::Https => "https",
        }
    }
}

/// Header names as they were spelled, those with capitals only; `None`: nobody asked for it (`preserve_case`).
pub type Spelling = Option<Arc<[Bytes]>>;

/// A request's head. The target is split as HTTP/2 has it; the `Host` header is `authority` and never in `headers`.
#[derive(Debug, Clone)]
pub struct RequestHead {
    /// `:method`.
    pub method: Method,
    /// `:scheme`.
    pub scheme: Scheme,
    /// `:authority`, or `Host`; absent: none was sent.
    pub authority: Option<HeaderValue>,
    /// `:path` with query; empty for CONNECT without one.
    pub path: String,
    /// The rest, names in lower case.
    pub headers: HeaderMap,
    /// Version it came in by.
    pub protocol: Protocol,
    /// `:protocol` of an extended CONNECT, or the `Upgrade` header's value of an HTTP/1.1 upgrade.
    pub upgrade: Option<HeaderValue>,
    /// How its names were spelled.
    pub spelling: Spelling,
}

impl RequestHead {
    /// The path without query and fragment.
    pub fn path_only(&self) -> &str {
        let end = self.path.find(['?', '#']).unwrap_or(self.path.len());
        &self.path[..end]
    }

    /// What follows `?`.
    pub fn query(&self) -> Option<&str> {
        self.path.split_once('?').map(|(_, q)| q)
    }

    /// A header by Envoy's name: `:method`, `:path`, `:authority` or `host`, `:scheme`, `:protocol`, or any lower-case name.
    /// The first value only; see [`RequestHead::values`] for repeated headers.
    pub fn get(&self, name: &str) -> Option<&[u8]> {
        match name {
            ":method" => Some(self.method.as_str().as_bytes()),
            ":path" => Some(self.path.as_bytes()),
            ":authority" | "host" => self.authority.as_ref().map(HeaderValue::as_bytes),
            ":scheme" => Some(self.scheme.as_str().as_bytes()),
            ":protocol" => self.upgrade.as_ref().map(HeaderValue::as_bytes),
            _ => self.headers.get(name).map(HeaderValue::as_bytes),
        }
    }

    /// Every value of a header by Envoy's name.
    pub fn values<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> + 'a {
        let pseudo = name.starts_with(':') || name == "host";
        let one = if pseudo { self.get(name) } else { None };
        let many = if pseudo { None } else { Some(self.headers.get_all(name).map(HeaderValue::as_bytes)) };
        one.into_iter().chain(many.into_iter().flatten())
    }
}

/// A response's head.
#[derive(Debug, Clone)]
pub struct ResponseHead {
    /// Status.
    pub status: StatusCode,
    /// Headers, names in lower case.
    pub headers: HeaderMap,
    /// Version it came by.
    pub protocol: Protocol,
    /// How its names were spelled.
    pub spelling: Spelling,
}

impl ResponseHead {
    /// An empty head.
    pub fn new(status: StatusCode) -> Self {
        ResponseHead { status, headers: HeaderMap::new(), protocol: Protocol::Http11, spelling: None }
    }
}
