//! The control plane's own metrics.
//!
//! Owns what is counted and its form for Prometheus. Must not know: why something happened. Any thread may count.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};

use crate::ca::{Ca, Phase};
use crate::jwks::KeyStatus;
use crate::resource::ResourceType;

/// Upper bounds of times, in seconds.
const SECONDS: &[f64] = &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];
/// Upper bounds of sizes, in bytes.
const BYTES: &[f64] = &[256.0, 1024.0, 4096.0, 16384.0, 65536.0, 262_144.0, 1_048_576.0, 4_194_304.0, 16_777_216.0];

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

/// A number that goes up and down.
#[derive(Debug, Default)]
pub struct Gauge(AtomicI64);

/// How values are spread.
#[derive(Debug)]
pub struct Histogram {
    bounds: &'static [f64],
    /// One more than bounds.
    counts: Box<[AtomicU64]>,
    /// The sum, as the bits of an `f64`.
    sum: AtomicU64,
}

/// Everything that is counted.
#[derive(Debug)]
pub struct Metrics {
    /// Streams that are open.
    pub streams: Gauge,
    /// Proxies that have at least one stream.
    pub connected_proxies: Gauge,
    /// Streams whose client does not have, or has not accepted, all it may have.
    pub unsynced_streams: Gauge,
    /// Streams ended because the client broke the protocol.
    pub refused_streams: Counter,
    /// TLS connections that did not come to be.
    pub refused_handshakes: Counter,
    /// Streams and calls that were refused for who the caller is, or is not.
    pub refused_callers: Counter,
    /// Responses sent, by type.
    pub pushes: [Counter; ResourceType::ALL.len()],
    /// Responses refused, by type.
    pub nacks: [Counter; ResourceType::ALL.len()],
    /// The sizes of responses.
    pub push_bytes: Histogram,
    /// From a response to its answer.
    pub ack_seconds: Histogram,
    /// From the first sight of a change to the answer of the last proxy connected then.
    pub convergence_seconds: Histogram,
    /// The time to generate what one kind of proxy gets.
    pub generation_seconds: Histogram,
    /// Generations that failed.
    pub generation_failures: Counter,
    /// States of the configuration that were published.
    pub published: Counter,
    /// Changes seen in the source.
    pub changes: Counter,
}

impl Counter {
    /// Counts `n` more.
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Relaxed);
    }

    /// The count.
    #[must_use]
    pub fn value(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

impl Gauge {
    /// Changes it by `n`.
    pub fn add(&self, n: i64) {
        self.0.fetch_add(n, Relaxed);
    }

    /// Its value.
    #[must_use]
    pub fn value(&self) -> i64 {
        self.0.load(Relaxed)
    }
}

impl Histogram {
    fn new(bounds: &'static [f64]) -> Self {
        Self { bounds, counts: (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect(), sum: AtomicU64::new(0) }
    }

    /// Adds a value.
    pub fn observe(&self, value: f64) {
        let place = self.bounds.partition_point(|bound| value > *bound);
        self.counts[place].fetch_add(1, Relaxed);
        let add = |bits| Some((f64::from_bits(bits) + value).to_bits());
        let _always = self.sum.fetch_update(Relaxed, Relaxed, add);
    }

    /// How many values there were.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.counts.iter().map(|count| count.load(Relaxed)).sum()
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            streams: Gauge::default(),
            connected_proxies: Gauge::default(),
            unsynced_streams: Gauge::default(),
            refused_streams: Counter::default(),
            refused_handshakes: Counter::default(),
            refused_callers: Counter::default(),
            pushes: Default::default(),
            nacks: Default::default(),
            push_bytes: Histogram::new(BYTES),
            ack_seconds: Histogram::new(SECONDS),
            convergence_seconds: Histogram::new(SECONDS),
            generation_seconds: Histogram::new(SECONDS),
            generation_failures: Counter::default(),
            published: Counter::default(),
            changes: Counter::default(),
        }
    }
}

impl Metrics {
    /// All of them as Prometheus reads them, with those of the authority and of fetching keys, if there are such.
    #[must_use]
    pub fn prometheus(&self, ca: Option<&Ca>, keys: Option<&KeyStatus>) -> String {
        let mut page = Page::default();
        page.gauge("weft_xds_streams", "Open xDS streams", self.streams.value());
        page.gauge("weft_xds_connected_proxies", "Connected proxies", self.connected_proxies.value());
        page.gauge(
            "weft_xds_unsynced_streams",
            "Streams whose client has not accepted the current configuration yet",
            self.unsynced_streams.value(),
        );
        page.counter("weft_xds_refused_streams_total", "Streams ended for a breach of protocol", &self.refused_streams);
        page.counter(
            "weft_tls_refused_handshakes_total",
            "TLS connections that did not come to be",
            &self.refused_handshakes,
        );
        page.counter(
            "weft_refused_callers_total",
            "Calls refused for who the caller is, or is not",
            &self.refused_callers,
        );
        page.by_type("weft_xds_pushes_total", "Responses sent", &self.pushes);
        page.by_type("weft_xds_nacks_total", "Responses refused by their client", &self.nacks);
        page.histogram("weft_xds_push_bytes", "Size of responses in bytes", &self.push_bytes);
        page.histogram("weft_xds_ack_seconds", "From a response to its answer", &self.ack_seconds);
        page.histogram(
            "weft_convergence_seconds",
            "From the first sight of a change to the answer of the last proxy",
            &self.convergence_seconds,
        );
        page.histogram("weft_generation_seconds", "Generating one set of resources", &self.generation_seconds);
        page.counter("weft_generation_failures_total", "Generations that failed", &self.generation_failures);
        page.counter("weft_config_published_total", "Configurations published", &self.published);
        page.counter("weft_config_changes_total", "Changes seen in the source", &self.changes);
        if let Some(ca) = ca {
            of_authority(&mut page, ca);
        }
        if let Some(keys) = keys {
            of_keys(&mut page, keys);
        }
        page.head("weft_build_info", "The version that runs", "gauge");
        page.line("weft_build_info", concat!("version=\"", env!("CARGO_PKG_VERSION"), "\""), 1);
        page.text
    }
}

fn of_keys(page: &mut Page, keys: &KeyStatus) {
    page.counter("weft_jwks_fetched_total", "Key sets of tokens that were fetched", &keys.fetched);
    page.counter("weft_jwks_failed_total", "Attempts to fetch a key set that failed", &keys.failed);
    let (wanted, available) = keys.count();
    let number = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
    page.gauge("weft_jwks_wanted", "Key sets that policies name", number(wanted));
    page.gauge("weft_jwks_available", "Those that are there", number(available));
}

fn of_authority(page: &mut Page, ca: &Ca) {
    let counts = &ca.counts;
    page.counter("weft_ca_certificates_total", "Certificates made", &counts.issued);
    page.head("weft_ca_refused_total", "Requests for certificates that were refused", "counter");
    for (reason, counter) in
        [("unauthenticated", &counts.unauthenticated), ("request", &counts.refused), ("rate", &counts.limited)]
    {
        page.line("weft_ca_refused_total", &format!("reason=\"{reason}\""), counter.value());
    }
    let (phase, roots) = ca.phase();
    page.gauge(
        "weft_ca_trusted_roots",
        "Roots that proxies are told to trust",
        i64::try_from(roots).unwrap_or(i64::MAX),
    );
    page.head("weft_ca_rotation_phase", "How far the replacement of a root is", "gauge");
    for known in [Phase::Steady, Phase::Distributing, Phase::Retiring] {
        page.line("weft_ca_rotation_phase", &format!("phase=\"{}\"", known.as_str()), u8::from(known == phase));
    }
    page.counter(
        "weft_ca_rotations_total",
        "Roots that are no longer trusted after another took over",
        &counts.rotations,
    );
}

#[derive(Default)]
struct Page {
    text: String,
}

impl Page {
    fn head(&mut self, name: &str, help: &str, kind: &str) {
        // Writing into a string does not fail.
        let _ = write!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
    }

    fn line(&mut self, name: &str, labels: &str, value: impl std::fmt::Display) {
        let _ = match labels {
            "" => writeln!(self.text, "{name} {value}"),
            labels => writeln!(self.text, "{name}{{{labels}}} {value}"),
        };
    }

    fn gauge(&mut self, name: &str, help: &str, value: i64) {
        self.head(name, help, "gauge");
        self.line(name, "", value);
    }

    fn counter(&mut self, name: &str, help: &str, counter: &Counter) {
        self.head(name, help, "counter");
        self.line(name, "", counter.value());
    }

    fn by_type(&mut self, name: &str, help: &str, counters: &[Counter; ResourceType::ALL.len()]) {
        self.head(name, help, "counter");
        for (ty, counter) in ResourceType::ALL.into_iter().zip(counters) {
            self.line(name, &format!("type=\"{}\"", ty.short_name()), counter.value());
        }
    }

    fn histogram(&mut self, name: &str, help: &str, histogram: &Histogram) {
        self.head(name, help, "histogram");
        let mut below = 0;
        let bounds = histogram.bounds.iter().map(ToString::to_string).chain(std::iter::once("+Inf".to_owned()));
        for (bound, count) in bounds.zip(&histogram.counts) {
            below += count.load(Relaxed);
            self.line(&format!("{name}_bucket"), &format!("le=\"{bound}\""), below);
        }
        self.line(&format!("{name}_sum"), "", f64::from_bits(histogram.sum.load(Relaxed)));
        self.line(&format!("{name}_count"), "", below);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_histogram_counts_what_is_below_each_bound() {
        let metrics = Metrics::default();
        for seconds in [0.0005, 0.02, 0.025, 7.0, 100.0] {
            metrics.ack_seconds.observe(seconds);
        }
        metrics.nacks[ResourceType::Route as usize].add(2);
        let page = metrics.prometheus(None, None);
        for line in [
            "weft_xds_ack_seconds_bucket{le=\"0.001\"} 1",
            "weft_xds_ack_seconds_bucket{le=\"0.025\"} 3",
            "weft_xds_ack_seconds_bucket{le=\"60\"} 4",
            "weft_xds_ack_seconds_bucket{le=\"+Inf\"} 5",
            "weft_xds_ack_seconds_count 5",
            "weft_xds_nacks_total{type=\"RDS\"} 2",
        ] {
            assert!(page.lines().any(|found| found == line), "{line} is not in\n{page}");
        }
        let sum = page.lines().find_map(|line| line.strip_prefix("weft_xds_ack_seconds_sum ")).unwrap();
        assert!((sum.parse::<f64>().unwrap() - 107.0455).abs() < 1e-6, "{sum}");
    }
}
