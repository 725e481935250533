//! Runtime layers.

use std::collections::{BTreeMap, BTreeSet};

use weft_proto::pb::envoy::config::bootstrap::v3 as pb;
use weft_proto::pb::envoy::service::runtime::v3::Runtime;

use super::ctx::{Ctx, Out};
use super::{source, value};
use crate::config::{RuntimeLayer, RuntimeLayerKind, RuntimeValues};

/// `layered_runtime`; none at all: one that `/runtime_modify` sets, as in Envoy.
pub(super) fn layers(c: &Ctx<'_>, r: &Option<pb::LayeredRuntime>) -> Out<Vec<RuntimeLayer>> {
    let layers = r.as_ref().map(|r| r.layers.as_slice()).unwrap_or_default();
    if layers.is_empty() {
        return Ok(vec![RuntimeLayer { name: String::new(), kind: RuntimeLayerKind::Admin }]);
    }
    let c = c.field("layered_runtime");
    let layers = c.each("layers", layers, layer)?;
    let (mut names, mut admin) = (BTreeSet::new(), false);
    for (i, l) in layers.iter().enumerate() {
        let here = c.index("layers", i);
        here.field("name").ensure(names.insert(&l.name), || format!("Duplicate layer name: {}", l.name))?;
        let second = l.kind == RuntimeLayerKind::Admin && std::mem::replace(&mut admin, true);
        here.field("admin_layer").ensure(!second, || {
            "Too many admin layers specified in LayeredRuntime, at most one may be specified".into()
        })?;
    }
    Ok(layers)
}

fn layer(c: &Ctx<'_>, l: &pb::RuntimeLayer) -> Out<RuntimeLayer> {
    use pb::runtime_layer::LayerSpecifier as L;
    let name = c.non_empty("name", &l.name)?;
    let kind = match &l.layer_specifier {
        None => return c.refuse("a layer is required: static_layer, disk_layer, admin_layer or rtds_layer"),
        Some(L::StaticLayer(s)) => RuntimeLayerKind::Static(values(&c.field("static_layer"), s)?),
        Some(L::AdminLayer(_)) => RuntimeLayerKind::Admin,
        Some(L::DiskLayer(d)) => RuntimeLayerKind::Disk {
            symlink_root: d.symlink_root.clone(),
            subdirectory: d.subdirectory.clone(),
            append_service_cluster: d.append_service_cluster,
        },
        Some(L::RtdsLayer(r)) => {
            let c = c.field("rtds_layer");
            let source = c.required("rtds_config", &r.rtds_config, source::config_source)?;
            RuntimeLayerKind::Discovered { resource: r.name.clone(), source }
        }
    };
    Ok(RuntimeLayer { name, kind })
}

/// The values of a discovered layer.
pub(super) fn discovered(c: &Ctx<'_>, r: &Runtime) -> Out<RuntimeValues> {
    r.layer.as_ref().map_or_else(|| Ok(BTreeMap::new()), |layer| values(&c.field("layer"), layer))
}

fn values(c: &Ctx<'_>, layer: &weft_proto::pb::google::protobuf::Struct) -> Out<RuntimeValues> {
    let mut flat = BTreeMap::new();
    flatten(c, "", &value::object(layer), &mut flat)?;
    Ok(flat)
}

/// Nested structures become dotted keys; one that is a fraction stays a value.
fn flatten(
    c: &Ctx<'_>,
    prefix: &str,
    object: &serde_json::Map<String, serde_json::Value>,
    flat: &mut RuntimeValues,
) -> Out<()> {
    use serde_json::Value as V;
    for (key, v) in object {
        let key = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
        match v {
            V::Null | V::Array(_) => return c.refuse(format!("Invalid runtime entry value for {key}")),
            V::Object(inner) if !inner.contains_key("numerator") && !inner.contains_key("denominator") => {
                flatten(c, &key, inner, flat)?;
            }
            _ => {
                flat.insert(key, v.clone());
            }
        }
    }
    Ok(())
}
