//! Types that are read field by field, written once.

/// Declares a struct and how it is read: the document's key is the field's name in camel case (or as it is: Istio's readers
/// take both), or the one given with `= "key"`.
///
/// A field that is not listed is reported. `(foreign)` after the name leaves them to whom they concern; `(ignoring "key", …)`
/// accepts these without effect, because they do not concern traffic.
macro_rules! record {
    (
        $(#[$meta:meta])*
        $vis:vis struct $name:ident $(($mode:ident $($ignored:literal),*))? {
            $( $(#[$field_meta:meta])* $field:ident : $ty:ty $(= $key:literal)? ),* $(,)?
        }
    ) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Default, PartialEq)]
        $vis struct $name {
            /// Where it was written.
            pub at: $crate::model::read::At,
            $( $(#[$field_meta])* pub $field: $ty, )*
        }

        impl $crate::model::read::Read for $name {
            fn read(
                node: &weft_proto::document::Node,
                reader: &mut $crate::model::read::Reader,
            ) -> Option<Self> {
                let mut record = Self::default();
                record.at = $crate::model::read::At(node.at);
                let others = $crate::model::read::record!(@others $($mode)?);
                let ignored: &[&str] = &[$($($ignored),*)?];
                let known: &[&str] = &[$( $crate::model::read::record!(@key $field $($key)?) ),*];
                reader.entries(node, others, known, |reader, key, value| {
                    $(
                        if $crate::model::read::is_key($crate::model::read::record!(@key $field $($key)?), key) {
                            if let Some(read) = $crate::model::read::Read::read(value, reader) {
                                record.$field = read;
                            }
                            return true;
                        }
                    )*
                    let _ = (value, reader, &mut record);
                    ignored.contains(&key)
                })?;
                Some(record)
            }
        }
    };
    (@key $field:ident $key:literal) => { $key };
    (@key $field:ident) => { stringify!($field) };
    (@others foreign) => { $crate::model::read::Others::Foreign };
    (@others ignoring) => { $crate::model::read::Others::Reported };
    (@others) => { $crate::model::read::Others::Reported };
}
pub(crate) use record;

/// Declares an enum and the texts it is read from; the variant marked `#[default]` is what a missing field is.
macro_rules! choice {
    (
        $(#[$meta:meta])*
        $vis:vis enum $name:ident { $( $(#[$variant_meta:meta])* $variant:ident = $text:literal ),* $(,)? }
    ) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
        $vis enum $name { $( $(#[$variant_meta])* $variant ),* }

        impl $crate::model::read::Read for $name {
            fn read(
                node: &weft_proto::document::Node,
                reader: &mut $crate::model::read::Reader,
            ) -> Option<Self> {
                let text = <String as $crate::model::read::Read>::read(node, reader)?;
                match text.as_str() {
                    $( $text => Some(Self::$variant), )*
                    _ => {
                        let known: &[&str] = &[$($text),*];
                        reader.refuse(node.at, format!("{text:?} is not known; write one of {}", known.join(", ")))
                    }
                }
            }
        }
    };
}
pub(crate) use choice;

/// Whether a document's key is this field: as declared, or in camel case.
pub(crate) fn is_key(field: &str, key: &str) -> bool {
    let field = field.strip_prefix("r#").unwrap_or(field);
    field == key || camel(field) == key
}

/// `http_header_name` as `httpHeaderName`.
pub(super) fn camel(field: &str) -> String {
    let field = field.strip_prefix("r#").unwrap_or(field);
    let mut parts = field.split('_');
    let mut name = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let mut chars = part.chars();
        name.extend(chars.next().map(|first| first.to_ascii_uppercase()));
        name.push_str(chars.as_str());
    }
    name
}
