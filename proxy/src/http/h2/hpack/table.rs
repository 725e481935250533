//! The static and the dynamic table of a decoder (RFC 7541 section 2.3).

use std::collections::VecDeque;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, StatusCode, header};

/// A field of a header block. Values share the memory of the table.
#[derive(Debug, Clone)]
pub(in super::super) enum Field {
    /// `:method`
    Method(Method),
    /// `:scheme`
    Scheme(Bytes),
    /// `:authority`
    Authority(Bytes),
    /// `:path`
    Path(Bytes),
    /// `:status`
    Status(StatusCode),
    /// `:protocol` (RFC 8441)
    Protocol(Bytes),
    /// Any other.
    Header(HeaderName, HeaderValue),
    /// A name or value that is none; the lengths of both. It takes its place in the table, and makes its message malformed.
    Invalid(u32, u32),
}

impl Field {
    /// Its size as RFC 7541 section 4.1 counts it.
    pub(in super::super) fn size(&self) -> usize {
        32 + match self {
            Field::Method(m) => 7 + m.as_str().len(),
            Field::Scheme(v) => 7 + v.len(),
            Field::Authority(v) => 10 + v.len(),
            Field::Path(v) => 5 + v.len(),
            Field::Status(_) => 7 + 3,
            Field::Protocol(v) => 9 + v.len(),
            Field::Header(n, v) => n.as_str().len() + v.len(),
            Field::Invalid(n, v) => *n as usize + *v as usize,
        }
    }
}

/// Entries in the static table.
pub(super) const STATIC: usize = 61;

const fn text(value: &'static str) -> Bytes {
    Bytes::from_static(value.as_bytes())
}

const fn named(name: HeaderName) -> Field {
    Field::Header(name, HeaderValue::from_static(""))
}

/// RFC 7541 appendix A.
static TABLE: [Field; STATIC] = [
    Field::Authority(text("")),
    Field::Method(Method::GET),
    Field::Method(Method::POST),
    Field::Path(text("/")),
    Field::Path(text("/index.html")),
    Field::Scheme(text("http")),
    Field::Scheme(text("https")),
    Field::Status(StatusCode::OK),
    Field::Status(StatusCode::NO_CONTENT),
    Field::Status(StatusCode::PARTIAL_CONTENT),
    Field::Status(StatusCode::NOT_MODIFIED),
    Field::Status(StatusCode::BAD_REQUEST),
    Field::Status(StatusCode::NOT_FOUND),
    Field::Status(StatusCode::INTERNAL_SERVER_ERROR),
    named(header::ACCEPT_CHARSET),
    Field::Header(header::ACCEPT_ENCODING, HeaderValue::from_static("gzip, deflate")),
    named(header::ACCEPT_LANGUAGE),
    named(header::ACCEPT_RANGES),
    named(header::ACCEPT),
    named(header::ACCESS_CONTROL_ALLOW_ORIGIN),
    named(header::AGE),
    named(header::ALLOW),
    named(header::AUTHORIZATION),
    named(header::CACHE_CONTROL),
    named(header::CONTENT_DISPOSITION),
    named(header::CONTENT_ENCODING),
    named(header::CONTENT_LANGUAGE),
    named(header::CONTENT_LENGTH),
    named(header::CONTENT_LOCATION),
    named(header::CONTENT_RANGE),
    named(header::CONTENT_TYPE),
    named(header::COOKIE),
    named(header::DATE),
    named(header::ETAG),
    named(header::EXPECT),
    named(header::EXPIRES),
    named(header::FROM),
    named(header::HOST),
    named(header::IF_MATCH),
    named(header::IF_MODIFIED_SINCE),
    named(header::IF_NONE_MATCH),
    named(header::IF_RANGE),
    named(header::IF_UNMODIFIED_SINCE),
    named(header::LAST_MODIFIED),
    named(header::LINK),
    named(header::LOCATION),
    named(header::MAX_FORWARDS),
    named(header::PROXY_AUTHENTICATE),
    named(header::PROXY_AUTHORIZATION),
    named(header::RANGE),
    named(header::REFERER),
    named(header::REFRESH),
    named(header::RETRY_AFTER),
    named(header::SERVER),
    named(header::SET_COOKIE),
    named(header::STRICT_TRANSPORT_SECURITY),
    named(header::TRANSFER_ENCODING),
    named(header::USER_AGENT),
    named(header::VARY),
    named(header::VIA),
    named(header::WWW_AUTHENTICATE),
];

/// Both tables of a decoder.
pub(super) struct Table {
    /// Newest first.
    dynamic: VecDeque<Field>,
    size: usize,
    max: usize,
}

impl Table {
    pub(super) fn new(max: usize) -> Self {
        Table { dynamic: VecDeque::new(), size: 0, max }
    }

    /// The entry of an index, which counts from 1.
    pub(super) fn get(&self, index: usize) -> Option<&Field> {
        match index.checked_sub(1)? {
            i if i < STATIC => TABLE.get(i),
            i => self.dynamic.get(i - STATIC),
        }
    }

    /// Adds an entry; one that is larger than the table empties it.
    pub(super) fn insert(&mut self, field: &Field) {
        let size = field.size();
        self.evict(size);
        if size <= self.max {
            self.size += size;
            self.dynamic.push_front(field.clone());
        }
    }

    /// The peer's choice of a size.
    pub(super) fn resize(&mut self, max: usize) {
        self.max = max;
        self.evict(0);
    }

    /// Makes room for so many bytes.
    fn evict(&mut self, room: usize) {
        while self.size + room > self.max {
            let Some(oldest) = self.dynamic.pop_back() else { return };
            self.size -= oldest.size();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_go_first() {
        let field = |n: u8| Field::Path(Bytes::from(vec![b'a' + n; 13]));
        let mut table = Table::new(150);
        for n in 0..4 {
            table.insert(&field(n));
        }
        let at = |table: &Table, i: usize| match table.get(STATIC + i) {
            Some(Field::Path(p)) => Some(p[0] - b'a'),
            _ => None,
        };
        assert_eq!([1, 2, 3, 4].map(|i| at(&table, i)), [Some(3), Some(2), Some(1), None]);
        table.resize(60);
        assert_eq!([1, 2].map(|i| at(&table, i)), [Some(3), None]);
        table.insert(&Field::Path(Bytes::from(vec![0; 100])));
        assert_eq!((at(&table, 1), table.size), (None, 0), "too large for the table");
        assert!(table.get(0).is_none());
        assert!(matches!(table.get(STATIC), Some(Field::Header(n, _)) if n == header::WWW_AUTHENTICATE));
    }
}
