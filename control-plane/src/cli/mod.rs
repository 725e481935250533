//! The command line.
//!
//! Owns arguments, tables and exit codes. Must not know: anything a library function could know instead.

mod analyze;
mod ca;
mod capture;
mod client;
mod control_plane;
mod diff;
mod inject;
mod object;
mod output;
mod proxy_config;
mod proxy_status;
mod status;
#[cfg(test)]
mod tests;
mod token;
mod translate;
mod up;
mod wait;
mod workloads;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, ensure};
use clap::{Args, CommandFactory, Parser, Subcommand};
use clap_complete::Shell;

use crate::demo::App;
use crate::up::launch::Launch;
use output::Format;

/// Weft's control plane and its tools.
#[derive(Debug, Parser)]
#[command(
    name = "weft",
    version,
    propagate_version = true,
    after_help = "Examples:
  weft up config/bookinfo                    a mesh on this machine, from the YAML for a cluster
  weft control-plane --config-dir mesh/      serve a directory of YAML to proxies, and follow its changes
  weft proxy-status                          who is connected, who has what, who refused what and why
  weft proxy-config route reviews-v1-7d      what a proxy was given
  weft analyze mesh/                         what is wrong with a directory, with file and line
  weft diff old/ new/                        what a change of it changes in each proxy
  weft status                                what is wrong with objects, and who refuses what they make
  weft wait --proxies 3                      until three proxies run the newest configuration
  weft wait virtualservice/reviews           until proxies run this object as it is now
  weft inject -f app.yaml | kubectl apply -f -   workloads with a proxy beside them
  weft ca status                             who signs certificates, and which roots are trusted
  weft token create -n default -s web        a token with which a proxy gets its certificate
  weft completions bash > /etc/bash_completion.d/weft"
)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the workloads of YAML on this machine, each with its own address and proxy
    Up(Box<up::Options>),
    /// End what `weft up` runs
    Down(up::Down),
    /// What `weft up` runs
    Ps(up::Ps),
    /// What a pod of `weft up` says
    Logs(up::Logs),
    /// Run a command in the network of a pod of `weft up`
    Exec(up::Exec),
    /// Run the control plane: Kubernetes, Gateway API and Istio YAML in, xDS v3 out
    ControlPlane(Box<control_plane::Options>),
    /// Who is connected, synced, stale, and who refused what and why
    ProxyStatus(proxy_status::Options),
    /// What a proxy has, as a table
    #[command(visible_alias = "pc")]
    ProxyConfig(proxy_config::Options),
    /// What is wrong with objects: where they are written, and who refuses what was made of them
    Status(status::Options),
    /// Wait until proxies run the newest configuration, or an object as it is now
    Wait(wait::Options),
    /// Say what is wrong with a directory of YAML, with file and line; nothing has to run
    Analyze(analyze::Options),
    /// Print what a workload gets for a directory of YAML, as xDS JSON; nothing has to run
    Translate(translate::Options),
    /// Print what a change of YAML changes in each proxy; nothing has to run
    Diff(diff::Options),
    /// The certificate authority: who signs, which roots are trusted, and another root
    Ca(ca::Options),
    /// Tokens that prove who a workload is
    Token(token::Options),
    /// Lead the connections of this network namespace through the proxy beside its workload
    Capture(Box<capture::Options>),
    /// Add the proxy to the workloads of Kubernetes YAML
    Inject(Box<inject::Options>),
    /// Run a demo application
    #[command(subcommand)]
    DemoApp(App),
    /// Run the proxy, as weft-proxy does
    #[command(disable_version_flag = true)]
    Proxy(Box<weft_proxy::cli::Args>),
    /// Enter a pod and become its process
    #[command(hide = true)]
    Launch(Launch),
    /// Print a completion script for a shell
    #[command(after_help = "Examples:
  weft completions bash > /etc/bash_completion.d/weft
  weft completions zsh > \"${fpath[1]}/_weft\"
  weft completions fish > ~/.config/fish/completions/weft.fish")]
    Completions {
        /// The shell
        shell: Shell,
    },
    /// Print the version
    Version(VersionOptions),
}

#[derive(Debug, Args)]
struct VersionOptions {
    /// How to print
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

/// Where a control plane answers.
#[derive(Debug, Args)]
struct Server {
    /// HTTP address of the control plane (its --http-addr or --monitoring-addr)
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:15014", env = "WEFT_CONTROL_PLANE")]
    control_plane: String,
}

impl Cli {
    /// Does what the command line says.
    ///
    /// # Errors
    /// Whatever keeps it from that, with what to do about it.
    pub fn run(self) -> Result<()> {
        match self.command {
            Command::Up(options) => up::run(*options),
            Command::Down(options) => print(up::down(&options)),
            Command::Ps(options) => print(up::ps(&options)),
            Command::Logs(options) => block_on(up::logs(&options)),
            Command::Exec(options) => match block_on(up::exec(&options))? {},
            Command::ControlPlane(options) => control_plane::run(&options),
            Command::ProxyStatus(options) => print(proxy_status::run(&options)),
            Command::ProxyConfig(options) => print(proxy_config::run(&options)),
            Command::Status(options) => print(status::run(&options)),
            Command::Wait(options) => print(wait::run(&options)),
            Command::Analyze(options) => analyze::run(&options),
            Command::Translate(options) => say(translate::run(&options)?),
            Command::Diff(options) => say(diff::run(&options)?),
            Command::Ca(options) => ca::run(&options),
            Command::Token(options) => say(token::run(&options)?),
            Command::Capture(options) => capture::run(&options),
            Command::Inject(options) => inject::run(*options),
            Command::DemoApp(app) => block_on(app.run()),
            Command::Proxy(args) => {
                ensure!(weft_proxy::process::main(&args) == ExitCode::SUCCESS, "the proxy has failed");
                Ok(())
            }
            Command::Launch(launch) => match launch.run()? {},
            Command::Completions { shell } => {
                clap_complete::generate(shell, &mut Self::command(), "weft", &mut std::io::stdout());
                Ok(())
            }
            Command::Version(options) => {
                let version = env!("CARGO_PKG_VERSION");
                let json = serde_json::json!({ "version": version });
                println!("{}", output::print(options.output, &json, || format!("weft {version}")));
                Ok(())
            }
        }
    }
}

/// Runs a command that only asks, and prints what it found.
fn print(command: impl Future<Output = Result<String>>) -> Result<()> {
    say(block_on(command)?)
}

fn block_on<T>(command: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(command)
}

fn say(text: impl AsRef<str>) -> Result<()> {
    println!("{}", text.as_ref().trim_end());
    Ok(())
}

/// Reads `100ms`, `10s`, `1.5m`, `2h`.
fn duration(text: &str) -> Result<Duration, String> {
    let number = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match &text[number.len()..] {
        "ms" => 0.001,
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return Err("a number with a unit is needed: 100ms, 10s, 1m, 2h".to_owned()),
    };
    let number: f64 = number.parse().map_err(|_| format!("{number:?} is not a number"))?;
    Duration::try_from_secs_f64(number * unit).map_err(|error| error.to_string())
}
