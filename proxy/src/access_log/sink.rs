//! Where lines go: one sink for each path in the process.
//!
//! A line is appended to a buffer, and a thread writes the buffer out when it is large enough or old enough. Lines are never
//! lost for want of room: who finds the buffer full writes it out before going on. A file sees whole lines only, in the order
//! they were appended.
//!
//! Runs on: workers append; a thread of its own writes; the control thread reopens and flushes.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use crate::config::AccessLogSink;
use crate::stats::{Counter, Gauge, Scope};

/// When buffers are written out.
#[derive(Debug, Clone, Copy)]
pub struct FlushOptions {
    /// As soon as this many bytes are waiting. Default 64 KiB, Envoy's `--file-flush-min-size-kb`.
    pub bytes: usize,
    /// Whatever is waiting, this often. Default 1 s; Envoy's `--file-flush-interval-msec` has 10 s.
    pub interval: Duration,
}

impl Default for FlushOptions {
    fn default() -> Self {
        FlushOptions { bytes: 64 * 1024, interval: Duration::from_secs(1) }
    }
}

/// A buffer that has grown to this many times the size at which it should have been written is full: the disk is slow, and
/// whoever logs waits for it.
const FULL: usize = 16;

/// Every sink of the process.
pub struct SinkRegistry {
    sinks: Mutex<HashMap<AccessLogSink, Weak<Sink>>>,
    options: FlushOptions,
    stats: Arc<Stats>,
    signal: Arc<Signal>,
}

/// Wakes the writing thread.
#[derive(Default)]
struct Signal {
    wake: Mutex<Wake>,
    condition: Condvar,
}

#[derive(Default, Clone, Copy, PartialEq, Eq)]
enum Wake {
    #[default]
    No,
    Flush,
    Stop,
}

impl Signal {
    fn send(&self, wake: Wake) {
        let mut current = self.wake.lock();
        if *current != Wake::Stop {
            *current = wake;
        }
        self.condition.notify_one();
    }
}

struct Stats {
    write_buffered: Counter,
    write_completed: Counter,
    write_failed: Counter,
    flushed_by_timer: Counter,
    reopen_failed: Counter,
    write_total_buffered: Gauge,
}

impl Stats {
    fn new(scope: &Scope) -> Self {
        let scope = scope.scope("filesystem");
        Stats {
            write_buffered: scope.counter("write_buffered"),
            write_completed: scope.counter("write_completed"),
            write_failed: scope.counter("write_failed"),
            flushed_by_timer: scope.counter("flushed_by_timer"),
            reopen_failed: scope.counter("reopen_failed"),
            write_total_buffered: scope.gauge("write_total_buffered"),
        }
    }
}

impl SinkRegistry {
    /// A registry; its writing thread starts with it and ends with it. `scope`: the root of stats.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn new(scope: &Scope, options: FlushOptions) -> io::Result<Arc<SinkRegistry>> {
        let registry = Arc::new(SinkRegistry {
            sinks: Mutex::default(),
            options,
            stats: Arc::new(Stats::new(scope)),
            signal: Arc::default(),
        });
        let (weak, signal) = (Arc::downgrade(&registry), registry.signal.clone());
        std::thread::Builder::new().name("log-writer".into()).spawn(move || write_loop(&weak, &signal, options))?;
        Ok(registry)
    }

    /// The sink of this path, opened if it is not.
    ///
    /// # Errors
    /// The file cannot be opened.
    pub(super) fn open(&self, target: &AccessLogSink) -> io::Result<Arc<Sink>> {
        // Opening `/dev/stdout` again fails where it is a socket or another user's terminal.
        let target = match target {
            AccessLogSink::File(path) if path == "/dev/stdout" => &AccessLogSink::Stdout,
            AccessLogSink::File(path) if path == "/dev/stderr" => &AccessLogSink::Stderr,
            other => other,
        };
        let mut sinks = self.sinks.lock();
        if let Some(sink) = sinks.get(target).and_then(Weak::upgrade) {
            return Ok(sink);
        }
        let sink = Arc::new(Sink {
            target: target.clone(),
            file: Mutex::new(open(target)?),
            buffer: Mutex::default(),
            flush_at: self.options.bytes,
            stats: self.stats.clone(),
            signal: self.signal.clone(),
        });
        sinks.retain(|_, sink| sink.strong_count() > 0);
        sinks.insert(target.clone(), Arc::downgrade(&sink));
        Ok(sink)
    }

    fn sinks(&self) -> Vec<Arc<Sink>> {
        // The lock is released before a sink may be dropped: its last lines are written then.
        self.sinks.lock().values().filter_map(Weak::upgrade).collect()
    }

    /// Closes and opens every file, so that a renamed one is let go (`SIGUSR1`, `/reopen_logs`).
    pub fn reopen(&self) {
        self.sinks().iter().for_each(|sink| sink.reopen());
    }

    /// Writes out everything that waits; before the process ends.
    pub fn flush_all(&self) {
        for sink in self.sinks() {
            sink.flush();
        }
    }
}

impl Drop for SinkRegistry {
    fn drop(&mut self) {
        self.signal.send(Wake::Stop);
    }
}

impl std::fmt::Debug for SinkRegistry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SinkRegistry").field("options", &self.options).finish_non_exhaustive()
    }
}

fn write_loop(registry: &Weak<SinkRegistry>, signal: &Signal, options: FlushOptions) {
    loop {
        let timer = {
            let mut wake = signal.wake.lock();
            let timer = *wake == Wake::No && signal.condition.wait_for(&mut wake, options.interval).timed_out();
            if *wake == Wake::Stop {
                return;
            }
            *wake = Wake::No;
            timer
        };
        let Some(registry) = registry.upgrade() else { return };
        for sink in registry.sinks() {
            if sink.flush() && timer {
                registry.stats.flushed_by_timer.inc();
            }
        }
    }
}

/// One file, or a standard stream.
pub(super) struct Sink {
    target: AccessLogSink,
    file: Mutex<File>,
    buffer: Mutex<Vec<u8>>,
    flush_at: usize,
    stats: Arc<Stats>,
    signal: Arc<Signal>,
}

impl Sink {
    /// Appends a whole line.
    pub(super) fn append(&self, line: &[u8]) {
        let before = {
            let mut buffer = self.buffer.lock();
            let before = buffer.len();
            buffer.extend_from_slice(line);
            before
        };
        let after = before + line.len();
        self.stats.write_buffered.inc();
        self.stats.write_total_buffered.add(line.len().cast_signed() as i64);
        if after >= self.flush_at * FULL {
            self.flush();
        } else if before < self.flush_at && after >= self.flush_at {
            self.signal.send(Wake::Flush);
        }
    }

    /// Writes out what waits; `false`: nothing did.
    fn flush(&self) -> bool {
        // The file first: who holds it writes what was appended before, and only then the next one takes what came after.
        let mut file = self.file.lock();
        let lines = std::mem::take(&mut *self.buffer.lock());
        if lines.is_empty() {
            return false;
        }
        match file.write_all(&lines) {
            Ok(()) => self.stats.write_completed.inc(),
            Err(error) => {
                self.stats.write_failed.inc();
                tracing::warn!("access log {:?}: {} bytes were not written: {error}", self.target, lines.len());
            }
        }
        self.stats.write_total_buffered.sub(lines.len().cast_signed() as i64);
        self.keep(lines);
        true
    }

    /// Gives the allocation back to the buffer, if nobody made another meanwhile.
    fn keep(&self, mut lines: Vec<u8>) {
        lines.clear();
        let mut buffer = self.buffer.lock();
        if buffer.capacity() == 0 && lines.capacity() <= self.flush_at * 2 {
            *buffer = lines;
        }
    }

    fn reopen(&self) {
        self.flush();
        match open(&self.target) {
            Ok(file) => *self.file.lock() = file,
            Err(error) => {
                self.stats.reopen_failed.inc();
                tracing::warn!("access log {:?} cannot be opened again: {error}", self.target);
            }
        }
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        self.flush();
    }
}

impl std::fmt::Debug for Sink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Sink({:?})", self.target)
    }
}

fn open(target: &AccessLogSink) -> io::Result<File> {
    match target {
        AccessLogSink::File(path) => File::options().append(true).create(true).open(path),
        AccessLogSink::Stdout => io::stdout().as_fd().try_clone_to_owned().map(File::from),
        AccessLogSink::Stderr => io::stderr().as_fd().try_clone_to_owned().map(File::from),
    }
}
