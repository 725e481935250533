use std::path::Path;
use std::time::Duration;

use super::*;
use crate::model::kinds::ObjectKey;
use crate::source::Change;

fn service(name: &str, port: u32) -> String {
    format!("apiVersion: v1\nkind: Service\nmetadata:\n  name: {name}\nspec:\n  ports:\n  - port: {port}\n")
}

fn changes(batch: &Batch) -> Vec<String> {
    let show = |change: &Change| match change {
        Change::Applied(object) => format!("+{} {}:{}", object.key, object.source, object.at.line),
        Change::Deleted(key) => format!("-{key}"),
    };
    batch.changes.iter().map(show).collect()
}

fn problems(batch: &Batch) -> Vec<String> {
    batch.problems.iter().map(ToString::to_string).collect()
}

#[test]
fn documents_lists_and_json() {
    let mut directory = Directory::default();
    let a = service("a", 1);
    directory
        .put(Path::new("a.yaml"), &format!("# nothing\n---\n{a}--- # next\n{}---\n\n---\n# end\n", service("b", 2)));
    directory.put(
        Path::new("l.json"),
        r#"{"kind": "List", "apiVersion": "v1", "items": [{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "n"}}]}"#,
    );
    let batch = directory.take_batch();
    assert_eq!(
        changes(&batch),
        ["+Namespace n l.json:1", "+Service default/a a.yaml:3", "+Service default/b a.yaml:11"]
    );
    assert_eq!(problems(&batch), Vec::<String>::new());
}

#[test]
fn a_broken_document_keeps_its_last_good_version_and_spares_the_others() {
    let mut directory = Directory::default();
    let path = Path::new("a.yaml");
    directory.put(path, &format!("{}---\n{}", service("a", 1), service("b", 2)));
    directory.take_batch();
    // The first is no YAML any more, the second changes.
    directory.put(path, &format!("kind: [\n---\n{}", service("b", 3)));
    let batch = directory.take_batch();
    assert_eq!(changes(&batch), ["+Service default/b a.yaml:3"]);
    assert_eq!(problems(&batch).len(), 1, "{:?}", problems(&batch));
    assert!(problems(&batch)[0].starts_with("a.yaml:"), "{:?}", problems(&batch));
    // A value that cannot be: the version before stays, the other goes.
    directory.put(path, &service("a", 99_999));
    let batch = directory.take_batch();
    assert_eq!(changes(&batch), ["-Service default/b"]);
    assert_eq!(
        problems(&batch),
        ["a.yaml:7:11: spec.ports[0].port: expected an integer from 0 to 65535, found the number 99999"]
    );
    directory.remove(path);
    assert_eq!(changes(&directory.take_batch()), ["-Service default/a"]);
}

#[test]
fn of_two_the_older_one_counts_and_the_other_is_told() {
    let mut directory = Directory::default();
    directory.put(Path::new("b.yaml"), &service("a", 1));
    directory.take_batch();
    directory.put(Path::new("a.yaml"), &service("a", 2));
    let batch = directory.take_batch();
    assert_eq!(changes(&batch), Vec::<String>::new());
    assert_eq!(
        problems(&batch),
        ["a.yaml:1:1: Service default/a is also in b.yaml:1, which is older and counts; remove one of the two"]
    );
    directory.remove(Path::new("b.yaml"));
    let batch = directory.take_batch();
    assert_eq!(changes(&batch), ["+Service default/a a.yaml:1"]);
    assert_eq!(problems(&batch), Vec::<String>::new());
}

#[test]
fn a_timestamp_tells_who_is_older() {
    let dated = |time: &str, port: u32| {
        service("a", port).replace("  name: a\n", &format!("  name: a\n  creationTimestamp: \"{time}\"\n"))
    };
    let mut directory = Directory::default();
    directory.put(Path::new("a.yaml"), &dated("2026-02-01T00:00:00Z", 1));
    directory.put(Path::new("b.yaml"), &dated("2026-01-01T00:00:00Z", 2));
    assert_eq!(changes(&directory.take_batch()), ["+Service default/a b.yaml:1"]);
}

async fn next(files: &mut Files) -> Batch {
    tokio::time::timeout(Duration::from_secs(10), files.next()).await.expect("a batch in time").expect("a batch")
}

#[tokio::test]
async fn a_directory_is_followed() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    std::fs::write(path("a.yaml"), service("a", 1)).unwrap();
    let mut files = Files::watch(directory.path()).unwrap();
    assert_eq!(next(&mut files).await.changes.len(), 1);
    // In place.
    std::fs::write(path("a.yaml"), service("a", 2)).unwrap();
    assert_eq!(next(&mut files).await.changes.len(), 1);
    // By a rename, into a directory that is new.
    std::fs::create_dir(path("sub")).unwrap();
    std::fs::write(path(".tmp"), service("b", 1)).unwrap();
    std::fs::rename(path(".tmp"), path("sub/b.yaml")).unwrap();
    let keys: Vec<ObjectKey> = next(&mut files).await.changes.iter().map(|change| change.key().clone()).collect();
    assert_eq!(keys.len(), 1);
    assert_eq!(&*keys[0].name, "b");
    // A broken file is told, and changes nothing.
    std::fs::write(path("a.yaml"), "a: [").unwrap();
    let batch = next(&mut files).await;
    assert!(batch.changes.is_empty());
    assert_eq!(batch.problems.len(), 1);
    std::fs::remove_dir_all(path("sub")).unwrap();
    let batch = next(&mut files).await;
    assert!(matches!(&batch.changes[..], [Change::Deleted(key)] if &*key.name == "b"));
}

#[tokio::test]
async fn a_mounted_config_map_is_swapped_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    for (version, port) in [("..1", 1), ("..2", 2)] {
        std::fs::create_dir(path(version)).unwrap();
        std::fs::write(path(version).join("a.yaml"), service("a", port)).unwrap();
        std::fs::write(path(version).join("b.yaml"), service("b", port)).unwrap();
    }
    std::os::unix::fs::symlink("..1", path("..data")).unwrap();
    std::os::unix::fs::symlink("..data/a.yaml", path("a.yaml")).unwrap();
    std::os::unix::fs::symlink("..data/b.yaml", path("b.yaml")).unwrap();
    let mut files = Files::watch(directory.path()).unwrap();
    assert_eq!(next(&mut files).await.changes.len(), 2);
    std::os::unix::fs::symlink("..2", path("..tmp")).unwrap();
    std::fs::rename(path("..tmp"), path("..data")).unwrap();
    assert_eq!(next(&mut files).await.changes.len(), 2);
}

#[test]
fn a_missing_directory_is_an_error() {
    let error = Files::read_once(Path::new("/nonexistent-weft")).err().unwrap();
    assert!(error.to_string().starts_with("/nonexistent-weft: cannot be read"), "{error}");
}

#[test]
fn reading_is_no_change() {
    let dir = tempfile::tempdir().unwrap();
    let event = |kind| notify::Event::new(kind).add_path(dir.path().to_owned());
    let open = EventKind::Access(AccessKind::Open(AccessMode::Any));
    let closed = EventKind::Access(AccessKind::Close(AccessMode::Read));
    assert_eq!(told(Ok(event(open)), &[]), None);
    assert_eq!(told(Ok(event(closed)), &[]), None);
    assert_eq!(
        told(Ok(event(EventKind::Any).set_flag(notify::event::Flag::Rescan)), &["all".into()]),
        Some(vec!["all".into()])
    );
}

#[tokio::test]
async fn a_file_is_watched_as_a_directory_is() {
    let dir = tempfile::tempdir().unwrap();
    let (one, other) = (dir.path().join("one.yaml"), dir.path().join("other.yaml"));
    std::fs::write(&one, service("a", 1)).unwrap();
    std::fs::write(&other, service("b", 1)).unwrap();
    let mut files = Files::watch_all(std::slice::from_ref(&one)).unwrap();
    assert_eq!(changes(&files.next().await.unwrap()).len(), 1, "only what was named");
    let fresh = dir.path().join("fresh");
    std::fs::write(&fresh, service("a", 2)).unwrap();
    std::fs::rename(&fresh, &one).unwrap();
    let next = tokio::time::timeout(Duration::from_secs(10), files.next()).await.unwrap().unwrap();
    assert!(changes(&next)[0].contains("default/a"), "{next:?}");
}
