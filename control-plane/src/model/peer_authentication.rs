//! What a workload asks of those that connect to it.
//!
//! Owns which PeerAuthentication counts: the oldest for the workload itself, else for its namespace, else for the mesh; what one
//! leaves unset the wider one says. In the root namespace those with a selector count for nobody, as in Istio.

use super::kinds::meta::Labels;
use super::kinds::peer_authentication::{
    MutualTls, MutualTlsMode, PeerAuthentication as PeerObject, PeerAuthenticationSpec,
};
use super::kinds::{Kind, ObjectKey};
use super::objects::Objects;

/// The label that the injector gives workloads that have a certificate of the mesh.
const TLS_MODE_LABEL: &str = "security.istio.io/tlsMode";

/// Whether a workload with these labels has an identity, and so takes mutual TLS and speaks it.
#[must_use]
pub fn has_identity(labels: &Labels) -> bool {
    labels.get(TLS_MODE_LABEL).is_some_and(|mode| mode == "istio")
}

/// What connections must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Plaintext.
    Disable,
    /// Either.
    Permissive,
    /// Mutual TLS.
    Strict,
}

/// A PeerAuthentication.
#[derive(Debug, Clone, PartialEq)]
pub struct PeerAuthentication {
    /// The object.
    pub key: ObjectKey,
    spec: PeerAuthenticationSpec,
}

/// All of them, the oldest first.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct PeerAuthentications {
    all: Vec<PeerAuthentication>,
    root_namespace: String,
}

impl PeerAuthentications {
    pub(super) fn of(objects: &Objects, root_namespace: &str) -> Self {
        let all = objects.by_age::<PeerObject>(Kind::PeerAuthentication).into_iter();
        let all = all.map(|(object, policy)| PeerAuthentication { key: object.key.clone(), spec: policy.spec.clone() });
        Self { all: all.collect(), root_namespace: root_namespace.to_owned() }
    }

    /// Those that count for a workload, the most specific first.
    pub fn of_workload<'a>(
        &'a self,
        namespace: &'a str,
        labels: &'a Labels,
    ) -> impl Iterator<Item = &'a PeerAuthentication> {
        let in_namespace = move |name: &'a str| self.all.iter().filter(move |one| &*one.key.namespace == name);
        let selector = |one: &PeerAuthentication| one.spec.selector.clone().filter(|selector| !selector.is_empty());
        let own = in_namespace(namespace)
            .find(|one| selector(one).is_some_and(|selector| selector.matches(labels)))
            .filter(|_| namespace != self.root_namespace);
        let of_namespace = in_namespace(namespace).find(|one| selector(one).is_none());
        let of_mesh = in_namespace(&self.root_namespace).find(|one| selector(one).is_none());
        let of_mesh = of_mesh.filter(|_| namespace != self.root_namespace);
        own.into_iter().chain(of_namespace).chain(of_mesh)
    }

    /// What connections to a port of a workload must be; `None` as port: to any that no policy speaks of.
    #[must_use]
    pub fn mode(&self, namespace: &str, labels: &Labels, port: Option<u32>) -> Mode {
        if self.all.is_empty() {
            return Mode::Permissive;
        }
        let set = |mutual: &MutualTls| match mutual.mode {
            MutualTlsMode::Unset => None,
            MutualTlsMode::Disable => Some(Mode::Disable),
            MutualTlsMode::Permissive => Some(Mode::Permissive),
            MutualTlsMode::Strict => Some(Mode::Strict),
        };
        let of_one = |one: &PeerAuthentication| {
            let selects = one.spec.selector.as_ref().is_some_and(|selector| !selector.is_empty());
            let of_port = port.filter(|_| selects).and_then(|port| one.spec.port_level_mtls.get(&port.to_string()));
            of_port.and_then(set).or_else(|| one.spec.mtls.as_ref().and_then(set))
        };
        self.of_workload(namespace, labels).find_map(of_one).unwrap_or(Mode::Permissive)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::model::World;
    use crate::model::kinds::{Object, Outcome};

    fn world(policies: &[(&str, &str, &str)]) -> World {
        let object = |(index, (namespace, name, spec)): (usize, &(&str, &str, &str))| {
            let text = format!(
                "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {{name: {name}, namespace: {namespace}, \
                 creationTimestamp: \"2026-01-01T00:00:0{index}Z\"}}\nspec: {spec}\n"
            );
            let document =
                weft_proto::document::Document::parse("t", &text, weft_proto::document::Format::Yaml).unwrap();
            let Outcome::Object(object) = Object::read(&document.root, &"t".into()) else { panic!("{text}") };
            assert_eq!(object.problems, [], "{text}");
            Arc::new(*object)
        };
        World::of(policies.iter().enumerate().map(object))
    }

    fn modes(policies: &[(&str, &str, &str)]) -> [Mode; 3] {
        let world = world(policies);
        let labels = Labels::from([("app".to_owned(), "web".to_owned())]);
        let all = &world.config().peer_authentications;
        [
            all.mode("shop", &labels, Some(8080)),
            all.mode("shop", &Labels::new(), Some(8080)),
            all.mode("bank", &labels, Some(8080)),
        ]
    }

    #[test]
    fn the_most_specific_counts_and_of_those_the_oldest() {
        use Mode::{Disable, Permissive, Strict};
        let web = "selector: {matchLabels: {app: web}}";
        assert_eq!(modes(&[]), [Permissive; 3]);
        assert_eq!(modes(&[("istio-system", "a", "{mtls: {mode: STRICT}}")]), [Strict; 3]);
        let mesh = ("istio-system", "a", "{mtls: {mode: STRICT}}");
        assert_eq!(modes(&[mesh, ("shop", "b", "{mtls: {mode: DISABLE}}")]), [Disable, Disable, Strict]);
        assert_eq!(modes(&[mesh, ("shop", "b", "{mtls: {mode: UNSET}}")]), [Strict; 3]);
        let own = format!("{{{web}, mtls: {{mode: PERMISSIVE}}}}");
        assert_eq!(modes(&[mesh, ("shop", "b", &own)]), [Permissive, Strict, Strict]);
        let port = format!("{{{web}, portLevelMtls: {{8080: {{mode: DISABLE}}}}}}");
        assert_eq!(modes(&[mesh, ("shop", "b", &port)]), [Disable, Strict, Strict]);
        let other = format!("{{{web}, mtls: {{mode: DISABLE}}, portLevelMtls: {{\"9090\": {{mode: STRICT}}}}}}");
        assert_eq!(modes(&[mesh, ("shop", "b", &other)]), [Disable, Strict, Strict]);
        // The oldest of two, and none of the root namespace's with a selector.
        let strict = format!("{{{web}, mtls: {{mode: STRICT}}}}");
        assert_eq!(modes(&[("shop", "z", &own), ("shop", "a", &strict)])[0], Permissive);
        assert_eq!(modes(&[("istio-system", "b", &strict)]), [Permissive; 3]);
    }
}
