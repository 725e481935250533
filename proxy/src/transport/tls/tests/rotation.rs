//! Certificates that change while in use.

use std::ffi::OsStr;
use std::time::{Duration, SystemTime};

use super::*;
use crate::config::{ConfigError, SdsConfig, SdsSource, Secret, SecretKind};

/// The name of the certificate a client is shown.
async fn shown(server: &ServerTls) -> String {
    let (_, connected) = handshake(server, &client(&upstream(None, None)), ConnectOptions::default()).await;
    connected.unwrap().peer.as_ref().unwrap().dns_sans[0].clone()
}

/// Writes as one should: aside, then moved into place.
fn replace(dir: &Path, name: &str, text: &str) {
    let aside = dir.join(format!(".{name}"));
    std::fs::write(&aside, text).unwrap();
    std::fs::rename(aside, dir.join(name)).unwrap();
}

fn watched(dir: &Path) -> DownstreamTls {
    let mut config = downstream(&[], None);
    let mut source = certificate(file(&dir.join("cert.pem")), file(&dir.join("key.pem")));
    source.watched_directory = Some(dir.to_str().unwrap().to_owned());
    config.common.certificates = vec![CertificateSource::Inline(source)];
    config
}

#[tokio::test]
async fn key_and_certificate_change_together() {
    let dir = tempfile::tempdir().unwrap();
    let ca = ca("root");
    let (old, new) = (ca.leaf(&["old"]), ca.leaf(&["new"]));
    replace(dir.path(), "cert.pem", &old.chain);
    replace(dir.path(), "key.pem", &old.key);
    let secrets = no_secrets();
    let scope = scope();
    let server = ServerTls::build(&watched(dir.path()), &secrets, &scope).unwrap();
    assert_eq!(shown(&server).await, "old");
    replace(dir.path(), "cert.pem", &new.chain);
    secrets.moved(dir.path(), OsStr::new("cert.pem"));
    assert_eq!(shown(&server).await, "old", "the new certificate has no key yet");
    replace(dir.path(), "key.pem", &new.key);
    secrets.moved(dir.path(), OsStr::new("key.pem"));
    assert_eq!(shown(&server).await, "new");
    let updates = || scope.scope("server_ssl_socket_factory").counter("ssl_context_update_by_sds").value();
    assert_eq!(updates(), 1);
    secrets.moved(dir.path(), OsStr::new("unrelated"));
    assert_eq!(updates(), 1, "nothing changed");
    secrets.moved(Path::new("/elsewhere"), OsStr::new("key.pem"));
    let certs = secrets.certificates(SystemTime::now());
    assert_eq!(certs[0].own[0].path, dir.path().join("cert.pem").to_str().unwrap());
    assert_eq!(certs[0].own[0].names, [("dns", "new".to_owned())]);
    assert!(secrets.days_until_first_expiry(SystemTime::now()).unwrap() > 300);
    drop(server);
    assert!(secrets.certificates(SystemTime::now()).is_empty());
}

#[tokio::test]
async fn a_session_of_before_does_not_outlive_its_trust() {
    let dir = tempfile::tempdir().unwrap();
    let (ours, theirs) = (ca("ours"), ca("theirs"));
    replace(dir.path(), "ca.pem", &ours.pem);
    let mut validation = ours.trust();
    validation.trusted_ca = Some(file(&dir.path().join("ca.pem")));
    validation.watched_directory = Some(dir.path().to_str().unwrap().to_owned());
    let mut down = downstream(&[&ours.leaf(&["s"])], Some(validation));
    down.require_client_certificate = true;
    // Shared ticket keys: the new context could open the tickets of the old one.
    down.session_ticket_keys = vec![DataSource::Inline(Bytes::from_static(&[7; 80]))];
    let secrets = no_secrets();
    let server = ServerTls::build(&down, &secrets, &scope()).unwrap();
    let client = client(&upstream(Some(&ours.leaf(&["c"])), None));
    handshake(&server, &client, ConnectOptions::default()).await.0.unwrap();
    replace(dir.path(), "ca.pem", &theirs.pem);
    secrets.moved(dir.path(), OsStr::new("ca.pem"));
    let (served, _) = handshake(&server, &client, ConnectOptions::default()).await;
    assert_eq!(kind(&served), Some(TlsErrorKind::CertificateChain));
}

/// A stand-in for the loader of SDS files: the first line names the secret, then chain and key.
fn load(path: &Path) -> Result<Vec<Secret>, ConfigError> {
    let text = std::fs::read_to_string(path).map_err(|e| ConfigError::at("", e.to_string()))?;
    let (name, rest) = text.split_once('\n').ok_or_else(|| ConfigError::at("", "malformed"))?;
    let (chain, key) = rest.split_once("===\n").ok_or_else(|| ConfigError::at("", "malformed"))?;
    let kind = SecretKind::Certificate(certificate(inline(chain), inline(key)));
    Ok(vec![Secret { name: name.to_owned(), kind }])
}

fn by_sds(path: &Path) -> DownstreamTls {
    let mut config = downstream(&[], None);
    let source = SdsConfig::File { path: path.to_str().unwrap().to_owned(), watched_directory: None };
    config.common.certificates = vec![CertificateSource::Sds(SdsSource { name: "cert".into(), config: source })];
    config
}

fn sds(leaf: &Leaf) -> String {
    format!("cert\n{}===\n{}", leaf.chain, leaf.key)
}

#[tokio::test]
async fn secrets_from_a_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("sds.yaml");
    let ca = ca("root");
    let scope = scope();
    let secrets = SecretProvider::new(Vec::new(), Box::new(load), scope.clone());
    assert!(ServerTls::build(&by_sds(&path), &secrets, &scope).unwrap_err().reason.contains("does not exist"));

    std::fs::write(&path, "nothing yet").unwrap();
    let server = ServerTls::build(&by_sds(&path), &secrets, &scope).unwrap();
    assert!(!server.is_ready());
    let (_peer, ours) = tokio::io::duplex(64);
    assert_eq!(server.accept(ours.into()).await.unwrap_err().kind, TlsErrorKind::SecretNotReady);

    replace(dir.path(), "sds.yaml", &sds(&ca.leaf(&["one"])));
    secrets.moved(dir.path(), OsStr::new("sds.yaml"));
    assert_eq!(shown(&server).await, "one");
    let mismatch = Leaf { chain: ca.leaf(&["two"]).chain, key: ca.leaf(&["three"]).key };
    replace(dir.path(), "sds.yaml", &sds(&mismatch));
    secrets.moved(dir.path(), OsStr::new("sds.yaml"));
    assert_eq!(shown(&server).await, "one", "a bad version changes nothing");
    replace(dir.path(), "sds.yaml", "garbage");
    secrets.moved(dir.path(), OsStr::new("sds.yaml"));
    assert_eq!(shown(&server).await, "one");
    replace(dir.path(), "sds.yaml", &sds(&ca.leaf(&["four"])));
    secrets.moved(dir.path(), OsStr::new("sds.yaml"));
    assert_eq!(shown(&server).await, "four");

    let count = |name: &str| scope.scope("sds.cert").counter(name).value();
    assert_eq!((count("update_success"), count("update_failure"), count("key_rotation_failed")), (3, 2, 1));
}

/// Waits until the server shows a certificate of this name.
async fn eventually(server: &ServerTls, name: &str) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    while shown(server).await != name {
        assert!(tokio::time::Instant::now() < deadline, "still not {name}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn the_watcher_sees_renames_and_swapped_links() {
    let dir = tempfile::tempdir().unwrap();
    let ca = ca("root");
    let path = dir.path().join("sds.yaml");
    replace(dir.path(), "sds.yaml", &sds(&ca.leaf(&["one"])));
    let secrets = SecretProvider::new(Vec::new(), Box::new(load), scope());
    let first = ServerTls::build(&by_sds(&path), &secrets, &scope()).unwrap();
    let watcher = tokio::spawn(watch_secrets(Arc::clone(&secrets)));

    replace(dir.path(), "sds.yaml", &sds(&ca.leaf(&["two"])));
    eventually(&first, "two").await;

    // A volume as Kubernetes mounts it, found by a context built after the watcher started.
    let volume = tempfile::tempdir().unwrap();
    let generation = |name: &str, leaf: &Leaf| {
        let at = volume.path().join(name);
        std::fs::create_dir(&at).unwrap();
        std::fs::write(at.join("cert.pem"), &leaf.chain).unwrap();
        std::fs::write(at.join("key.pem"), &leaf.key).unwrap();
        let link = volume.path().join("..data_tmp");
        std::os::unix::fs::symlink(name, &link).unwrap();
        std::fs::rename(link, volume.path().join("..data")).unwrap();
    };
    generation("..1", &ca.leaf(&["three"]));
    for name in ["cert.pem", "key.pem"] {
        std::os::unix::fs::symlink(format!("..data/{name}"), volume.path().join(name)).unwrap();
    }
    let second = ServerTls::build(&watched(volume.path()), &secrets, &scope()).unwrap();
    assert_eq!(shown(&second).await, "three");
    generation("..2", &ca.leaf(&["four"]));
    eventually(&second, "four").await;
    watcher.abort();
}
