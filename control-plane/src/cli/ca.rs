//! `weft ca`, and how a control plane is told about its authority.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};
use serde_json::Value as Json;

use super::output::{self, Format, Table};
use super::{Server, client};
use crate::ca::{AUDIENCE, Ca, Options as CaOptions, TokenIssuer};

/// How the authority of a control plane works.
#[derive(Debug, Args)]
pub(super) struct AuthorityOptions {
    /// Where the authority keeps its keys and its state; only for its owner [default: the state directory of the user]
    #[arg(long, value_name = "DIR", env = "WEFT_CA_DIR")]
    ca_dir: Option<PathBuf>,
    /// An authority of your own: a directory with ca-cert.pem, ca-key.pem, root-cert.pem and cert-chain.pem
    #[arg(long, value_name = "DIR")]
    cacerts: Option<PathBuf>,
    /// Make no certificates; xDS over TLS then needs --tls-cert
    #[arg(long, conflicts_with_all = ["ca_dir", "cacerts", "token_jwks"])]
    no_ca: bool,
    /// For how long certificates are good if their request does not say
    #[arg(long, value_name = "TIME", default_value = "24h", value_parser = super::duration)]
    workload_cert_ttl: Duration,
    /// For how long at most
    #[arg(long, value_name = "TIME", default_value = "2160h", value_parser = super::duration)]
    max_workload_cert_ttl: Duration,
    /// The keys of those whose tokens prove service accounts, as JWKS: Kubernetes has them at /openid/v1/jwks
    #[arg(long, value_name = "FILE", requires = "token_issuer")]
    token_jwks: Option<PathBuf>,
    /// What these tokens name as their issuer
    #[arg(long, value_name = "ISSUER", requires = "token_jwks")]
    token_issuer: Option<String>,
    /// For whom tokens must be made
    #[arg(long, value_name = "AUDIENCE", default_value = AUDIENCE)]
    token_audience: String,
    /// A name or address of this server, for its certificate; may be given again [default: those of Istio and Weft in a
    /// cluster, localhost and its addresses]
    #[arg(long, value_name = "NAME")]
    tls_san: Vec<String>,
    /// A new root signs when all proxies have been connected and trusted it for this long
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = super::duration)]
    ca_settle_time: Duration,
}

impl AuthorityOptions {
    /// Opens the authority; `None`: there is to be none.
    pub(super) fn open(&self, trust_domain: &str) -> Result<Option<Arc<Ca>>> {
        if self.no_ca {
            return Ok(None);
        }
        let issuer = self.token_jwks.clone().zip(self.token_issuer.clone());
        let usual = CaOptions::new(directory(self.ca_dir.as_ref())?);
        let options = CaOptions {
            plugged: self.cacerts.clone(),
            trust_domain: trust_domain.to_owned(),
            audience: self.token_audience.clone(),
            issuer: issuer.map(|(jwks, issuer)| TokenIssuer { jwks, issuer }),
            ttl: self.workload_cert_ttl.min(self.max_workload_cert_ttl),
            max_ttl: self.max_workload_cert_ttl,
            settle: self.ca_settle_time,
            server_names: if self.tls_san.is_empty() { usual.server_names.clone() } else { self.tls_san.clone() },
            ..usual
        };
        Ca::open(options).context("the certificate authority").map(Some)
    }
}

/// Where an authority is if nobody says: in the state directory of the service or of the user.
pub(super) fn directory(given: Option<&PathBuf>) -> Result<PathBuf> {
    if let Some(given) = given {
        return Ok(given.clone());
    }
    let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    // systemd's, then the desktop's, then its default.
    let state = variable("STATE_DIRECTORY")
        .or_else(|| Some(variable("XDG_STATE_HOME")?.join("weft")))
        .or_else(|| Some(variable("HOME")?.join(".local/state/weft")));
    let state = state.context("no state directory is known (HOME is not set); say where with --ca-dir")?;
    Ok(state.join("ca"))
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  weft ca status                     who signs, which roots are trusted
  weft ca rotate-root                another root, step by step; on the machine of the control plane")]
pub(super) struct Options {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Who signs certificates, which roots are trusted, how far the replacement of one is
    Status(StatusOptions),
    /// Replace the root: the new one signs when all proxies trust it, the old one goes when nobody has a certificate of it.
    /// Of an authority of your own replace the files in --cacerts instead
    RotateRoot(RotateOptions),
}

#[derive(Debug, Args)]
struct StatusOptions {
    #[command(flatten)]
    server: Server,
    /// How to print
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

#[derive(Debug, Args)]
struct RotateOptions {
    /// Where the authority keeps its keys
    #[arg(long, value_name = "DIR", env = "WEFT_CA_DIR")]
    ca_dir: Option<PathBuf>,
}

pub(super) fn run(options: &Options) -> Result<()> {
    match &options.command {
        Command::Status(options) => super::print(status(options)),
        Command::RotateRoot(options) => {
            Ca::request_rotation(&directory(options.ca_dir.as_ref())?)?;
            super::say("a new root is asked for; weft ca status shows how far it is")
        }
    }
}

async fn status(options: &StatusOptions) -> Result<String> {
    let status = client::get(&options.server.control_plane, "/debug/ca").await?;
    if status.is_null() {
        bail!("this control plane makes no certificates (--no-ca)");
    }
    Ok(output::print(options.output, &status, || table(&status)))
}

fn table(status: &Json) -> String {
    let text = |value: &Json| value.as_str().unwrap_or("-").to_owned();
    let mut roots = Table::new(&["ROOT", "STATE", "CERTIFICATES LEFT", "AT THE LATEST IN"]);
    let retiring = status["retiring"].as_array().map(Vec::as_slice).unwrap_or_default();
    roots.row([text(&status["issuing"]), "signs".to_owned(), "-".to_owned(), "-".to_owned()]);
    if status["next"].is_string() {
        roots.row([text(&status["next"]), "is distributed, signs next".to_owned(), "-".to_owned(), "-".to_owned()]);
    }
    for old in retiring {
        roots.row([
            text(&old["name"]),
            "retires".to_owned(),
            old["certificatesLeft"].to_string(),
            format!("{} s", old["atTheLatestInSeconds"]),
        ]);
    }
    format!(
        "trust domain {}, {}, {} certificates made\n\n{}",
        text(&status["trustDomain"]),
        text(&status["phase"]),
        status["issued"],
        roots.render()
    )
}
