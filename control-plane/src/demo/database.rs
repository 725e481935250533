//! What stands for `BookInfo`'s databases: stars on a line. The one in the place of MySQL speaks first, as MySQL does.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

/// MySQL's port.
pub(super) const MYSQL: u16 = 3306;
/// MongoDB's port.
pub(super) const MONGO: u16 = 27017;
/// What it says.
const STARS: &str = "stars 4 3\n";
/// How long a question may take.
const PATIENCE: Duration = Duration::from_secs(3);

/// Serves until the process ends.
pub(super) async fn serve(listener: TcpListener, speaks_first: bool) -> Result<()> {
    let slots = Arc::new(Semaphore::new(256));
    loop {
        let slot = slots.clone().acquire_owned().await?;
        let Ok((mut stream, peer)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        println!("connection from {peer}");
        tokio::spawn(async move {
            let _slot = slot;
            let talk = async {
                if !speaks_first {
                    let mut line = String::new();
                    BufReader::new(&mut stream).read_line(&mut line).await?;
                }
                stream.write_all(STARS.as_bytes()).await?;
                stream.shutdown().await
            };
            let _ = tokio::time::timeout(PATIENCE, talk).await;
        });
    }
}

/// Asks the database that the environment names, as `BookInfo`'s ratings do.
pub(super) async fn stars() -> Result<[u32; 2]> {
    let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let is_mysql = variable("DB_TYPE").as_deref() == Some("mysql");
    let (host, port) = if is_mysql {
        let port = variable("MYSQL_DB_PORT").and_then(|port| port.parse().ok()).unwrap_or(MYSQL);
        (variable("MYSQL_DB_HOST").unwrap_or_else(|| "mysqldb".to_owned()), port)
    } else {
        let url = variable("MONGO_DB_URL").unwrap_or_else(|| "mongodb://mongodb:27017/test".to_owned());
        let place = url.trim_start_matches("mongodb://").split('/').next().unwrap_or_default().to_owned();
        let (host, port) = place.rsplit_once(':').unwrap_or((&place, "27017"));
        (host.to_owned(), port.parse().unwrap_or(MONGO))
    };
    let exchange = async {
        let mut stream = TcpStream::connect((&*host, port)).await.with_context(|| format!("{host}:{port}"))?;
        if !is_mysql {
            stream.write_all(b"find ratings\n").await?;
        }
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line).await?;
        let mut words = line.split_whitespace().skip(1).map(str::parse);
        match (words.next(), words.next()) {
            (Some(Ok(first)), Some(Ok(second))) => Ok([first, second]),
            _ => anyhow::bail!("{host}:{port} does not answer with stars: {line:?}"),
        }
    };
    tokio::time::timeout(PATIENCE, exchange).await.with_context(|| format!("{host}:{port}: no answer in time"))?
}
