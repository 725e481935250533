//! Scalars, lists and maps.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use weft_proto::document::{Data, Node};

use super::{Read, Reader, duration};

impl Read for Node {
    fn read(node: &Node, _: &mut Reader) -> Option<Self> {
        Some(node.clone())
    }
}

impl<T: Read> Read for Option<T> {
    fn read(node: &Node, reader: &mut Reader) -> Option<Self> {
        T::read(node, reader).map(Some)
    }
}

impl<T: Read> Read for Box<T> {
    fn read(node: &Node, reader: &mut Reader) -> Option<Self> {
        T::read(node, reader).map(Box::new)
    }
}

impl<T: Read> Read for Vec<T> {
    fn read(node: &Node, reader: &mut Reader) -> Option<Self> {
        let Data::List(items) = &node.data else { return reader.wrong(node, "a list") };
        let read = |(index, item)| reader.within(format_args!("[{index}]"), |reader| T::read(item, reader));
        Some(items.iter().enumerate().filter_map(read).collect())
    }
}

impl<T: Read> Read for BTreeMap<String, T> {
    fn read(node: &Node, reader: &mut Reader) -> Option<Self> {
        let Data::Map(entries) = &node.data else { return reader.wrong(node, "a map") };
        let mut map = Self::new();
        for entry in entries {
            let value = reader.within(format_args!("[{:?}]", entry.key), |reader| T::read(&entry.value, reader));
            if let Some(value) = value {
                map.insert(entry.key.to_string(), value);
            }
        }
        Some(map)
    }
}

impl Read for String {
    fn read(node: &Node, reader: &mut Reader) -> Option<Self> {
        match &node.data {
            Data::String(text) => Some(text.to_string()),
            // `data: {key:}` is an empty value.
            Data::Null => Some(Self::new()),
            Data::Number(_) | Data::Bool(_) => reader.wrong(node, "a string (write it in quotes)"),
            Data::List(_) | Data::Map(_) => reader.wrong(node, "a string"),
        }
    }
}

impl Read for bool {
    fn read(node: &Node, reader: &mut Reader) -> Option<Self> {
        match &node.data {
            Data::Bool(value) => Some(*value),
            _ => reader.wrong(node, "true or false"),
        }
    }
}

/// The text of a number. Protobuf's JSON has large numbers, and YAML's reader fractions, as text.
fn number_text<'n>(node: &'n Node, what: &str, reader: &mut Reader) -> Option<&'n str> {
    match &node.data {
        Data::Number(text) | Data::String(text) => Some(text),
        _ => reader.wrong(node, what),
    }
}

macro_rules! integers {
    ($($ty:ty),*) => {$(
        impl Read for $ty {
            fn read(node: &Node, reader: &mut Reader) -> Option<Self> {
                let what = concat!("an integer of ", stringify!($ty));
                let text = number_text(node, what, reader)?;
                let whole = text.strip_suffix(".0").unwrap_or(text);
                whole.parse().ok().or_else(|| reader.wrong(node, &format!("an integer from {} to {}", Self::MIN, Self::MAX)))
            }
        }
    )*};
}

integers!(u16, u32, i32, u64, i64);

impl Read for f64 {
    fn read(node: &Node, reader: &mut Reader) -> Option<Self> {
        let parsed: Option<Self> = number_text(node, "a number", reader)?.parse().ok();
        parsed.filter(|value| value.is_finite()).or_else(|| reader.wrong(node, "a number"))
    }
}

impl Read for Duration {
    fn read(node: &Node, reader: &mut Reader) -> Option<Self> {
        let text = String::read(node, reader)?;
        duration::parse(&text).or_else(|| reader.wrong(node, "a duration such as 7s, 250ms or 1h30m"))
    }
}

impl Read for IpAddr {
    fn read(node: &Node, reader: &mut Reader) -> Option<Self> {
        let text = String::read(node, reader)?;
        text.parse().ok().or_else(|| reader.wrong(node, "an IP address"))
    }
}
