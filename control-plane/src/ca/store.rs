//! The state of an authority in its directory.
//!
//! | file | what |
//! |---|---|
//! | `issuing.pem` | certificate and key of the root that signs (of our own) |
//! | `next.pem` | the same of the root that will |
//! | `retiring.json` | roots that signed before, and until when they are trusted |
//! | `issued-until` | when the last certificate of all ends, in seconds since 1970 |
//! | `plugged.json` | the roots of the operator's authority, as they were |
//! | `token-key.pem` | the key of tokens |
//! | `root-cert.pem` | what is trusted, for clients |
//! | `rotate` | asks for another root |

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::authority::{Authority, certificates, to_pem};
use super::files::Directory;
use super::rotation::{Retiring, Rotation};
use super::{CaError, Options};

pub(super) const BUNDLE: &str = "root-cert.pem";
pub(super) const TOKEN_KEY: &str = "token-key.pem";
const ISSUING: &str = "issuing.pem";
const NEXT: &str = "next.pem";
const RETIRING: &str = "retiring.json";
const PLUGGED: &str = "plugged.json";
const ROTATE: &str = "rotate";
const ISSUED_UNTIL: &str = "issued-until";

/// A retiring root as it is kept.
#[derive(Serialize, Deserialize)]
struct Kept {
    name: String,
    roots: String,
    /// Seconds since 1970.
    until: u64,
}

/// The state as it was left.
pub(super) fn load(directory: &Directory, options: &Options) -> Result<Rotation, CaError> {
    let mut retiring = load_retiring(directory)?;
    let issued_until = load_issued_until(directory)?;
    let Some(plugged) = &options.plugged else {
        let issuing = match directory.read(ISSUING)? {
            Some(pem) => read_own(&pem)?,
            None => make(directory, ISSUING, &options.trust_domain)?,
        };
        let next = directory.read(NEXT)?.map(|pem| read_own(&pem)).transpose()?;
        return Ok(Rotation::new(Arc::new(issuing), next.map(Arc::new), retiring, issued_until));
    };
    let issuing = read_plugged(plugged)?;
    // If it was replaced while nobody looked, its key is gone: the new one signs at once, and the old one stays trusted.
    if let Some(before) = directory.read(PLUGGED)? {
        let before: Kept = parse(directory, PLUGGED, &before)?;
        if before.name != issuing.name {
            retiring.push(Retiring {
                roots: certificates("plugged.json", &before.roots)?,
                name: before.name,
                until: issued_until,
                unknown_until: issued_until,
            });
            save_retiring(directory, &retiring)?;
        }
    }
    save_plugged(directory, &issuing)?;
    Ok(Rotation::new(Arc::new(issuing), None, retiring, issued_until))
}

/// A root of our own that will sign.
pub(super) fn make_next(directory: &Directory, trust_domain: &str) -> Result<Authority, CaError> {
    make(directory, NEXT, trust_domain)
}

/// The next root signs from now on; `retiring` is what is trusted besides.
pub(super) fn advance(directory: &Directory, plugged: bool, rotation: &Rotation) -> Result<(), CaError> {
    save_retiring(directory, &rotation.retiring)?;
    if plugged {
        return save_plugged(directory, &rotation.issuing);
    }
    let failed =
        |error: std::io::Error| CaError::Directory { path: directory.path(ISSUING), reason: error.to_string() };
    std::fs::rename(directory.path(NEXT), directory.path(ISSUING)).map_err(failed)
}

/// Keeps when the last certificate of all ends.
pub(super) fn save_issued_until(directory: &Directory, until: SystemTime) -> Result<(), CaError> {
    directory.write(ISSUED_UNTIL, &format!("{}\n", seconds(until)))
}

fn load_issued_until(directory: &Directory) -> Result<SystemTime, CaError> {
    let Some(text) = directory.read(ISSUED_UNTIL)? else { return Ok(UNIX_EPOCH) };
    let seconds: u64 = parse(directory, ISSUED_UNTIL, text.trim())?;
    Ok(UNIX_EPOCH + Duration::from_secs(seconds.min(u64::from(u32::MAX))))
}

/// Seconds since 1970, rounded up.
fn seconds(at: SystemTime) -> u64 {
    at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs() + 1
}

pub(super) fn save_retiring(directory: &Directory, retiring: &[Retiring]) -> Result<(), CaError> {
    let kept: Vec<Kept> = retiring
        .iter()
        .map(|old| Kept { name: old.name.clone(), roots: to_pem(&old.roots), until: seconds(old.until) })
        .collect();
    directory.write(RETIRING, &serde_json::to_string_pretty(&kept).unwrap_or_default())
}

fn load_retiring(directory: &Directory) -> Result<Vec<Retiring>, CaError> {
    let Some(text) = directory.read(RETIRING)? else { return Ok(Vec::new()) };
    let kept: Vec<Kept> = parse(directory, RETIRING, &text)?;
    let retiring = |kept: Kept| {
        let until = UNIX_EPOCH + Duration::from_secs(kept.until);
        // What was signed before this start is in no ledger.
        let roots = certificates("retiring.json", &kept.roots)?;
        Ok(Retiring { name: kept.name, roots, until, unknown_until: until })
    };
    kept.into_iter().map(retiring).collect()
}

/// Keeps whose roots are trusted with the operator's authority.
pub(super) fn save_plugged(directory: &Directory, authority: &Authority) -> Result<(), CaError> {
    let kept = Kept { name: authority.name.clone(), roots: to_pem(&authority.roots), until: 0 };
    directory.write(PLUGGED, &serde_json::to_string_pretty(&kept).unwrap_or_default())
}

fn parse<T: serde::de::DeserializeOwned>(directory: &Directory, name: &str, text: &str) -> Result<T, CaError> {
    serde_json::from_str(text).map_err(|error| {
        let reason =
            format!("cannot be read: {error}; if nothing else helps, remove it: the roots in it are then forgotten");
        CaError::Directory { path: directory.path(name), reason }
    })
}

fn make(directory: &Directory, name: &str, trust_domain: &str) -> Result<Authority, CaError> {
    let (certificate, key) = Authority::self_signed(trust_domain, SystemTime::now())?;
    directory.write(name, &format!("{key}{certificate}"))?;
    Authority::from_pem(&certificate, &key, "", "")
}

/// A certificate and its key in one text.
fn read_own(pem: &str) -> Result<Authority, CaError> {
    let certificate = pem.find("-----BEGIN CERTIFICATE-----").unwrap_or(pem.len());
    Authority::from_pem(&pem[certificate..], &pem[..certificate], "", "")
}

/// The operator's authority, by Istio's file names.
pub(super) fn read_plugged(place: &Path) -> Result<Authority, CaError> {
    let read = |name: &str| {
        let path = place.join(name);
        std::fs::read_to_string(&path).map_err(|error| CaError::Directory { path, reason: error.to_string() })
    };
    let optional = |name: &str| if place.join(name).exists() { read(name) } else { Ok(String::new()) };
    Authority::from_pem(
        &read("ca-cert.pem")?,
        &read("ca-key.pem")?,
        &optional("cert-chain.pem")?,
        &optional("root-cert.pem")?,
    )
}

/// What tells whether the operator's files have changed.
pub(super) fn plugged_stamp(place: &Path) -> Vec<Option<(SystemTime, u64)>> {
    let stamp = |name: &str| {
        let found = std::fs::metadata(place.join(name)).ok()?;
        Some((found.modified().ok()?, found.len()))
    };
    ["ca-cert.pem", "ca-key.pem", "root-cert.pem", "cert-chain.pem"].into_iter().map(stamp).collect()
}

/// Asks the control plane on this directory for another root.
pub(super) fn request_rotation(directory: &Directory) -> Result<(), CaError> {
    let refused = |reason: &str| CaError::Directory { path: directory.path(ISSUING), reason: reason.to_owned() };
    if directory.read(PLUGGED)?.is_some() && directory.read(ISSUING)?.is_none() {
        return Err(refused("the authority is the operator's own: replace the files in --cacerts"));
    }
    if directory.read(ISSUING)?.is_none() {
        return Err(refused("there is no authority here; --ca-dir must be that of the control plane"));
    }
    if directory.read(NEXT)?.is_some() {
        return Err(refused("a root is being replaced already; see weft ca status"));
    }
    directory.write(ROTATE, "")
}

/// Takes a wish for another root, if there is one.
pub(super) fn take_request(directory: &Directory) -> Result<bool, CaError> {
    directory.remove(ROTATE)
}
