//! To which proxies a policy of security is attached.
//!
//! As in Istio: by labels in its own namespace, and everywhere if that is the root namespace; one with targets to the proxies of
//! the Gateways it names, and to nobody else.

use super::view::View;
use crate::model::kinds::Object;
use crate::model::kinds::destination_rule::WorkloadSelector;
use crate::model::kinds::policy_target::PolicyTarget;

/// The label of proxies that serve a Gateway of the Gateway API: its name.
const GATEWAY_NAME: &str = "gateway.networking.k8s.io/gateway-name";

/// Whether a policy counts for a proxy.
pub(super) fn counts<'a>(
    view: &View<'_>,
    policy: &Object,
    selector: Option<&WorkloadSelector>,
    targets: impl Iterator<Item = &'a PolicyTarget>,
) -> bool {
    let own = *policy.key.namespace == *view.proxy.namespace;
    let mut targets = targets.peekable();
    if targets.peek().is_none() {
        let root = &*policy.key.namespace == view.world.config().mesh.root_namespace();
        return (own || root) && selector.is_none_or(|selector| selector.matches(view.labels));
    }
    let gateway = view.labels.get(GATEWAY_NAME);
    let here = |target: &PolicyTarget| target.namespace.is_empty() || target.namespace == view.proxy.namespace;
    own && targets.any(|target| target.is_gateway() && here(target) && Some(&target.name) == gateway)
}
