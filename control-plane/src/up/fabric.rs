//! The mesh's network: a namespace with a bridge, and a pair of devices from it to each pod.
//!
//! Owns addresses and devices. The bridge is in a namespace of its own: the machine's network has no device, address or rule of
//! the mesh, and its address ranges may be the same as others of the machine. Nothing is forwarded out of it.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use anyhow::{Context as _, Result};
use futures_util::TryStreamExt as _;
use rtnetlink::{Handle, LinkBridge, LinkUnspec, LinkVeth, RouteMessageBuilder};
use tokio::task::JoinHandle;

use super::namespace::Namespace;

/// The bridge's name; Linux takes 15 bytes.
const BRIDGE: &str = "weft0";
/// The pod's device, as Kubernetes' plugins call it.
const DEVICE: &str = "eth0";

/// Where the control plane and its like are for pods.
pub const HOST: Ipv4Addr = Ipv4Addr::new(10, 244, 0, 1);
/// The same for IPv6.
pub const HOST_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x10, 0x244, 0, 0, 0, 0, 1);
const PREFIX: u8 = 16;
const PREFIX_V6: u8 = 64;

/// The pods' network.
pub struct Fabric {
    namespace: Arc<Namespace>,
    links: Netlink,
    bridge: u32,
}

/// A channel to the kernel about the devices of one namespace.
struct Netlink {
    handle: Handle,
    task: JoinHandle<()>,
}

impl Drop for Netlink {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Netlink {
    fn open(namespace: &Namespace) -> Result<Self> {
        let runtime = tokio::runtime::Handle::current();
        let opened = namespace.run(move || {
            let _within = runtime.enter();
            rtnetlink::new_connection()
        });
        let (connection, handle, _) = opened??;
        Ok(Self { handle, task: tokio::spawn(connection) })
    }

    async fn index(&self, name: &str) -> Result<u32> {
        let mut links = self.handle.link().get().match_name(name.to_owned()).execute();
        let found = links.try_next().await.with_context(|| format!("device {name}"))?;
        Ok(found.with_context(|| format!("device {name}"))?.header.index)
    }

    async fn up(&self, index: u32) -> Result<()> {
        let message = LinkUnspec::new_with_index(index).up().build();
        Ok(self.handle.link().set(message).execute().await?)
    }

    async fn address(&self, index: u32, v4: Ipv4Addr, v6: Option<Ipv6Addr>) -> Result<()> {
        self.handle.address().add(index, v4.into(), PREFIX).execute().await.context("an IPv4 address")?;
        if let Some(v6) = v6 {
            // The network is ours alone: nobody else has the address, and it is usable at once.
            let mut add = self.handle.address().add(index, v6.into(), PREFIX_V6);
            add.message_mut().header.flags |= rtnetlink::packet_route::address::AddressHeaderFlags::Nodad;
            add.execute().await.context("an IPv6 address")?;
        }
        Ok(())
    }
}

/// The address of the `n`-th pod, counted from 0, if there is one.
#[must_use]
pub fn pod_address(n: u32) -> Option<(Ipv4Addr, Ipv6Addr)> {
    // The first ten are for the host's side; the last is for broadcasts.
    let n = n.checked_add(10).filter(|n| *n < 0xffff)?;
    let v4 = Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 244, 0, 0)) + n);
    let v6 = Ipv6Addr::from(u128::from(Ipv6Addr::new(0xfd00, 0x10, 0x244, 0, 0, 0, 0, 0)) + u128::from(n));
    Some((v4, v6))
}

impl Fabric {
    /// Makes the network.
    ///
    /// # Errors
    /// Without the right to, or where the kernel lacks bridges; says which.
    pub async fn new() -> Result<Self> {
        let namespace = Namespace::new().map_err(explain).context("a network namespace")?;
        let links = Netlink::open(&namespace)?;
        let lo = links.index("lo").await?;
        links.up(lo).await?;
        // Told, it stays: else it would be the least of those of its devices, and another one whenever pods come and go.
        let bridge = LinkBridge::new(BRIDGE).address(hardware(HOST)).up().build();
        links
            .handle
            .link()
            .add(bridge)
            .execute()
            .await
            .context("a bridge: does the kernel have them (CONFIG_BRIDGE)?")?;
        let bridge = links.index(BRIDGE).await?;
        links.address(bridge, HOST, has_v6().then_some(HOST_V6)).await?;
        Ok(Self { namespace: Arc::new(namespace), links, bridge })
    }

    /// Where the bridge is.
    #[must_use]
    pub fn namespace(&self) -> &Arc<Namespace> {
        &self.namespace
    }

    /// A namespace for the `n`-th pod, connected.
    ///
    /// # Errors
    /// When the kernel refuses a device or an address.
    pub async fn attach(&self, n: u32, v4: Ipv4Addr, v6: Ipv6Addr) -> Result<Namespace> {
        let pod = Namespace::new().map_err(explain).context("a network namespace")?;
        let (ours, theirs) = (format!("pod{n}"), format!("peer{n}"));
        let handle = self.links.handle.link();
        handle.add(LinkVeth::new(&ours, &theirs).build()).execute().await.context("a pair of devices (CONFIG_VETH)")?;
        let index = self.links.index(&ours).await?;
        let message = LinkUnspec::new_with_index(index).controller(self.bridge).up().build();
        handle.set(message).execute().await.context("a device of the bridge")?;
        let index = self.links.index(&theirs).await?;
        let message = LinkUnspec::new_with_index(index).address(hardware(v4)).build();
        handle.set(message).execute().await.context("the address of a device")?;
        let message = LinkUnspec::new_with_index(index).name(DEVICE).setns_by_fd(pod.fd()).build();
        handle.set(message).execute().await.context("a device for the pod")?;

        let inside = Netlink::open(&pod)?;
        let lo = inside.index("lo").await?;
        inside.up(lo).await?;
        let device = inside.index(DEVICE).await?;
        let v6 = has_v6().then_some(v6);
        inside.address(device, v4, v6).await?;
        inside.up(device).await?;
        // Addresses of services lead somewhere: they are redirected on their way, but only what has a route is on its way.
        let route = RouteMessageBuilder::<Ipv4Addr>::new().gateway(HOST).build();
        inside.handle.route().add(route).execute().await.context("a default route")?;
        if v6.is_some() {
            let route = RouteMessageBuilder::<Ipv6Addr>::new().gateway(HOST_V6).build();
            inside.handle.route().add(route).execute().await.context("a default route of IPv6")?;
        }
        Ok(pod)
    }
}

/// The hardware address of whoever has this address: the same for all that have it one after the other, so that nobody remembers
/// another one.
fn hardware(ip: Ipv4Addr) -> Vec<u8> {
    [&[0x02, 0x77][..], &ip.octets()].concat()
}

/// Whether the kernel has IPv6.
#[must_use]
pub fn has_v6() -> bool {
    std::path::Path::new("/proc/sys/net/ipv6").exists()
}

fn explain(error: io::Error) -> anyhow::Error {
    if error.kind() == io::ErrorKind::PermissionDenied {
        return anyhow::anyhow!(
            "{error}: network namespaces need root (sudo), or unprivileged user namespaces \
             (sysctl user.max_user_namespaces, kernel.unprivileged_userns_clone, kernel.apparmor_restrict_unprivileged_userns)"
        );
    }
    error.into()
}
