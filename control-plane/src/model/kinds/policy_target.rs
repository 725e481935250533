//! To what a policy is attached, if not to workloads by their labels.

use crate::model::read::record;

/// The API group of the Gateway API.
const GATEWAY_GROUP: &str = "gateway.networking.k8s.io";

record! {
    /// A target. **Source**: `type.istio.io/v1beta1.PolicyTargetReference`.
    pub struct PolicyTarget {
        /// The API group of its kind; empty: Kubernetes' core.
        group: String,
        /// Its kind.
        kind: String,
        /// Its name.
        name: String,
        /// Must be empty: the namespace is the policy's.
        namespace: String,
    }
}

impl PolicyTarget {
    /// The targets of a policy, in either spelling; the older one counts alone.
    pub fn named<'a>(several: &'a [Self], one: Option<&'a Self>) -> impl Iterator<Item = &'a Self> + use<'a> {
        several.iter().chain(one.filter(|_| several.is_empty()))
    }

    /// Whether it is a Gateway of the Gateway API.
    #[must_use]
    pub fn is_gateway(&self) -> bool {
        self.group == GATEWAY_GROUP && self.kind == "Gateway"
    }

    /// Whether it is something that only a waypoint serves.
    #[must_use]
    pub fn is_of_waypoints(&self) -> bool {
        matches!(
            (self.group.as_str(), self.kind.as_str()),
            ("" | "core", "Service") | ("networking.istio.io", "ServiceEntry") | (GATEWAY_GROUP, "GatewayClass")
        )
    }
}
