//! `/certs`.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Serialize;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::body::{Params, Reply, timestamp};
use super::sources::Sources;

/// The certificates of one TLS context.
#[derive(Debug, Clone, Default)]
pub struct CertificateGroup {
    /// Trusted CAs.
    pub ca: Vec<CertificateDetails>,
    /// Our own certificates.
    pub chain: Vec<CertificateDetails>,
}

/// **Source**: `envoy.admin.v3.CertificateDetails`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateDetails {
    /// The file it is from, or `<inline>`.
    pub path: String,
    /// Serial number, in hex.
    pub serial: String,
    /// Subject alternative names.
    pub names: Vec<SubjectName>,
    /// Start of validity.
    pub not_before: SystemTime,
    /// End of validity.
    pub not_after: SystemTime,
}

/// A subject alternative name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SubjectName {
    /// DNS name.
    Dns(String),
    /// URI.
    Uri(String),
    /// IP address, as text.
    IpAddress(String),
}

impl CertificateDetails {
    /// Reads the facts of a certificate; `None`: it cannot be parsed.
    pub fn from_der(path: impl Into<String>, der: &[u8]) -> Option<Self> {
        let (_, certificate) = X509Certificate::from_der(der).ok()?;
        let seconds = |time: x509_parser::time::ASN1Time| {
            UNIX_EPOCH + Duration::from_secs(u64::try_from(time.timestamp()).unwrap_or(0))
        };
        let names = certificate.subject_alternative_name().ok().flatten();
        let names = names.map(|names| names.value.general_names.iter().filter_map(name).collect());
        let serial: String = certificate.raw_serial().iter().map(|byte| format!("{byte:02x}")).collect();
        Some(CertificateDetails {
            path: path.into(),
            serial: serial.trim_start_matches("00").to_owned(),
            names: names.unwrap_or_default(),
            not_before: seconds(certificate.validity().not_before),
            not_after: seconds(certificate.validity().not_after),
        })
    }

    /// Whole days left; 0 once it is over.
    pub fn days_left(&self, now: SystemTime) -> u64 {
        self.not_after.duration_since(now).map_or(0, |left| left.as_secs() / 86_400)
    }
}

fn name(name: &GeneralName<'_>) -> Option<SubjectName> {
    match name {
        GeneralName::DNSName(dns) => Some(SubjectName::Dns((*dns).to_owned())),
        GeneralName::URI(uri) => Some(SubjectName::Uri((*uri).to_owned())),
        GeneralName::IPAddress(bytes) => {
            let v4 = <[u8; 4]>::try_from(*bytes).map(|b| std::net::IpAddr::from(b).to_string());
            let ip = v4.or_else(|_| <[u8; 16]>::try_from(*bytes).map(|b| std::net::IpAddr::from(b).to_string()));
            ip.ok().map(SubjectName::IpAddress)
        }
        _ => None,
    }
}

#[derive(Serialize)]
struct Json {
    certificates: Vec<GroupJson>,
}

#[derive(Serialize)]
struct GroupJson {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    ca_cert: Vec<DetailsJson>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    cert_chain: Vec<DetailsJson>,
}

#[derive(Serialize)]
struct DetailsJson {
    path: String,
    serial_number: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    subject_alt_names: Vec<SubjectName>,
    days_until_expiration: String,
    valid_from: String,
    expiration_time: String,
}

pub(super) fn certs(sources: &Sources, _: &Params) -> Reply {
    let now = SystemTime::now();
    let details = |details: CertificateDetails| DetailsJson {
        days_until_expiration: details.days_left(now).to_string(),
        valid_from: timestamp(details.not_before),
        expiration_time: timestamp(details.not_after),
        path: details.path,
        serial_number: details.serial,
        subject_alt_names: details.names,
    };
    let group = |group: CertificateGroup| GroupJson {
        ca_cert: group.ca.into_iter().map(details).collect(),
        cert_chain: group.chain.into_iter().map(details).collect(),
    };
    Reply::json(&Json { certificates: (sources.certificates)().into_iter().map(group).collect() })
}
