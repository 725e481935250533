//! gRPC's own client of the client status discovery service.

use std::path::PathBuf;
use std::process::Stdio;

use anyhow::{Context, Result};
use prost::Message as _;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use weft_proto::pb::envoy::service::status::v3::{ClientStatusRequest, ClientStatusResponse};

use crate::wait::PATIENCE;

/// Whether this machine has grpcio.
pub async fn has_grpc() -> bool {
    let mut command = Command::new("python3");
    command.args(["-c", "import grpc"]).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().await.is_ok_and(|status| status.success())
}

/// A client of one server.
#[derive(Debug)]
pub struct Csds {
    _child: Child,
    stdin: ChildStdin,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Csds {
    /// Starts one.
    ///
    /// # Errors
    /// There is no Python.
    pub fn start(port: u16) -> Result<Self> {
        let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("peers/csds.py");
        let mut command = Command::new("python3");
        command.arg(path).arg(format!("127.0.0.1:{port}"));
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true).spawn()?;
        let stdin = child.stdin.take().context("no input")?;
        let lines = BufReader::new(child.stdout.take().context("no output")?).lines();
        Ok(Self { _child: child, stdin, lines })
    }

    /// The answers of the unary method and of the stream.
    ///
    /// # Errors
    /// There is none in time, or it is no answer.
    pub async fn ask(&mut self, request: &ClientStatusRequest) -> Result<[ClientStatusResponse; 2]> {
        let digits: String = request.encode_to_vec().iter().map(|byte| format!("{byte:02x}")).collect();
        self.stdin.write_all(format!("{digits}\n").as_bytes()).await?;
        Ok([self.answer().await.context("FetchClientStatus")?, self.answer().await.context("StreamClientStatus")?])
    }

    async fn answer(&mut self) -> Result<ClientStatusResponse> {
        let line = tokio::time::timeout(PATIENCE * 4, self.lines.next_line()).await.context("no line in time")??;
        let line = line.context("it has ended")?;
        let bytes = (0..line.len() / 2).map(|at| u8::from_str_radix(&line[at * 2..at * 2 + 2], 16));
        let bytes: Vec<u8> = bytes.collect::<Result<_, _>>()?;
        Ok(ClientStatusResponse::decode(bytes.as_slice())?)
    }
}
