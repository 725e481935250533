//! Distinguished names in text, as RFC 2253 and OpenSSL's `XN_FLAG_RFC2253` write them.
//!
//! Runs on: any thread; once per certificate, the result is cached with it.

use std::fmt::Write;

use x509_parser::der_parser::asn1_rs::{Any, Oid, Tag, ToDer};
use x509_parser::x509::X509Name;

/// `CN=client,O=Test`: last component first, special and non-ASCII octets escaped.
pub(super) fn rfc2253(name: &X509Name<'_>) -> String {
    let mut out = String::new();
    let rdns: Vec<_> = name.iter_rdn().collect();
    for rdn in rdns.iter().rev() {
        if !out.is_empty() {
            out.push(',');
        }
        for (i, attribute) in rdn.iter().enumerate() {
            if i > 0 {
                out.push('+');
            }
            let short = short_name(attribute.attr_type());
            match short {
                Some(name) => out.push_str(name),
                None => out.push_str(&attribute.attr_type().to_id_string()),
            }
            out.push('=');
            match text(attribute.attr_value()) {
                Some(text) if short.is_some() => escape(&mut out, &text),
                _ => dump(&mut out, attribute.attr_value()),
            }
        }
    }
    out
}

/// The short names OpenSSL knows, of those that occur in subjects.
fn short_name(oid: &Oid<'_>) -> Option<&'static str> {
    Some(match oid.to_id_string().as_str() {
        "2.5.4.3" => "CN",
        "2.5.4.4" => "SN",
        "2.5.4.5" => "serialNumber",
        "2.5.4.6" => "C",
        "2.5.4.7" => "L",
        "2.5.4.8" => "ST",
        "2.5.4.9" => "street",
        "2.5.4.10" => "O",
        "2.5.4.11" => "OU",
        "2.5.4.12" => "title",
        "2.5.4.13" => "description",
        "2.5.4.15" => "businessCategory",
        "2.5.4.17" => "postalCode",
        "2.5.4.41" => "name",
        "2.5.4.42" => "GN",
        "2.5.4.43" => "initials",
        "2.5.4.44" => "generationQualifier",
        "2.5.4.45" => "x500UniqueIdentifier",
        "2.5.4.46" => "dnQualifier",
        "2.5.4.65" => "pseudonym",
        "2.5.4.97" => "organizationIdentifier",
        "0.9.2342.19200300.100.1.1" => "UID",
        "0.9.2342.19200300.100.1.25" => "DC",
        "1.2.840.113549.1.9.1" => "emailAddress",
        "1.2.840.113549.1.9.2" => "unstructuredName",
        _ => return None,
    })
}

/// The octets of a string type as UTF-8; `None`: not a string.
fn text(value: &Any<'_>) -> Option<Vec<u8>> {
    let octets = value.data;
    Some(match value.tag() {
        Tag::Utf8String | Tag::PrintableString | Tag::Ia5String | Tag::NumericString | Tag::VisibleString => {
            octets.to_vec()
        }
        Tag::T61String => octets.iter().map(|b| char::from(*b)).collect::<String>().into_bytes(),
        Tag::BmpString => {
            let units = octets.chunks_exact(2).map(|u| u16::from_be_bytes([u[0], u[1]]));
            char::decode_utf16(units).map(|c| c.unwrap_or(char::REPLACEMENT_CHARACTER)).collect::<String>().into_bytes()
        }
        Tag::UniversalString => octets
            .chunks_exact(4)
            .map(|u| char::from_u32(u32::from_be_bytes([u[0], u[1], u[2], u[3]])))
            .map(|c| c.unwrap_or(char::REPLACEMENT_CHARACTER))
            .collect::<String>()
            .into_bytes(),
        _ => return None,
    })
}

fn escape(out: &mut String, octets: &[u8]) {
    for (i, &b) in octets.iter().enumerate() {
        let edge = i == 0 || i + 1 == octets.len();
        match b {
            b',' | b'+' | b'"' | b'\\' | b'<' | b'>' | b';' => out.extend(['\\', char::from(b)]),
            b' ' if edge => out.push_str("\\ "),
            b'#' if i == 0 => out.push_str("\\#"),
            0x20..=0x7e => out.push(char::from(b)),
            _ => {
                // Writing to a String cannot fail.
                let _ = write!(out, "\\{b:02X}");
            }
        }
    }
}

/// `#` and the DER in hex: what is not text, or of an attribute without a name.
fn dump(out: &mut String, value: &Any<'_>) {
    out.push('#');
    for b in value.to_der_vec_raw().unwrap_or_default() {
        let _ = write!(out, "{b:02X}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes() {
        let mut out = String::new();
        escape(&mut out, b" a,b+c#\"\\<>; ");
        assert_eq!(out, "\\ a\\,b\\+c#\\\"\\\\\\<\\>\\;\\ ");
        out.clear();
        escape(&mut out, "#ü\n".as_bytes());
        assert_eq!(out, "\\#\\C3\\BC\\0A");
    }
}
