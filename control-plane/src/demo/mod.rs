//! Demo applications: `BookInfo`'s four services and their databases, one that says what it was sent, and one that sends requests.
//!
//! Owns nothing but what makes a mesh worth looking at: they are small, and plain HTTP/1.1 and HTTP/2.

mod books;
mod database;
mod http;
mod load;
mod page;
#[cfg(test)]
mod tests;

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use anyhow::{Context as _, Result};
use clap::{Args, Subcommand};
use tokio::net::TcpListener;

/// Where `BookInfo`'s services listen.
const PORT: u16 = 9080;

/// A demo application.
#[derive(Clone, Debug, Subcommand)]
pub enum App {
    /// `BookInfo`'s page, which asks details and reviews
    Productpage(Listen),
    /// `BookInfo`'s facts about a book
    #[command(disable_version_flag = true)]
    Details(Versioned),
    /// `BookInfo`'s reviews; v2 and v3 ask ratings
    #[command(disable_version_flag = true)]
    Reviews(Versioned),
    /// `BookInfo`'s stars; v2 asks a database
    #[command(disable_version_flag = true)]
    Ratings(Versioned),
    /// What stands for `BookInfo`'s MySQL: a server that speaks first
    Mysqldb(Database),
    /// What stands for `BookInfo`'s MongoDB
    Mongodb(Database),
    /// Answers with what it was sent
    Echo(Listen),
    /// Sends requests at a rate, and says how they were answered
    Load(load::Options),
}

/// Where it listens.
#[derive(Clone, Debug, Args)]
pub struct Listen {
    /// Port; the default is the original's
    #[arg(long, value_name = "PORT")]
    port: Option<u16>,
    /// Address [default: all]
    #[arg(long, value_name = "IP")]
    address: Option<IpAddr>,
}

/// What stands for a database.
#[derive(Clone, Debug, Args)]
pub struct Database {
    #[command(flatten)]
    listen: Listen,
    /// Arguments of the original, which mean nothing here
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
    rest: Vec<String>,
}

/// A service of several versions.
#[derive(Clone, Debug, Args)]
pub struct Versioned {
    /// Its version
    #[arg(long, value_name = "VERSION", default_value = "v1")]
    version: String,
    #[command(flatten)]
    listen: Listen,
}

impl App {
    /// Runs until it is ended.
    ///
    /// # Errors
    /// When it cannot listen.
    pub async fn run(self) -> Result<()> {
        match self {
            Self::Productpage(listen) => http::serve(listen.open(PORT).await?, Arc::new(page::Page::new())).await,
            Self::Details(of) => {
                let app = books::Details { version: of.version };
                http::serve(of.listen.open(PORT).await?, Arc::new(app)).await
            }
            Self::Reviews(of) => {
                let app = books::Reviews::new(of.version);
                http::serve(of.listen.open(PORT).await?, Arc::new(app)).await
            }
            Self::Ratings(of) => {
                let app = books::Ratings::new(of.version);
                http::serve(of.listen.open(PORT).await?, Arc::new(app)).await
            }
            Self::Mysqldb(of) => database::serve(of.listen.open(database::MYSQL).await?, true).await,
            Self::Mongodb(of) => database::serve(of.listen.open(database::MONGO).await?, false).await,
            Self::Echo(listen) => http::serve(listen.open(8080).await?, Arc::new(http::Echo)).await,
            Self::Load(options) => load::run(options).await,
        }
    }
}

impl Listen {
    async fn open(&self, port: u16) -> Result<TcpListener> {
        let port = self.port.unwrap_or(port);
        let any = [IpAddr::from(Ipv6Addr::UNSPECIFIED), IpAddr::from([0, 0, 0, 0])];
        let addresses: Vec<_> = self.address.map_or(any.to_vec(), |address| vec![address]);
        let addresses: Vec<_> = addresses.into_iter().map(|ip| SocketAddr::new(ip, port)).collect();
        let listener = TcpListener::bind(&*addresses).await.with_context(|| format!("cannot listen on port {port}"))?;
        println!("listening on {}", listener.local_addr()?);
        Ok(listener)
    }
}
