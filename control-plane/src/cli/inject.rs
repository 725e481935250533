//! `weft inject`.

use std::io::Read as _;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::capture::Mode;
use crate::inject::{Settings, inject};

#[derive(Debug, Args)]
#[command(
    after_help = "What is no workload, opted out (sidecar.istio.io/inject: \"false\"), on the host's network, or has a proxy already, is
printed as it is. Annotations of Istio's injector for the proxy's image and resources, and for what is captured, count.

Examples:
  weft inject -f bookinfo.yaml | kubectl apply -f -
  kubectl get deployment web -o yaml | weft inject -f - | kubectl apply -f -
  weft inject -f bookinfo.yaml --cni        no privileges: something on the node captures connections"
)]
pub(super) struct Options {
    /// The YAML; - for standard input
    #[arg(short = 'f', long = "filename", value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
    /// Pods capture nothing by themselves: a CNI plugin does, and they pass the restricted Pod Security profile
    #[arg(long)]
    cni: bool,
    /// How connections into workloads reach the proxy
    #[arg(long, value_enum, default_value_t)]
    mode: Mode,
    /// Image with weft-proxy
    #[arg(long, value_name = "IMAGE", default_value = concat!("weft-proxy:", env!("CARGO_PKG_VERSION")))]
    image: String,
    /// Image with weft and nftables, which programs the rules
    #[arg(long, value_name = "IMAGE", default_value = concat!("weft:", env!("CARGO_PKG_VERSION")))]
    init_image: String,
    /// The control plane
    #[arg(long, value_name = "HOST:PORT", default_value = "istiod.istio-system.svc:15012")]
    discovery_address: String,
    /// ConfigMap of each namespace that has the control plane's roots as root-cert.pem
    #[arg(long, value_name = "NAME", default_value = "istio-ca-root-cert")]
    root_config_map: String,
    /// Trust domain of the mesh
    #[arg(long, value_name = "DOMAIN", default_value = "cluster.local")]
    trust_domain: String,
    /// Name of the cluster
    #[arg(long, value_name = "NAME", default_value = "Kubernetes")]
    cluster_id: String,
}

pub(super) fn run(options: Options) -> Result<()> {
    let settings = Settings {
        image: options.image,
        init_image: options.init_image,
        discovery_address: options.discovery_address,
        root_config_map: options.root_config_map,
        trust_domain: options.trust_domain,
        cluster_id: options.cluster_id,
        mode: options.mode,
        cni: options.cni,
    };
    for (number, file) in options.files.iter().enumerate() {
        let (name, text) = read(file)?;
        let (out, notes) = match inject(&name, &text, &settings) {
            Ok(done) => done,
            Err(reason) => bail!("{reason}"),
        };
        print!("{}{out}", if number > 0 { "---\n" } else { "" });
        for note in notes {
            eprintln!("{}{}: {}", if note.warning { "warning: " } else { "" }, note.workload, note.what);
        }
    }
    Ok(())
}

fn read(file: &PathBuf) -> Result<(String, String)> {
    if file.as_os_str() == "-" {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text).context("standard input")?;
        return Ok(("standard input".to_owned(), text));
    }
    let name = file.display().to_string();
    let text = std::fs::read_to_string(file).with_context(|| name.clone())?;
    Ok((name, text))
}
