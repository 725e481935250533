//! Resources from files.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use weft_tests::ads::{CDS, ECDS, LDS, RTDS};
use weft_tests::config::indent;
use weft_tests::scene::{Scene, Variant, bootstrap, play, play_from};

use crate::extensions::{filter, until, with_filter};
use crate::runtime::by_key;
use crate::yaml::{direct, eds, endpoints, fixed, inline, listener, rds_listener, routes};

/// A file of resources.
fn file(type_url: &str, version: &str, resources: &[String]) -> String {
    let mut text = format!("version_info: '{version}'\nresources:\n");
    for r in resources {
        let body = indent(&format!("\"@type\": {type_url}\n{r}"), 2);
        text += &body.replacen("  ", "- ", 1);
    }
    text
}

/// Moves a file into place, as an operator should.
fn put(path: &Path, text: &str) -> Result<()> {
    let new = path.with_extension("new");
    std::fs::write(&new, text)?;
    std::fs::rename(&new, path).context("rename")
}

const EDS_TYPE: &str = weft_tests::ads::EDS;
const RDS_TYPE: &str = weft_tests::ads::RDS;

#[test]
fn endpoints_and_routes() -> Result<()> {
    play("endpoints and routes from files", Variant::Sotw, |mut scene| async move {
        let dir = scene.world.dir().to_owned();
        let (eds_path, rds_path) = (dir.join("eds.yaml"), dir.join("rds.yaml"));
        let fill = |scene: &Scene, text: String| scene.world.fill(&text);
        put(&eds_path, &fill(&scene, file(EDS_TYPE, "1", &[endpoints("a", &["a"])]))?)?;
        put(&rds_path, &fill(&scene, file(RDS_TYPE, "1", &[routes("r", "a")]))?)?;
        let by_file =
            |path: &str| format!("{{path_config_source: {{path: '{{{{dir}}}}/{path}'}}, resource_api_version: V3}}");
        let ads = "{ads: {}, resource_api_version: V3}";
        scene.serve(CDS, "1", &[&eds("a", "").replace(ads, &by_file("eds.yaml"))])?;
        scene.serve(LDS, "1", &[&rds_listener("l", "l1", "r").replace(ads, &by_file("rds.yaml"))])?;
        scene.ready().await?;
        scene.until("l1", "/", 200).await?;
        // Written in place: nobody looks.
        std::fs::write(&rds_path, fill(&scene, file(RDS_TYPE, "2", &[routes("r", "nowhere")]))?)?;
        put(&eds_path, &fill(&scene, file(EDS_TYPE, "2", &["cluster_name: a\n".to_owned()]))?)?;
        scene.until("l1", "/", 503).await?;
        let (_, body) = scene.get("l1", "/").await?;
        scene.note(format!("no endpoints: {body}"));
        put(&eds_path, &fill(&scene, file(EDS_TYPE, "3", &[endpoints("a", &["b"])]))?)?;
        scene.until("l1", "/", 200).await?;
        // Bad content: what was there stays.
        put(&rds_path, "resources: [{\"@type\": no.such.Type}]\n")?;
        put(&eds_path, "{{{{ no yaml")?;
        scene.note_get("l1", "/").await?;
        put(&rds_path, &fill(&scene, file(RDS_TYPE, "4", &[routes("r", "nowhere")]))?)?;
        scene.until("l1", "/", 503).await?;
        Ok(scene)
    })
}

/// A bootstrap whose clusters and listeners are in files.
fn all_by_file(dir: &Path, watched: bool) -> String {
    let dir = dir.display();
    let watch = if watched { format!(", watched_directory: {{path: '{dir}'}}") } else { String::new() };
    let source = |name: &str| {
        let path = if watched { format!("{dir}/..data/{name}") } else { format!("{dir}/{name}") };
        format!("{{path_config_source: {{path: '{path}'{watch}}}, resource_api_version: V3}}")
    };
    let text = bootstrap(Variant::Sotw, 1);
    let (cds, lds) = (source("cds.yaml"), source("lds.yaml"));
    let text = text.replace("cds_config: {ads: {}, resource_api_version: V3}", &format!("cds_config: {cds}"));
    text.replace("lds_config: {ads: {}, resource_api_version: V3}", &format!("lds_config: {lds}"))
}

#[test]
fn clusters_and_listeners() -> Result<()> {
    let dirs = std::cell::RefCell::new(Vec::new());
    let start = |kind| {
        let dir = tempfile::tempdir();
        let path = dir.as_ref().map(|d| d.path().to_owned()).unwrap_or_default();
        dirs.borrow_mut().push(dir);
        async move {
            // The ports are known once the world is there: first without any, then with.
            put(&path.join("cds.yaml"), &file(CDS, "1", &[]))?;
            put(&path.join("lds.yaml"), &file(LDS, "1", &[]))?;
            let mut scene = Scene::with(kind, Variant::Sotw, |_, _| all_by_file(&path, false), &[]).await?;
            scene.ready().await?;
            std::fs::write(scene.world.dir().join("where"), path.display().to_string())?;
            Ok(scene)
        }
    };
    play_from("clusters and listeners from files", Variant::Sotw, start, |mut scene| async move {
        let dir = std::fs::read_to_string(scene.world.dir().join("where"))?;
        let dir = Path::new(&dir);
        put(&dir.join("cds.yaml"), &scene.world.fill(&file(CDS, "2", &[fixed("a", "a", "")]))?)?;
        scene.stat("cluster_manager.active_clusters", 2).await?;
        put(&dir.join("lds.yaml"), &scene.world.fill(&file(LDS, "2", &[listener("l", "l1", &inline("a"))]))?)?;
        scene.until("l1", "/", 200).await?;
        put(&dir.join("lds.yaml"), &scene.world.fill(&file(LDS, "3", &[listener("l", "l1", &direct("hi"))]))?)?;
        scene.until_body("l1", "/", "hi").await?;
        put(&dir.join("lds.yaml"), &file(LDS, "4", &[]))?;
        scene.until("l1", "/", 0).await?;
        Ok(scene)
    })
}

#[test]
fn a_watched_directory() -> Result<()> {
    let dirs = std::cell::RefCell::new(Vec::new());
    let start = |kind| {
        let dir = tempfile::tempdir();
        let path = dir.as_ref().map(|d| d.path().to_owned()).unwrap_or_default();
        dirs.borrow_mut().push(dir);
        async move {
            let first = path.join("v1");
            std::fs::create_dir(&first)?;
            put(&first.join("cds.yaml"), &file(CDS, "1", &[]))?;
            put(&first.join("lds.yaml"), &file(LDS, "1", &[]))?;
            std::os::unix::fs::symlink("v1", path.join("..data"))?;
            let mut scene = Scene::with(kind, Variant::Sotw, |_, _| all_by_file(&path, true), &[]).await?;
            scene.ready().await?;
            std::fs::write(scene.world.dir().join("where"), path.display().to_string())?;
            Ok(scene)
        }
    };
    play_from("a watched directory", Variant::Sotw, start, |mut scene| async move {
        let dir = std::fs::read_to_string(scene.world.dir().join("where"))?;
        let dir = Path::new(&dir);
        let second = dir.join("v2");
        std::fs::create_dir(&second)?;
        put(&second.join("cds.yaml"), &scene.world.fill(&file(CDS, "2", &[fixed("a", "a", "")]))?)?;
        put(&second.join("lds.yaml"), &scene.world.fill(&file(LDS, "2", &[listener("l", "l1", &direct("two"))]))?)?;
        // As Kubernetes swaps the files of a volume.
        std::os::unix::fs::symlink("v2", dir.join("..data_tmp"))?;
        std::fs::rename(dir.join("..data_tmp"), dir.join("..data"))?;
        scene.until_body("l1", "/", "two").await?;
        Ok(scene)
    })
}

#[test]
fn a_file_that_is_not_there() -> Result<()> {
    let start = |kind| async move {
        let dir = tempfile::tempdir()?;
        Scene::with(kind, Variant::Sotw, |_, _| all_by_file(dir.path(), false), &[]).await
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    for kind in [weft_tests::locate::Kind::Weft, weft_tests::locate::Kind::Envoy] {
        if kind.binary().is_none() {
            continue;
        }
        runtime.block_on(async {
            let mut scene = start(kind).await?;
            let status = scene.world.proxy.end(weft_tests::wait::PATIENCE).await?;
            ensure!(status.code() == Some(1), "{status} on {}", kind.name());
            ensure!(scene.world.proxy.log().contains("does not exist"), "{}", scene.world.proxy.log_tail());
            Ok(())
        })?;
    }
    Ok(())
}

/// A bootstrap with a layer of runtime values in a file.
fn runtime_by_file(dir: &Path, port: u16) -> String {
    format!(
        "{}layered_runtime: {{layers: [{{name: found, rtds_layer: {{name: rt, rtds_config: {{path_config_source: {{path: '{}/rt.yaml'}}, resource_api_version: V3}}}}}}]}}\n",
        bootstrap(Variant::Sotw, port),
        dir.display()
    )
}

#[test]
fn runtime_values_and_filters() -> Result<()> {
    let dirs = std::cell::RefCell::new(Vec::new());
    let start = |kind| {
        let dir = tempfile::tempdir();
        let path = dir.as_ref().map(|d| d.path().to_owned()).unwrap_or_default();
        dirs.borrow_mut().push(dir);
        async move {
            put(&path.join("rt.yaml"), &file(RTDS, "1", &["name: rt\nlayer: {go: 0}\n".to_owned()]))?;
            put(&path.join("f.yaml"), &file(ECDS, "1", &[filter("1")]))?;
            let scene = Scene::with(kind, Variant::Sotw, |_, port| runtime_by_file(&path, port), &[]).await?;
            std::fs::write(scene.world.dir().join("where"), path.display().to_string())?;
            Ok(scene)
        }
    };
    play_from("runtime values and filters from files", Variant::Sotw, start, |mut scene| async move {
        let dir = std::fs::read_to_string(scene.world.dir().join("where"))?;
        let by_file = format!("{{path_config_source: {{path: '{dir}/f.yaml'}}, resource_api_version: V3}}");
        let ads = "{ads: {}, resource_api_version: V3}";
        let dir = Path::new(&dir);
        scene.serve(CDS, "1", &[&fixed("a", "a", "")])?;
        let filtered = with_filter("k", "l2", "").replace(ads, &by_file);
        scene.serve(LDS, "1", &[&by_key(), &filtered])?;
        scene.ready().await?;
        scene.until_body("l1", "/", "old").await?;
        until(&mut scene, "l2", "\"1\"").await?;
        put(&dir.join("rt.yaml"), &file(RTDS, "2", &["name: rt\nlayer: {go: 100}\n".to_owned()]))?;
        scene.until_body("l1", "/", "new").await?;
        put(&dir.join("f.yaml"), &file(ECDS, "2", &[filter("2")]))?;
        until(&mut scene, "l2", "\"2\"").await?;
        Ok(scene)
    })
}
