//! Istio's EnvoyFilter: patches of what is generated.

use weft_proto::document::Node;

use super::destination_rule::WorkloadSelector;
use crate::model::read::{choice, record};

record! {
    /// An EnvoyFilter. **Source**: `networking.istio.io/v1alpha3.EnvoyFilter`.
    pub struct EnvoyFilter (ignoring "status") {
        /// The patches.
        spec: EnvoyFilterSpec,
    }
}

record! {
    /// Patches. **Source**: `networking.istio.io/v1alpha3.EnvoyFilter`.
    pub struct EnvoyFilterSpec {
        /// Which proxies. None: all of the namespace; in the root namespace: all.
        workload_selector: Option<WorkloadSelector>,
        /// The patches, in their order.
        config_patches: Vec<ConfigPatch>,
        /// Lower ones go first. Default: 0.
        priority: i32,
    }
}

record! {
    /// A patch. **Source**: `networking.istio.io/v1alpha3.EnvoyFilter.EnvoyConfigObjectPatch`.
    pub struct ConfigPatch {
        /// What kind of thing it changes.
        apply_to: ApplyTo,
        /// Which of them.
        r#match: PatchMatch,
        /// How.
        patch: Patch,
    }
}

choice! {
    /// What is changed. **Source**: `networking.istio.io/v1alpha3.EnvoyFilter.ApplyTo`.
    pub enum ApplyTo {
        /// Nothing.
        #[default]
        Invalid = "INVALID",
        /// A listener.
        Listener = "LISTENER",
        /// A filter chain.
        FilterChain = "FILTER_CHAIN",
        /// A network filter.
        NetworkFilter = "NETWORK_FILTER",
        /// An HTTP filter.
        HttpFilter = "HTTP_FILTER",
        /// A route configuration.
        RouteConfiguration = "ROUTE_CONFIGURATION",
        /// A virtual host.
        VirtualHost = "VIRTUAL_HOST",
        /// A route.
        HttpRoute = "HTTP_ROUTE",
        /// A cluster.
        Cluster = "CLUSTER",
        /// A listener filter.
        ListenerFilter = "LISTENER_FILTER",
        /// An extension configuration.
        ExtensionConfig = "EXTENSION_CONFIG",
        /// The bootstrap.
        Bootstrap = "BOOTSTRAP",
    }
}

record! {
    /// Which things. **Source**: `networking.istio.io/v1alpha3.EnvoyFilter.EnvoyConfigObjectMatch`.
    pub struct PatchMatch {
        /// Of which traffic.
        context: PatchContext,
        /// Listeners and what is in them.
        listener: Option<ListenerMatch>,
        /// Route configurations and what is in them.
        route_configuration: Option<RouteConfigurationMatch>,
        /// Clusters.
        cluster: Option<ClusterMatch>,
    }
}

choice! {
    /// Of which traffic. **Source**: `networking.istio.io/v1alpha3.EnvoyFilter.PatchContext`.
    pub enum PatchContext {
        /// All.
        #[default]
        Any = "ANY",
        /// Into a sidecar's workload.
        SidecarInbound = "SIDECAR_INBOUND",
        /// Out of a sidecar's workload.
        SidecarOutbound = "SIDECAR_OUTBOUND",
        /// Through a gateway.
        Gateway = "GATEWAY",
    }
}

record! {
    /// Listeners. **Source**: `networking.istio.io/v1alpha3.EnvoyFilter.ListenerMatch`.
    pub struct ListenerMatch {
        /// By port.
        port_number: Option<u32>,
        /// By name.
        name: Option<String>,
        /// Filter chains in them.
        filter_chain: Option<FilterChainMatch>,
        /// A listener filter in them.
        listener_filter: Option<String>,
    }
}

record! {
    /// Filter chains. **Source**: `networking.istio.io/v1alpha3.EnvoyFilter.ListenerMatch.FilterChainMatch`.
    pub struct FilterChainMatch {
        /// By name.
        name: Option<String>,
        /// By a server name they match.
        sni: Option<String>,
        /// By the transport protocol they match.
        transport_protocol: Option<String>,
        /// By the application protocols they match, by comma.
        application_protocols: Option<String>,
        /// By the destination port they match.
        destination_port: Option<u32>,
        /// A network filter in them.
        filter: Option<FilterMatch>,
    }
}

record! {
    /// A network filter. **Source**: `networking.istio.io/v1alpha3.EnvoyFilter.ListenerMatch.FilterMatch`.
    pub struct FilterMatch {
        /// Its name.
        name: Option<String>,
        /// An HTTP filter in it.
        sub_filter: Option<SubFilterMatch>,
    }
}

record! {
    /// An HTTP filter. **Source**: `networking.istio.io/v1alpha3.EnvoyFilter.ListenerMatch.SubFilterMatch`.
    pub struct SubFilterMatch {
        /// Its name.
        name: Option<String>,
    }
}

record! {
    /// Route configurations. **Source**: `networking.istio.io/v1alpha3.EnvoyFilter.RouteConfigurationMatch`.
    pub struct RouteConfigurationMatch {
        /// By port.
        port_number: Option<u32>,
        /// By name.
        name: Option<String>,
        /// Virtual hosts in them.
        vhost: Option<VirtualHostMatch>,
    }
}

record! {
    /// Virtual hosts. **Source**: `networking.istio.io/v1alpha3.EnvoyFilter.RouteConfigurationMatch.VirtualHostMatch`.
    pub struct VirtualHostMatch {
        /// By name; empty: all.
        name: Option<String>,
        /// By a domain they have.
        domain_name: Option<String>,
        /// Routes in them.
        route: Option<RouteMatch>,
    }
}

record! {
    /// Routes. **Source**: `networking.istio.io/v1alpha3.EnvoyFilter.RouteConfigurationMatch.RouteMatch`.
    pub struct RouteMatch {
        /// By name.
        name: Option<String>,
        /// By what they do.
        action: RouteActionMatch,
    }
}

choice! {
    /// What a route does. **Source**: `networking.istio.io/v1alpha3.EnvoyFilter.RouteConfigurationMatch.RouteMatch.Action`.
    pub enum RouteActionMatch {
        /// Anything.
        #[default]
        Any = "ANY",
        /// It routes.
        Route = "ROUTE",
        /// It redirects.
        Redirect = "REDIRECT",
        /// It answers.
        DirectResponse = "DIRECT_RESPONSE",
    }
}

record! {
    /// Clusters. **Source**: `networking.istio.io/v1alpha3.EnvoyFilter.ClusterMatch`.
    pub struct ClusterMatch {
        /// By the service's port.
        port_number: Option<u32>,
        /// By the service's host.
        service: Option<String>,
        /// By subset.
        subset: Option<String>,
        /// By name.
        name: Option<String>,
    }
}

record! {
    /// A change. **Source**: `networking.istio.io/v1alpha3.EnvoyFilter.Patch`.
    pub struct Patch {
        /// Which.
        operation: Operation,
        /// The thing to add, or what to merge.
        value: Option<Node>,
    }
}

choice! {
    /// A change. **Source**: `networking.istio.io/v1alpha3.EnvoyFilter.Patch.Operation`.
    pub enum Operation {
        /// Nothing.
        #[default]
        Invalid = "INVALID",
        /// Merge over what is there.
        Merge = "MERGE",
        /// Add to the list.
        Add = "ADD",
        /// Take out of the list.
        Remove = "REMOVE",
        /// Add in front of what matches.
        InsertBefore = "INSERT_BEFORE",
        /// Add behind what matches.
        InsertAfter = "INSERT_AFTER",
        /// Add at the front.
        InsertFirst = "INSERT_FIRST",
        /// Replace what matches.
        Replace = "REPLACE",
    }
}
