//! The HTTP/1 side of an upstream.

use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::time::Instant;

use super::script::Answer;
use super::{Journal, Resettable, show};
use crate::client::Socket;
use crate::message::{Message, Reader};
use crate::wait::PATIENCE;

/// A pooled connection may idle for as long as its test takes.
const IDLE: Duration = Duration::from_secs(300);

pub(super) async fn serve(reader: Reader<Box<dyn Socket>>, reset: Resettable, name: &str, journal: &Journal) {
    let Reader { pending, ended, .. } = &reader;
    if *ended && pending.is_empty() {
        return;
    }
    let (inner, pending, ended) = reader.into_parts();
    let (read, mut write) = tokio::io::split(inner);
    let mut reader = Reader::new(read);
    reader.pending = pending;
    reader.ended = ended;
    loop {
        let mut request = match reader.head(Instant::now() + IDLE).await {
            Ok(Some(request)) => request,
            Ok(None) => return,
            Err(error) => {
                journal.note(format!("[{name}] not HTTP/1: {error:#}"));
                return;
            }
        };
        request.complete = request.header("content-length").is_none() && request.header("transfer-encoding").is_none();
        let slot = journal.slot();
        journal.fill(slot, &entry(name, &request));
        request.complete = false;
        let script = request.header("x-script").map(str::to_owned);
        let answer = match &script {
            Some(script) => Answer::of(script, journal.next_scripted()),
            None => Answer::of("", 0),
        };
        for status in &answer.interim {
            let interim = format!("HTTP/1.1 {status} Interim\r\n\r\n");
            if write.write_all(interim.as_bytes()).await.is_err() {
                return;
            }
        }
        let upgrade = answer.status == 101 || request.method() == "CONNECT";
        if !answer.early && !upgrade {
            if let Err(error) = reader.body(&mut request, false, false, Instant::now() + PATIENCE).await {
                journal.note(format!("[{name}] body: {error:#}"));
                return;
            }
            journal.fill(slot, &entry(name, &request));
        }
        tokio::time::sleep(answer.delay).await;
        if answer.reset {
            reset.reset_on_close();
            return;
        }
        if answer.close {
            return;
        }
        if let Some(raw) = &answer.raw {
            let _gone = write.write_all(raw).await;
            let _gone = write.shutdown().await;
            // What is still coming is read, so that closing is no reset.
            reader.until_quiet(Duration::from_millis(500)).await;
            return;
        }
        if respond(&mut write, &answer, request.method()).await.is_err() {
            return;
        }
        if upgrade {
            while reader.more(Instant::now() + IDLE).await {
                let bytes = reader.take();
                journal.note(format!("[{name}] tunnel {}", show(&bytes)));
                if write.write_all(b"echo:").await.is_err() || write.write_all(&bytes).await.is_err() {
                    return;
                }
            }
            return;
        }
        if answer.cut || answer.end || !request.complete {
            return;
        }
    }
}

async fn respond<W: AsyncWriteExt + Unpin>(write: &mut W, answer: &Answer, method: &str) -> std::io::Result<()> {
    let bodiless = answer.bodiless(method);
    let chunked = answer.chunked || !answer.trailers.is_empty();
    let mut head = format!("HTTP/1.1 {} Scripted\r\n", answer.status);
    for (name, value) in &answer.headers {
        head += &format!("{name}: {value}\r\n");
    }
    if answer.status == 101 {
        head += "connection: upgrade\r\nupgrade: websocket\r\n";
    } else if chunked {
        head += "transfer-encoding: chunked\r\n";
    } else if !bodiless || method == "HEAD" {
        head += &format!("content-length: {}\r\n", answer.body.len());
    }
    head += "\r\n";
    let mut first = head.into_bytes();
    if answer.stall > Duration::ZERO {
        write.write_all(&first).await?;
        write.flush().await?;
        tokio::time::sleep(answer.stall).await;
        first = Vec::new();
    }
    if !bodiless {
        let sent = if answer.cut { &answer.body[..answer.body.len() / 2] } else { &answer.body[..] };
        if chunked {
            first.extend_from_slice(format!("{:x}\r\n", answer.body.len()).as_bytes());
            first.extend_from_slice(sent);
            if !answer.cut {
                first.extend_from_slice(b"\r\n0\r\n");
                for (name, value) in &answer.trailers {
                    first.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
                }
                first.extend_from_slice(b"\r\n");
            }
        } else {
            first.extend_from_slice(sent);
        }
    }
    write.write_all(&first).await?;
    write.flush().await
}

/// A request as the journal has it: field order between different names says nothing, so fields are sorted.
fn entry(name: &str, request: &Message) -> String {
    let mut text = format!("[{name}] {}", request.start);
    let mut fields = request.headers.clone();
    fields.sort_by(|a, b| a.0.cmp(&b.0));
    for (name, value) in &fields {
        text += &format!("\n    {name}: {value}");
    }
    if !request.body.is_empty() {
        text += &format!("\n    body {}", show(&request.body));
    }
    for (name, value) in &request.trailers {
        text += &format!("\n    trailer {name}: {value}");
    }
    if !request.complete {
        text += "\n    incomplete";
    }
    text
}
